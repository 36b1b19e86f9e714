//! Owns the course of a member that is stopped in order, misses writes to one key of a hundred, and comes back.

use std::time::Instant;

use anyhow::bail;
use landfall_bench::random::Random;

use crate::cases::{Case, History};
use crate::equality;
use crate::figure::{Figure, Sample};
use crate::load;
use crate::reader::{MARKER, Reader};
use crate::servers::Server;
use crate::turn::{Stage, Turn};
use landfall_bench::contents::{Contents, KEY_BYTES, VALUE_BYTES, Versions};

pub(super) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server, history: History) -> anyhow::Result<Sample> {
    let mut turn = Turn::prepare(stage, case, server)?;
    turn.add_companions(server.companions())?;
    let mut source = turn.source_client()?;
    join_and_leave(&turn)?;
    let (changes, versions) = draw_changes(&stage.contents);
    load::rewrite(turn.source_client()?, &stage.contents, &changes)?;
    if history == History::Gone {
        server.forget_changes(&mut source)?;
    }
    turn.settle()?;

    let before = turn.joiner.place.traffic()?;
    let told = Instant::now();
    let process = server.start_again(&turn.joiner, &turn.source)?;
    let reader = Reader::start(&turn, MARKER_VALUE)?;
    source.call(&["SET", MARKER, MARKER_VALUE])?;
    let mut joiner = turn.joiner_client()?;
    turn.wait_whole(&mut source, &mut joiner)?;
    let whole = Instant::now();
    let traffic = turn.joiner.place.traffic()?.since(before);

    let mut sample = Sample::default();
    let seen = reader.stop()?;
    sample.note(Figure::FirstReadSeconds, (seen.first_at - told).as_secs_f64());
    sample.note(Figure::FreshReadSeconds, (seen.fresh_at - told).as_secs_f64());
    sample.note(Figure::WholeSeconds, (whole - told).as_secs_f64());
    sample.note(Figure::ReceivedMegabytes, traffic.received_bytes as f64 / 1e6);
    sample.note(Figure::SentMegabytes, traffic.sent_bytes as f64 / 1e6);
    let changed_bytes = changes.len() * (KEY_BYTES + VALUE_BYTES);
    sample.note(Figure::ReceivedOfChanged, traffic.received_bytes as f64 / changed_bytes as f64);
    server.read_here(&mut joiner)?;
    equality::check(&mut joiner, &stage.contents, &versions)?;
    server.prove_equal(&mut source, &mut joiner)?;
    sample.own_reports = vec![server.own_report(&mut source)?, server.own_report(&mut joiner)?];
    drop(process);
    Ok(sample)
}

/// Becomes a whole member, and is stopped in order.
fn join_and_leave(turn: &Turn<'_>) -> anyhow::Result<()> {
    let waiting = turn.start_waiting()?;
    let Some(process) = turn.server.tell(&turn.joiner, &turn.source)?.or(waiting) else {
        bail!("a joiner without a process");
    };
    let (mut source, mut joiner) = (turn.source_client()?, turn.joiner_client()?);
    turn.wait_whole(&mut source, &mut joiner)?;
    turn.server.prove_equal(&mut source, &mut joiner)?;
    turn.server.stop(process, &mut joiner)
}

/// One key of a hundred, drawn uniformly among those that may change, each once.
fn draw_changes(contents: &Contents) -> (Vec<(u32, u32)>, Versions) {
    let (mut random, mut versions) = (Random::stream(CHANGES_STREAM), Versions::new(contents));
    let mut changes = Vec::new();
    while changes.len() < contents.keys() as usize / 100 {
        let number = contents.draw_changing(&mut random);
        if versions.of(number) == 0 {
            versions.set(number, 1);
            changes.push((number, 1));
        }
    }
    (changes, versions)
}

const CHANGES_STREAM: u64 = 203;
const MARKER_VALUE: &str = "written after the member came back";

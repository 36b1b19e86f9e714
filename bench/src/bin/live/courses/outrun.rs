//! Owns the course of a join behind a short log: clients write twice as fast as the joiner's link carries, for a while, and then half as
//! fast. Counted is what comes in all, held against one undisturbed copy.

use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Case;
use crate::equality;
use crate::figure::{Figure, Sample};
use crate::load::Writer;
use crate::servers::Server;
use crate::turn::{Stage, Turn};
use landfall_bench::contents::{KEY_BYTES, VALUE_BYTES, Versions};

/// How many writes a second come, at first and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) first_per_second: u32,
    pub(crate) later_per_second: u32,
}

pub(super) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server, pace: Pace) -> anyhow::Result<Sample> {
    let copy_bytes = super::undisturbed_bytes(stage, case, server)?;
    let turn = Turn::prepare(stage, case, server)?;
    let waiting = turn.start_waiting()?;
    turn.settle()?;
    let received_before = turn.received_bytes()?;
    let contents = &turn.stage.contents;
    let first = Writer::start(turn.source_client()?, contents, Versions::new(contents), pace.first_per_second)?;
    let told = Instant::now();
    let process = server.tell(&turn.joiner, &turn.source)?.or(waiting);
    thread::sleep(OUTRUN);
    let first_written = first.acknowledged();
    let versions = first.stop()?;
    let later = Writer::start(turn.source_client()?, contents, versions, pace.later_per_second)?;
    let (mut source, mut joiner) = (turn.source_client()?, turn.joiner_client()?);
    turn.wait_whole(&mut source, &mut joiner)?;
    let took = told.elapsed();
    let received_bytes = turn.received_bytes()? - received_before;
    let written = first_written + later.acknowledged();
    let versions = later.stop()?;
    turn.wait_whole(&mut source, &mut joiner)?;

    let mut sample = Sample::default();
    sample.note(Figure::WholeSeconds, took.as_secs_f64());
    sample.note(Figure::ReceivedMegabytes, received_bytes as f64 / 1e6);
    sample.note(Figure::WrittenPerSecond, written as f64 / took.as_secs_f64());
    let written_bytes = written as f64 * (KEY_BYTES + VALUE_BYTES) as f64;
    sample.note(Figure::WrittenMegabytes, written_bytes / 1e6);
    sample.note(Figure::Copies, received_bytes as f64 / copy_bytes as f64);
    sample.note(Figure::CopiesAndWrites, received_bytes as f64 / (copy_bytes as f64 + written_bytes));
    server.read_here(&mut joiner)?;
    equality::check(&mut joiner, contents, &versions)?;
    server.prove_equal(&mut source, &mut joiner)?;
    sample.own_reports = vec![server.own_report(&mut source)?, server.own_report(&mut joiner)?];
    drop(process);
    Ok(sample)
}

/// How long the clients outrun the link.
const OUTRUN: Duration = Duration::from_secs(30);

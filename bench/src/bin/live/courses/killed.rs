//! Owns the course of a join that is killed half way: what the second attempt receives again.

use std::time::{Duration, Instant};

use anyhow::ensure;
use landfall_bench::measure::wait_until;

use crate::cases::Case;
use crate::equality;
use crate::figure::{Figure, Sample};
use crate::servers::Server;
use crate::turn::{Stage, Turn};
use landfall_bench::contents::Versions;

pub(super) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<Sample> {
    let whole_bytes = super::undisturbed_bytes(stage, case, server)?;
    let turn = Turn::prepare(stage, case, server)?;
    let waiting = turn.start_waiting()?;
    turn.settle()?;
    let received_before = turn.received_bytes()?;
    let told = Instant::now();
    let Some(process) = server.tell(&turn.joiner, &turn.source)?.or(waiting) else {
        anyhow::bail!("a joiner without a process");
    };
    wait_until(HALF_LIMIT, || {
        stage.go_on()?;
        Ok(turn.received_bytes()? - received_before >= whole_bytes / 2)
    })?;
    process.kill()?;
    let first_bytes = turn.received_bytes()? - received_before;
    ensure!(first_bytes < whole_bytes, "the join ended before it could be killed");
    let _process = server.start_again(&turn.joiner, &turn.source)?;
    let (mut source, mut joiner) = (turn.source_client()?, turn.joiner_client()?);
    turn.wait_whole(&mut source, &mut joiner)?;
    let mut sample = Sample::default();
    sample.note(Figure::WholeSeconds, told.elapsed().as_secs_f64());
    let received_bytes = turn.received_bytes()? - received_before;
    let repeated_bytes = received_bytes.saturating_sub(whole_bytes) as f64;
    sample.note(Figure::ReceivedMegabytes, received_bytes as f64 / 1e6);
    sample.note(Figure::RepeatedMegabytes, repeated_bytes / 1e6);
    sample.note(Figure::RepeatedShare, repeated_bytes / whole_bytes as f64);
    server.read_here(&mut joiner)?;
    equality::check(&mut joiner, &stage.contents, &Versions::new(&stage.contents))?;
    server.prove_equal(&mut source, &mut joiner)?;
    sample.own_reports = vec![server.own_report(&mut source)?, server.own_report(&mut joiner)?];
    Ok(sample)
}

const HALF_LIMIT: Duration = Duration::from_secs(600);

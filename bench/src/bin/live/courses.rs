//! Owns the course of each kind of case: what happens in which order, and between which moments is measured. It never
//! says how a server ought to do it.

mod join;
mod killed;
mod outrun;
mod returning;
mod throughput;

use crate::cases::{Case, Course};
use crate::figure::Sample;
use crate::servers::Server;
use crate::turn::{Stage, Turn};

pub(crate) use outrun::Pace;

/// Runs one server's turn at a case.
pub(crate) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<Sample> {
    match case.course {
        Course::Join => join::run(stage, case, server),
        Course::Killed => killed::run(stage, case, server),
        Course::Outrun(pace) => outrun::run(stage, case, server, pace),
        Course::Return(history) => returning::run(stage, case, server, history),
        Course::Throughput(request) => throughput::run(stage, case, server, request),
    }
}

/// What a join receives that nothing disturbs.
fn undisturbed_bytes(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<u64> {
    let turn = Turn::prepare(stage, case, server)?;
    let waiting = turn.start_waiting()?;
    turn.settle()?;
    let before = turn.received_bytes()?;
    let _process = server.tell(&turn.joiner, &turn.source)?.or(waiting);
    let (mut source, mut joiner) = (turn.source_client()?, turn.joiner_client()?);
    turn.wait_whole(&mut source, &mut joiner)?;
    Ok(turn.received_bytes()? - before)
}

//! Owns the course of each kind of case: what happens in which order, and between which moments is measured. It never
//! says how a server ought to do it.

mod join;
mod killed;
mod returning;
mod throughput;

use crate::cases::{Case, Course};
use crate::figure::Sample;
use crate::servers::Server;
use crate::turn::Stage;

/// Runs one server's turn at a case.
pub(crate) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<Sample> {
    match case.course {
        Course::Join => join::run(stage, case, server),
        Course::Killed => killed::run(stage, case, server),
        Course::Return(history) => returning::run(stage, case, server, history),
        Course::Throughput(request) => throughput::run(stage, case, server, request),
    }
}

//! Owns `cp -a`: no network and no proof, so the least that this disk allows.

use std::path::Path;
use std::process::Command;

use super::{Seat, Tool};
use landfall_bench::measure::Process;

pub(crate) struct Copy;

impl Tool for Copy {
    fn name(&self) -> String {
        "cp -a, no network".to_owned()
    }

    fn serve(&self, _seat: &Seat<'_>, _state: &Path) -> anyhow::Result<Option<Process>> {
        Ok(None)
    }

    fn receive(&self, _sources: &[Seat<'_>], state: &Path, target: &Path) -> Command {
        let mut command = Command::new("cp");
        command.arg("-a").arg(state).arg(target);
        command
    }
}

//! Owns rsync: a plain daemon at the source, `rsync -a` at the joiner. No encryption, no ssh.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Seat, Tool};
use landfall_bench::measure::Process;

/// rsync with some of its options.
pub(crate) struct Rsync {
    name: &'static str,
    options: &'static [&'static str],
}

impl Rsync {
    /// As most people run it: a delta into a new file, no compression.
    ///
    /// Without `TCP_NODELAY`, which no default sets, it waits about 0.12 s in delayed acknowledgements.
    pub(crate) const PLAIN: Self = Self { name: "rsync", options: &[] };
    /// The same without those waits, which only matter where little is sent.
    pub(crate) const NO_DELAY: Self = Self { name: "rsync, TCP_NODELAY", options: &["--sockopts=TCP_NODELAY"] };
    /// Also removes what an earlier run that was killed left in the target.
    pub(crate) const DELETE: Self = Self { name: "rsync --delete", options: &["--delete"] };
    /// Whole files, no delta.
    pub(crate) const WHOLE: Self = Self { name: "rsync -W", options: &["--whole-file"] };
    /// A delta written into the old file.
    pub(crate) const IN_PLACE: Self = Self { name: "rsync --inplace", options: &["--inplace", "--no-whole-file"] };
    /// The same with blocks of the size in which pages change.
    pub(crate) const PAGES: Self =
        Self { name: "rsync -B 4096 --inplace", options: &["--inplace", "--no-whole-file", "--block-size=4096"] };
    /// Its fastest zstd.
    pub(crate) const ZSTD: Self = Self { name: "rsync zstd:1", options: &["--zc=zstd", "--zl=1"] };
    /// What `-z` alone chooses.
    pub(crate) const COMPRESSED: Self = Self { name: "rsync -z", options: &["-z"] };
}

impl Rsync {
    fn configure(&self, state: &Path) -> String {
        let no_delay = self.options.contains(&Self::NO_DELAY.options[0]);
        let sockets = if no_delay { "socket options = TCP_NODELAY\n" } else { "" };
        format!("use chroot = no\nuid = 0\ngid = 0\n{sockets}[state]\npath = {}\n", state.display())
    }
}

impl Tool for Rsync {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn serve(&self, seat: &Seat<'_>, state: &Path) -> anyhow::Result<Option<Process>> {
        let configuration = seat.directory.join("rsyncd.conf");
        fs::write(&configuration, self.configure(state))?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--port", &PORT.to_string()]);
        command.arg(format!("--config={}", configuration.display()));
        seat.start_and_connect(command, PORT).map(Some)
    }

    fn receive(&self, sources: &[Seat<'_>], _state: &Path, target: &Path) -> Command {
        let mut command = Command::new("rsync");
        command.arg("-a").args(self.options);
        command.arg(format!("rsync://{}:{PORT}/state/", sources[0].link.source_address)).arg(target);
        command
    }
}

const PORT: u16 = 8730;

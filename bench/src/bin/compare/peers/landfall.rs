//! Owns Landfall's command line: every invocation of `landfall` is written here and nowhere else. TLS and
//! verification are always on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Follows, Seat, Tool};
use landfall_bench::command::run;
use landfall_bench::measure::Process;

/// Landfall in one of its two ways to publish.
#[derive(Clone)]
pub(crate) struct Landfall {
    binary: PathBuf,
    identities: PathBuf,
    mode: Mode,
}

/// How a source publishes a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The directory will not change: served from where it lies.
    Frozen,
    /// The directory lives on: each snapshot keeps its own bytes.
    Store,
}

impl Landfall {
    /// `work` is where the certificates of a run are kept.
    pub(crate) fn new(binary: &Path, work: &Path, mode: Mode) -> Self {
        Self { binary: binary.to_owned(), identities: work.join("identities"), mode }
    }

    /// Makes a certificate authority, a writer for each source and a joiner, unless they are there.
    pub(crate) fn create_identities(&self) -> anyhow::Result<()> {
        let authority = self.identities.join("ca");
        if self.absent().is_some() || self.identity(JOINER).exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.identities)?;
        run(self.command(&["cert", "create-ca"]).arg(&authority))?;
        for member in [SOURCES[0], SOURCES[1], JOINER] {
            let mut command = self.command(&["cert", "create-member", member]);
            command.arg("--ca").arg(&authority).arg("--out").arg(self.identity(member)).args(["--writer", STATE]);
            run(&mut command)?;
        }
        Ok(())
    }

    fn pull(&self, addresses: String, identity: &Path, target: &Path) -> Command {
        let mut command = self.command(&["pull", STATE]);
        command.arg(target).args(["--from", &addresses, "--json", "--identity"]).arg(identity);
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        command
    }

    fn identity(&self, member: &str) -> PathBuf {
        self.identities.join(member)
    }

    /// A source's certificate follows from the last number of its link's address.
    fn source_identity(&self, seat: &Seat<'_>) -> PathBuf {
        let number = usize::from(seat.link.source_address.octets()[2] - 10);
        self.identity(SOURCES[number % SOURCES.len()])
    }
}

impl Tool for Landfall {
    fn name(&self) -> String {
        format!("landfall {}", self.mode.name())
    }

    fn absent(&self) -> Option<String> {
        let help = Command::new(&self.binary).args(["serve", "--help"]).output();
        let knows = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--state"));
        (!knows).then(|| format!("no `landfall serve` at {}", self.binary.display()))
    }

    fn serve(&self, seat: &Seat<'_>, state: &Path) -> anyhow::Result<Option<Process>> {
        let mut command = self.command(&["serve", "--mode", self.mode.name(), "--state"]);
        command.arg(format!("{STATE}={}", state.display()));
        command.arg("--listen").arg(address(seat)).arg("--data").arg(data(seat));
        command.arg("--identity").arg(self.source_identity(seat));
        let mut server = seat.start(command)?;
        server.wait_ready(|server| server.output().contains(READY))?;
        Ok(Some(server))
    }

    /// A relay: it pulls from the first, at the first's end of the network, and serves what it pulled.
    fn serve_again(&self, first: &Seat<'_>, seat: &Seat<'_>, _state: &Path) -> anyhow::Result<Option<Process>> {
        let copy = seat.directory.join("copy");
        let pull = self.pull(address(first), &self.source_identity(seat), &copy);
        Process::start(&first.link.source, pull, &seat.directory.join("relay"))?.wait()?;
        self.serve(seat, &copy)
    }

    fn own_directory(&self) -> Option<&'static str> {
        Some(".landfall")
    }

    fn receive(&self, sources: &[Seat<'_>], _state: &Path, target: &Path) -> Command {
        let addresses: Vec<String> = sources.iter().map(address).collect();
        self.pull(addresses.join(","), &self.identity(JOINER), target)
    }

    fn follows(&self) -> Follows {
        Follows::LiveState
    }

    fn publish(&self, seat: &Seat<'_>) -> Option<Command> {
        let mut command = self.command(&["snapshot", STATE, "--json", "--data"]);
        command.arg(data(seat));
        (self.mode == Mode::Store).then_some(command)
    }

    fn own_report(&self, output: &str) -> Option<serde_json::Value> {
        let last_line = || serde_json::from_str(output.lines().last()?).ok();
        serde_json::from_str(output).ok().or_else(last_line)
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Store => "store",
        }
    }
}

fn address(seat: &Seat<'_>) -> String {
    format!("{}:{PORT}", seat.link.source_address)
}

fn data(seat: &Seat<'_>) -> PathBuf {
    seat.directory.join("landfall")
}

const STATE: &str = "bench";
const SOURCES: [&str; 2] = ["source0", "source1"];
const JOINER: &str = "joiner";
const READY: &str = "listening on";
const PORT: u16 = 7400;

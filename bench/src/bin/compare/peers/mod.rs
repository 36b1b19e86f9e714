//! Owns the tools that are compared: how each serves a state, how each receives it, and what each promises. It never
//! measures anything.

mod copy;
mod http;
mod landfall;
mod rsync;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use copy::Copy;
pub(crate) use http::Http;
pub(crate) use landfall::{Landfall, Mode};
pub(crate) use rsync::Rsync;

use crate::equality::Fidelity;
use crate::network::Link;
use landfall_bench::measure::Process;

/// A way to bring a state from one machine to another.
pub(crate) trait Tool {
    /// What its row is called.
    fn name(&self) -> String;

    fn fidelity(&self) -> Fidelity {
        Fidelity::Whole
    }

    /// Why it cannot run here, if it cannot.
    fn absent(&self) -> Option<String> {
        None
    }

    /// What it keeps for itself in the root of a copy, which is no part of the state.
    fn own_directory(&self) -> Option<&'static str> {
        None
    }

    /// Starts to serve the directory `state`, and returns once it accepts joiners; nothing, if it needs no server.
    fn serve(&self, seat: &Seat<'_>, state: &Path) -> anyhow::Result<Option<Process>>;

    /// Serves the same state from one more seat, with a copy of its own; `first` serves already.
    fn serve_again(&self, _first: &Seat<'_>, seat: &Seat<'_>, state: &Path) -> anyhow::Result<Option<Process>> {
        self.serve(seat, state)
    }

    /// The command that receives the state from the sources into the directory `target`.
    fn receive(&self, sources: &[Seat<'_>], state: &Path, target: &Path) -> Command;

    /// Whether it watches a state that changes, so that its own first copy is where a delta begins; other tools
    /// begin with a plain copy of the first version.
    fn follows(&self) -> Follows {
        Follows::Nothing
    }

    /// The command at the source that makes the changed state visible to joiners.
    fn publish(&self, _seat: &Seat<'_>) -> Option<Command> {
        None
    }

    /// What its receiving command printed about itself, if it does.
    fn own_report(&self, _output: &str) -> Option<serde_json::Value> {
        None
    }
}

/// Whether a tool keeps knowledge of a state between transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Nothing,
    LiveState,
}

/// Where one source sits: its end of a link, and a private directory that is empty when a run begins.
pub(crate) struct Seat<'a> {
    pub(crate) link: &'a Link,
    pub(crate) directory: PathBuf,
}

impl Seat<'_> {
    fn start(&self, command: Command) -> anyhow::Result<Process> {
        Process::start(&self.link.source, command, &self.directory.join("server"))
    }

    /// Starts a server and waits until its port accepts.
    fn start_and_connect(&self, command: Command, port: u16) -> anyhow::Result<Process> {
        let mut server = self.start(command)?;
        self.link.source.inside(|| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            server.wait_ready(|_| TcpStream::connect(address).is_ok())
        })?;
        Ok(server)
    }
}

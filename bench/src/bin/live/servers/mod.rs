//! Owns what is compared: how each server is started, told to join, asked whether it is whole. It never measures.

mod landfall;
mod redis;

use std::path::{Path, PathBuf};

use landfall_bench::cores::Cores;
use landfall_bench::measure::Process;
use serde_json::Value;

use crate::client::Client;
use crate::network::{Network, Place};
pub(crate) use crate::servers::landfall::Landfall;
pub(crate) use crate::servers::redis::{Durability, Redis};

/// A replicated key-value server.
pub(crate) trait Server {
    /// What it is called in tables.
    fn name(&self) -> String;

    /// The same for all whose first member can start from the same directory.
    fn family(&self) -> &'static str;

    /// Why it cannot run here, if it cannot.
    fn absent(&self) -> Option<String>;

    /// Members beside the source and the joiner that a write needs while the joiner is away.
    fn companions(&self) -> usize;

    /// Members of the cluster whose throughput is measured.
    fn members_for_throughput(&self) -> usize;

    /// The first member, that others will join, on a directory that is new or was kept.
    fn start_first(&self, seat: &Seat<'_>) -> anyhow::Result<Process>;

    /// What runs before a member is told to join, outside the measured time.
    fn start_waiting(&self, seat: &Seat<'_>) -> anyhow::Result<Option<Process>>;

    /// Tells a member to join. Gives its process, if that is how it is told.
    fn tell(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Option<Process>>;

    /// A member that was stopped or killed comes back to its directory by itself.
    fn start_again(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Process>;

    /// What a connection says first so that the member that is asked answers its reads, however old; nothing if it
    /// does anyway.
    fn hello_for_stale_reads(&self) -> &'static [&'static str];

    /// Makes a connection's reads be answered by the member that is asked.
    fn read_here(&self, client: &mut Client) -> anyhow::Result<()> {
        match self.hello_for_stale_reads() {
            [] => Ok(()),
            hello => client.call(hello).map(drop),
        }
    }

    /// Is everything at the joiner that the source had when this was asked?
    fn is_whole(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<bool>;

    /// Leaves the source as a running service is: what it keeps for joiners is made.
    fn settle(&self, source: &mut Client) -> anyhow::Result<()>;

    /// Lets the source forget the changes that a member missed, so that only its state can tell.
    fn forget_changes(&self, source: &mut Client) -> anyhow::Result<()>;

    /// Ends a member in order, with its state kept.
    fn stop(&self, process: Process, client: &mut Client) -> anyhow::Result<()>;

    /// A proof that both hold the same, other than by reading both; an error if they do not.
    fn prove_equal(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<()>;

    /// What the server says of itself, for the record.
    fn own_report(&self, client: &mut Client) -> anyhow::Result<Value>;
}

/// Where a member runs, and on which cores.
pub(crate) struct Seat<'a> {
    pub(crate) place: &'a Place,
    pub(crate) directory: PathBuf,
    pub(crate) cores: Cores,
}

impl Seat<'_> {
    /// A connection of a client.
    pub(crate) fn connect(&self, network: &Network) -> anyhow::Result<Client> {
        Client::connect(network.clients(), self.place.client_address)
    }

    fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    fn start(&self, command: std::process::Command) -> anyhow::Result<Process> {
        std::fs::create_dir_all(&self.directory)?;
        Process::start_on(self.cores, &self.place.namespace, command, &self.log())
    }
}

/// How Landfall's server is called, whatever a case asks of it.
pub(crate) const LANDFALL: &str = "landfall-kv";

fn installed(program: &Path) -> Option<String> {
    let found = if program.components().count() > 1 {
        program.is_file()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    (!found).then(|| format!("{} is missing", program.display()))
}

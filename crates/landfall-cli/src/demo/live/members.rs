//! Owns the members of the story as processes: how each is started, killed and asked how it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::cast::{Cast, Source};
use super::resp::{Answer, AskError, Client};
use super::status::MemberStatus;
use crate::failure::Failure;

/// The names of all that appear, in the order of their numbers.
pub(super) const NAMES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];

/// A member: its directory, its addresses, and its process while it runs.
pub(super) struct Member {
    pub(super) name: &'static str,
    /// Its number in the cluster.
    pub(super) id: u64,
    place: PathBuf,
    addresses: Option<Addresses>,
    process: Option<Source>,
}

/// Where a member is reached; the same after a restart.
#[derive(Debug, Clone)]
struct Addresses {
    clients: SocketAddr,
    peers: String,
}

/// How a member begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Beginning {
    /// With a cluster of its own.
    Bootstrap,
    /// In the cluster of the members at these addresses.
    Join(Vec<String>),
}

impl Member {
    /// The member with that name; its directory and its certificate are below `place`.
    pub(super) fn new(name: &'static str, place: &Path) -> Self {
        let number = NAMES.iter().position(|other| *other == name).expect("everybody who appears has a name");
        Self { name, id: number as u64 + 1, place: place.to_owned(), addresses: None, process: None }
    }

    /// Starts its process, and returns how long it took until clients were served.
    pub(super) fn start(&mut self, beginning: &Beginning, cast: &Cast) -> Result<Duration, Failure> {
        let began = Instant::now();
        let process = cast.serve(self.command_line(beginning), self.place.join(format!("{}.log", self.name)))?;
        let took = began.elapsed();
        let (clients, peers) = (process.said("clients"), process.said("peers"));
        let clients = clients.parse().map_err(|_| Failure::new(format!("{} listens at '{clients}'", self.name)))?;
        self.addresses = Some(Addresses { clients, peers });
        self.process = Some(process);
        Ok(took)
    }

    fn command_line(&self, beginning: &Beginning) -> Vec<String> {
        let shown = |path: PathBuf| path.display().to_string();
        let anywhere = || "127.0.0.1:0".to_owned();
        let (clients, peers) = match &self.addresses {
            Some(addresses) => (addresses.clients.to_string(), addresses.peers.clone()),
            None => (anywhere(), anywhere()),
        };
        let (data, identity) = (shown(self.data()), shown(self.place.join(self.name)));
        let id = self.id.to_string();
        let mut words =
            vec!["kv", "--data", &data, "--listen", &clients, "--peer-listen", &peers, "--identity", &identity];
        words.extend(["--id", &id]);
        match beginning {
            Beginning::Bootstrap => words.push("--bootstrap"),
            Beginning::Join(seeds) => words.extend(seeds.iter().flat_map(|seed| ["--join", seed.as_str()])),
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// Where its data is.
    pub(super) fn data(&self) -> PathBuf {
        self.place.join(format!("{}-data", self.name))
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Does it run?
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Where clients reach it.
    pub(super) fn clients(&self) -> SocketAddr {
        self.addresses.as_ref().expect("it was started before it is asked for").clients
    }

    /// Where other members reach it.
    pub(super) fn peers(&self) -> String {
        self.addresses.as_ref().expect("it was started before it is asked for").peers.clone()
    }

    /// How it is.
    pub(super) fn status(&self) -> Result<MemberStatus, Failure> {
        let asked = Client::connect(self.clients(), PATIENCE).map_err(AskError::from);
        let answer = asked.and_then(|mut client| client.ask(&[b"LANDFALL", b"STATUS"]));
        let answer =
            answer.map_err(|error| Failure::new(format!("{} does not say how it is", self.name)).because(&error))?;
        read_json(self.name, &answer)
    }
}

/// Reads a JSON object that a member answered.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(name: &str, answer: &Answer) -> Result<T, Failure> {
    let unclear = || Failure::new(format!("{name} answered something unclear"));
    let Answer::Bytes(bytes) = answer else { return Err(unclear()) };
    serde_json::from_slice(bytes).map_err(|error| unclear().because(&error))
}

/// A member that does not answer for so long is not well.
const PATIENCE: Duration = Duration::from_secs(10);

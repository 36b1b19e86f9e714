//! Owns the reasons why a state is not served, not published or not read. Each says what to do next.

use std::io;
use std::path::PathBuf;

use landfall_core::snapshot::StateName;
use landfall_core::tree::TreeError;
use landfall_net::ListenError;
use landfall_store::{OpenError, StoreError};

use crate::files::scan::ScanError;
use crate::history::HistoryError;

/// Why a member does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory of a state cannot be used.
    #[error("cannot serve {}: {source}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The data directory would become a part of the state.
    #[error("the data directory {} lies inside the state's directory {}: name another with --data", data.display(), directory.display())]
    DataInside {
        /// The data directory.
        data: PathBuf,
        /// The state's directory.
        directory: PathBuf,
    },
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system gives no thread that accepts joiners: serve again when it has some.
    #[error("no thread to accept joiners: {source}")]
    NoThread {
        /// What the system says.
        source: io::Error,
    },
    /// The record of snapshots is damaged.
    #[error("{0}")]
    History(String),
    /// A directory holds another state than it is to be served as.
    #[error("{} holds state '{pulled}', not '{named}': serve it under its own name, or name another directory", directory.display())]
    OtherState {
        /// The directory.
        directory: PathBuf,
        /// The state that it holds.
        pulled: StateName,
        /// The name that was given.
        named: StateName,
    },
    /// A pulled directory holds no whole snapshot.
    #[error("{} holds no whole snapshot yet: finish 'landfall pull' first", directory.display())]
    Incomplete {
        /// The directory.
        directory: PathBuf,
    },
    /// Two states have the same name.
    #[error("state '{0}' is named twice: give each directory a name of its own")]
    TwiceNamed(StateName),
    /// The first snapshot failed.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The address cannot be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Why no snapshot was taken. The last one is served on.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// No such state here.
    #[error("no state '{0}' is served here: 'landfall serve --state {0}=PATH' would serve it")]
    UnknownState(StateName),
    /// A copy makes no snapshots.
    #[error("'{0}' is a copy that was pulled: only its publisher takes snapshots")]
    Relay(StateName),
    /// A command around the snapshot failed.
    #[error("the command '{command}' {failure}; no snapshot was taken")]
    Command {
        /// The command.
        command: String,
        /// How it failed.
        failure: String,
    },
    /// The directory cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree cannot be built.
    #[error("cannot build the tree: {0}")]
    Tree(#[from] TreeError),
    /// The record of where the last snapshot stood is damaged.
    #[error("the record of the last snapshot's position is damaged: serve the directory with a new data directory")]
    BadPosition,
    /// The index of files cannot be written.
    #[error("cannot write the index of files: {0}")]
    Index(io::Error),
}

/// Why something about a state cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No such state here.
    #[error("no state '{0}' here")]
    UnknownState(StateName),
    /// No such snapshot here.
    #[error("snapshot {0} is not held here: 'landfall log' lists those that are")]
    UnknownSnapshot(String),
    /// There is no snapshot yet.
    #[error("'{0}' has no snapshot yet: 'landfall snapshot {0}' takes one")]
    NoSnapshot(StateName),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree cannot be read.
    #[error("the tree cannot be read: {0}")]
    Tree(#[from] TreeError),
    /// A tree is not one of files.
    #[error("the tree is not one of files: {0}")]
    NotFiles(String),
}

impl From<HistoryError> for ServeError {
    fn from(error: HistoryError) -> Self {
        Self::History(error.to_string())
    }
}

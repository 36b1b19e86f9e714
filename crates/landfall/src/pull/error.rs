//! Owns the reasons why a pull ends without the new state in place. Each says what to do next.

use std::fmt;
use std::path::PathBuf;

use landfall_core::snapshot::{Position, StateName};
use landfall_core::transfer::Stuck;
use landfall_store::{OpenError, StoreError};

use super::assembly::AssemblyError;
use super::greet::SourceError;
use crate::files::place::{ChangesError, Holders, LocalChanges, PlaceError};
use crate::history::HistoryError;

/// Why a pull did not put the new state in place. What it fetched is kept for the next one.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The destination cannot be used.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The destination cannot be compared with what was pulled before.
    #[error("cannot look for local changes: {0}")]
    Changes(#[from] ChangesError),
    /// The data directory below the destination cannot be opened.
    #[error("cannot open the data directory of the destination: {0}")]
    Open(#[from] OpenError),
    /// The data directory below the destination refused something.
    #[error("the data directory of the destination: {0}")]
    Store(#[from] StoreError),
    /// The record of what the destination holds is damaged.
    #[error("the data directory of the destination: {0}; pull into a new directory")]
    History(String),
    /// Files in the destination were changed since the last pull.
    #[error("{} was changed since the last pull:\n{}nothing was touched; pull again with --discard-local-changes to overwrite this", destination.display(), changes)]
    LocalChanges {
        /// The destination.
        destination: PathBuf,
        /// What was changed.
        changes: LocalChanges,
    },
    /// Nobody remembers what the destination holds, and it is not what was pulled last.
    #[error("the index of {} is lost, and what it holds is not what was pulled last: it may have local changes. Nothing was touched; pull again with --discard-local-changes to overwrite them, or pull into a new directory", destination.display())]
    IndexLost {
        /// The destination.
        destination: PathBuf,
    },
    /// The destination cannot be read.
    #[error("cannot read {} again: {source}", destination.display())]
    Rescan {
        /// The destination.
        destination: PathBuf,
        /// What is in the way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Other processes have files open that are to be replaced.
    #[error("files in {} that are to be replaced are open:\n{holders}nothing was replaced; stop these processes, or pull again with --while-running", destination.display())]
    OpenFiles {
        /// The destination.
        destination: PathBuf,
        /// Who holds what.
        holders: Holders,
    },
    /// The sources have nothing newer than the destination, and not the same either.
    #[error(
        "the sources offer position {offered}, and the destination already holds {held}: a copy never goes back; name a newer source, or pull into a new directory"
    )]
    Older {
        /// What the destination holds.
        held: Position,
        /// The newest that a source offers.
        offered: Position,
    },
    /// No source can be used.
    #[error("no source can serve '{state}':\n{}", Failures(failures))]
    NoSource {
        /// The state.
        state: StateName,
        /// What each source said.
        failures: Vec<(String, SourceError)>,
    },
    /// The sources that are left cannot complete the transfer.
    #[error(
        "the transfer cannot go on: {stuck}\n{}what was fetched is kept: pull again when more sources are reachable",
        Lines(notes)
    )]
    Stuck {
        /// What is missing.
        stuck: Stuck,
        /// What happened on the way.
        notes: Vec<String>,
    },
    /// The destination cannot be built.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The state is not a directory.
    #[error("'{state}' is not a directory: it cannot be pulled into one")]
    NotADirectory {
        /// The state.
        state: StateName,
    },
}

impl From<HistoryError> for PullError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Store(error) => Self::Store(error),
            error => Self::History(error.to_string()),
        }
    }
}

struct Failures<'a>(&'a [(String, SourceError)]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let end = if at + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "  {address}: {error}{end}")?;
        }
        Ok(())
    }
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

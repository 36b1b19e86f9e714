//! Owns the reasons why a keyed state is not opened, not read, not changed or not sealed. Each says what to do next.

use landfall_core::keyed::{Missing, ReadError, Refused, SchemaMismatch};
use landfall_core::snapshot::StateName;
use landfall_core::tree::TreeError;
use landfall_core::{ChunkId, keyed};
use landfall_store::{OpenError, StoreError};

use super::frozen::NotFrozen;
use super::join::FaultError;
use crate::history::HistoryError;

/// Why a keyed state is not opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyedOpenError {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of snapshots is damaged: join into a new directory.
    #[error("{0}; join into a new directory")]
    History(String),
    /// The directory holds another state: name another directory.
    #[error("the directory holds state '{held}', not '{named}'")]
    OtherState {
        /// The state that it holds.
        held: StateName,
        /// The name that was given.
        named: StateName,
    },
    /// Its snapshot has other sections than this program knows: update the older of the two.
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
}

impl From<HistoryError> for KeyedOpenError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Store(error) => Self::Store(error),
            error => Self::History(error.to_string()),
        }
    }
}

/// Why a keyed state was not read or not changed. Nothing took effect.
#[derive(Debug, thiserror::Error)]
pub enum KeyedError {
    /// A part of the state is not here and nobody is asked for it. If the snapshot is whole, the data directory is damaged, and sources that
    /// are named mend it; else join again.
    #[error(
        "{first} is not here or damaged ({nodes} tree nodes and {chunks} values in all), and nobody is asked for it: \
         name sources, or join again"
    )]
    NotHere {
        /// One that is missing.
        first: ChunkId,
        /// Nodes that are missing.
        nodes: usize,
        /// Values that are missing.
        chunks: usize,
    },
    /// A part of the state is not here and no source gave it: try again when sources are reachable.
    #[error("a part of the state is not here: {0}")]
    Fault(#[from] FaultError),
    /// A part of the state is damaged here, and no member that was named gave it: try again when they are reachable, or name others.
    #[error("{damaged}; those that were named did not give it: {reason}")]
    NotMended {
        /// What it is.
        damaged: Box<KeyedError>,
        /// Why it did not come.
        reason: FaultError,
    },
    /// The snapshot below the state is broken: whoever published it is.
    #[error("the snapshot is broken: {0}")]
    Broken(TreeError),
    /// This member does not hold the section: ask one that does, or join with that section among those that are wanted.
    #[error("section '{section}' is not held by this member")]
    NotHeld {
        /// The section.
        section: StateName,
    },
    /// The state takes no such change, on any member.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl KeyedError {
    /// What nobody is asked for.
    pub(super) fn of_missing(missing: &Missing) -> Self {
        let (nodes, chunks) = (missing.nodes.len(), missing.chunks.len());
        let node = missing.nodes.first().map(|node| node.id);
        let first = node.or_else(|| missing.chunks.first().map(|chunk| chunk.id));
        first.map_or(Self::Fault(FaultError::Ended), |first| Self::NotHere { first, nodes, chunks })
    }

    /// What a read says that is no miss.
    pub(super) fn of_read(error: ReadError) -> Self {
        match error {
            ReadError::Missing(missing) => Self::of_missing(&missing),
            ReadError::NotHeld { section } => Self::NotHeld { section },
            ReadError::Broken(error) => Self::Broken(error),
            ReadError::Refused(refused) => Self::Refused(refused),
        }
    }
}

/// Why no seal began. The state goes on; the next mark may seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealRefused {
    /// Another seal runs: this mark is skipped.
    #[error("a seal is under way")]
    Underway,
    /// The state stands on a snapshot that is not all here: re-base onto what the others seal here.
    #[error("the state stands on a snapshot that is still being fetched")]
    Filling,
    /// The system gave no thread for it.
    #[error("the system gave no thread for a seal")]
    NoThread,
    /// This member holds some sections only, so it has no root of the state: re-base onto what the others seal here.
    #[error(
        "this member holds some sections of the state only, and seals nothing: join again with the snapshot that others sealed"
    )]
    SomeSections,
}

impl From<NotFrozen> for SealRefused {
    fn from(refused: NotFrozen) -> Self {
        match refused {
            NotFrozen::Refused(keyed::SealRefused::Underway) => Self::Underway,
            NotFrozen::Refused(keyed::SealRefused::SomeSections) => Self::SomeSections,
            NotFrozen::NoThread => Self::NoThread,
        }
    }
}

/// Why nothing is carried over. What is here of the next snapshot is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CarryRefused {
    /// Carrying over to an earlier position goes on.
    #[error("what is here is still being carried over to an earlier position")]
    Underway,
    /// The state does not stand on a snapshot that is being fetched.
    #[error("the state stands on no snapshot that is still being fetched")]
    NotFilling,
    /// The system gave no thread for it.
    #[error("the system gave no thread for carrying over")]
    NoThread,
    /// This member holds some sections only.
    #[error("a member that holds some sections only carries nothing over")]
    SomeSections,
}

impl From<NotFrozen> for CarryRefused {
    fn from(refused: NotFrozen) -> Self {
        match refused {
            NotFrozen::Refused(keyed::SealRefused::Underway) => Self::Underway,
            NotFrozen::Refused(keyed::SealRefused::SomeSections) => Self::SomeSections,
            NotFrozen::NoThread => Self::NoThread,
        }
    }
}

/// Why a seal did not become the newest snapshot, or leaves were not carried over. Its changes wait for the next one.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree below cannot be read: the data directory is damaged.
    #[error("the tree below the state cannot be read: {0}")]
    Tree(#[from] TreeError),
    /// The tree below is damaged, and did not come again: what it says of a read is to be done.
    #[error("the tree below the state cannot be read: {0}")]
    NotMended(Box<KeyedError>),
    /// The state was re-based meanwhile: a newer snapshot took its place.
    #[error("the state was re-based while it was sealed")]
    Outdated,
}

/// Why a state was not rolled back.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// The snapshot is not held here, or not all of it.
    #[error("snapshot {0} is not held here")]
    UnknownSnapshot(ChunkId),
    /// The state stands at or behind the position already.
    #[error("the state stands at or behind that position already")]
    Already,
    /// The snapshot cannot be put below the state.
    #[error(transparent)]
    Refused(#[from] keyed::RebaseRefused),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
}

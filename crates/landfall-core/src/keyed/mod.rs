//! Owns keyed state: a map in sections that goes on changing while its snapshots are made, shipped and audited.
//!
//! A state is an immutable base (the trees of a snapshot), a frozen overlay while a seal merges it into the next base, and an active
//! overlay that takes what the log brings. It never waits and never fetches: a read that needs what is not here says what is missing,
//! before anything took effect, and is tried again.

use bytes::Bytes;

use crate::ChunkId;
use crate::snapshot::StateName;
use crate::tree::{ChunkRef, NodeWant, Nodes, Root, TreeError};

mod batch;
mod layer_key;
mod memory;
mod overlay;
mod read;
mod record;
mod schema;
mod seal;
mod seal_part;
mod sections;
mod state;
mod transaction;

pub use batch::{BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, BatchError, Op, Refused};
pub use memory::MemoryChunks;
pub use read::read_below;
pub use record::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES, Record, RecordError, RecordKind};
pub use schema::{Schema, SchemaError, SchemaMismatch, SectionId, SectionSchema};
pub use seal::{SealSink, Sealed, Sealing, Step};
pub use seal_part::{MergedPart, SealPart};
pub use sections::{Sections, SectionsRefused};
pub use state::{Applied, KeyedState, RebaseRefused, SealOutdated, SealRefused};
pub use transaction::Transaction;

/// Where verified nodes and long values can be had without waiting.
pub trait Chunks: Nodes {
    /// The plaintext of a chunk that was verified in the data domain, or nothing if it is not here.
    fn chunk(&self, id: ChunkId) -> Option<Bytes>;
}

/// What the overlays know of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// All there is to know: its value, or that it has none.
    Found(Option<Bytes>),
    /// Nothing: ask the tree of this root, with [`read_below`], outside of any lock.
    Below(Root),
    /// Its section is not held by this member: ask one that holds it.
    NotHeld(StateName),
}

/// What a read needs and is not here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Nodes that are the next on the way.
    pub nodes: Vec<NodeWant>,
    /// Long values.
    pub chunks: Vec<ChunkRef>,
    /// The ways that the nodes lie on: fetched as a whole, each costs one round trip.
    pub ways: Vec<Way>,
}

/// All nodes from a root down to the leaf that covers a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The root.
    pub root: Root,
    /// The key.
    pub key: Bytes,
}

impl Missing {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.chunks.is_empty()
    }

    /// Adds what another read needs.
    pub fn absorb(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.chunks.extend(other.chunks);
        self.ways.extend(other.ways);
    }
}

/// Why a read, or a change that depends on one, did not happen. Nothing took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Fetch this and try again.
    #[error("{} tree nodes and {} values are not here", .0.nodes.len(), .0.chunks.len())]
    Missing(Missing),
    /// This member does not hold the section, and fetching is not for it to decide: ask a member that holds it.
    #[error("section '{section}' is not held by this member")]
    NotHeld {
        /// The section.
        section: StateName,
    },
    /// What is here matches its hash and is not what a keyed state holds: whoever published the snapshot is broken.
    #[error("the snapshot is broken: {0}")]
    Broken(TreeError),
    /// The state takes no such change, on any member.
    #[error(transparent)]
    Refused(#[from] Refused),
}

#[cfg(test)]
mod tests;

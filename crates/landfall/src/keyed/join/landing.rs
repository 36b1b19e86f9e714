//! Owns where the bulk of a join lands: nodes and long values go into the store of the keyed state.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::codec::Codec;
use landfall_core::transfer::{TreePair, Want};
use landfall_core::tree::{Leaf, Node, NodeWant, TreeError, Value, get};
use landfall_core::wire::ItemForm;
use landfall_core::{Chunk, ChunkId, Proven};
use landfall_store::StoreError;

use crate::content::PackedContent;
use crate::fetch::landing::{Inspection, Kept, Landing};
use crate::fetch::status::Status;
use crate::keyed::here::Here;
use crate::nodes::{NodeCache, with_decoder};

/// Why what came cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LandingError {
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot is broken at its source.
    #[error("the snapshot is broken at its source: {0}")]
    Tree(#[from] TreeError),
    /// A node that was here is gone: the data directory is damaged.
    #[error("tree node {0} was here and is gone: the data directory is damaged")]
    NodeLost(ChunkId),
    /// A leaf does not refer to the chunk that was asked for.
    #[error("a leaf does not refer to the chunk that was asked for")]
    NoSuchChunk,
    /// The system gives no thread for the work: join again when it has some.
    #[error("the system gave no thread for comparing what is here")]
    NoThread,
    /// Whoever began the join let it go.
    #[error("the join was stopped")]
    Stopped,
}

/// The store of a keyed state, as a transfer fills it.
pub(super) struct KeyedLanding {
    here: Here,
    trees: Vec<TreePair>,
    status: Arc<Status>,
}

/// The key whose value a chunk is.
pub(super) struct Place(Bytes);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value of '{}'", self.0.escape_ascii())
    }
}

impl KeyedLanding {
    pub(super) fn new(here: Here, trees: Vec<TreePair>, status: Arc<Status>) -> Self {
        status.note_entries_wanted(trees.iter().fold(0, |sum, tree| tree.target.entries.saturating_add(sum)));
        Self { here, trees, status }
    }

    /// The chunk that stood at a key before.
    fn old_chunk(&self, tree: usize, key: &[u8]) -> Result<Option<ChunkId>, LandingError> {
        let Some(base) = self.trees.get(tree).and_then(|trees| trees.base) else { return Ok(None) };
        match get(&*self.here.nodes, &base, key) {
            Ok(value) => Ok(value.and_then(|value| value.chunk).map(|chunk| chunk.id)),
            // The older tree is damaged here, or cannot be read now: then there is nothing to build on.
            Err(TreeError::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Landing for KeyedLanding {
    type Place = Place;
    type Unchanged = std::convert::Infallible;
    type Failure = LandingError;

    fn nodes(&self) -> &NodeCache {
        &self.here.nodes
    }

    fn inspect(&self, tree: usize, leaf: ChunkId) -> Result<Inspection<Self::Unchanged>, LandingError> {
        let bytes = self.here.nodes.get(leaf)?.ok_or(LandingError::NodeLost(leaf))?;
        let node_bytes = bytes.len();
        let leaf = Leaf::read(leaf, bytes)?;
        self.status.note_inspected(leaf.len(), node_bytes);
        let mut wants = Vec::new();
        for (index, key, chunk) in leaf.chunks() {
            if !self.here.store.contains(chunk.id)? {
                let base = self.old_chunk(tree, key)?;
                wants.push(Want { entry: index as u32, bytes: chunk.bytes, base });
            }
        }
        Ok(Inspection { wants, unchanged: Vec::new() })
    }

    fn take_unchanged(&self, _: Vec<Self::Unchanged>) -> Result<Vec<Want>, LandingError> {
        Ok(Vec::new())
    }

    fn put_node(&self, want: &NodeWant, node: &Chunk, form: &ItemForm<'_, Codec>) -> Result<Kept, LandingError> {
        let nodes = &self.here.nodes;
        let leaf = Leaf::of(Node::read(node.id(), node.bytes().clone())?);
        if leaf.is_some_and(|leaf| leaf.chunks().next().is_none()) {
            nodes.put_in_passing(node, form.codec, form.payload, want.base)?;
            return Ok(Kept::Chunkless);
        }
        nodes.put_as_it_came(node, form.codec, form.payload, want.base)?;
        Ok(Kept::Unseen)
    }

    fn place_of(&self, key: &Bytes, _: &Value) -> Result<Place, LandingError> {
        Ok(Place(key.clone()))
    }

    fn put(&self, _: &Place, chunk: Proven<'_>) -> Result<(), LandingError> {
        Ok(self.here.store.put(&chunk.to_chunk())?)
    }

    fn read_base(&self, _: &Place, base: ChunkId, out: &mut Vec<u8>) -> Result<bool, LandingError> {
        let packs = PackedContent::new(&self.here.store);
        let read = packs.frame(base).and_then(|frame| with_decoder(|decoder| packs.plain(&frame, decoder, out)));
        Ok(read.is_ok())
    }

    fn node_lost(&self, node: ChunkId) -> LandingError {
        LandingError::NodeLost(node)
    }

    fn no_thread(&self) -> LandingError {
        LandingError::NoThread
    }

    fn no_such_chunk(&self) -> LandingError {
        LandingError::NoSuchChunk
    }

    fn base_gone(&self, _: &Place) -> Result<(), LandingError> {
        // It is of an older snapshot, which the new one does not need.
        Ok(())
    }
}

//! Owns nodes in memory: the simplest place for them, for tests and for small trees.

use std::collections::HashMap;

use bytes::Bytes;

use super::{NodeSink, Nodes};
use crate::{Chunk, ChunkId};

/// Keeps every node that it is given.
#[derive(Debug, Clone, Default)]
pub struct MemoryNodes {
    nodes: HashMap<ChunkId, Bytes>,
}

impl MemoryNodes {
    /// How many different nodes are here.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is here.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes over all nodes of `other`.
    pub fn absorb(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
    }
}

impl Nodes for MemoryNodes {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.nodes.get(&id).cloned()
    }
}

impl NodeSink for MemoryNodes {
    fn put(&mut self, node: Chunk) {
        self.nodes.insert(node.id(), node.into_bytes());
    }
}

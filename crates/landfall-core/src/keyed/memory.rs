//! Owns nodes and values in memory: the simplest place for them, for tests and for small states.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Chunks, SealSink};
use crate::tree::{MemoryNodes, NodeSink, Nodes};
use crate::{Chunk, ChunkId};

/// Keeps every node and every value that it is given.
#[derive(Debug, Clone, Default)]
pub struct MemoryChunks {
    nodes: MemoryNodes,
    values: BTreeMap<ChunkId, Bytes>,
}

impl MemoryChunks {
    /// How many different nodes are here.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many different values are here.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Takes over everything of `other`.
    pub fn absorb(&mut self, other: Self) {
        self.nodes.absorb(other.nodes);
        self.values.extend(other.values);
    }
}

impl Nodes for MemoryChunks {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.nodes.node(id)
    }
}

impl Chunks for MemoryChunks {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.values.get(&id).cloned()
    }
}

impl NodeSink for MemoryChunks {
    fn put(&mut self, node: Chunk) {
        self.nodes.put(node);
    }
}

impl SealSink for MemoryChunks {
    fn put_value(&mut self, value: Chunk) {
        self.values.insert(value.id(), value.into_bytes());
    }
}

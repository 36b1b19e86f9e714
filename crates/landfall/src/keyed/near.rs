//! Owns what one read has in memory: what is remembered anyway, and what the read itself had brought from the disk. Reading from it
//! never waits, so it may be read from while the state is locked. It never asks a peer.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use landfall_core::ChunkId;
use landfall_core::keyed::{Chunks, Missing};
use landfall_core::tree::{Node, Nodes, TreeError};
use landfall_store::StoreError;

use super::here::Here;

/// What is in memory for one read. It ends with the read, so what was brought is not forgotten before it is used.
pub(super) struct Near<'a> {
    here: &'a Here,
    nodes: RefCell<HashMap<ChunkId, Node>>,
    chunks: RefCell<HashMap<ChunkId, Bytes>>,
}

impl<'a> Near<'a> {
    pub(super) fn new(here: &'a Here) -> Self {
        Self { here, nodes: RefCell::default(), chunks: RefCell::default() }
    }

    /// Reads what was missing from the disk. Gives what is not there either.
    pub(super) fn bring(&self, missing: Missing) -> Result<Missing, StoreError> {
        let Missing { nodes, chunks, ways } = missing;
        let mut absent = Missing { ways, ..Missing::default() };
        for want in nodes {
            // A malformed node is reported when the read comes to it, from the cache.
            match self.here.nodes.get_read(want.id)? {
                Some(Ok(node)) => drop(self.nodes.borrow_mut().insert(want.id, node)),
                Some(Err(_)) => {}
                None => absent.nodes.push(want),
            }
        }
        for chunk in chunks {
            match self.here.read_chunk(chunk.id)? {
                Some(bytes) => drop(self.chunks.borrow_mut().insert(chunk.id, bytes)),
                None => absent.chunks.push(chunk),
            }
        }
        if absent.nodes.is_empty() {
            absent.ways.clear();
        }
        Ok(absent)
    }
}

impl Nodes for Near<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        Some(self.read(id)?.ok()?.bytes().clone())
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        if let Some(node) = self.nodes.borrow().get(&id) {
            return Some(Ok(node.clone()));
        }
        self.here.nodes.read_remembered(id)
    }
}

impl Chunks for Near<'_> {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.chunks.borrow().get(&id).cloned()
    }
}

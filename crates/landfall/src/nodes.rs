//! Owns the tree nodes that are near: a bounded cache over the store. It never asks a peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use landfall_core::codec::{Codec, Decoder};
use landfall_core::tree::{NodeSink, Nodes};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::{Store, StoreError, StoredFrame};

/// Plaintext of nodes that the cache keeps.
const CACHE_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Tree nodes from a store, the recently used ones from memory.
pub(crate) struct NodeCache {
    store: Arc<Store>,
    recent: Mutex<Generations>,
    /// The first failure of the store under a reader that cannot return one.
    failure: Mutex<Option<StoreError>>,
}

impl NodeCache {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, recent: Mutex::new(Generations::default()), failure: Mutex::new(None) }
    }

    /// Keeps a node for good.
    pub(crate) fn put(&self, node: &Chunk) -> Result<(), StoreError> {
        self.store.put(node)?;
        self.lock().insert(node.id(), node.bytes().clone());
        Ok(())
    }

    /// The plaintext of a node, or nothing if it is not here.
    pub(crate) fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        if let Some(bytes) = self.lock().get(id) {
            return Ok(Some(bytes));
        }
        let frame = match self.store.get_encoded(id) {
            // The store counts it as absent from now on: it is fetched again, or its loss is told by whoever needs it.
            Err(StoreError::Damaged(_)) => None,
            found => found?,
        };
        let Some(frame) = frame.filter(|frame| frame.domain == Domain::Node) else { return Ok(None) };
        // The frame's checksum guards against the disk; only what was hashed may enter a tree.
        let Some(node) = plain(&frame).and_then(|bytes| Chunk::verify(id, Domain::Node, bytes).ok()) else {
            self.store.forget(id)?;
            return Ok(None);
        };
        let bytes = node.into_bytes();
        self.lock().insert(id, bytes.clone());
        Ok(Some(bytes))
    }

    /// The failure that made a node look missing, if there was one.
    pub(crate) fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().expect("no panic under the lock").take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.recent.lock().expect("no panic under the lock")
    }
}

impl Nodes for NodeCache {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.get(id).unwrap_or_else(|failure| {
            self.failure.lock().expect("no panic under the lock").get_or_insert(failure);
            None
        })
    }
}

/// The plaintext of a stored node, if it decodes.
fn plain(frame: &StoredFrame) -> Option<Bytes> {
    let codec = Codec::from_byte(frame.codec)?;
    if codec == Codec::Raw {
        return Some(frame.bytes.clone());
    }
    let mut plain = Vec::new();
    Decoder::new().decode(codec, &frame.bytes, frame.plain_bytes, None, &mut plain).ok()?;
    Some(plain.into())
}

/// A sink that keeps every node and remembers the first failure.
pub(crate) struct StoringSink<'a> {
    cache: &'a NodeCache,
    result: Result<(), StoreError>,
}

impl<'a> StoringSink<'a> {
    pub(crate) fn new(cache: &'a NodeCache) -> Self {
        Self { cache, result: Ok(()) }
    }

    pub(crate) fn finish(self) -> Result<(), StoreError> {
        self.result
    }
}

impl NodeSink for StoringSink<'_> {
    fn put(&mut self, node: Chunk) {
        if self.result.is_ok() {
            self.result = self.cache.put(&node);
        }
    }
}

/// Two generations: what was not used while one filled is forgotten with the next.
#[derive(Default)]
struct Generations {
    young: HashMap<ChunkId, Bytes>,
    old: HashMap<ChunkId, Bytes>,
    young_bytes: usize,
}

impl Generations {
    fn get(&mut self, id: ChunkId) -> Option<Bytes> {
        if let Some(bytes) = self.young.get(&id) {
            return Some(bytes.clone());
        }
        let bytes = self.old.remove(&id)?;
        self.insert(id, bytes.clone());
        Some(bytes)
    }

    fn insert(&mut self, id: ChunkId, bytes: Bytes) {
        self.young_bytes += bytes.len();
        self.young.insert(id, bytes);
        if self.young_bytes > CACHE_BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

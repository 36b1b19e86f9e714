//! Owns what of a state is on one member's disk, as the core's reads want it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use landfall_core::codec::{Codec, Encoder};
use landfall_core::keyed::{Chunks, SealSink};
use landfall_core::tree::{NodeSink, Nodes, Root};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::Encoded;

use crate::disk::Disk;
use crate::trouble::Trouble;

/// Tree nodes that were read lately.
pub(super) type NodeCache = RefCell<BTreeMap<ChunkId, Bytes>>;

/// The nodes and long values of a member. What fails while reading is kept, and must be asked for.
pub(super) struct Here<'a> {
    disk: &'a Disk,
    cache: &'a NodeCache,
    failure: RefCell<Option<Trouble>>,
}

impl<'a> Here<'a> {
    pub(super) fn new(disk: &'a Disk, cache: &'a NodeCache) -> Self {
        Self { disk, cache, failure: RefCell::new(None) }
    }

    /// The first failure of a read; what was concluded from "not here" before it is worth nothing.
    pub(super) fn failed(&self) -> Result<(), Trouble> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn read(&self, id: ChunkId, domain: Domain) -> Option<Bytes> {
        match self.disk.read(id) {
            Ok(chunk) => Some(chunk.filter(|chunk| chunk.domain() == domain)?.into_bytes()),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error.into());
                None
            }
        }
    }
}

impl Nodes for Here<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        if let Some(bytes) = self.cache.borrow().get(&id) {
            return Some(bytes.clone());
        }
        let bytes = self.read(id, Domain::Node)?;
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= CACHED_NODES_MAX {
            cache.clear();
        }
        cache.insert(id, bytes.clone());
        Some(bytes)
    }
}

impl Chunks for Here<'_> {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.read(id, Domain::Data)
    }
}

/// The ids of the nodes on the way to a key, as far as they can be known, and what is at its end.
pub(super) struct WayTo {
    /// From the root on; the last may not be here.
    pub(super) nodes: Vec<ChunkId>,
    /// How many of them are here.
    pub(super) held: usize,
    /// The long value at the key, if the whole way is here and there is one.
    pub(super) value: Option<ChunkId>,
}

impl WayTo {
    pub(super) fn find(nodes: &dyn Nodes, root: &Root, key: &[u8]) -> Self {
        let asked = Asked { nodes, asked: RefCell::default(), held: RefCell::new(0) };
        let found = landfall_core::tree::get(&asked, root, key);
        let value = found.ok().flatten().and_then(|value| value.chunk).map(|chunk| chunk.id);
        Self { nodes: asked.asked.into_inner(), held: asked.held.into_inner(), value }
    }
}

struct Asked<'a> {
    nodes: &'a dyn Nodes,
    asked: RefCell<Vec<ChunkId>>,
    held: RefCell<usize>,
}

impl Nodes for Asked<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.asked.borrow_mut().push(id);
        let node = self.nodes.node(id)?;
        *self.held.borrow_mut() += 1;
        Some(node)
    }
}

/// Stores what a seal makes; nodes as patches against those that they replace, if the member does that.
pub(super) struct Sink<'a> {
    pub(super) disk: &'a Disk,
    pub(super) patches: Option<&'a mut Encoder>,
    pub(super) failure: Option<Trouble>,
}

impl Sink<'_> {
    fn store(&mut self, chunk: &Chunk, form: Option<Encoded<'_>>) {
        if self.failure.is_none() {
            self.failure = self.disk.put(chunk, form).err().map(Trouble::from);
        }
    }
}

impl NodeSink for Sink<'_> {
    fn put(&mut self, node: Chunk) {
        self.store(&node, None);
    }

    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        let base = old.and_then(|old| self.disk.read(old).ok().flatten());
        let (Some(base), Some(encoder)) = (base, self.patches.as_mut()) else { return self.put(node) };
        let mut patch = Vec::new();
        let encoded = encoder.encode(Codec::ZstdPatch, node.bytes(), Some(base.bytes()), &mut patch);
        let form = Encoded { codec: Codec::ZstdPatch as u8, base: Some(base.id()), bytes: &patch };
        self.store(&node, encoded.is_ok().then_some(form));
    }
}

impl SealSink for Sink<'_> {
    fn put_value(&mut self, value: Chunk) {
        self.store(&value, None);
    }
}

const CACHED_NODES_MAX: usize = 200;

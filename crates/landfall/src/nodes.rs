//! Owns the tree nodes that are near: a bounded cache over the store. It never asks a peer.

mod patching;
mod whole;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use landfall_core::codec::{Codec, Decoder};
use landfall_core::tree::{Node, NodeSink, Nodes, TreeError};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::{Encoded, PATCHES_IN_CHAIN_MAX, Session, SoundBase, Store, StoreError, StoredFrame};

pub(crate) use patching::{Patching, Replaced};

/// Memory for nodes that a cache takes unless it is told otherwise.
const CACHE_BYTES_DEFAULT: u64 = 24 * 1024 * 1024;
/// Readers of different nodes seldom wait for each other: a cache is cut into as many parts as there is memory for, up to this.
const PARTS_MAX: u64 = 16;
const PART_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// Tree nodes from a store, the recently used ones from memory.
pub(crate) struct NodeCache {
    store: Arc<Store>,
    /// By the first byte of an id.
    recent: Vec<Mutex<Generations>>,
}

impl NodeCache {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self::with_cache_bytes(store, CACHE_BYTES_DEFAULT)
    }

    /// A cache that takes about `cache_bytes` of memory at most.
    pub(crate) fn with_cache_bytes(store: Arc<Store>, cache_bytes: u64) -> Self {
        let parts = (cache_bytes / PART_BYTES_MIN).clamp(1, PARTS_MAX);
        let part = || Mutex::new(Generations { young_bytes_max: cache_bytes / parts / 2, ..Generations::default() });
        let recent = std::iter::repeat_with(part).take(parts as usize).collect();
        Self { store, recent }
    }

    /// Keeps a node for good.
    pub(crate) fn put(&self, node: &Chunk) -> Result<(), StoreError> {
        self.store_whole(node)?;
        self.remember(node.id(), Kept::Plain(node.bytes().clone()));
        Ok(())
    }

    /// Stores a node for good, as what differs from the one that it replaces if that saves at least half. It is remembered if that one is: a
    /// node that nobody read does not become one that somebody did.
    pub(crate) fn put_in_place_of(
        &self,
        node: &Chunk,
        old: &Replaced<'_>,
        patching: &mut Patching,
    ) -> Result<(), StoreError> {
        if let Some(patch) = patching.make(node, old) {
            self.store_patch(node, old.id, old.kept, patch)?;
        } else {
            self.store_whole(node)?;
        }
        if self.part(old.id).has(old.id) {
            self.remember(node.id(), Kept::Plain(node.bytes().clone()));
        }
        Ok(())
    }

    /// Keeps a node for good in the form in which it came, and remembers it, in memory of its own. A patch comes with the node that it was
    /// made against.
    pub(crate) fn put_as_it_came(
        &self,
        node: &Chunk,
        codec: Codec,
        bytes: &[u8],
        base: Option<ChunkId>,
    ) -> Result<(), StoreError> {
        self.put_in_passing(node, codec, bytes, base)?;
        self.remember(node.id(), Kept::Plain(Bytes::copy_from_slice(node.bytes())));
        Ok(())
    }

    /// The same for a node that no reader asked for: it is not remembered.
    pub(crate) fn put_in_passing(
        &self,
        node: &Chunk,
        codec: Codec,
        bytes: &[u8],
        base: Option<ChunkId>,
    ) -> Result<(), StoreError> {
        match (codec, base) {
            (Codec::ZstdPatch, Some(base)) => self.store_patch(node, base, None, bytes),
            // Whoever decoded it had a base.
            (Codec::ZstdPatch, None) => self.store_whole(node),
            (codec, _) => self.store.put_encoded(node, Encoded { codec: codec as u8, base: None, bytes }),
        }
    }

    /// Stores a node by itself, compressed where that saves something.
    fn store_whole(&self, node: &Chunk) -> Result<(), StoreError> {
        whole::with_form(node.bytes(), |form| match form {
            Some(form) => self.store.put_encoded(node, form),
            None => self.store.put(node),
        })
    }

    fn store_patch(
        &self,
        node: &Chunk,
        base: ChunkId,
        kept: Option<SoundBase<'_>>,
        patch: &[u8],
    ) -> Result<(), StoreError> {
        let codec = Codec::ZstdPatch as u8;
        let put = match kept {
            Some(base) => self.store.put_patch(node, codec, patch, base),
            None => self.store.put_encoded(node, Encoded { codec, base: Some(base), bytes: patch }),
        };
        match put {
            // It hangs on too many patches already: a whole node ends the chain.
            Err(StoreError::BaseUnusable { .. }) => self.store_whole(node),
            put => put,
        }
    }

    /// The plaintext of a node, or nothing if it is not here.
    pub(crate) fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        let bytes = self.get_in_passing(id)?;
        if let Some(bytes) = &bytes {
            self.remember_anew(id, bytes);
        }
        Ok(bytes)
    }

    /// The same, for one who passes it on: it is not remembered for that.
    pub(crate) fn get_in_passing(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        let kept = self.part(id).get(id);
        if let Some(kept) = kept {
            return Ok(Some(kept.bytes().clone()));
        }
        let mut node = Vec::new();
        Ok(with_decoder(|decoder| self.read_stored(id, decoder, &mut node))?.then(|| node.into()))
    }

    /// The same, in place of what `out` held; false if it is not here.
    pub(crate) fn read_in_passing(
        &self,
        id: ChunkId,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        Ok(self.read_remembered_into(id, out) || self.read_stored(id, decoder, out)?)
    }

    /// The same, for one who has read its frame already.
    pub(crate) fn read_frame_in_passing(
        &self,
        id: ChunkId,
        frame: &StoredFrame,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        Ok(self.read_remembered_into(id, out) || self.read_frame(id, frame, decoder, out)?)
    }

    fn read_remembered_into(&self, id: ChunkId, out: &mut Vec<u8>) -> bool {
        let kept = self.part(id).get(id);
        if let Some(kept) = &kept {
            out.clear();
            out.extend_from_slice(kept.bytes());
        }
        kept.is_some()
    }

    /// A node of the store, for one who reads it once: it is not remembered for that. It comes with what a patch on it needs.
    pub(crate) fn get_once<'s>(&self, id: ChunkId, session: &'s Session) -> Result<Option<Once<'s>>, StoreError> {
        let chain = match self.store.get_chain(session, id) {
            Err(StoreError::Damaged(_)) => None,
            chain => chain?,
        };
        if let Some(chain) = chain
            && let Some(node) = plain_of_chain(chain.frames()).and_then(|bytes| verified(id, bytes))
        {
            return Ok(Some(Once { bytes: node, kept: Some(chain.as_base()) }));
        }
        // Something is wrong with it or with what it is patched on: this way finds out what.
        Ok(self.get_in_passing(id)?.map(|bytes| Once { bytes, kept: None }))
    }

    /// Forgets nodes in memory that nobody will read again.
    pub(crate) fn outlive(&self, replaced: &[ChunkId]) {
        for &id in replaced {
            self.part(id).forget(id);
        }
    }

    fn remember_anew(&self, id: ChunkId, bytes: &Bytes) {
        let mut part = self.part(id);
        if !part.has(id) {
            part.insert(id, Kept::Plain(bytes.clone()));
        }
    }

    /// Replaces `out` with a node of the store whose hash was checked; false if there is none.
    fn read_stored(&self, id: ChunkId, decoder: &mut Decoder, out: &mut Vec<u8>) -> Result<bool, StoreError> {
        match self.stored(id)? {
            Some(frame) => self.read_frame(id, &frame, decoder, out),
            None => Ok(false),
        }
    }

    /// Only what is read has to be what its id says: a wrong byte in what it is patched on shows in its hash, or was not copied. Hashing every
    /// node of a chain costs more than decoding it.
    fn read_frame(
        &self,
        id: ChunkId,
        frame: &StoredFrame,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        if self.decode_unproven(frame, PATCHES_IN_CHAIN_MAX, decoder, out)? && ChunkId::of(Domain::Node, out) == id {
            return Ok(true);
        }
        self.read_proving(id, PATCHES_IN_CHAIN_MAX, decoder, out)
    }

    /// Replaces `out` with what a frame makes of nodes that were not hashed; false if it does not decode, or what it needs is not here.
    fn decode_unproven(
        &self,
        frame: &StoredFrame,
        depth: u32,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let Some(base) = frame.base.filter(|_| depth > 0) else { return Ok(decode(frame, None, decoder, out)) };
        let kept = self.part(base).get(base);
        if let Some(kept) = kept {
            return Ok(decode(frame, Some(kept.bytes()), decoder, out));
        }
        let Some(base) = self.stored(base)? else { return Ok(false) };
        let mut plain = Vec::new();
        Ok(self.decode_unproven(&base, depth - 1, decoder, &mut plain)? && decode(frame, Some(&plain), decoder, out))
    }

    /// The same as reading it, but every node that it is patched on is hashed too: the one that is not what its id says is forgotten.
    fn read_proving(
        &self,
        id: ChunkId,
        depth: u32,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let Some(frame) = self.stored(id)? else { return Ok(false) };
        let mut base = Vec::new();
        let has_base = match frame.base {
            Some(id) if depth > 0 => self.read_proving(id, depth - 1, decoder, &mut base)?,
            _ => false,
        };
        // The frame's checksum guards against the disk; only what was hashed may enter a tree.
        let base = has_base.then_some(&base[..]);
        let is_sound = decode(&frame, base, decoder, out) && ChunkId::of(Domain::Node, out) == id;
        if !is_sound {
            self.store.forget(id)?;
        }
        Ok(is_sound)
    }

    fn stored(&self, id: ChunkId) -> Result<Option<StoredFrame>, StoreError> {
        let frame = match self.store.get_encoded(id) {
            // The store counts it as absent from now on: it is fetched again, or its loss is told by whoever needs it.
            Err(StoreError::Damaged(_)) => None,
            found => found?,
        };
        Ok(frame.filter(|frame| frame.domain == Domain::Node))
    }

    /// A node with its entries found, which is done once for as long as it is remembered.
    pub(crate) fn get_read(&self, id: ChunkId) -> Result<Option<Result<Node, TreeError>>, StoreError> {
        if let Some(read) = self.read_remembered(id) {
            return Ok(Some(read));
        }
        Ok(self.get(id)?.map(|bytes| self.read_anew(id, bytes)))
    }

    /// The same, if it is in memory: no disk is asked.
    pub(crate) fn read_remembered(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        let kept = self.part(id).get(id)?;
        match kept {
            Kept::Read(node) => Some(Ok(node)),
            Kept::Plain(bytes) => Some(self.read_anew(id, bytes)),
        }
    }

    fn read_anew(&self, id: ChunkId, bytes: Bytes) -> Result<Node, TreeError> {
        let node = Node::read(id, bytes)?;
        self.remember(id, Kept::Read(node.clone()));
        Ok(node)
    }

    /// The nodes for one reader, who is told if the store fails under it.
    pub(crate) fn reader(&self) -> NodeReader<'_> {
        NodeReader { cache: self, failure: FirstFailure::default() }
    }

    fn remember(&self, id: ChunkId, kept: Kept) {
        self.part(id).insert(id, kept);
    }

    fn part(&self, id: ChunkId) -> MutexGuard<'_, Generations> {
        let at = usize::from(id.as_bytes()[0]) % self.recent.len();
        self.recent[at].lock().expect("no panic under the lock")
    }
}

/// For those to whom a node that cannot be read is as good as absent. All others use a [`NodeReader`].
impl Nodes for NodeCache {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.get(id).unwrap_or_else(|failure| told(id, &failure))
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.get_read(id).unwrap_or_else(|failure| told(id, &failure))
    }
}

fn told<T>(id: ChunkId, failure: &StoreError) -> Option<T> {
    tracing::warn!(%id, %failure, "a tree node cannot be read, and counts as absent");
    None
}

/// Nodes of a cache as one reader sees them. Where the store fails a node looks absent; that it only looked so is this reader's to ask, and
/// no other's.
pub(crate) struct NodeReader<'a> {
    cache: &'a NodeCache,
    failure: FirstFailure,
}

impl NodeReader<'_> {
    /// An error if the store failed under this reader since it was last asked.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.failure.check()
    }
}

impl Nodes for NodeReader<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.failure.noting(self.cache.get(id))
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.failure.noting(self.cache.get_read(id))
    }
}

/// The first failure of the store under a reader that can only say whether something is here.
#[derive(Default)]
pub(crate) struct FirstFailure(RefCell<Option<StoreError>>);

impl FirstFailure {
    /// What was found; a failure is noted, and nothing was.
    pub(crate) fn noting<T>(&self, found: Result<Option<T>, StoreError>) -> Option<T> {
        found.unwrap_or_else(|failure| {
            self.0.borrow_mut().get_or_insert(failure);
            None
        })
    }

    /// The failure, if there was one since this was last asked.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.0.take().map_or(Ok(()), Err)
    }
}

/// Replaces `out` with the plaintext of a stored node; false if it does not decode.
fn decode(frame: &StoredFrame, base: Option<&[u8]>, decoder: &mut Decoder, out: &mut Vec<u8>) -> bool {
    Codec::from_byte(frame.codec)
        .is_some_and(|codec| decoder.decode(codec, &frame.bytes, frame.plain_bytes, base, out).is_ok())
}

/// The plaintext of a stored node, if it decodes.
fn plain(frame: &StoredFrame, base: Option<&Bytes>) -> Option<Bytes> {
    if frame.codec == Codec::Raw as u8 {
        return Some(frame.bytes.clone());
    }
    let mut plain = Vec::with_capacity(frame.plain_bytes as usize);
    let base = base.map(|base| &base[..]);
    with_decoder(|decoder| decode(frame, base, decoder, &mut plain)).then(|| plain.into())
}

/// The plaintext of the first of some stored nodes, each patched on the next. What is between is checked with it, as far as it is copied.
fn plain_of_chain(frames: &[StoredFrame]) -> Option<Bytes> {
    let mut bytes = None;
    for frame in frames.iter().rev() {
        if frame.domain != Domain::Node {
            return None;
        }
        bytes = Some(plain(frame, bytes.as_ref())?);
    }
    bytes
}

fn verified(id: ChunkId, bytes: Bytes) -> Option<Bytes> {
    Chunk::verify(id, Domain::Node, bytes).ok().map(Chunk::into_bytes)
}

/// Works with the decoder of this thread.
pub(crate) fn with_decoder<T>(work: impl FnOnce(&mut Decoder) -> T) -> T {
    DECODER.with_borrow_mut(work)
}

thread_local! {
    /// A context costs more to make than a node to decode.
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

/// A node that was read once.
pub(crate) struct Once<'s> {
    pub(crate) bytes: Bytes,
    /// Whether a patch can be put on it is known.
    pub(crate) kept: Option<SoundBase<'s>>,
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

/// A node that is remembered. Its hash was checked before.
#[derive(Clone)]
enum Kept {
    /// As it was written or came; most of these nobody looks into.
    Plain(Bytes),
    /// Looked into: its entries are found.
    Read(Node),
}

impl Kept {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Read(node) => node.bytes(),
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Plain(bytes) => bytes.len() as u64,
            Self::Read(node) => node.memory_bytes(),
        }
    }
}

/// Two generations: what was not used while one filled is forgotten with the next.
#[derive(Default)]
struct Generations {
    young: HashMap<ChunkId, Kept>,
    old: HashMap<ChunkId, Kept>,
    young_bytes: u64,
    young_bytes_max: u64,
}

impl Generations {
    fn get(&mut self, id: ChunkId) -> Option<Kept> {
        if let Some(kept) = self.young.get(&id) {
            return Some(kept.clone());
        }
        let kept = self.old.remove(&id)?;
        self.insert(id, kept.clone());
        Some(kept)
    }

    fn has(&self, id: ChunkId) -> bool {
        self.young.contains_key(&id) || self.old.contains_key(&id)
    }

    fn forget(&mut self, id: ChunkId) {
        self.old.remove(&id);
        if let Some(kept) = self.young.remove(&id) {
            self.young_bytes -= kept.memory_bytes();
        }
    }

    fn insert(&mut self, id: ChunkId, kept: Kept) {
        self.young_bytes += kept.memory_bytes();
        if let Some(before) = self.young.insert(id, kept) {
            self.young_bytes -= before.memory_bytes();
        }
        if self.young_bytes > self.young_bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::codec::{Copied, Encoder};
    use landfall_store::vfs::RealVfs;
    use landfall_store::vfs::faulty::{Fault, FaultyVfs};
    use landfall_store::{StoreOptions, StoreStats};

    use super::*;

    fn open(directory: &std::path::Path) -> Arc<Store> {
        Arc::new(Store::open(Arc::new(RealVfs), directory, StoreOptions::default()).unwrap())
    }

    /// A node of 16 KiB that no codec makes smaller; a later version differs in eight bytes.
    fn node(version: u64) -> Chunk {
        let mut bytes: Vec<u8> =
            (0..2048_u64).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        bytes[4096..4104].copy_from_slice(&version.to_le_bytes());
        Chunk::new(Domain::Node, bytes.into())
    }

    fn replaced(old: &Chunk) -> Replaced<'_> {
        Replaced { id: old.id(), bytes: old.bytes(), copied: &[], kept: None }
    }

    fn stored_bytes(store: Arc<Store>, directory: &std::path::Path) -> (Arc<Store>, StoreStats) {
        drop(store);
        let store = open(directory);
        let stats = store.stats();
        (store, stats)
    }

    #[test]
    fn a_node_that_is_replaced_again_and_again_costs_little_and_stays_readable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::new(store.clone());
        let mut patching = Patching::default();
        cache.put(&node(0)).unwrap();
        for version in 1..64 {
            let old = node(version - 1);
            cache.put_in_place_of(&node(version), &replaced(&old), &mut patching).unwrap();
        }
        drop(cache);
        let (store, stats) = stored_bytes(store, directory.path());
        assert!(stats.pack_bytes < 64 * 16 * 1024 / 4, "{stats:?}");
        for version in (0..64).rev() {
            let cold = NodeCache::new(store.clone());
            assert_eq!(cold.get(node(version).id()).unwrap().as_ref(), Some(node(version).bytes()), "{version}");
        }
    }

    #[test]
    fn a_node_is_read_in_passing_from_memory_whole_or_through_its_patches() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::new(store.clone());
        cache.put(&node(0)).unwrap();
        cache.put_in_place_of(&node(1), &replaced(&node(0)), &mut Patching::default()).unwrap();
        let (mut decoder, mut out) = (Decoder::new(), Vec::new());
        for near in [cache, NodeCache::with_cache_bytes(store, 0)] {
            for version in [0, 1] {
                assert!(near.read_in_passing(node(version).id(), &mut decoder, &mut out).unwrap());
                assert_eq!(out[..], node(version).bytes()[..]);
            }
            assert!(!near.read_in_passing(node(2).id(), &mut decoder, &mut out).unwrap());
        }
    }

    #[test]
    fn what_was_read_once_is_patched_again_and_again_and_stays_readable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::with_cache_bytes(store.clone(), 0);
        let session = store.begin_session();
        let mut patching = Patching::default();
        store.put(&node(0)).unwrap();
        for version in 1..30 {
            let old = cache.get_once(node(version - 1).id(), &session).unwrap().unwrap();
            assert_eq!(&old.bytes, node(version - 1).bytes());
            let bytes = old.bytes.len() as u32;
            // All but the eight bytes that differ, and the four of the header.
            let copied =
                [Copied { at: 4, from: 4, bytes: 4_092 }, Copied { at: 4_104, from: 4_104, bytes: bytes - 4_104 }];
            let old = Replaced { id: node(version - 1).id(), bytes: &old.bytes, copied: &copied, kept: old.kept };
            cache.put_in_place_of(&node(version), &old, &mut patching).unwrap();
        }
        drop((session, cache));
        let (_, stats) = stored_bytes(store, directory.path());
        assert!(stats.pack_bytes < 30 * 16 * 1024 / 4, "{stats:?}");
    }

    #[test]
    fn a_node_that_is_not_what_its_name_says_is_not_here_and_neither_is_what_is_patched_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let session = store.begin_session();
        // In a byte that the next version copies.
        let mut other = node(0).bytes().to_vec();
        other[100] ^= 1;
        let wrong = Encoded { codec: Codec::Raw as u8, base: None, bytes: &other };
        store.put_encoded(&node(0), wrong).unwrap();
        let cache = NodeCache::with_cache_bytes(store.clone(), 0);
        cache.put_in_place_of(&node(1), &replaced(&node(0)), &mut Patching::default()).unwrap();
        for version in [1, 0] {
            assert!(cache.get_once(node(version).id(), &session).unwrap().is_none());
            assert!(!store.contains(node(version).id()).unwrap(), "{version}");
        }
    }

    #[test]
    fn of_a_chain_with_a_wrong_node_what_is_below_stays_and_what_is_above_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::with_cache_bytes(store.clone(), 0);
        let mut patching = Patching::default();
        cache.put(&node(0)).unwrap();
        // A patch that makes something else of the first than the second.
        let patch = patching.make(&node(7), &replaced(&node(0))).unwrap();
        let wrong = Encoded { codec: Codec::ZstdPatch as u8, base: Some(node(0).id()), bytes: patch };
        store.put_encoded(&node(1), wrong).unwrap();
        let mut third = node(2).bytes().to_vec();
        // It copies what is wrong.
        third[4096..4104].copy_from_slice(&1_u64.to_le_bytes());
        third[0] ^= 1;
        let third = Chunk::new(Domain::Node, third.into());
        cache.put_in_place_of(&third, &replaced(&node(1)), &mut patching).unwrap();
        assert!(cache.get(third.id()).unwrap().is_none());
        assert_eq!([&node(0), &node(1), &third].map(|node| store.contains(node.id()).unwrap()), [true, false, false]);
    }

    #[test]
    fn a_node_without_likeness_or_without_its_base_is_kept_whole() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::new(store.clone());
        let mut patching = Patching::default();
        let other = Chunk::new(Domain::Node, vec![7; 100].into());
        cache.put(&other).unwrap();
        for (version, base) in [(1, &other), (2, &node(9))] {
            cache.put_in_place_of(&node(version), &replaced(base), &mut patching).unwrap();
            assert_eq!(store.get_encoded(node(version).id()).unwrap().unwrap().base, None);
        }
    }

    #[test]
    fn text_rests_compressed_noise_does_not_and_what_came_rests_as_it_came() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let cache = NodeCache::with_cache_bytes(store.clone(), 0);
        let text = Chunk::new(Domain::Node, b"key:00000001 some words and some more words ".repeat(300).into());
        let codec_of = |chunk: &Chunk| Codec::from_byte(store.get_encoded(chunk.id()).unwrap().unwrap().codec);
        cache.put(&text).unwrap();
        cache.put(&node(1)).unwrap();
        assert_eq!((codec_of(&text), codec_of(&node(1))), (Some(Codec::Lz4), Some(Codec::Raw)));

        let came = Chunk::new(Domain::Node, b"words that came over a slow link ".repeat(300).into());
        let mut zstd = Vec::new();
        Encoder::new().encode(Codec::Zstd, came.bytes(), None, &mut zstd).unwrap();
        cache.put_as_it_came(&came, Codec::Zstd, &zstd, None).unwrap();
        cache.put_as_it_came(&node(2), Codec::Raw, node(2).bytes(), None).unwrap();
        assert_eq!((codec_of(&came), codec_of(&node(2))), (Some(Codec::Zstd), Some(Codec::Raw)));
        for chunk in [text, came, node(1), node(2)] {
            assert_eq!(NodeCache::new(store.clone()).get(chunk.id()).unwrap().as_ref(), Some(chunk.bytes()));
        }
    }

    #[test]
    fn a_small_cache_forgets_and_reads_again() {
        let directory = tempfile::tempdir().unwrap();
        let cache = NodeCache::with_cache_bytes(open(directory.path()), 40_000);
        for version in 0..8 {
            cache.put(&node(version)).unwrap();
        }
        let kept = {
            let recent = cache.part(node(0).id());
            recent.young.len() + recent.old.len()
        };
        assert!(kept <= 3, "{kept}");
        assert!((0..8).all(|version| cache.get(node(version).id()).unwrap().is_some()));
    }

    #[test]
    fn a_failure_under_one_reader_is_told_to_that_one_once() {
        let disk = FaultyVfs::new(1);
        let open = || Store::open(Arc::new(disk.clone()), "store".as_ref(), StoreOptions::default()).unwrap();
        // What was written just now would come from memory.
        open().put(&node(0)).unwrap();
        let cache = NodeCache::with_cache_bytes(Arc::new(open()), 0);
        let (first, second) = (cache.reader(), cache.reader());
        disk.fault_at(1, Fault::Fail);
        assert!(first.node(node(0).id()).is_none());
        second.check().unwrap();
        assert!(second.node(node(1).id()).is_none(), "that one is not here");
        second.check().unwrap();
        assert!(matches!(first.check(), Err(StoreError::Io { .. })));
        first.check().unwrap();
        assert_eq!(first.node(node(0).id()).as_ref(), Some(node(0).bytes()));
    }
}

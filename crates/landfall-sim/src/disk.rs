//! Owns a member's disk: the real store on a file system that fails, and reads that prove every byte.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::codec::{Codec, Decoder};
use landfall_core::snapshot::Manifest;
use landfall_core::tree::{Children, children};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::vfs::Vfs;
use landfall_store::vfs::faulty::FaultyVfs;
use landfall_store::{
    Below, CollectBudget, CollectReport, Encoded, FrameCheck, OpenError, Reach, Reference, Sealing, Store, StoreError,
    StoreOptions, StoredFrame, Undecodable, UnixMillis,
};

/// A disk, and the store on it while the member runs.
pub(crate) struct Disk {
    vfs: FaultyVfs,
    store: Option<Store>,
    decoder: RefCell<Decoder>,
    /// A bit was flipped: what was stored may be gone.
    pub(crate) may_be_damaged: bool,
}

/// Why a read gave nothing.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The disk is in trouble: open the store again.
    Disk(StoreError),
    /// The bytes passed the store's checksum and do not match their id. This must never happen.
    Unproven(ChunkId),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Disk(error)
    }
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self { vfs: FaultyVfs::new(seed), store: None, decoder: RefCell::default(), may_be_damaged: false }
    }

    /// The file system, to make it fail.
    pub(crate) fn vfs(&self) -> &FaultyVfs {
        &self.vfs
    }

    /// Opens the store.
    pub(crate) fn open(&mut self) -> Result<(), OpenError> {
        let options = StoreOptions { pack_bytes_target: 256 * 1024, young_entries_max: 256, sealing: Sealing::Inline };
        self.store = Some(Store::open(Arc::new(self.vfs.clone()), Path::new(DIRECTORY), options)?);
        Ok(())
    }

    /// Closes the store as a program does that ends in order.
    pub(crate) fn close(&mut self) {
        self.store = None;
    }

    /// Loses power, and has it back. What was not synced is kept, lost or torn.
    pub(crate) fn crash(&mut self) {
        self.vfs.cut_power();
        self.store = None;
        self.vfs.clear_fault();
        self.vfs.restart();
    }

    /// The store, while the member runs.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Flips a bit in what the next read brings.
    pub(crate) fn flip_next_read(&mut self) {
        self.may_be_damaged = true;
        self.vfs.flip_bit_at_read(1);
    }

    /// Takes back every fault that has not happened yet.
    pub(crate) fn heal(&self) {
        self.vfs.limit_bytes(None);
        self.vfs.clear_fault();
        self.vfs.flip_bit_at_read(NEVER);
    }

    /// Flips a bit of a pack, chosen by `place`.
    pub(crate) fn decay(&mut self, place: u64) {
        let packs = Path::new(DIRECTORY).join("packs");
        let Ok(names) = self.vfs.list(&packs) else { return };
        let files = names.iter().map(|name| packs.join(name));
        let files: Vec<_> = files.filter_map(|path| Some((self.vfs.content(&path)?.len() as u64, path))).collect();
        let bytes: u64 = files.iter().map(|(bytes, _)| bytes).sum();
        let Some(mut offset) = place.checked_rem(bytes) else { return };
        for (bytes, path) in files {
            if offset < bytes {
                self.may_be_damaged = true;
                return self.vfs.flip_bit(&path, offset, (place % 8) as u8);
            }
            offset -= bytes;
        }
    }

    /// Reads a chunk and proves it; nothing if it is not here or its bytes are damaged.
    pub(crate) fn read(&self, id: ChunkId) -> Result<Option<Chunk>, ReadError> {
        let Some(store) = &self.store else { return Ok(None) };
        match store.get_encoded(id) {
            Ok(Some(frame)) => self.decode(id, &frame),
            Ok(None) | Err(StoreError::Damaged(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a chunk, in the form in which it came if that can be.
    pub(crate) fn put(&self, chunk: &Chunk, form: Option<Encoded<'_>>) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        match form.map(|form| store.put_encoded(chunk, form)) {
            Some(Err(StoreError::BaseUnusable { .. } | StoreError::FormTooLong { .. })) | None => store.put(chunk),
            Some(stored) => stored,
        }
    }

    /// Hashes everything that the store holds.
    ///
    /// # Errors
    /// [`ReadError::Unproven`] if bytes that nobody damaged are not what their id promises.
    pub(crate) fn prove_all(&self) -> Result<(), ReadError> {
        let Some(store) = &self.store else { return Ok(()) };
        let unproven = Cell::new(None);
        let check = |id, frame: &StoredFrame| match self.decode(id, frame) {
            Ok(Some(_)) => FrameCheck::Sound,
            Ok(None) | Err(ReadError::Disk(_)) => FrameCheck::Unknown,
            Err(ReadError::Unproven(id)) => {
                unproven.set(Some(id));
                FrameCheck::Damaged
            }
        };
        let report = store.verify(&check)?;
        let damaged = report.damaged.first().filter(|_| !self.may_be_damaged).and_then(|frame| frame.id);
        unproven.get().or(damaged).map_or(Ok(()), |id| Err(ReadError::Unproven(id)))
    }

    /// Lets go of what nothing pins; nothing if there is no store.
    pub(crate) fn collect(&self) -> Option<Result<CollectReport, StoreError>> {
        let store = self.store.as_ref()?;
        Some(store.collect(&[], &References(self), UnixMillis(0), CollectBudget::default()))
    }

    /// Undoes the form of a frame; nothing if the base that it needs is not here.
    fn decode(&self, id: ChunkId, frame: &StoredFrame) -> Result<Option<Chunk>, ReadError> {
        let codec = Codec::from_byte(frame.codec).ok_or(ReadError::Unproven(id))?;
        if codec == Codec::Raw {
            let chunk = Chunk::verify(id, frame.domain, frame.bytes.clone());
            return chunk.map(Some).map_err(|_| ReadError::Unproven(id));
        }
        let base = match frame.base {
            Some(base) => match self.read(base)? {
                Some(base) => Some(base.into_bytes()),
                None => return Ok(None),
            },
            None => None,
        };
        let mut plain = Vec::new();
        let mut decoder = self.decoder.borrow_mut();
        let decoded = decoder.decode(codec, &frame.bytes, frame.plain_bytes, base.as_deref(), &mut plain);
        let chunk = decoded.ok().and_then(|()| Chunk::verify(id, frame.domain, Bytes::from(plain)).ok());
        chunk.map(Some).ok_or(ReadError::Unproven(id))
    }
}

/// Tells the store's garbage collection what chunks refer to.
struct References<'a>(&'a Disk);

impl Reach for References<'_> {
    fn references(&self, id: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable> {
        let chunk = self.0.decode(id, frame).ok().flatten().ok_or(Undecodable)?;
        let reference = |id, below| Reference { id, below };
        match chunk.domain() {
            Domain::Data => {}
            Domain::Manifest => {
                let manifest = Manifest::decode(chunk.bytes()).map_err(|_| Undecodable)?;
                found.extend(manifest.sections.iter().map(|section| reference(section.root.id, Below::References)));
            }
            Domain::Node => match children(chunk.bytes()).map_err(|_| Undecodable)? {
                Children::Nodes(nodes) => {
                    let below = |refs| if refs > 0 { Below::References } else { Below::Nothing };
                    found.extend(nodes.iter().map(|node| {
                        let below = if node.level > 0 { Below::References } else { below(node.chunk_refs) };
                        reference(node.id, below)
                    }));
                }
                Children::Chunks(chunks) => {
                    found.extend(chunks.iter().map(|chunk| reference(chunk.id, Below::Nothing)));
                }
            },
        }
        Ok(())
    }
}

/// More reads than any run makes.
const NEVER: u64 = u64::MAX / 2;
const DIRECTORY: &str = "/store";

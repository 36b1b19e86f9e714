//! Owns the store's surface: what callers may ask, and the parts that answer.
//!
//! It never decodes a payload and never reads a clock.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use landfall_core::{Chunk, ChunkId};

use crate::control::{Changes, Control, Lease, LeaseError, Pin, UnixMillis};
use crate::error::{OpenError, StoreError};
use crate::files::OpenPacks;
use crate::frame::{CODEC_RAW, Encoded, PAYLOAD_BYTES_MAX, StoredFrame};
use crate::index::{Index, Location, PackStage, PackState};
use crate::lock::{lock, read, write};
use crate::lookup::Purpose;
use crate::pack::{NewFrame, PACK_BYTES_TARGET_MAX, PackClass, PackNumber, PackWriter, Tail};
use crate::recovery::Recovery;
use crate::sealing::{SealQueue, Sealer};
use crate::sessions::{Session, Sessions};
use crate::vfs::{OpenMode, Vfs, VfsLock};

/// How a store works. The default is right for everything but tests and simulations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// A pack is finished when it would grow beyond this.
    pub pack_bytes_target: u32,
    /// Entries of finished packs that are kept in memory before they go into a run of the index.
    pub young_entries_max: u32,
    /// Where finished packs are synced.
    pub sealing: Sealing,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { pack_bytes_target: 32 * 1024 * 1024, young_entries_max: 64 * 1024, sealing: Sealing::OwnThread }
    }
}

/// Where finished packs are synced and the index is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// On a thread of the store, while the next pack fills.
    OwnThread,
    /// By the caller that filled the pack, so that the same calls give the same order of file calls.
    Inline,
}

/// Where chunks live on this machine. One process owns a store's directory at a time.
///
/// All methods may be called from many threads. A chunk that was put is readable at once; it survives a power cut once
/// a [`Store::sync`] that began after the put returned. Only then may it be claimed to others.
#[derive(Debug)]
pub struct Store {
    /// Ends its thread before the rest goes.
    sealer: Option<Sealer>,
    shared: Arc<Shared>,
}

/// What the store's own thread shares with its callers.
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) paths: Paths,
    pub(crate) options: StoreOptions,
    pub(crate) index: RwLock<Index>,
    /// The open pack of each class.
    writers: [Mutex<Option<PackWriter>>; PackClass::ALL.len()],
    /// What their files do not have yet.
    tails: [Arc<Tail>; PackClass::ALL.len()],
    pub(crate) next_pack: AtomicU32,
    pub(crate) next_run: AtomicU32,
    pub(crate) sessions: Arc<Mutex<Sessions>>,
    pub(crate) control: Control,
    pub(crate) open_packs: OpenPacks,
    pub(crate) seal_queue: SealQueue,
    /// Names created in the directory of the packs, and how many of them were synced.
    pub(crate) packs_created: AtomicU64,
    pub(crate) packs_named: Mutex<u64>,
    /// The first file whose sync failed.
    pub(crate) sync_failed: OnceLock<PathBuf>,
    /// Held while runs are built or replaced.
    pub(crate) index_work: Mutex<()>,
    pub(crate) index_failures: AtomicU64,
    pub(crate) recovery: OnceLock<Recovery>,
    /// Held while garbage is collected.
    pub(crate) collecting: Mutex<()>,
    /// Grows with every new pin and lease.
    pub(crate) pins_made: AtomicU64,
    _lock: Box<dyn VfsLock>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.paths.directory.display())
    }
}

/// Where the store keeps what.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) directory: PathBuf,
    pub(crate) packs: PathBuf,
    pub(crate) index: PathBuf,
}

impl Paths {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), packs: directory.join("packs"), index: directory.join("index") }
    }

    pub(crate) fn pack(&self, number: PackNumber) -> PathBuf {
        self.packs.join(number.file_name())
    }
}

impl Store {
    /// Opens the store in `directory`, creating it if there is none, and repairs what a crash left.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if somebody else has it open.
    pub fn open(vfs: Arc<dyn Vfs>, directory: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        check_options(options)?;
        let shared = Arc::new(Shared::open(vfs, directory, options)?);
        shared.recover()?;
        let sealer = match options.sealing {
            Sealing::OwnThread => Some(Sealer::start(&shared)?),
            Sealing::Inline => None,
        };
        Ok(Self { sealer, shared })
    }

    /// Stores a chunk as it is, unless it is here.
    pub fn put(&self, chunk: &Chunk) -> Result<(), StoreError> {
        self.put_encoded(chunk, Encoded { codec: CODEC_RAW, base: None, bytes: chunk.bytes() })
    }

    /// Stores a chunk in the given form, unless it is here in any form.
    ///
    /// The chunk proves the id; that `form` decodes to it is the caller's word, to be checked by whoever reads it.
    ///
    /// # Errors
    /// [`StoreError::BaseUnusable`] if the form needs a base that is not here or hangs on too many patches itself.
    pub fn put_encoded(&self, chunk: &Chunk, form: Encoded<'_>) -> Result<(), StoreError> {
        self.shared.check_put(form)?;
        // Garbage collection must not take the base, or the copy that was found, before this call ends.
        let _session = self.begin_session();
        let looked = read(&self.shared.index).generation;
        if self.shared.keep(chunk.id())?.is_some() {
            return Ok(());
        }
        if let Some(base) = form.base {
            self.shared.keep_base(chunk.id(), base)?;
        }
        self.shared.append(&NewFrame::of(chunk, form), IfYoung::Skip { looked })
    }

    /// Reads a chunk in the form in which it is stored; `None` if it is not here.
    ///
    /// The frame's checksum is right, its hash is not checked: decode it and verify it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are not what was written. The chunk counts as absent from then on.
    pub fn get_encoded(&self, id: ChunkId) -> Result<Option<StoredFrame>, StoreError> {
        self.shared.get(id, Purpose::Keep)
    }

    /// Whether a chunk is here, with the bases that it needs. It may not be durable yet.
    pub fn contains(&self, id: ChunkId) -> Result<bool, StoreError> {
        Ok(self.shared.keep(id)?.is_some())
    }

    /// Counts a chunk as absent from now on: for callers that found its bytes not to match its id.
    pub fn forget(&self, id: ChunkId) -> Result<(), StoreError> {
        while let Some(location) = self.shared.locate(id, Purpose::Look)? {
            write(&self.shared.index).set_broken(location);
        }
        Ok(())
    }

    /// Returns once everything that was put before survives a power cut.
    ///
    /// # Errors
    /// After [`StoreError::SyncFailed`] nobody knows what the disk holds: open the store again. After
    /// [`StoreError::Full`] nothing is lost: free space and call again.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.shared.sync()
    }

    /// Protects what the caller writes and finds here from garbage collection until the session is dropped.
    pub fn begin_session(&self) -> Session {
        Session::begin(&self.shared.sessions)
    }

    /// Keeps everything that `manifest` refers to, durably, until [`Store::unpin`]. A pin of the same name moves.
    ///
    /// Pin what another pin, a lease or a session keeps until then; of anything else a part may be gone.
    pub fn pin(&self, name: &str, manifest: ChunkId) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        changes.pin(name, manifest);
        self.change(&changes)
    }

    /// Removes a pin; one that is not there is fine.
    pub fn unpin(&self, name: &str) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        changes.unpin(name);
        self.change(&changes)
    }

    /// All pins, sorted by name.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        self.shared.control.pins()
    }

    /// Pins `manifest` until `expires`. A lease of the same name is replaced, and its holder fenced off.
    pub fn grant_lease(&self, name: &str, manifest: ChunkId, expires: UnixMillis) -> Result<Lease, StoreError> {
        let lease = self.shared.control.grant_lease(name, manifest, expires)?;
        self.shared.pins_made.fetch_add(1, Ordering::SeqCst);
        Ok(lease)
    }

    /// Gives a lease more time, and moves it to `manifest`.
    pub fn renew_lease(
        &self,
        held: &Lease,
        manifest: ChunkId,
        expires: UnixMillis,
        now: UnixMillis,
    ) -> Result<Lease, LeaseError> {
        let lease = self.shared.control.renew_lease(held, manifest, expires, now)?;
        self.shared.pins_made.fetch_add(1, Ordering::SeqCst);
        Ok(lease)
    }

    /// Ends a lease.
    pub fn release_lease(&self, held: &Lease) -> Result<(), LeaseError> {
        self.shared.control.release_lease(held)
    }

    /// All leases, also those that have expired but were not ended, sorted by name.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.shared.control.leases()
    }

    /// Ends every lease that has expired, and says which.
    pub fn end_leases(&self, now: UnixMillis) -> Result<Vec<Lease>, StoreError> {
        self.shared.control.end_leases(now)
    }

    /// Reads a control record.
    pub fn record(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.control.record(key)
    }

    /// All records whose keys begin with `prefix`, sorted by key.
    pub fn records(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.shared.control.records(prefix)
    }

    /// Writes a control record, atomically and durably.
    pub fn set_record(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        changes.set_record(key, value);
        self.change(&changes)
    }

    /// Changes pins and records, atomically and durably: all of them or none. What is pinned must be durable.
    pub fn change(&self, changes: &Changes) -> Result<(), StoreError> {
        self.shared.control.change(changes)?;
        if changes.pins_something() {
            self.shared.pins_made.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Removes a control record; one that is not there is fine.
    pub fn remove_record(&self, key: &str) -> Result<(), StoreError> {
        self.shared.control.remove_record(key)
    }

    /// What opening the store found to repair.
    pub fn recovery(&self) -> Recovery {
        self.shared.recovery.get().cloned().unwrap_or_default()
    }

    /// What the store holds, and what it costs.
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Store {
    /// Finishes the open packs, so that the next open has nothing to repair. A failure costs only that.
    fn drop(&mut self) {
        self.shared.close_packs();
        self.sealer.take();
    }
}

/// What a store holds, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Packs, the open ones too.
    pub packs: u64,
    /// Frames of finished packs; a chunk may have several.
    pub frames: u64,
    /// Bytes of finished packs.
    pub pack_bytes: u64,
    /// Runs of the index.
    pub runs: u64,
    /// Entries that are not in a run yet.
    pub young_entries: u64,
    /// Memory that grows with the number of chunks. It does not count the young entries, whose number has a limit.
    pub resident_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Frames that were found damaged, or without what they are patched on, since the store was opened. Their chunks count as absent until
    /// they are put again.
    pub frames_lost: u64,
    /// How often the index could not be written; its entries stay in memory until it can.
    pub index_failures: u64,
}

/// What to do with a chunk that came into the open packs since the caller looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfYoung {
    /// Another thread was faster: leave it.
    Skip {
        /// The generation of the index when the caller looked: in a later one, runs may hold it as well.
        looked: u64,
    },
    /// Write it again: the caller moves the chunk out of a pack that goes.
    Write,
}

impl Shared {
    fn open(vfs: Arc<dyn Vfs>, directory: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let paths = Paths::new(directory);
        let create = |path: &Path| vfs.create_directory(path).map_err(|error| StoreError::io("create", path, error));
        create(&paths.directory)?;
        let lock = take_lock(vfs.as_ref(), directory)?;
        create(&paths.packs)?;
        create(&paths.index)?;
        let control = Control::open(Arc::clone(&vfs), directory)?;
        Ok(Self {
            vfs,
            paths,
            options,
            index: RwLock::default(),
            writers: Default::default(),
            tails: Default::default(),
            next_pack: AtomicU32::new(1),
            next_run: AtomicU32::new(1),
            sessions: Arc::default(),
            control,
            open_packs: OpenPacks::default(),
            seal_queue: SealQueue::default(),
            packs_created: AtomicU64::new(0),
            packs_named: Mutex::new(0),
            sync_failed: OnceLock::new(),
            index_work: Mutex::new(()),
            index_failures: AtomicU64::new(0),
            recovery: OnceLock::new(),
            collecting: Mutex::new(()),
            pins_made: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// Fails if nothing can be put, or not in this form.
    pub(crate) fn check_put(&self, form: Encoded<'_>) -> Result<(), StoreError> {
        self.check_sync()?;
        if form.bytes.len() > PAYLOAD_BYTES_MAX as usize {
            return Err(StoreError::FormTooLong { bytes: form.bytes.len() });
        }
        Ok(())
    }

    pub(crate) fn writer(&self, class: PackClass) -> &Mutex<Option<PackWriter>> {
        &self.writers[class as usize]
    }

    pub(crate) fn tail(&self, class: PackClass) -> &Arc<Tail> {
        &self.tails[class as usize]
    }

    /// Writes a frame into the open pack of its class and makes it findable.
    pub(crate) fn append(&self, frame: &NewFrame<'_>, if_young: IfYoung) -> Result<(), StoreError> {
        let class = PackClass::of(frame.header.domain);
        let mut slot = lock(self.writer(class));
        if let IfYoung::Skip { looked } = if_young
            && self.came_since(looked, frame.header.id)?
        {
            return Ok(());
        }
        let pack = self.pack_with_room(&mut slot, class, frame.header.frame_bytes())?;
        let number = pack.number();
        let appended = pack.append(frame);
        let (ordinal, entry) = appended.map_err(|error| StoreError::io("write", &self.paths.pack(number), error))?;
        read(&self.index).insert(entry.id, Location::new(number, ordinal, &entry));
        Ok(())
    }

    /// Whether a chunk came since the caller looked for it. It may have gone from an open pack into a run meanwhile.
    fn came_since(&self, looked: u64, id: ChunkId) -> Result<bool, StoreError> {
        let generation = {
            let index = read(&self.index);
            if index.young(id).is_some() {
                return Ok(true);
            }
            index.generation
        };
        Ok(generation != looked && self.locate(id, Purpose::Keep)?.is_some())
    }

    fn pack_with_room<'a>(
        &self,
        slot: &'a mut Option<PackWriter>,
        class: PackClass,
        frame_bytes: u32,
    ) -> Result<&'a mut PackWriter, StoreError> {
        let target = self.options.pack_bytes_target;
        if slot.as_ref().is_some_and(|pack| pack.is_full_for(frame_bytes, target)) {
            self.close_pack(slot)?;
        }
        let pack = match slot.take() {
            Some(pack) => pack,
            None => self.new_pack(class)?,
        };
        Ok(slot.insert(pack))
    }

    fn new_pack(&self, class: PackClass) -> Result<PackWriter, StoreError> {
        let number = PackNumber(self.next_pack.fetch_add(1, Ordering::Relaxed));
        let path = self.paths.pack(number);
        let file = self.vfs.open(&path, OpenMode::CreateNew).map_err(|error| StoreError::io("create", &path, error))?;
        self.packs_created.fetch_add(1, Ordering::SeqCst);
        self.open_packs.insert(number, Arc::clone(&file));
        write(&self.index).packs.insert(number, PackState::open(class));
        Ok(PackWriter::new(file, number, class, Arc::clone(self.tail(class))))
    }

    /// Writes the footer of the open pack and hands it on to be synced. After an error, call it again.
    pub(crate) fn close_pack(&self, slot: &mut Option<PackWriter>) -> Result<(), StoreError> {
        let Some(pack) = slot.as_mut() else { return Ok(()) };
        let path = self.paths.pack(pack.number());
        pack.close().map_err(|error| StoreError::io("write", &path, error))?;
        if let Some(pack) = slot.take() {
            self.hand_over(pack.into_sealed())?;
        }
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        let sessions = lock(&self.sessions);
        let (sessions, asked_bytes) = (sessions.open_count() as u64, sessions.memory_bytes());
        let index = read(&self.index);
        let sealed = || index.packs.values().filter(|pack| pack.stage != PackStage::Open);
        StoreStats {
            packs: index.packs.len() as u64,
            frames: sealed().map(|pack| u64::from(pack.frames)).sum(),
            pack_bytes: sealed().map(|pack| u64::from(pack.file_bytes)).sum(),
            runs: index.runs().len() as u64,
            young_entries: index.young_count() as u64,
            resident_bytes: index.memory_bytes() + asked_bytes,
            sessions,
            frames_lost: index.frames_lost,
            index_failures: self.index_failures.load(Ordering::Relaxed),
        }
    }
}

fn check_options(options: StoreOptions) -> Result<(), OpenError> {
    check_option("pack_bytes_target", options.pack_bytes_target, PACK_BYTES_TARGET_MAX)?;
    check_option("young_entries_max", options.young_entries_max, YOUNG_ENTRIES_MAX)
}

fn check_option(option: &'static str, value: u32, max: u32) -> Result<(), OpenError> {
    if (1..=max).contains(&value) { Ok(()) } else { Err(OpenError::BadOption { option, min: 1, max }) }
}

fn take_lock(vfs: &dyn Vfs, directory: &Path) -> Result<Box<dyn VfsLock>, OpenError> {
    let path = directory.join("lock");
    vfs.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::InUse { directory: directory.to_owned() },
        _ => StoreError::io("lock", &path, error).into(),
    })
}

/// About 100 MB of memory.
const YOUNG_ENTRIES_MAX: u32 = 1024 * 1024;

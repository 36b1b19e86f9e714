//! Owns a file system in memory that fails as real ones do, on command and from a seed.
//!
//! It is stricter than ext4: a file's name survives a power cut only after its directory was synced, whatever was
//! synced in the file. Each unsynced write is kept, lost or torn at a sector on its own; unsynced changes of names
//! survive as a prefix of their order, as a journal gives. Directories themselves are durable at once.
//! The same seed, commands and calls give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{OpenMode, Vfs, VfsFile, VfsLock};

/// A file system in memory with faults. Clones share the same disk.
#[derive(Clone)]
pub struct FaultyVfs {
    disk: Arc<Mutex<Disk>>,
}

/// What happens at a chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails. A write may have written a part of its bytes.
    Fail,
    /// The machine loses power: the call and all that follow fail until [`FaultyVfs::restart`].
    CutPower,
}

impl FaultyVfs {
    /// An empty disk without faults. `seed` decides what a power cut keeps.
    pub fn new(seed: u64) -> Self {
        let disk = Disk { random: Random(seed), ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Lets `fault` happen at the `nth` call from now; 1 is the next call.
    pub fn fault_at(&self, nth: u64, fault: Fault) {
        let mut disk = self.disk();
        let call = disk.calls + nth;
        disk.fault = Some((call, fault));
    }

    /// Takes back a fault that did not happen yet; says whether there was one.
    pub fn clear_fault(&self) -> Option<Fault> {
        self.disk().fault.take().map(|(_, fault)| fault)
    }

    /// Sets how many bytes all files together may have; `None` is no limit.
    pub fn limit_bytes(&self, bytes: Option<u64>) {
        self.disk().bytes_max = bytes;
    }

    /// Flips one seeded bit in the bytes that the `nth` read from now returns; the disk keeps its bytes.
    pub fn flip_bit_at_read(&self, nth: u64) {
        let mut disk = self.disk();
        disk.flip_read = Some(disk.reads + nth);
    }

    /// Calls made so far, failed ones too.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Loses power now.
    pub fn cut_power(&self) {
        self.disk().is_off = true;
    }

    /// Whether the power is cut.
    pub fn is_off(&self) -> bool {
        self.disk().is_off
    }

    /// Starts the machine after a power cut, or after a kill of the process if the power was never cut.
    ///
    /// Handles and locks from before are dead. After a power cut, what was not synced is kept, lost or torn.
    pub fn restart(&self) {
        let mut disk = self.disk();
        if disk.is_off {
            disk.lose_unsynced();
        }
        disk.is_off = false;
        disk.boot += 1;
        disk.locks.clear();
    }

    /// Damages a file at rest: flips bit `bit` of byte `offset`.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        self.disk().damage(path, |bytes| bytes[offset as usize] ^= 1 << bit);
    }

    /// Damages a file at rest: cuts it to `bytes`.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &Path, bytes: u64) {
        self.disk().damage(path, |content| content.truncate(bytes as usize));
    }

    /// The bytes of a file as a reader would see them now.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.names.get(path)?;
        Some(disk.inodes[inode].seen.clone())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FaultyVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk();
        write!(f, "FaultyVfs({} files, {} calls, fault {:?})", disk.names.len(), disk.calls, disk.fault)
    }
}

impl Vfs for FaultyVfs {
    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        self.disk().enter()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        disk.enter()?;
        let inode = match (disk.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::CreateNew) => disk.create(path),
            (Some(inode), _) => inode,
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        disk.inode(inode).handles += 1;
        Ok(Arc::new(FaultyFile { disk: self.clone(), inode, boot: disk.boot }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.enter()?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        disk.unsynced_names.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.enter()?;
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        disk.unsynced_names.push(NameChange::Remove { path: path.to_owned() });
        disk.drop_unnamed();
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.enter()?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.enter()?;
        disk.sync_names(directory);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        let mut disk = self.disk();
        disk.enter()?;
        if !disk.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(FaultyLock { disk: self.clone(), path: path.to_owned(), boot: disk.boot }))
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyVfs,
    inode: u64,
    boot: u64,
}

impl FaultyFile {
    /// The disk, if this handle belongs to the machine that runs now.
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.disk();
        if disk.boot != self.boot {
            return Err(io::Error::other("a handle from before the restart"));
        }
        Ok(disk)
    }

    fn enter(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.disk()?;
        disk.enter()?;
        Ok(disk)
    }
}

impl VfsFile for FaultyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut disk = self.enter()?;
        let seen = &disk.inode(self.inode).seen;
        let bytes = offset.checked_add(buffer.len() as u64).and_then(|end| seen.get(offset as usize..end as usize));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        disk.reads += 1;
        if disk.flip_read == Some(disk.reads) && !buffer.is_empty() {
            let bit = disk.random.below(buffer.len() as u64 * 8);
            buffer[bit as usize / 8] ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk()?;
        if let Err(error) = disk.enter() {
            disk.write_part(self.inode, offset, bytes);
            return Err(error);
        }
        disk.check_space(self.inode, offset + bytes.len() as u64)?;
        disk.inode(self.inode).change(Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.enter()?.inode(self.inode).seen.len() as u64)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.enter()?;
        disk.check_space(self.inode, bytes)?;
        disk.inode(self.inode).change(Change::SetBytes { bytes });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.enter()?;
        disk.inode(self.inode).sync();
        Ok(())
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if let Some(inode) = disk.inodes.get_mut(&self.inode) {
            inode.handles = inode.handles.saturating_sub(1);
        }
        disk.drop_unnamed();
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyVfs,
    path: PathBuf,
    boot: u64,
}

impl VfsLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.boot == self.boot {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    names: BTreeMap<PathBuf, u64>,
    names_synced: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    boot: u64,
    calls: u64,
    reads: u64,
    fault: Option<(u64, Fault)>,
    /// The fault happened at the call that runs now.
    fired: bool,
    flip_read: Option<u64>,
    bytes_max: Option<u64>,
    is_off: bool,
    random: Random,
}

impl Disk {
    /// Counts a call and lets the planned fault happen.
    fn enter(&mut self) -> io::Result<()> {
        self.calls += 1;
        self.fired = false;
        if self.is_off {
            return Err(io::Error::other("the power is cut"));
        }
        let Some((_, fault)) = self.fault.take_if(|(call, _)| *call <= self.calls) else { return Ok(()) };
        self.fired = true;
        self.is_off = fault == Fault::CutPower;
        Err(io::Error::other("a fault on command"))
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    fn create(&mut self, path: &Path) -> u64 {
        let inode = self.inodes_made;
        self.inodes_made += 1;
        self.inodes.insert(inode, Inode::default());
        self.names.insert(path.to_owned(), inode);
        self.unsynced_names.push(NameChange::Create { path: path.to_owned(), inode });
        inode
    }

    /// A write that the fault hit leaves a part of its bytes.
    fn write_part(&mut self, inode: u64, offset: u64, bytes: &[u8]) {
        if !self.fired {
            return;
        }
        let kept = self.random.below(bytes.len() as u64 + 1) as usize;
        self.inode(inode).change(Change::Write { offset, bytes: bytes[..kept].to_vec() });
    }

    fn check_space(&mut self, inode: u64, end: u64) -> io::Result<()> {
        let Some(bytes_max) = self.bytes_max else { return Ok(()) };
        let grows_by = end.saturating_sub(self.inode(inode).seen.len() as u64);
        let used: u64 = self.inodes.values().map(|inode| inode.seen.len() as u64).sum();
        if grows_by > 0 && used + grows_by > bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync_names(&mut self, directory: &Path) {
        for change in std::mem::take(&mut self.unsynced_names) {
            if change.path().parent() == Some(directory) {
                change.apply(&mut self.names_synced);
            } else {
                self.unsynced_names.push(change);
            }
        }
        self.drop_unnamed();
    }

    fn lose_unsynced(&mut self) {
        let changes = std::mem::take(&mut self.unsynced_names);
        let kept = self.random.below(changes.len() as u64 + 1) as usize;
        for change in &changes[..kept] {
            change.apply(&mut self.names_synced);
        }
        self.names = self.names_synced.clone();
        for inode in self.inodes.values_mut() {
            inode.lose_unsynced(&mut self.random);
            inode.handles = 0;
        }
        self.drop_unnamed();
    }

    fn drop_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().chain(self.names_synced.values()).copied().collect();
        named.extend(self.unsynced_names.iter().filter_map(NameChange::created));
        self.inodes.retain(|number, inode| inode.handles > 0 || named.contains(number));
    }

    fn damage(&mut self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let inode = self.names.get(path).and_then(|inode| self.inodes.get_mut(inode)).expect("a file to damage");
        inode.sync();
        change(&mut inode.seen);
        change(&mut inode.synced);
    }
}

/// What one file holds: as readers see it, as the platter holds it, and the changes between.
#[derive(Default)]
struct Inode {
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    handles: u64,
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    fn lose_unsynced(&mut self, random: &mut Random) {
        for change in self.unsynced.drain(..) {
            match random.below(3) {
                0 => {}
                1 => change.torn(random).apply(&mut self.synced),
                _ => change.apply(&mut self.synced),
            }
        }
        self.seen = self.synced.clone();
    }
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetBytes { bytes: u64 },
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let start = *offset as usize;
                if content.len() < start + bytes.len() {
                    content.resize(start + bytes.len(), 0);
                }
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetBytes { bytes } => content.resize(*bytes as usize, 0),
        }
    }

    /// What is left of a write when the power goes while the disk works on it: its first sectors.
    fn torn(self, random: &mut Random) -> Self {
        match self {
            Self::Write { offset, mut bytes } => {
                let sectors = (bytes.len() as u64).div_ceil(SECTOR_BYTES);
                bytes.truncate((random.below(sectors + 1) * SECTOR_BYTES) as usize);
                Self::Write { offset, bytes }
            }
            whole @ Self::SetBytes { .. } => whole,
        }
    }
}

enum NameChange {
    Create { path: PathBuf, inode: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            Self::Create { path, .. } | Self::Remove { path } => path,
            Self::Rename { to, .. } => to,
        }
    }

    fn created(&self) -> Option<u64> {
        match self {
            Self::Create { inode, .. } => Some(*inode),
            _ => None,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Default)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

const SECTOR_BYTES: u64 = 512;

//! Owns what happens when a store is opened: reading the index, and carrying over what a crash left unfinished.
//!
//! A pack without a right footer, or with one that names frames which are not there, is never trusted as durable, whatever
//! can be read from it now: its whole frames are copied to a new pack, and it is removed once they are durable there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{DamagedFrame, StoreError};
use crate::index::{PackStage, PackState, Run, RunError, RunNumber};
use crate::index_work::{Contents, NEW_EXTENSION};
use crate::lock::{read, write};
use crate::lookup::Purpose;
use crate::pack::{Footer, NewFrame, PackNumber};
use crate::store::{IfYoung, Shared};
use crate::vfs::OpenMode;

/// What opening a store found to repair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Packs without a right footer, or not with all that it names: a crash left them, or they were cut or damaged later.
    pub unfinished_packs: Vec<PathBuf>,
    /// Chunks that were carried over from those.
    pub chunks_kept: u64,
    /// What was broken in the midst of those.
    pub damaged: Vec<DamagedFrame>,
    /// Runs of the index that were damaged or of no use any more.
    pub runs_removed: u32,
}

impl Shared {
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        let mut recovery = Recovery::default();
        let on_disk = self.list_packs()?;
        self.open_runs(&on_disk, &mut recovery)?;
        let unfinished = self.open_packs_without_run(&on_disk)?;
        self.rescue(&unfinished, &mut recovery)?;
        self.recovery.get_or_init(|| recovery);
        Ok(())
    }

    fn list_packs(&self) -> Result<BTreeSet<PackNumber>, StoreError> {
        let packs = &self.paths.packs;
        let names = self.vfs.list(packs).map_err(|error| StoreError::io("list", packs, error))?;
        let numbers: BTreeSet<_> = names.iter().filter_map(|name| PackNumber::from_file_name(name)).collect();
        self.use_no_pack_before(numbers.last().copied());
        Ok(numbers)
    }

    /// Numbers are never used again: a run may still name a pack that is gone.
    fn use_no_pack_before(&self, last: Option<PackNumber>) {
        self.next_pack.fetch_max(last.map_or(0, |number| number.0) + 1, Ordering::Relaxed);
    }

    fn open_runs(&self, on_disk: &BTreeSet<PackNumber>, recovery: &mut Recovery) -> Result<(), StoreError> {
        let index = &self.paths.index;
        let names = self.vfs.list(index).map_err(|error| StoreError::io("list", index, error))?;
        for name in names.iter().filter(|name| name.ends_with(&format!(".{NEW_EXTENSION}"))) {
            let path = index.join(name);
            self.vfs.remove(&path).map_err(|error| StoreError::io("remove", &path, error))?;
        }
        let numbers: Vec<_> = names.iter().filter_map(|name| RunNumber::from_file_name(name)).collect();
        self.next_run.fetch_max(numbers.last().map_or(0, |number| number.0) + 1, Ordering::Relaxed);
        let mut covered = BTreeSet::new();
        let mut runs = Vec::new();
        // The newest first: a run whose packs are all in newer ones was merged, and a crash left it.
        for number in numbers.into_iter().rev() {
            match self.open_run(number)? {
                Some(run) if run.packs.iter().any(|pack| is_news(pack.number, on_disk, &covered)) => {
                    covered.extend(run.packs.iter().map(|pack| pack.number));
                    runs.push(Arc::new(run));
                }
                _ => {
                    self.remove_runs(&[number])?;
                    recovery.runs_removed += 1;
                }
            }
        }
        self.use_no_pack_before(covered.last().copied());
        self.install_runs(runs, on_disk);
        Ok(())
    }

    /// Opens a run; `None` if it is damaged.
    fn open_run(&self, number: RunNumber) -> Result<Option<Run>, StoreError> {
        let path = self.run_path(number);
        match Run::open(self.vfs.as_ref(), &path, number) {
            Ok(run) => Ok(Some(run)),
            Err(RunError::Damaged) => Ok(None),
            Err(RunError::Io(error)) => Err(StoreError::io("read", &path, error)),
        }
    }

    fn install_runs(&self, runs: Vec<Arc<Run>>, on_disk: &BTreeSet<PackNumber>) {
        let mut index = write(&self.index);
        for pack in runs.iter().rev().flat_map(|run| &run.packs).filter(|pack| on_disk.contains(&pack.number)) {
            index.packs.insert(pack.number, PackState::from_run(pack));
        }
        index.set_runs(runs);
    }

    /// Reads the footers of packs that no run covers; says which packs have none.
    fn open_packs_without_run(&self, on_disk: &BTreeSet<PackNumber>) -> Result<Vec<PackNumber>, StoreError> {
        let mut unfinished = Vec::new();
        for number in on_disk {
            if read(&self.index).packs.contains_key(number) {
                continue;
            }
            match self.contents(*number)? {
                Contents::Footer(footer) if self.holds_every_frame(&footer)? => {
                    self.sync_found(*number)?;
                    write(&self.index).insert_pack(&footer, PackStage::Sealed { at: 0 });
                }
                _ => unfinished.push(*number),
            }
            self.tend_index()?;
        }
        Ok(unfinished)
    }

    /// Whether all that a footer names is there. Of a pack that was not synced, a power cut may leave the end and take what stood before it;
    /// only an index run says that a pack was.
    fn holds_every_frame(&self, footer: &Footer) -> Result<bool, StoreError> {
        let (scan, _) = self.frames(footer.number)?;
        let offsets = footer.entries.iter().map(|entry| entry.offset);
        Ok(scan.frames.iter().map(|(offset, _)| *offset).eq(offsets))
    }

    /// Makes a finished pack durable. A process that was killed, or whose sync failed, may have left it in memory only:
    /// it can be read, and yet a power cut would take it.
    fn sync_found(&self, number: PackNumber) -> Result<(), StoreError> {
        let path = self.paths.pack(number);
        let synced = self.vfs.open(&path, OpenMode::Write).and_then(|file| file.sync_data());
        synced.map_err(|error| StoreError::io("sync", &path, error))?;
        let directory = &self.paths.packs;
        self.vfs.sync_directory(directory).map_err(|error| StoreError::io("sync", directory, error))
    }

    /// Copies what is whole in unfinished packs into new packs, and removes them.
    fn rescue(&self, packs: &[PackNumber], recovery: &mut Recovery) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        for number in packs {
            self.copy_whole_frames(*number, recovery)?;
            recovery.unfinished_packs.push(self.paths.pack(*number));
        }
        self.sync()?;
        self.remove_packs(packs)
    }

    /// Copies what a pack still holds, whatever its footer says.
    pub(crate) fn copy_whole_frames(&self, number: PackNumber, recovery: &mut Recovery) -> Result<(), StoreError> {
        let (scan, content) = self.frames(number)?;
        for (offset, header) in &scan.frames {
            let known = self.locate(header.id, Purpose::Look)?;
            if known.is_some_and(|location| location.pack != number) {
                continue;
            }
            let start = (offset + header.header_bytes()) as usize;
            let payload = &content[start..start + header.payload_bytes as usize];
            self.append(&NewFrame { header: *header, payload }, IfYoung::Write)?;
            recovery.chunks_kept += 1;
        }
        let room = DAMAGED_LISTED_MAX.saturating_sub(recovery.damaged.len());
        let pack = self.paths.pack(number);
        let damaged = scan.damaged.iter().take(room);
        recovery.damaged.extend(damaged.map(|(offset, id)| DamagedFrame {
            pack: pack.clone(),
            offset: *offset,
            id: *id,
        }));
        Ok(())
    }

    /// Removes packs whose frames are of no use or durable elsewhere.
    pub(crate) fn remove_packs(&self, packs: &[PackNumber]) -> Result<(), StoreError> {
        write(&self.index).remove_packs(&packs.iter().copied().collect());
        for number in packs {
            let path = self.paths.pack(*number);
            self.vfs.remove(&path).map_err(|error| StoreError::io("remove", &path, error))?;
            self.open_packs.remove(*number);
        }
        let directory = &self.paths.packs;
        self.vfs.sync_directory(directory).map_err(|error| StoreError::io("sync", directory, error))
    }
}

fn is_news(number: PackNumber, on_disk: &BTreeSet<PackNumber>, covered: &BTreeSet<PackNumber>) -> bool {
    on_disk.contains(&number) && !covered.contains(&number)
}

/// Damage is listed up to this many places; a disk that is worse needs no list.
pub(crate) const DAMAGED_LISTED_MAX: usize = 1024;

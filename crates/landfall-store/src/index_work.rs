//! Owns keeping the index on disk in order: young entries become runs, runs become fewer, a damaged run is built again.
//!
//! The index is a cache. Nothing here can lose a chunk, and a failure only leaves entries in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::StoreError;
use crate::index::{Location, PackStage, PackState, Run, RunError, RunNumber, RunPack, RunWriter, Young, merge};
use crate::lock::{lock, read, write};
use crate::pack::{Footer, FooterEntry, PackNumber, read_whole, scan};
use crate::store::Shared;
use crate::vfs::OpenMode;

impl Shared {
    /// Writes and merges runs if it is time. A failure leaves the entries in memory; the next finished pack tries again.
    pub(crate) fn tend_index_later(&self) {
        if self.tend_index().is_err() {
            self.index_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn tend_index(&self) -> Result<(), StoreError> {
        let _work = lock(&self.index_work);
        let entries_max = self.options.young_entries_max;
        let index = read(&self.index);
        let is_time = index.young_count() >= entries_max as usize && index.frames_for_run() >= u64::from(entries_max);
        drop(index);
        if is_time {
            self.build_run()?;
        }
        while let Some([newer, older]) = self.next_merge() {
            self.merge_runs(&newer, &older)?;
        }
        Ok(())
    }

    /// Builds a damaged run again from the footers of its packs. Lookups go on in the old one until it is replaced.
    pub(crate) fn rebuild_run(&self, number: RunNumber) -> Result<(), StoreError> {
        let _work = lock(&self.index_work);
        self.rebuild(number)
    }

    /// What a finished pack holds, by its footer or, if that is damaged, by its frames.
    pub(crate) fn contents(&self, number: PackNumber) -> Result<Contents, StoreError> {
        let path = self.paths.pack(number);
        let failed = |error| StoreError::io("read", &path, error);
        let file = self.open_packs.get(self.vfs.as_ref(), &path, number).map_err(failed)?;
        if let Some(footer) = Footer::load(file.as_ref(), number).map_err(failed)? {
            return Ok(Contents::Footer(footer));
        }
        let (scan, _) = self.frames(number)?;
        Ok(Contents::Frames { scan })
    }

    /// The frames of a pack that are whole, whatever its footer says.
    pub(crate) fn frames(&self, number: PackNumber) -> Result<(crate::pack::Scan, Vec<u8>), StoreError> {
        let path = self.paths.pack(number);
        let failed = |error| StoreError::io("read", &path, error);
        let file = self.open_packs.get(self.vfs.as_ref(), &path, number).map_err(failed)?;
        let content = read_whole(file.as_ref()).map_err(failed)?;
        Ok((scan(&content, number), content))
    }

    /// Readers look up beside all but two short moments: while a run is begun, and while it is installed.
    fn build_run(&self) -> Result<(), StoreError> {
        let young = Young::with_capacity(self.options.young_entries_max as usize);
        let next = write(&self.index).begin_run(young);
        let entries = next.sorted();
        let run = self.write_run(
            |mut writer| {
                entries.iter().try_for_each(|(id, location)| writer.push(*id, *location))?;
                Ok(writer.finish(next.packs())?)
            },
            entries.len() as u64,
        )?;
        let left_over = next.left_over();
        write(&self.index).install_run(Arc::new(run), left_over);
        Ok(())
    }

    /// Two neighbours of about the same size. Merging only those keeps the number of runs logarithmic, and every entry
    /// is written as often.
    fn next_merge(&self) -> Option<[Arc<Run>; 2]> {
        let runs = read(&self.index).runs();
        let pair = runs.windows(2).find(|pair| pair[0].entries * 2 >= pair[1].entries)?;
        Some([Arc::clone(&pair[0]), Arc::clone(&pair[1])])
    }

    fn merge_runs(&self, newer: &Arc<Run>, older: &Arc<Run>) -> Result<(), StoreError> {
        let written =
            self.write_run(|writer| merge([newer, older], &self.index, writer), newer.entries + older.entries);
        let merged = match written {
            Ok(run) => Arc::new(run),
            // One of the two is damaged, and nobody knows which.
            Err(RunFailure::Damaged) => return [newer, older].into_iter().try_for_each(|run| self.rebuild(run.number)),
            Err(RunFailure::Store(error)) => return Err(error),
        };
        let old = [newer.number, older.number];
        write(&self.index).replace_runs(&old, vec![merged]);
        self.remove_runs(&old)
    }

    fn rebuild(&self, number: RunNumber) -> Result<(), StoreError> {
        let Some(damaged) = read(&self.index).runs().iter().find(|run| run.number == number).cloned() else {
            return Ok(());
        };
        let mut rebuilt = Vec::new();
        let mut batch = Batch::default();
        for pack in &damaged.packs {
            if !read(&self.index).packs.contains_key(&pack.number) {
                continue;
            }
            self.add_to_batch(pack.number, &mut batch)?;
            if batch.entries.len() >= self.options.young_entries_max as usize {
                rebuilt.push(self.write_batch(std::mem::take(&mut batch))?);
            }
        }
        rebuilt.push(self.write_batch(batch)?);
        write(&self.index).replace_runs(&[number], rebuilt);
        self.remove_runs(&[number])
    }

    fn add_to_batch(&self, number: PackNumber, batch: &mut Batch) -> Result<(), StoreError> {
        let contents = self.contents(number)?;
        let footer = contents.footer(number);
        let mut index = write(&self.index);
        let Some(pack) = index.packs.get_mut(&number) else { return Ok(()) };
        if matches!(contents, Contents::Frames { .. }) {
            // Its ordinals may have changed, so marks of open sessions do not fit any more: do not sweep it for them.
            let at = lock(&self.sessions).tick();
            *pack = PackState { in_run: true, ..PackState::from_footer(&footer, PackStage::Sealed { at }) };
        }
        batch.packs.push(pack.run_pack(number));
        for (ordinal, entry) in footer.entries.iter().enumerate() {
            batch.entries.push((entry.id, Location::new(number, ordinal as u32, entry)));
        }
        Ok(())
    }

    fn write_batch(&self, mut batch: Batch) -> Result<Arc<Run>, StoreError> {
        batch.entries.sort_unstable_by_key(|(id, location)| (*id, std::cmp::Reverse(location.pack)));
        batch.entries.dedup_by_key(|(id, _)| *id);
        let run = self.write_run(
            |mut writer| {
                batch.entries.iter().try_for_each(|(id, location)| writer.push(*id, *location))?;
                Ok(writer.finish(&batch.packs)?)
            },
            batch.entries.len() as u64,
        )?;
        Ok(Arc::new(run))
    }

    /// Writes a run under another name first: what has a run's name is whole.
    fn write_run(
        &self,
        fill: impl FnOnce(RunWriter) -> Result<(), RunError>,
        entries_max: u64,
    ) -> Result<Run, RunFailure> {
        let number = RunNumber(self.next_run.fetch_add(1, Ordering::Relaxed));
        let path = self.run_path(number);
        let new_path = path.with_extension(NEW_EXTENSION);
        let failed = |action, error| StoreError::io(action, &new_path, error);
        let file = self.vfs.open(&new_path, OpenMode::CreateNew).map_err(|error| failed("create", error))?;
        fill(RunWriter::new(file, entries_max)).map_err(|error| match error {
            RunError::Damaged => RunFailure::Damaged,
            RunError::Io(error) => RunFailure::Store(failed("write", error)),
        })?;
        self.vfs.rename(&new_path, &path).map_err(|error| failed("rename", error))?;
        let index = &self.paths.index;
        self.vfs.sync_directory(index).map_err(|error| StoreError::io("sync", index, error))?;
        Run::open(self.vfs.as_ref(), &path, number).map_err(|error| match error {
            RunError::Damaged => RunFailure::Damaged,
            RunError::Io(error) => RunFailure::Store(StoreError::io("open", &path, error)),
        })
    }

    pub(crate) fn remove_runs(&self, numbers: &[RunNumber]) -> Result<(), StoreError> {
        for number in numbers {
            let path = self.run_path(*number);
            self.vfs.remove(&path).map_err(|error| StoreError::io("remove", &path, error))?;
        }
        Ok(())
    }

    pub(crate) fn run_path(&self, number: RunNumber) -> PathBuf {
        self.paths.index.join(number.file_name())
    }
}

/// What is in a pack.
pub(crate) enum Contents {
    Footer(Footer),
    /// The footer is damaged.
    Frames {
        scan: crate::pack::Scan,
    },
}

impl Contents {
    /// The footer, or one made from what was found.
    pub(crate) fn footer(&self, number: PackNumber) -> Footer {
        match self {
            Self::Footer(footer) => footer.clone(),
            Self::Frames { scan, .. } => footer_of_frames(number, scan),
        }
    }
}

fn footer_of_frames(number: PackNumber, scan: &crate::pack::Scan) -> Footer {
    let mut footer = Footer {
        number,
        class: crate::pack::PackClass::Data,
        frames_end: crate::pack::PACK_HEADER_BYTES,
        entries: Vec::new(),
        bases: Vec::new(),
    };
    for (ordinal, (offset, header)) in scan.frames.iter().enumerate() {
        footer.class = crate::pack::PackClass::of(header.domain);
        footer.frames_end = offset + header.frame_bytes();
        footer.entries.push(FooterEntry::new(*offset, header));
        footer.bases.extend(header.base.map(|base| (ordinal as u32, base)));
    }
    footer
}

/// Entries of some packs on their way into a run.
#[derive(Default)]
struct Batch {
    packs: Vec<RunPack>,
    entries: Vec<(landfall_core::ChunkId, Location)>,
}

/// Why a run was not written.
enum RunFailure {
    /// A source, or the new run itself, is damaged.
    Damaged,
    Store(StoreError),
}

impl From<StoreError> for RunFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RunFailure> for StoreError {
    fn from(failure: RunFailure) -> Self {
        match failure {
            RunFailure::Store(error) => error,
            RunFailure::Damaged => {
                let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "a new run is damaged already");
                Self::io("build", std::path::Path::new("index"), source)
            }
        }
    }
}

pub(crate) const NEW_EXTENSION: &str = "new";

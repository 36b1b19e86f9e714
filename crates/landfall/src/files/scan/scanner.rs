//! Owns the order of a scan: walks, hands out work, and gives out the results in key order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use landfall_core::files::{FileKey, FileKind, FilePath};
use landfall_core::limits::{INLINE_VALUE_BYTES_MAX, WHOLE_FILE_BYTES_MAX};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::attributes;
use super::batch::{Batch, Item};
use super::block::{BLOCK_BYTES, BlockPool};
use super::known::{Known, OldFile};
use super::large::{BlockWork, LargeFile, Motion, Reading, Refs, read_again};
use super::row::{Row, XattrsKept, content_entry};
use super::target::{Attempt, Target};
use super::walk::{Found, Step, Walk, unreadable};
use super::worker::{Context, Done, Job, Work, work_off};
use super::{ChangingFiles, ChunkSink, EntrySink, Report, Scan, ScanError, SkipReason, Skipped, Stopped};
use crate::files::index::FileStat;

pub(super) fn run<C, T, E>(scan: Scan<'_>, chunks: &C, entries: &mut T) -> Result<Report, Stopped<E>>
where
    C: ChunkSink<Error = E>,
    T: EntrySink<Error = E>,
    E: Send,
{
    let root = scan.directory.try_clone_to_owned();
    let root = root.map_err(|source| ScanError::Unreadable { path: FilePath::root(), source })?;
    let pool = Arc::new(BlockPool::default());
    let context = Context { chunks, pool, files_read: AtomicU64::new(0), bytes_read: AtomicU64::new(0) };
    let slots_max = (scan.threads.get() * 3).clamp(4, SLOTS_MAX);
    let (jobs, queue) = sync_channel(slots_max);
    let queue = Mutex::new(queue);
    std::thread::scope(|threads| {
        for started in 0..scan.threads.get() {
            let work = || work_off(&queue, &context);
            if let Err(source) = std::thread::Builder::new().name("scan".into()).spawn_scoped(threads, work) {
                if started == 0 {
                    return Err(ScanError::NoThread { source }.into());
                }
                // Those that there are do it all.
                break;
            }
        }
        // It is dropped before the threads are waited for, and with it the jobs' only sender.
        let scanner = Scanner {
            context: &context,
            entries,
            jobs,
            slots: VecDeque::new(),
            slots_max,
            batch: Batch::default(),
            large: None,
            known: Known::new(scan.previous),
            links: HashMap::new(),
            changing: scan.changing,
            report: Report::default(),
        };
        scanner.run(Walk::new(root))
    })
}

struct Scanner<'a, C: ChunkSink, T> {
    context: &'a Context<'a, C>,
    entries: &'a mut T,
    jobs: SyncSender<Job<C::Error>>,
    /// What was handed out and not given out yet, in key order.
    slots: VecDeque<Slot<C::Error>>,
    slots_max: usize,
    batch: Batch,
    /// The large file whose blocks are being given out.
    large: Option<LargeResult>,
    known: Known<'a>,
    links: HashMap<(u64, u64), FirstName>,
    changing: ChangingFiles,
    report: Report,
}

enum Slot<E> {
    /// Rows without any file to read.
    Rows(Vec<Item>),
    /// A batch, or a block of the large file that was begun last.
    Working(Receiver<Result<Done, Stopped<E>>>),
    LargeBegins(Arc<LargeFile>),
    LargeEnds,
}

/// What the blocks of a large file gave so far.
struct LargeResult {
    file: Arc<LargeFile>,
    refs: Refs,
    blocks: Motion,
}

/// A file with several names.
struct FirstName {
    path: FilePath,
    names_unseen: u64,
}

impl<C, T, E> Scanner<'_, C, T>
where
    C: ChunkSink<Error = E>,
    T: EntrySink<Error = E>,
    E: Send,
{
    fn run(mut self, mut walk: Walk) -> Result<Report, Stopped<E>> {
        while let Some(step) = walk.next_step()? {
            match step {
                Step::Found(found) => self.visit(found)?,
                Step::TooLong(path) => self.skip(path, SkipReason::PathTooLong),
            }
        }
        self.close_batch()?;
        while let Some(slot) = self.slots.pop_front() {
            self.settle(slot)?;
        }
        self.report.files_read = self.context.files_read.load(Ordering::Relaxed);
        self.report.bytes_read = self.context.bytes_read.load(Ordering::Relaxed);
        self.report.previous_lost = self.known.into_lost();
        Ok(self.report)
    }

    fn visit(&mut self, found: Found) -> Result<(), Stopped<E>> {
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::Directory => self.visit_directory(&found),
            FileType::Symlink => self.visit_symlink(&found),
            FileType::RegularFile => self.visit_file(found),
            FileType::Socket => self.skip_found(&found, SkipReason::Socket),
            FileType::Fifo => self.skip_found(&found, SkipReason::Pipe),
            _ => self.skip_found(&found, SkipReason::Device),
        }
    }

    fn visit_directory(&mut self, found: &Found) -> Result<(), Stopped<E>> {
        self.report.directories += 1;
        let mut row = Row::new(found.path.clone(), FileKind::Directory, None, FileStat::of(&found.stat));
        let attributes = attributes::of_directory(found)?;
        self.context.add_attributes(&mut row, attributes)?;
        self.push_row(row)
    }

    fn visit_symlink(&mut self, found: &Found) -> Result<(), Stopped<E>> {
        let target = match rustix::fs::readlinkat(&found.directory, found.path.name(), Vec::new()) {
            Err(Errno::NOENT | Errno::INVAL) => return self.skip_found(found, SkipReason::Vanished),
            result => result.map_err(unreadable(&found.path))?,
        };
        if target.as_bytes().len() > POINTER_BYTES_MAX {
            return self.skip_found(found, SkipReason::TargetTooLong);
        }
        self.report.symlinks += 1;
        let kind = FileKind::Symlink(target.into_bytes().into());
        self.push_row(Row::new(found.path.clone(), kind, None, FileStat::of(&found.stat)))
    }

    fn visit_file(&mut self, found: Found) -> Result<(), Stopped<E>> {
        if let Some(first) = self.first_name(&found) {
            self.report.hard_links += 1;
            let kind = FileKind::HardLink(first);
            return self.push_row(Row::new(found.path, kind, None, FileStat::of(&found.stat)));
        }
        let stat = FileStat::of(&found.stat);
        self.report.files += 1;
        self.report.bytes += stat.size;
        let old = self.known.file(&found.path);
        if let Some(old) = old.as_ref().filter(|old| old.size == stat.size)
            && self.known.is_unchanged(&found.path, &stat)
        {
            return self.take_over(found.path, old, stat);
        }
        let names = count_names(&found.stat);
        let (old_content, old_chunk) = old.map_or((None, None), |old| (Some(old.content), old.value.chunk));
        let target = Target { path: found.path, directory: found.directory, stat, names, old_content, old_chunk };
        if stat.size > u64::from(WHOLE_FILE_BYTES_MAX) {
            return self.read_large(target);
        }
        self.batch.push_file(target);
        self.close_batch_if_full()
    }

    /// The first name of a file, if this is not it.
    fn first_name(&mut self, found: &Found) -> Option<FilePath> {
        let names = count_names(&found.stat);
        if names < 2 {
            return None;
        }
        let key = (found.stat.st_dev, found.stat.st_ino);
        let Some(first) = self.links.get_mut(&key) else {
            let first = FirstName { path: found.path.clone(), names_unseen: names - 1 };
            self.links.insert(key, first);
            return None;
        };
        first.names_unseen -= 1;
        let path = first.path.clone();
        if first.names_unseen == 0 {
            self.links.remove(&key);
        }
        if path.as_bytes().len() > POINTER_BYTES_MAX {
            self.skip(found.path.as_bytes().to_vec(), SkipReason::LinkTooLong);
            return None;
        }
        Some(path)
    }

    /// Copies what the previous tree has of a file that did not change, a little at a time.
    fn take_over(&mut self, path: FilePath, old: &OldFile, stat: FileStat) -> Result<(), Stopped<E>> {
        let key = FileKey::Meta(path.clone()).encode();
        let entries = vec![(key.into(), old.value.clone())];
        let mut row = Row { entries, ..Row::part(path.clone(), Some(stat)) };
        while let Some(entry) = self.known.next_entry(&path, None) {
            row.entries.push(entry);
            if row.entries.len() >= ROW_ENTRIES_MAX {
                let entries = std::mem::take(&mut row.entries);
                self.push_row(Row { entries, ..Row::part(path.clone(), None) })?;
            }
        }
        self.push_row(row)
    }

    fn read_large(&mut self, target: Target) -> Result<(), Stopped<E>> {
        self.close_batch()?;
        let (file, content) = match LargeFile::open(self.context, &target)? {
            Attempt::Done(opened) => opened,
            Attempt::Changed => return self.push_slot(Slot::Rows(vec![Item::Changed(target)])),
            Attempt::Gone => return self.push_slot(Slot::Rows(vec![Item::Gone(target)])),
        };
        let file = Arc::new(LargeFile::new(target, file, content));
        self.push_slot(Slot::LargeBegins(file.clone()))?;
        let size = file.target.stat.size;
        let (mut number, mut offset) = (0, file.next_data(0));
        while offset < size {
            let length = (size - offset).min(BLOCK_BYTES as u64) as usize;
            let end = offset + length as u64;
            let old = self.known.chunks_until(&file.target.path, end);
            self.hand_out(Work::Block(BlockWork { file: file.clone(), number, offset, length, old }))?;
            number += 1;
            offset = file.next_data(end);
        }
        self.push_slot(Slot::LargeEnds)
    }

    fn push_row(&mut self, row: Row) -> Result<(), Stopped<E>> {
        self.batch.push_row(row);
        self.close_batch_if_full()
    }

    fn close_batch_if_full(&mut self) -> Result<(), Stopped<E>> {
        if self.batch.is_full() { self.close_batch() } else { Ok(()) }
    }

    fn close_batch(&mut self) -> Result<(), Stopped<E>> {
        let Batch { items, files, .. } = std::mem::take(&mut self.batch);
        match (items.is_empty(), files) {
            (true, _) => Ok(()),
            (false, 0) => self.push_slot(Slot::Rows(items)),
            (false, _) => self.hand_out(Work::Batch(items)),
        }
    }

    fn hand_out(&mut self, work: Work) -> Result<(), Stopped<E>> {
        let (reply, result) = sync_channel(1);
        // The queue has room for every slot, so this never waits.
        self.jobs.send(Job { work, reply }).expect("workers outlive the scan");
        self.push_slot(Slot::Working(result))
    }

    /// Adds a slot, and settles the oldest if there are too many.
    fn push_slot(&mut self, slot: Slot<E>) -> Result<(), Stopped<E>> {
        self.slots.push_back(slot);
        while self.slots.len() >= self.slots_max {
            let Some(oldest) = self.slots.pop_front() else { break };
            self.settle(oldest)?;
        }
        Ok(())
    }

    /// Waits for what a slot promises, and gives it out.
    fn settle(&mut self, slot: Slot<E>) -> Result<(), Stopped<E>> {
        match slot {
            Slot::Rows(items) => self.give_out(items),
            Slot::Working(result) => match result.recv().expect("a worker answers every job")? {
                Done::Batch(items) => self.give_out(items),
                Done::Block(refs) => self.gather(refs),
            },
            Slot::LargeBegins(file) => self.begin_large(file),
            Slot::LargeEnds => self.end_large(),
        }
    }

    fn give_out(&mut self, items: Vec<Item>) -> Result<(), Stopped<E>> {
        for item in items {
            match item {
                Item::Row(row) => self.give_out_row(row)?,
                Item::Changed(target) | Item::Read(target) => self.insist(&target)?,
                Item::Gone(target) => self.report_gone(&target)?,
            }
        }
        Ok(())
    }

    fn give_out_row(&mut self, row: Row) -> Result<(), Stopped<E>> {
        for (key, value) in &row.entries {
            self.entries.entry(key, value).map_err(Stopped::Sink)?;
        }
        self.give_out_content(&row.path, row.content)?;
        if let Some(xattrs) = &row.xattrs {
            let key = FileKey::Xattrs(row.path.clone()).encode();
            self.entries.entry(&key, xattrs).map_err(Stopped::Sink)?;
        }
        match row.xattrs_kept {
            XattrsKept::All => {}
            XattrsKept::Some => self.report.unkept_xattrs.push(row.path.clone()),
            XattrsKept::TooLong => self.skip(row.path.as_bytes().to_vec(), SkipReason::XattrsTooLong),
        }
        match &row.stat {
            Some(stat) => self.entries.stat(&row.path, stat).map_err(Stopped::Sink),
            None => Ok(()),
        }
    }

    fn give_out_content(&mut self, path: &FilePath, content: Refs) -> Result<(), Stopped<E>> {
        for (offset, chunk) in content {
            let (key, value) = content_entry(path, offset, chunk);
            self.entries.entry(&key, &value).map_err(Stopped::Sink)?;
        }
        Ok(())
    }

    fn begin_large(&mut self, file: Arc<LargeFile>) -> Result<(), Stopped<E>> {
        if is_streamed(&file) {
            let row = Row { stat: None, ..file.row() };
            self.give_out_row(row)?;
        }
        self.large = Some(LargeResult { file, refs: Vec::new(), blocks: Motion::Still });
        Ok(())
    }

    fn gather(&mut self, refs: Attempt<Refs>) -> Result<(), Stopped<E>> {
        let Some(large) = &mut self.large else { unreachable!("blocks come after their file begins") };
        match refs {
            Attempt::Done(refs) if is_streamed(&large.file) => {
                let file = large.file.clone();
                self.give_out_content(&file.target.path, refs)?;
            }
            Attempt::Done(refs) => large.refs.extend(refs),
            Attempt::Changed | Attempt::Gone => large.blocks = Motion::Moving,
        }
        Ok(())
    }

    fn end_large(&mut self) -> Result<(), Stopped<E>> {
        let Some(LargeResult { file, refs, blocks }) = self.large.take() else {
            unreachable!("a file ends after it began")
        };
        let (attributes, motion) = file.finish()?;
        let is_intact = blocks == Motion::Still && motion == Motion::Still;
        if !is_intact && !is_streamed(&file) {
            return self.insist(&file.target);
        }
        let mut row = if is_streamed(&file) {
            Row::part(file.target.path.clone(), Some(file.target.stat))
        } else {
            Row { content: refs, ..file.row() }
        };
        self.context.add_attributes(&mut row, attributes)?;
        if is_intact { self.give_out_row(row) } else { self.give_out_changing(row) }
    }

    /// Reads a file that changed again, until it rests or the policy decides.
    fn insist(&mut self, target: &Target) -> Result<(), Stopped<E>> {
        let mut last = None;
        for _ in 0..ATTEMPTS_AGAIN {
            match read_again(self.context, target)? {
                Attempt::Done(Reading { row, motion: Motion::Still }) => return self.give_out_row(row),
                Attempt::Done(Reading { row, motion: Motion::Moving }) => last = Some(row),
                Attempt::Changed => {}
                Attempt::Gone => return self.report_gone(target),
            }
        }
        match last {
            Some(row) => self.give_out_changing(row),
            // Something else has taken its place.
            None => self.report_gone(target),
        }
    }

    fn give_out_changing(&mut self, mut row: Row) -> Result<(), Stopped<E>> {
        match self.changing {
            ChangingFiles::Refuse => Err(ScanError::Changing { path: row.path }.into()),
            ChangingFiles::Accept => {
                self.report.changing.push(row.path.clone());
                row.forget_stat();
                self.give_out_row(row)
            }
        }
    }

    /// A removed file is left out, unless other names of it may already point at this one.
    fn report_gone(&mut self, target: &Target) -> Result<(), Stopped<E>> {
        if target.names > 1 {
            return Err(ScanError::Changing { path: target.path.clone() }.into());
        }
        self.skip(target.path.as_bytes().to_vec(), SkipReason::Vanished);
        Ok(())
    }

    fn skip_found(&mut self, found: &Found, reason: SkipReason) -> Result<(), Stopped<E>> {
        self.skip(found.path.as_bytes().to_vec(), reason);
        Ok(())
    }

    fn skip(&mut self, path: Vec<u8>, reason: SkipReason) {
        self.report.skipped.push(Skipped { path, reason });
    }
}

#[allow(clippy::unnecessary_cast, reason = "it is narrower on other machines")]
fn count_names(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// Files with so many chunks are given out as they are read, to keep memory flat: they cannot be read again.
fn is_streamed(file: &LargeFile) -> bool {
    file.target.stat.size > STREAMED_BYTES_MIN
}

/// Batches and blocks in flight, each with a buffer.
const SLOTS_MAX: usize = 32;
/// Entries of an unchanged file that travel together.
const ROW_ENTRIES_MAX: usize = 512;
/// How often a file is read again that changed while it was read.
const ATTEMPTS_AGAIN: usize = 3;
/// The longest target of a link that fits a value beside the other metadata.
const POINTER_BYTES_MAX: usize = INLINE_VALUE_BYTES_MAX as usize - 64;
/// Chunk references of a file that are kept in memory need 12 MiB at most.
const STREAMED_BYTES_MIN: u64 = 16 << 30;

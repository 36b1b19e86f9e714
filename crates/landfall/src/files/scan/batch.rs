//! Owns the reading of small files, many at a time: each is at most one chunk, and one buffer holds them all.

use std::ops::Range;

use landfall_core::limits::WHOLE_FILE_BYTES_MAX;

use super::attributes::{self, Attributes};
use super::block::{BLOCK_BYTES, Block};
use super::row::Row;
use super::target::{Attempt, Target, read_at};
use super::worker::Context;
use super::{ChunkSink, ScanError, Stopped};

/// One path of a batch, before or after its file was read.
pub(super) enum Item {
    /// Nothing to read, or nothing more.
    Row(Row),
    /// A small file to be read.
    Read(Target),
    /// A file that was not the same before and after it was read.
    Changed(Target),
    /// A file that is no longer there.
    Gone(Target),
}

/// Items that are read together. It is closed when one more might not fit its limits.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) files: usize,
    entries: usize,
    bytes: usize,
    directories: usize,
}

impl Batch {
    pub(super) fn push_row(&mut self, row: Row) {
        self.entries += row.entries.len();
        self.items.push(Item::Row(row));
    }

    pub(super) fn push_file(&mut self, target: Target) {
        self.entries += 1;
        self.files += 1;
        self.bytes += room(&target);
        self.directories += usize::from(self.last_directory() != Some(std::sync::Arc::as_ptr(&target.directory)));
        self.items.push(Item::Read(target));
    }

    fn last_directory(&self) -> Option<*const std::os::fd::OwnedFd> {
        self.items.iter().rev().find_map(|item| match item {
            Item::Read(target) => Some(std::sync::Arc::as_ptr(&target.directory)),
            _ => None,
        })
    }

    /// Is there no room for one more file of any small size?
    pub(super) fn is_full(&self) -> bool {
        self.bytes > BATCH_BYTES_MAX
            || self.files >= FILES_MAX
            || self.entries >= ENTRIES_MAX
            || self.directories >= DIRECTORIES_MAX
    }
}

/// Reads the files of a batch; rows stay as they are.
pub(super) fn read_batch<C: ChunkSink>(
    context: &Context<'_, C>,
    items: Vec<Item>,
) -> Result<Vec<Item>, Stopped<C::Error>> {
    let mut block = context.pool.take();
    let mut filled = 0;
    let mut reads = Vec::with_capacity(items.len());
    for item in items {
        reads.push(match item {
            Item::Read(target) => match read_file(context, &target, &mut block, filled)? {
                Attempt::Done((range, attributes)) => {
                    filled = range.end;
                    Read::File(target, range, attributes)
                }
                Attempt::Changed => Read::Item(Item::Changed(target)),
                Attempt::Gone => Read::Item(Item::Gone(target)),
            },
            item => Read::Item(item),
        });
    }
    let bytes = block.freeze();
    reads
        .into_iter()
        .map(|read| match read {
            Read::Item(item) => Ok(item),
            Read::File(target, range, attributes) => {
                let row = context.small_row(&target, target.stat, bytes.slice(range), attributes)?;
                Ok(Item::Row(row))
            }
        })
        .collect()
}

/// An item whose bytes are in the buffer, or one that has none.
enum Read {
    Item(Item),
    File(Target, Range<usize>, Attributes),
}

fn read_file<C: ChunkSink>(
    context: &Context<'_, C>,
    target: &Target,
    block: &mut Block,
    start: usize,
) -> Result<Attempt<(Range<usize>, Attributes)>, ScanError> {
    let file = match target.open()? {
        Attempt::Done(file) => file,
        Attempt::Changed => return Ok(Attempt::Changed),
        Attempt::Gone => return Ok(Attempt::Gone),
    };
    context.count_file();
    // One byte more than there should be tells whether the file grew.
    let room = &mut block.bytes_mut()[start..start + room(target)];
    let length = read_at(&file, &target.path, room, 0)?;
    context.count_bytes(length);
    let attributes = attributes::of_file(&file, &target.path)?;
    if length as u64 != target.stat.size || !target.is_unchanged(&file)? {
        return Ok(Attempt::Changed);
    }
    Ok(Attempt::Done((start..start + length, attributes)))
}

fn room(target: &Target) -> usize {
    target.stat.size as usize + 1
}

/// Leaves room for one more file of any small size.
const BATCH_BYTES_MAX: usize = BLOCK_BYTES - WHOLE_FILE_BYTES_MAX as usize - 1;
const FILES_MAX: usize = 64;
const ENTRIES_MAX: usize = 1024;
/// Each keeps a descriptor open until the batch is read.
const DIRECTORIES_MAX: usize = 16;

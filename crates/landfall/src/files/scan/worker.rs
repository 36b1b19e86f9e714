//! Owns the threads that read and hash. They take work in order; whoever gave it takes the results in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use landfall_core::files::{Content, FileKey, FileKind, FilePath};
use landfall_core::limits::{INLINE_FILE_BYTES_MAX, INLINE_VALUE_BYTES_MAX};
use landfall_core::tree::{ChunkRef, Value};
use landfall_core::{Chunk, Domain};

use super::attributes::{Attributes, Others};
use super::batch::{Item, read_batch};
use super::block::BlockPool;
use super::large::{BlockWork, Refs};
use super::row::{Row, XattrsKept};
use super::target::{Attempt, Target};
use super::{ChunkSink, Stopped};
use crate::files::index::FileStat;

/// What all workers share.
pub(super) struct Context<'a, C> {
    pub(super) chunks: &'a C,
    pub(super) pool: Arc<BlockPool>,
    pub(super) files_read: AtomicU64,
    pub(super) bytes_read: AtomicU64,
}

/// Something to read.
pub(super) enum Work {
    Batch(Vec<Item>),
    Block(BlockWork),
}

/// What was read.
pub(super) enum Done {
    Batch(Vec<Item>),
    Block(Attempt<Refs>),
}

pub(super) struct Job<E> {
    pub(super) work: Work,
    pub(super) reply: SyncSender<Result<Done, Stopped<E>>>,
}

/// Works until no more jobs can come.
pub(super) fn work_off<C: ChunkSink>(jobs: &Mutex<Receiver<Job<C::Error>>>, context: &Context<'_, C>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { work, reply }) = job else { return };
        let done = match work {
            Work::Batch(items) => read_batch(context, items).map(Done::Batch),
            Work::Block(block) => block.read(context).map(Done::Block),
        };
        // Whoever gave the job may have stopped meanwhile: then nobody misses the result.
        let _ = reply.send(done);
    }
}

impl<C: ChunkSink> Context<'_, C> {
    pub(super) fn count_file(&self) {
        self.files_read.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_bytes(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Hashes a chunk and hands it on, unless the previous tree has the same one here.
    pub(super) fn take_chunk(
        &self,
        key: &FileKey,
        bytes: Bytes,
        previous: Option<ChunkRef>,
    ) -> Result<ChunkRef, Stopped<C::Error>> {
        let chunk = Chunk::new(Domain::Data, bytes);
        if previous.is_none_or(|previous| previous.id != chunk.id()) {
            self.chunks.chunk(key, &chunk, previous).map_err(Stopped::Sink)?;
        }
        Ok(ChunkRef { id: chunk.id(), bytes: chunk.bytes().len() as u32 })
    }

    /// What a file adds that is at most one chunk long.
    pub(super) fn small_row(
        &self,
        target: &Target,
        stat: FileStat,
        bytes: Bytes,
        attributes: Attributes,
    ) -> Result<Row, Stopped<C::Error>> {
        let (content, chunk) = if bytes.len() <= INLINE_FILE_BYTES_MAX as usize {
            (Content::Inline(bytes), None)
        } else {
            let key = FileKey::Meta(target.path.clone());
            (Content::Whole, Some(self.take_chunk(&key, bytes, target.old_chunk)?))
        };
        let mut row = Row::new(target.path.clone(), FileKind::File { size: stat.size, content }, chunk, stat);
        self.add_attributes(&mut row, attributes)?;
        Ok(row)
    }

    /// Adds extended attributes, which follow the content.
    pub(super) fn add_attributes(&self, row: &mut Row, attributes: Attributes) -> Result<(), Stopped<C::Error>> {
        if attributes.others == Others::Some {
            row.xattrs_kept = XattrsKept::Some;
        }
        match attributes.encoded {
            Ok(None) => {}
            Ok(Some(encoded)) => {
                row.xattrs = Some(self.attributes_value(&row.path, encoded)?);
            }
            Err(_) => row.xattrs_kept = XattrsKept::TooLong,
        }
        Ok(())
    }

    fn attributes_value(&self, path: &FilePath, encoded: Bytes) -> Result<Value, Stopped<C::Error>> {
        if encoded.len() <= INLINE_VALUE_BYTES_MAX as usize {
            return Ok(Value::inline(encoded));
        }
        let chunk = self.take_chunk(&FileKey::Xattrs(path.clone()), encoded, None)?;
        Ok(Value::chunk(chunk.id, chunk.bytes))
    }
}

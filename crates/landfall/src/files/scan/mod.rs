//! Owns turning a directory into the sorted entries of a file tree, reading only what changed since the last scan.
//!
//! One thread walks in key order and hands out work; workers read, cut and hash; what they find is given out in key order
//! again. Memory is bounded by the blocks in flight and the names of one directory per level. It never stores a chunk, builds
//! a tree or writes an index: whoever calls does. Mounts inside the directory are followed, symlinks never.

mod attributes;
mod batch;
mod block;
mod known;
mod large;
mod report;
mod row;
mod scanner;
mod target;
mod walk;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

use landfall_core::Chunk;
use landfall_core::files::{FileKey, FilePath};
use landfall_core::tree::{ChunkRef, Nodes, Root, Value};

use super::index::{FileStat, IndexReader};

pub use report::{Counted, Report, SkipReason, Skipped};

/// What to scan, and what is known of it.
pub struct Scan<'a> {
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// What becomes of a file that changes whenever it is read.
    pub changing: ChangingFiles,
    /// Threads that read and hash; one more walks. [`Scan::default_threads`] is a good choice.
    pub threads: NonZeroUsize,
    /// The last scan of the same directory.
    pub previous: Option<Previous<'a>>,
}

impl Scan<'_> {
    /// As many threads as this process may use at once, up to what saturates any disk.
    pub fn default_threads() -> NonZeroUsize {
        std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(THREADS_MAX))
    }
}

/// The last scan of a directory. What it no longer has makes a scan slower, never wrong.
pub struct Previous<'a> {
    /// The tree that it gave.
    pub root: Root,
    /// Where that tree's nodes are.
    pub nodes: &'a dyn Nodes,
    /// What the files looked like then: those that look the same are not read. Nothing, if every file is to be read.
    pub index: Option<IndexReader>,
}

/// What becomes of a file that changed each time while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangingFiles {
    /// The scan fails and names it: nothing is published that never was.
    Refuse,
    /// What was read last is taken and the file is reported: good for logs that are only appended to.
    Accept,
}

/// Takes the chunks of a scan, from several threads at once and in no order.
pub trait ChunkSink: Sync {
    /// Why a chunk is refused.
    type Error: Send;

    /// Takes a chunk that the previous tree does not have at this place. `previous` is what it has instead: what a patch would
    /// be made against. It comes before the entry that refers to it.
    fn chunk(&self, key: &FileKey, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), Self::Error>;
}

/// Takes the entries of a scan, in key order, on the thread that called [`scan`].
pub trait EntrySink {
    /// Why an entry is refused.
    type Error;

    /// Takes an entry of the tree.
    fn entry(&mut self, key: &[u8], value: &Value) -> Result<(), Self::Error>;

    /// Takes what a path looked like, for the index: in path order, each path once.
    fn stat(&mut self, path: &FilePath, stat: &FileStat) -> Result<(), Self::Error>;
}

/// Scans a directory once.
pub fn scan<C, T, E>(scan: Scan<'_>, chunks: &C, entries: &mut T) -> Result<Report, Stopped<E>>
where
    C: ChunkSink<Error = E>,
    T: EntrySink<Error = E>,
    E: Send,
{
    scanner::run(scan, chunks, entries)
}

/// Why a scan stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stopped<E> {
    /// The directory cannot be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A sink refused what it was given.
    #[error("what was scanned is refused")]
    Sink(#[source] E),
}

/// Why a directory cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A path cannot be read: mend its permissions, or the disk, and scan again.
    #[error("cannot read '{path}': {source}")]
    Unreadable {
        /// The path, relative to the directory.
        path: FilePath,
        /// What the system says.
        source: io::Error,
    },
    /// A file changed each time while it was read: scan again when it rests, or accept such files.
    #[error("'{path}' changes while it is read")]
    Changing {
        /// The path, relative to the directory.
        path: FilePath,
    },
    /// The system gives no thread to read with: scan again when it has some.
    #[error("no thread to read with: {source}")]
    NoThread {
        /// What the system says.
        source: io::Error,
    },
}

/// More threads than this gain nothing on any disk.
const THREADS_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();

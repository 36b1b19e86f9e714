//! Owns the log on disk: records in order, in segments, appended many at a time and made durable by one sync.
//!
//! It never knows what a record means. It serves a keyed state's own log and a raft log: append, sync, read from an
//! index on, truncate a tail that lost, purge what a snapshot holds. Memory does not grow with the log.

mod append;
mod cache;
mod cut;
mod disk;
mod error;
mod purge_point;
mod read;
mod reader;
mod record;
mod recovery;
mod segment;
mod signposts;
mod sync;
mod tail;

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use landfall_core::snapshot::Position;

use crate::lock::lock;
use crate::vfs::Vfs;

use disk::Disk;
use tail::State;

pub use error::{DamagedLog, LogDamage, LogError, LogOpenError};
pub use record::{LOG_PAYLOAD_BYTES_MAX, LogRecord};

/// How a log works. The default is right for everything but tests and simulations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is finished when the next record would carry it beyond this.
    pub segment_bytes_target: u32,
    /// Bytes of the newest records that are kept in memory.
    pub cache_bytes_max: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes_target: 32 * 1024 * 1024, cache_bytes_max: 8 * 1024 * 1024 }
    }
}

/// Ordered records on this machine. One process owns a log's directory at a time.
///
/// All methods may be called from many threads. A record that was appended is readable at once; it survives a power cut
/// once a [`Log::sync`] that began after the append returned. Only then may it be acknowledged to others.
#[derive(Debug)]
pub struct Log {
    disk: Disk,
    options: LogOptions,
    state: Mutex<State>,
    /// Held by readers of files for reading, by who removes or cuts them for writing.
    layout: RwLock<()>,
    /// Held by the one that syncs, truncates or purges. Locks are taken in the order turn, layout, state.
    turn: Mutex<()>,
}

impl Log {
    /// Opens the log in `directory`, creating it if there is none.
    ///
    /// A tail that a crash tore is cut; what is found is durable when this returns.
    ///
    /// # Errors
    /// [`LogOpenError::InUse`] if somebody else has it open. [`LogError::Damaged`] if something that was durable is not
    /// what was written: never taken for the end of the log. Only the very last records that were synced, after which
    /// nothing was written and the log was not closed, look like a torn tail when they are damaged.
    pub fn open(vfs: Arc<dyn Vfs>, directory: &Path, options: LogOptions) -> Result<Self, LogOpenError> {
        let log = recovery::open(vfs, directory, options)?;
        // As when it is dropped: a full disk must not keep anybody from reading.
        drop(log.leave_receipt());
        Ok(log)
    }

    /// The least index that may be read: everything below was purged.
    pub fn first_index(&self) -> u64 {
        self.purged_through().map_or(0, |purged| purged.index.saturating_add(1))
    }

    /// Index of the last record, or of the purge if that is all there is; `None` if there never was one.
    pub fn last_index(&self) -> Option<u64> {
        self.last_position().map(|last| last.index)
    }

    /// Position of the last record, or of the purge if that is all there is; `None` if there never was one.
    pub fn last_position(&self) -> Option<Position> {
        lock(&self.state).last
    }

    /// The position that the last purge was given.
    pub fn purged_through(&self) -> Option<Position> {
        lock(&self.state).purged
    }

    /// Length of all segments, with what is prepared for the next records.
    pub fn size_bytes(&self) -> u64 {
        lock(&self.state).size_bytes()
    }

    /// Bytes that appended records took since the log was opened. It never goes back: what was truncated or purged since counts too.
    pub fn appended_bytes(&self) -> u64 {
        lock(&self.state).appended_bytes
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The receipt only lets the next open tell damage from a torn tail; without it, nothing is lost.
        drop(self.leave_receipt());
    }
}

//! What several tests of the log share: small segments, records by index, and reading all.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::snapshot::Position;
use landfall_store::log::{Log, LogError, LogOpenError, LogOptions, LogRecord};
use landfall_store::vfs::faulty::FaultyVfs;

/// A few records fill a segment, and the cache holds fewer than a segment.
pub(crate) fn small_options() -> LogOptions {
    LogOptions { segment_bytes_target: 700, cache_bytes_max: 400 }
}

pub(crate) fn open(vfs: &FaultyVfs) -> Result<Log, LogOpenError> {
    Log::open(Arc::new(vfs.clone()), Path::new("log"), small_options())
}

pub(crate) fn position(epoch: u64, index: u64) -> Position {
    Position { epoch, index }
}

/// A record whose payload depends on its position, with a length that does too.
pub(crate) fn record(epoch: u64, index: u64) -> LogRecord {
    let bytes = (index * 31 + epoch * 7) % 120;
    let payload = [epoch, index].iter().flat_map(|part| part.to_le_bytes()).cycle().take(bytes as usize).collect();
    LogRecord { position: position(epoch, index), kind: index as u8, payload }
}

pub(crate) fn records(epoch: u64, indices: impl IntoIterator<Item = u64>) -> Vec<LogRecord> {
    indices.into_iter().map(|index| record(epoch, index)).collect()
}

pub(crate) fn large_record(index: u64, bytes: usize) -> LogRecord {
    LogRecord { position: position(1, index), kind: 1, payload: Bytes::from(vec![index as u8; bytes]) }
}

/// Reads everything, in small pieces.
pub(crate) fn read_all(log: &Log) -> Result<Vec<LogRecord>, LogError> {
    let mut all: Vec<LogRecord> = Vec::new();
    let mut from = log.first_index();
    loop {
        let some = log.read(from, 300)?;
        let Some(last) = some.last() else { return Ok(all) };
        from = last.position.index + 1;
        all.extend(some);
    }
}

//! Owns the file that remembers what was purged: one position, replaced at one instant.
//!
//! It never removes a segment.

use std::io;
use std::path::PathBuf;

use landfall_core::snapshot::Position;

use crate::frame::u64_at;
use crate::vfs::OpenMode;

use super::disk::Disk;
use super::error::{LogDamage, LogError};

/// Makes the position durable as the last purged one.
pub(super) fn write(disk: &Disk, through: Position) -> Result<(), LogError> {
    disk.create_whole(&path(disk), &to_bytes(through)).map(drop)
}

/// The last purged position, if there was a purge.
pub(super) fn read(disk: &Disk) -> Result<Option<Position>, LogError> {
    let path = path(disk);
    let mut bytes = [0; FILE_BYTES];
    let outcome = disk.vfs.open(&path, OpenMode::Read).and_then(|file| file.read_at(0, &mut bytes));
    let damaged = || LogError::damaged(path.clone(), 0, LogDamage::Header);
    match outcome {
        Ok(()) => from_bytes(&bytes).map(Some).ok_or_else(damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged()),
        Err(error) => Err(LogError::io("read", &path, error)),
    }
}

fn to_bytes(through: Position) -> Vec<u8> {
    let mut out = Vec::with_capacity(FILE_BYTES);
    out.extend(MAGIC);
    out.extend(through.epoch.to_le_bytes());
    out.extend(through.index.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

fn from_bytes(bytes: &[u8; FILE_BYTES]) -> Option<Position> {
    let through = Position { epoch: u64_at(bytes, 8)?, index: u64_at(bytes, 16)? };
    (to_bytes(through) == bytes).then_some(through)
}

fn path(disk: &Disk) -> PathBuf {
    disk.directory.join("purged")
}

const MAGIC: [u8; 8] = *b"LFPURG01";
const FILE_BYTES: usize = 28;

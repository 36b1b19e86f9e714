//! Owns the errors of the log, named by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use landfall_core::snapshot::Position;

use super::record::LOG_PAYLOAD_BYTES_MAX;

/// Why the log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused. What was asked may have happened; doing it again is safe.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What the log was doing.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk is full. Nothing that was appended is lost: free space and go on.
    #[error("no space left to {action} {}", path.display())]
    Full {
        /// What the log was doing.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Something that was durable is not what was written: take the state, and the log after it, from another member.
    #[error("the log is damaged: {0}")]
    Damaged(DamagedLog),
    /// A sync or a cut failed, now or earlier, so nobody knows what the disk holds: open the log again.
    #[error("a change of {} failed half-way; the log must be opened again", path.display())]
    Reopen {
        /// The file or directory that is in doubt.
        path: PathBuf,
        /// What the disk said, to the first who asked.
        source: Option<io::Error>,
    },
    /// A record must have a greater index than the last one, and no smaller epoch: truncate first.
    #[error("a record at {position} cannot follow one at {last}")]
    OutOfOrder {
        /// Position of the refused record.
        position: Position,
        /// The position that it does not follow.
        last: Position,
    },
    /// The records up to here were purged: a snapshot holds what they did.
    #[error("the records up to {through} were purged")]
    Purged {
        /// The last purged position.
        through: Position,
    },
    /// The payload is longer than any record's: split it.
    #[error("a payload of {bytes} bytes is longer than {LOG_PAYLOAD_BYTES_MAX}")]
    TooLong {
        /// Length of the refused payload.
        bytes: usize,
    },
}

impl LogError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path },
            _ => Self::Io { action, path, source },
        }
    }

    pub(super) fn damaged(path: PathBuf, offset: u32, what: LogDamage) -> Self {
        Self::Damaged(DamagedLog { path, offset, what })
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    /// Another process, or another log of this process, has the directory: ask that one, or stop it first.
    #[error("the log in {} is in use by another process: stop it first", directory.display())]
    InUse {
        /// The directory of the log.
        directory: PathBuf,
    },
    /// An option has no sense.
    #[error("segment_bytes_target must be between {min} and {max}")]
    BadOption {
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
    /// The disk refused, or what it holds is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where a log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} at offset {offset}: {what}", path.display())]
pub struct DamagedLog {
    /// The file of the segment, or the one that remembers what was purged.
    pub path: PathBuf,
    /// Where the damage begins.
    pub offset: u32,
    /// What is wrong there.
    pub what: LogDamage,
}

/// What is wrong with a damaged log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogDamage {
    /// The file should be there and is not.
    #[error("the file is missing")]
    Missing,
    /// The file's own header or content is wrong.
    #[error("the header is wrong")]
    Header,
    /// A frame is wrong, or does not follow the one before it.
    #[error("a frame is wrong")]
    Frame,
    /// The file ends here, and should not.
    #[error("the file is cut")]
    Cut,
}

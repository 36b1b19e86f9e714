//! Owns the errors of the store, named by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use landfall_core::ChunkId;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused. A write may have happened; doing it again is safe.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What the store was doing.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk is full. Nothing that was stored is lost: free space and go on.
    #[error("no space left to {action} {}: free some and try again, nothing that was stored is lost", path.display())]
    Full {
        /// What the store was doing.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A frame is not what was written. From now on its chunk counts as absent: fetch it again and put it.
    #[error("damaged: {0}")]
    Damaged(DamagedFrame),
    /// The base of a patch is not here, or hangs on too many patches itself: store the chunk without it.
    #[error("the base {base} of chunk {id} cannot serve as one")]
    BaseUnusable {
        /// The chunk that was to be stored.
        id: ChunkId,
        /// The base that its patch names.
        base: ChunkId,
    },
    /// An encoded form is longer than any plaintext: store the chunk raw.
    #[error("a form of {bytes} bytes is longer than any chunk")]
    FormTooLong {
        /// Length of the refused form.
        bytes: usize,
    },
    /// An earlier sync failed, so nobody knows what the disk holds: open the store again.
    #[error("an earlier sync of {} failed; the store must be opened again", path.display())]
    SyncFailed {
        /// The file or directory whose sync failed.
        path: PathBuf,
    },
    /// The control file cannot be used.
    #[error("the control file {} failed", path.display())]
    Control {
        /// The control file.
        path: PathBuf,
        /// What went wrong.
        source: Box<redb::Error>,
    },
    /// A name or a value is longer than its limit.
    #[error("{what} of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path },
            _ => Self::Io { action, path, source },
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this process, has the directory: ask that one, or stop it first.
    #[error("the store in {} is in use by another process: ask that one, or stop it first", directory.display())]
    InUse {
        /// The directory of the store.
        directory: PathBuf,
    },
    /// An option has no sense.
    #[error("{option} must be between {min} and {max}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
    /// The disk or the control file refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A frame whose bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} at offset {offset}{}", pack.display(), id.map(|id| format!(", chunk {id}")).unwrap_or_default())]
pub struct DamagedFrame {
    /// The file of the pack.
    pub pack: PathBuf,
    /// Where the frame begins.
    pub offset: u32,
    /// The chunk, if the frame still says which.
    pub id: Option<ChunkId>,
}

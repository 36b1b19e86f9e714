//! Owns the log's calls to the file system: names, errors, and the rule that a failed sync is never repeated.
//!
//! The kernel may have dropped the pages of a sync that failed (Rebello et al.: "Can applications recover from fsync
//! failures?", 2020), so from then on the log refuses to change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::vfs::{OpenMode, Vfs, VfsFile, VfsLock};

use super::error::{LogError, LogOpenError};
use super::segment::{SegmentHeader, SegmentNumber};

/// The directory of a log.
pub(super) struct Disk {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) directory: PathBuf,
    /// The first file whose content is in doubt.
    in_doubt: OnceLock<PathBuf>,
    _lock: Box<dyn VfsLock>,
}

impl Disk {
    /// Creates the directory if there is none, and takes its lock.
    pub(super) fn open(vfs: Arc<dyn Vfs>, directory: &Path) -> Result<Self, LogOpenError> {
        vfs.create_directory(directory).map_err(|error| LogError::io("create", directory, error))?;
        let path = directory.join("lock");
        let lock = vfs.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogOpenError::InUse { directory: directory.to_owned() },
            _ => LogError::io("lock", &path, error).into(),
        })?;
        Ok(Self { vfs, directory: directory.to_owned(), in_doubt: OnceLock::new(), _lock: lock })
    }

    /// Refuses if an earlier call left the disk in doubt.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.in_doubt.get() {
            Some(path) => Err(LogError::Reopen { path: path.clone(), source: None }),
            None => Ok(()),
        }
    }

    /// From now on nobody knows what `path` holds.
    pub(super) fn doubt(&self, path: &Path, source: io::Error) -> LogError {
        self.in_doubt.get_or_init(|| path.to_owned());
        LogError::Reopen { path: path.to_owned(), source: Some(source) }
    }

    pub(super) fn path(&self, number: SegmentNumber) -> PathBuf {
        self.directory.join(number.file_name())
    }

    pub(super) fn open_segment(&self, number: SegmentNumber, mode: OpenMode) -> Result<Arc<dyn VfsFile>, LogError> {
        let path = self.path(number);
        self.vfs.open(&path, mode).map_err(|error| LogError::io("open", &path, error))
    }

    pub(super) fn remove_segment(&self, number: SegmentNumber) -> Result<(), LogError> {
        let path = self.path(number);
        self.vfs.remove(&path).map_err(|error| LogError::io("remove", &path, error))
    }

    /// Creates a segment. When it has its name, its header is durable: a wrong header is always damage.
    pub(super) fn create_segment(&self, header: SegmentHeader) -> Result<Arc<dyn VfsFile>, LogError> {
        self.create_whole(&self.path(header.number), &header.to_bytes())
    }

    /// Puts a file in its place, durably and at one instant.
    pub(super) fn create_whole(&self, path: &Path, content: &[u8]) -> Result<Arc<dyn VfsFile>, LogError> {
        let new = path.with_added_extension(NEW_EXTENSION);
        let made = self.make(&new, content).and_then(|file| self.vfs.rename(&new, path).map(|()| file));
        let file = made.map_err(|error| LogError::io("create", path, error))?;
        self.sync_directory()?;
        Ok(file)
    }

    fn make(&self, path: &Path, content: &[u8]) -> io::Result<Arc<dyn VfsFile>> {
        let file = match self.vfs.open(path, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.vfs.remove(path)?;
                self.vfs.open(path, OpenMode::CreateNew)?
            }
            outcome => outcome?,
        };
        file.write_at(0, content)?;
        file.sync_data()?;
        Ok(file)
    }

    pub(super) fn sync(&self, file: &dyn VfsFile, number: SegmentNumber) -> Result<(), LogError> {
        file.sync_data().map_err(|error| self.doubt(&self.path(number), error))
    }

    pub(super) fn sync_directory(&self) -> Result<(), LogError> {
        self.vfs.sync_directory(&self.directory).map_err(|error| self.doubt(&self.directory, error))
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.display())
    }
}

/// A file that is not whole yet.
pub(super) const NEW_EXTENSION: &str = "new";

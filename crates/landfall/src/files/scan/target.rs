//! Owns the opening of a file that the walk came upon, and the question whether it is still the same.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use landfall_core::files::{Content, FilePath};
use landfall_core::tree::ChunkRef;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::ScanError;
use super::walk::unreadable;
use crate::files::index::FileStat;

/// A regular file that is to be read.
pub(super) struct Target {
    pub(super) path: FilePath,
    /// The directory that holds it.
    pub(super) directory: Arc<OwnedFd>,
    /// What it looked like before it was opened.
    pub(super) stat: FileStat,
    /// How many names it has.
    pub(super) names: u64,
    /// How it was cut the last time.
    pub(super) old_content: Option<Content>,
    /// Its only chunk at that time.
    pub(super) old_chunk: Option<ChunkRef>,
}

/// An attempt to open or read a file.
pub(super) enum Attempt<T> {
    /// It went well.
    Done(T),
    /// The file is not what it was: look again.
    Changed,
    /// The file is no longer there.
    Gone,
}

impl Target {
    /// Opens the file, never anything else that took its place.
    pub(super) fn open(&self) -> Result<Attempt<OwnedFd>, ScanError> {
        // Without `NONBLOCK`, a pipe that took its place would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, self.path.name(), flags, Mode::empty()) {
            Ok(file) => Ok(Attempt::Done(file)),
            Err(Errno::NOENT) => Ok(Attempt::Gone),
            Err(Errno::LOOP | Errno::NXIO) => Ok(Attempt::Changed),
            Err(error) => Err(unreadable(&self.path)(error)),
        }
    }

    /// What the open file looks like now; nothing if it is not a regular file.
    pub(super) fn look_again(&self, file: impl AsFd) -> Result<Option<FileStat>, ScanError> {
        let stat = rustix::fs::fstat(file).map_err(unreadable(&self.path))?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_regular.then(|| FileStat::of(&stat)))
    }

    /// Has nothing happened to the file since the walk looked at it?
    pub(super) fn is_unchanged(&self, file: impl AsFd) -> Result<bool, ScanError> {
        Ok(self.look_again(file)? == Some(self.stat))
    }
}

/// Reads until `buffer` is full or the file ends, and says how much it was.
pub(super) fn read_at(file: impl AsFd, path: &FilePath, buffer: &mut [u8], offset: u64) -> Result<usize, ScanError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(ScanError::Unreadable { path: path.clone(), source: io::Error::from(error) });
            }
        }
    }
    Ok(filled)
}

//! Owns the wall between the store and the operating system: every file call goes through [`Vfs`].
//!
//! It never retries, buffers or decides; it only says what a file system must do for the store.

pub mod faulty;
mod real;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealVfs;

/// The few calls of a file system that the store needs.
///
/// Durability is explicit, as on Linux: written bytes survive a power cut once [`VfsFile::sync_data`] returned, names
/// (created, renamed, removed) once [`Vfs::sync_directory`] of their directory returned.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Creates a directory and its parents, durably; one that is there already is fine.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;

    /// Gives a file another name in the same directory, replacing what had that name, at one instant.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Handles that are open stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names of the files in a directory, sorted. Names that are not UTF-8 are left out: none is ours.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Makes names created, changed and removed in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Takes the exclusive lock that a file stands for, creating the file if needed.
    ///
    /// Never waits: a lock that somebody else holds is an error of kind [`io::ErrorKind::WouldBlock`]. The lock is
    /// given back when the returned value is dropped, or when the process ends.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>>;
}

/// An open file. Writes are positional, so a failed one may be repeated.
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// Fills `buffer` from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Length of the file.
    fn bytes(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Makes everything written so far survive a power cut (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// A hint: these bytes were written and will be synced, so the disk may begin with them. It promises nothing and waits for nothing.
    fn begin_writeback(&self, _offset: u64, _bytes: u64) {}
}

/// A lock that is held until it is dropped.
pub trait VfsLock: Send + Sync + fmt::Debug {}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

//! Owns why a pull cannot change its destination, with what to do next.

use std::io;
use std::path::PathBuf;

use landfall_core::files::FilePath;

use crate::files::block::ReadError;

/// Why a step of a pull did not happen. Nothing is lost: what was staged is kept, and the next pull goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The destination holds files that Landfall did not put there.
    #[error(
        "'{}' is not empty and was not made by a pull: pull into a new or empty directory, or move '{found}' and the rest \
         away first", destination.display()
    )]
    NotOurs {
        /// The directory.
        destination: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The destination is no directory.
    #[error("'{}' is not a directory: name a new or empty directory", .0.display())]
    NotADirectory(PathBuf),
    /// Another process pulls into the destination.
    #[error("another process is pulling into '{}': wait for it, or end it", .0.display())]
    Busy(PathBuf),
    /// A path that is Landfall's own.
    #[error("the path '{0}' is refused: '.landfall' is where a pull keeps its own data")]
    Reserved(FilePath),
    /// The file system of the destination takes no name that long.
    #[error(
        "'{path}' cannot be kept here: names have at most {bytes_max} bytes on this file system; pull to another one"
    )]
    NameTooLong {
        /// The path.
        path: FilePath,
        /// Longest name.
        bytes_max: u64,
    },
    /// A file has more names than the file system of the destination allows.
    #[error(
        "'{path}' cannot be kept here with its {names} names (hard links): {source}; pull to another file system, or snapshot \
         fewer names"
    )]
    TooManyNames {
        /// The first name.
        path: FilePath,
        /// How many there would be.
        names: u64,
        /// What the file system said.
        source: io::Error,
    },
    /// A file or a symlink stands on the way to the path, and none is ever followed.
    #[error("the path '{0}' is refused: a directory on its way is a symlink or a file; remove that and pull again")]
    Blocked(FilePath),
    /// Part of the destination is on another file system, where nothing can be renamed to.
    #[error("'{0}' is on another file system than the destination: unmount it, or pull into each on its own")]
    OtherFileSystem(FilePath),
    /// The caller asked for something that cannot be right: the plan is out of order, or bytes lie beyond a file's end.
    #[error("'{path}' is refused: {reason}")]
    Refused {
        /// The path.
        path: FilePath,
        /// What is wrong.
        reason: &'static str,
    },
    /// The disk is full, or a quota is used up.
    #[error(
        "not enough space in '{}': {needed_bytes} bytes are still needed and {free_bytes} are free; free some and pull again, \
         which continues from here", destination.display()
    )]
    DiskFull {
        /// The directory.
        destination: PathBuf,
        /// Bytes that are still to be written, as far as it is known.
        needed_bytes: u64,
        /// Bytes that this process may still use.
        free_bytes: u64,
    },
    /// A file of Landfall's own cannot be read.
    #[error("'{}' cannot be used: {source}; remove it and pull again, discarding local changes", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// There is no earlier state to go back to.
    #[error("'{}' keeps nothing to go back to: only a pull with --keep-previous does", .0.display())]
    NothingPrevious(PathBuf),
    /// The operating system refused.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

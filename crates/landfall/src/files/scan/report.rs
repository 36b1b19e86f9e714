//! Owns what a scan has to tell besides the tree. Every list is bounded; what does not fit is still counted.

use landfall_core::files::FilePath;

/// What a scan found, and what it could not keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Regular files, without further names of the same file.
    pub files: u64,
    /// Directories, with the root.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Length of all regular files.
    pub bytes: u64,
    /// Files that were opened and read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// What is not in the tree.
    pub skipped: Counted<Skipped>,
    /// Files that changed each time while they were read, and were taken as they were read last.
    pub changing: Counted<FilePath>,
    /// Paths with extended attributes of namespaces that are not kept, such as labels of the security system.
    pub unkept_xattrs: Counted<FilePath>,
    /// Why the previous scan could not be used to its end.
    pub previous_lost: Option<String>,
}

/// The first of something, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<T> {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<T>,
}

impl<T> Counted<T> {
    pub(super) fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < LISTED_MAX {
            self.first.push(item);
        }
    }
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self { count: 0, first: Vec::new() }
    }
}

/// A path that is not in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The path, relative to the directory. It may be one that no tree can hold.
    pub path: Vec<u8>,
    /// Why it is not there.
    pub reason: SkipReason,
}

/// Why a path is not in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// It is a socket, which means nothing elsewhere.
    Socket,
    /// It is a named pipe.
    Pipe,
    /// It is a device.
    Device,
    /// Its path is longer than a key has room for; so is everything below it.
    PathTooLong,
    /// It is a symlink with a longer target than a tree keeps.
    TargetTooLong,
    /// Its extended attributes are longer than a tree keeps. The path itself is in the tree.
    XattrsTooLong,
    /// It is one more name of a file whose first name is too long to point at. It is in the tree as a file of its own.
    LinkTooLong,
    /// It was removed while the directory was scanned.
    Vanished,
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Socket => "a socket",
            Self::Pipe => "a named pipe",
            Self::Device => "a device",
            Self::PathTooLong => "its path is too long",
            Self::TargetTooLong => "its target is too long",
            Self::XattrsTooLong => "its extended attributes are too long",
            Self::LinkTooLong => "the path it is linked to is too long: kept as a file of its own",
            Self::Vanished => "removed during the scan",
        })
    }
}

/// Items that a report names.
const LISTED_MAX: usize = 1000;

//! Owns the question of what somebody else did to a destination since the last pull.

use landfall_core::files::FilePath;

use super::Placement;
use super::error::PlaceError;
use super::walk::Walk;
use crate::files::index::{FileStat, IndexError, IndexRecord};

/// A path that is not as the last pull left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChange {
    /// The path.
    pub path: FilePath,
    /// How it differs.
    pub difference: Difference,
}

impl std::fmt::Display for LocalChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.difference)
    }
}

/// How a path differs from what the last pull left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It was not there.
    Added,
    /// It is gone.
    Removed,
    /// It is of another kind: a file became a directory, or the like.
    Kind,
    /// Its length is another.
    Size,
    /// Its length is the same, its time is another.
    Content,
    /// It is another file of the same length and time.
    Replaced,
    /// Its owner or mode is another.
    Attributes,
    /// Only the time of its last change is another: its extended attributes or its other names changed, or its content did and
    /// the time was set back. Its hash tells.
    ChangeTime,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Kind => "of another kind",
            Self::Size => "another length",
            Self::Content => "written to",
            Self::Replaced => "replaced",
            Self::Attributes => "another owner or mode",
            Self::ChangeTime => "touched",
        })
    }
}

/// Everything that changed, counted, and the first of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalChanges {
    count: u64,
    listed: Vec<LocalChange>,
}

impl LocalChanges {
    /// How many paths changed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first [`LOCAL_CHANGES_LISTED_MAX`] of them, in key order.
    pub fn listed(&self) -> &[LocalChange] {
        &self.listed
    }

    /// Are all of them listed?
    pub fn is_complete(&self) -> bool {
        self.count == self.listed.len() as u64
    }
}

impl std::fmt::Display for LocalChanges {
    /// A line for each of the first, and one that counts the rest.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for change in self.listed.iter().take(SHOWN_MAX) {
            writeln!(f, "  {change}")?;
        }
        match self.count - self.listed.len().min(SHOWN_MAX) as u64 {
            0 => Ok(()),
            more => writeln!(f, "  … and {more} more"),
        }
    }
}

/// Local changes that a text names.
const SHOWN_MAX: usize = 20;

/// Local changes that are held in memory; more are counted.
pub const LOCAL_CHANGES_LISTED_MAX: usize = 1 << 20;

/// Why local changes are not known.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The index cannot be used: every file must be read and hashed instead.
    #[error("the stat index of the destination cannot be used: {0}")]
    NoIndex(#[from] IndexError),
    /// The destination cannot be read.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl Placement {
    /// Compares the destination with its index: all paths are looked at, none is read.
    pub fn local_changes(&self) -> Result<LocalChanges, ChangesError> {
        let mut changes = LocalChanges::default();
        self.for_each_local_change(|change| {
            changes.count += 1;
            if changes.listed.len() < LOCAL_CHANGES_LISTED_MAX {
                changes.listed.push(change);
            }
            Ok(())
        })?;
        Ok(changes)
    }

    /// Calls `visit` with every path that changed, in key order, in flat memory.
    pub fn for_each_local_change(
        &self,
        mut visit: impl FnMut(LocalChange) -> Result<(), PlaceError>,
    ) -> Result<(), ChangesError> {
        let mut index = self.index()?;
        let mut walk = Walk::new(self.tree.root()).map_err(self.ground.refused("list", &FilePath::root()))?;
        let mut expected = index.next_record()?;
        while let Some((path, stat)) = walk.next_path().map_err(|error| self.unwalkable(error))? {
            while let Some(record) = expected.take_if(|record| record.path < path) {
                visit(removed(record))?;
                expected = index.next_record()?;
            }
            let difference = match expected.take_if(|record| record.path == path) {
                Some(record) => {
                    expected = index.next_record()?;
                    compare(&record.stat, &FileStat::of(&stat))
                }
                None if path.as_bytes() == LOST_AND_FOUND => None,
                None => Some(Difference::Added),
            };
            if let Some(difference) = difference {
                visit(LocalChange { path, difference })?;
            }
        }
        while let Some(record) = expected.take() {
            visit(removed(record))?;
            expected = index.next_record()?;
        }
        Ok(())
    }
}

fn removed(record: IndexRecord) -> LocalChange {
    LocalChange { path: record.path, difference: Difference::Removed }
}

fn compare(was: &FileStat, is: &FileStat) -> Option<Difference> {
    let kind = |stat: &FileStat| stat.mode & 0o170_000;
    let owner_and_mode = |stat: &FileStat| (stat.mode, stat.uid, stat.gid);
    if kind(was) != kind(is) {
        return Some(Difference::Kind);
    }
    if owner_and_mode(was) != owner_and_mode(is) {
        return Some(Difference::Attributes);
    }
    // What was added to a directory or removed from it is listed itself; nothing else of it is content.
    if kind(is) == 0o040_000 {
        return None;
    }
    if was.size != is.size {
        return Some(Difference::Size);
    }
    if was.mtime != is.mtime {
        return Some(Difference::Content);
    }
    if was.inode != is.inode {
        return Some(Difference::Replaced);
    }
    (was.ctime != is.ctime).then_some(Difference::ChangeTime)
}

/// What a file system keeps in its own root.
const LOST_AND_FOUND: &[u8] = b"lost+found";

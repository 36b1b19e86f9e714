//! Owns the order of a scan: every path of a directory, in the order of a file tree's keys.
//!
//! In that order `a` comes before `a-b`, and `a-b` before what is inside the directory `a`. It follows no symlink.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use landfall_core::files::FilePath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::ScanError;
use crate::files::place::CONTROL;

/// A walk over a directory.
pub(super) struct Walk {
    levels: Vec<Level>,
    root: Option<Arc<OwnedFd>>,
    listing: Vec<u8>,
}

struct Level {
    directory: Arc<OwnedFd>,
    path: FilePath,
    /// Names, and names with a slash where the walk goes down into them; the next one is the last.
    turns: Vec<Vec<u8>>,
}

/// What a walk comes upon.
pub(super) enum Step {
    /// A path.
    Found(Found),
    /// A name whose path is too long for a tree.
    TooLong(Vec<u8>),
}

/// A path, and what stands there.
pub(super) struct Found {
    pub(super) path: FilePath,
    pub(super) directory: Arc<OwnedFd>,
    pub(super) stat: Stat,
}

impl Walk {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { levels: Vec::new(), root: Some(Arc::new(root)), listing: Vec::with_capacity(LISTING_BYTES) }
    }

    /// The next path; the root comes first.
    pub(super) fn next_step(&mut self) -> Result<Option<Step>, ScanError> {
        if let Some(root) = self.root.take() {
            return self.start(root).map(|found| Some(Step::Found(found)));
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(mut turn) = level.turns.pop() else {
                self.levels.pop();
                continue;
            };
            let down = turn.pop_if(|last| *last == b'/').is_some();
            let Ok(path) = level.path.join(&turn) else {
                return Ok(Some(Step::TooLong([level.path.as_bytes(), &b"/"[..], &turn].concat())));
            };
            if down {
                self.descend(&path)?;
            } else if let Some(found) = level.look_at(path, turn)? {
                return Ok(Some(Step::Found(found)));
            }
        }
        Ok(None)
    }

    fn start(&mut self, root: Arc<OwnedFd>) -> Result<Found, ScanError> {
        let path = FilePath::root();
        let stat = rustix::fs::fstat(&root).map_err(unreadable(&path))?;
        self.list(root.clone(), &path, |name| name != CONTROL.as_bytes())?;
        Ok(Found { path, directory: root, stat })
    }

    fn descend(&mut self, path: &FilePath) -> Result<(), ScanError> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&level.directory, path.name(), flags, Mode::empty()) {
            // It was removed, or replaced, since it was looked at.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(unreadable(path)(error)),
            Ok(directory) => self.list(Arc::new(directory), path, |_| true),
        }
    }

    fn list(
        &mut self,
        directory: Arc<OwnedFd>,
        path: &FilePath,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(), ScanError> {
        let mut turns = Vec::new();
        let mut entries = RawDir::new(&*directory, self.listing.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(unreadable(path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && is_wanted(name) {
                turns.push(name.to_vec());
            }
        }
        turns.sort_unstable_by(|left, right| right.cmp(left));
        self.levels.push(Level { directory, path: path.clone(), turns });
        Ok(())
    }
}

impl Level {
    fn look_at(&mut self, path: FilePath, name: Vec<u8>) -> Result<Option<Found>, ScanError> {
        let stat = match rustix::fs::statat(&self.directory, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            // What was removed since it was listed is not there.
            Err(Errno::NOENT) => return Ok(None),
            result => result.map_err(unreadable(&path))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.go_down_later(name);
        }
        Ok(Some(Found { path, directory: self.directory.clone(), stat }))
    }

    /// Names like `a-b` sort between `a` and what is inside it.
    fn go_down_later(&mut self, mut name: Vec<u8>) {
        name.push(b'/');
        let later = self.turns.iter().rev().take_while(|turn| **turn < name).count();
        self.turns.insert(self.turns.len() - later, name);
    }
}

/// Names the path that a call failed on.
pub(super) fn unreadable(path: &FilePath) -> impl FnOnce(Errno) -> ScanError {
    let path = path.clone();
    move |error| ScanError::Unreadable { path, source: error.into() }
}

/// A few hundred names at a time.
const LISTING_BYTES: usize = 64 * 1024;

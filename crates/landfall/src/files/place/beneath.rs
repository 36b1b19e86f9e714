//! Owns the way from a path to the directory that holds it: never outside the root, never over a symlink.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_core::files::FilePath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::edge::{self, Edge};
use crate::files::Opener;

/// What to do where a directory is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Fail,
}

/// What to do with a file or symlink that stands where a directory is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacles {
    /// It is a leftover of our own.
    Remove,
    Refuse,
}

/// A directory tree that is reached only from its root downwards, with the directories used last kept open.
pub(super) struct Beneath {
    root: Arc<OwnedFd>,
    edge: Edge,
    obstacles: Obstacles,
    cache: Mutex<Cache>,
    opener: Opener,
}

impl Beneath {
    pub(super) fn new(root: OwnedFd, edge: Edge, obstacles: Obstacles) -> Self {
        let cache = Mutex::new(Cache::default());
        Self { root: Arc::new(root), edge, obstacles, cache, opener: Opener::new() }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A handle on the directory `path`, good for calls that take a directory and a name.
    pub(super) fn directory(&self, path: &FilePath, missing: Missing) -> io::Result<Arc<OwnedFd>> {
        if path.is_root() {
            return Ok(self.root.clone());
        }
        if let Some(found) = self.cache().get(path) {
            return Ok(found);
        }
        let opened = match self.opener.open(&self.root, path, HANDLE) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if missing == Missing::Make => self.make(path)?,
            result => Arc::new(result?),
        };
        self.cache().put(path.clone(), opened.clone());
        Ok(opened)
    }

    /// A handle on the directory that holds `path`; for the root, on the root itself.
    pub(super) fn parent(&self, path: &FilePath, missing: Missing) -> io::Result<Arc<OwnedFd>> {
        self.directory(&path.parent().unwrap_or_default(), missing)
    }

    /// Calls `change` with the directory that holds `path` and with its name. A directory of ours that may not be written
    /// to is opened up first; its mode is set again at the end.
    pub(super) fn change<T>(
        &self,
        path: &FilePath,
        missing: Missing,
        change: impl Fn(&OwnedFd, &[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        let parent = self.parent(path, missing)?;
        let name = edge::name_or_self(path.name());
        match change(&parent, name) {
            Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                let mode = rustix::fs::fstat(&parent)?.st_mode & 0o7777;
                self.edge.set_handle_mode(parent.as_fd(), mode | 0o700)?;
                change(&parent, name)
            }
            result => result,
        }
    }

    /// Forgets every open directory: one was moved or removed.
    pub(super) fn forget(&self) {
        self.cache().open.clear();
    }

    fn make(&self, path: &FilePath) -> io::Result<Arc<OwnedFd>> {
        let parent = self.parent(path, Missing::Make)?;
        self.change(path, Missing::Make, |parent, name| self.make_one(parent, name))?;
        match rustix::fs::openat(&parent, path.name(), HANDLE, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) if self.obstacles == Obstacles::Remove => {
                self.edge.unlink(&parent, path.name())?;
                self.make_one(&parent, path.name())?;
                Ok(Arc::new(rustix::fs::openat(&parent, path.name(), HANDLE, Mode::empty())?))
            }
            result => Ok(Arc::new(result?)),
        }
    }

    fn make_one(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        match self.edge.make_directory(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A cache of handles is right whatever its last user was doing.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Cache {
    open: HashMap<FilePath, Entry>,
    uses: u64,
}

struct Entry {
    directory: Arc<OwnedFd>,
    used: u64,
}

impl Cache {
    fn get(&mut self, path: &FilePath) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let entry = self.open.get_mut(path)?;
        entry.used = self.uses;
        Some(entry.directory.clone())
    }

    fn put(&mut self, path: FilePath, directory: Arc<OwnedFd>) {
        if self.open.len() >= OPEN_DIRECTORIES_MAX {
            self.drop_older_half();
        }
        self.open.insert(path, Entry { directory, used: self.uses });
    }

    /// Half at a time, so that a walk over many directories pays for it once in a while.
    fn drop_older_half(&mut self) {
        let mut uses: Vec<u64> = self.open.values().map(|entry| entry.used).collect();
        let middle = uses.len() / 2;
        let (_, &mut median, _) = uses.select_nth_unstable(middle);
        self.open.retain(|_, entry| entry.used > median);
    }
}

/// Directories that are kept open; processes may often open no more than 1024 files.
const OPEN_DIRECTORIES_MAX: usize = 128;
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(path: &str) -> FilePath {
        FilePath::new(path.to_owned()).unwrap()
    }

    fn beneath(root: &std::path::Path, obstacles: Obstacles) -> Beneath {
        let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        Beneath::new(root, Edge::default(), obstacles)
    }

    #[track_caller]
    fn check_symlink_is_refused(beneath: &Beneath, outside: &std::path::Path) {
        for missing in [Missing::Make, Missing::Fail] {
            assert!(beneath.directory(&path("link/inner"), missing).is_err());
            assert!(beneath.directory(&path("link"), missing).is_err());
        }
        assert!(std::fs::read_dir(outside).unwrap().next().is_none());
    }

    #[test]
    fn never_follows_a_symlink_with_either_way_of_opening() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("link")).unwrap();
        let mut beneath = beneath(root.path(), Obstacles::Refuse);
        check_symlink_is_refused(&beneath, outside.path());
        beneath.opener = Opener::without_openat2();
        check_symlink_is_refused(&beneath, outside.path());
    }

    #[test]
    fn removes_a_leftover_that_stands_where_a_directory_is_needed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("link")).unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        let beneath = beneath(root.path(), Obstacles::Remove);
        for name in ["link/a/b", "file/a"] {
            beneath.directory(&path(name), Missing::Make).unwrap();
            assert!(root.path().join(name).is_dir());
        }
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }

    #[test]
    fn keeps_a_bounded_number_of_directories_open() {
        let root = tempfile::tempdir().unwrap();
        let beneath = beneath(root.path(), Obstacles::Refuse);
        for n in 0..1000 {
            beneath.directory(&path(&format!("d{n}")), Missing::Make).unwrap();
        }
        assert!(beneath.cache().open.len() <= OPEN_DIRECTORIES_MAX);
        assert!(beneath.directory(&path("d0"), Missing::Fail).is_ok());
    }
}

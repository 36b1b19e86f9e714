//! Owns the order of a walk: every path of a directory as a file tree's keys have them.
//!
//! In that order `a` comes before `a-b`, and `a-b` before what is inside the directory `a`. It follows no symlink and
//! leaves out what is Landfall's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use landfall_core::files::FilePath;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::edge;
use super::ground::CONTROL;
use super::sweep;

/// A walk over a directory. Memory: the names of the directories on the way to where it is.
pub(super) struct Walk {
    root: OwnedFd,
    levels: Vec<Level>,
    started: bool,
}

struct Level {
    directory: OwnedFd,
    path: FilePath,
    /// Names, and names with a slash where the walk goes down into them; the next one is the last. Their order is the walk's.
    turns: Vec<Vec<u8>>,
}

impl Walk {
    pub(super) fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { root: root.try_clone_to_owned()?, levels: Vec::new(), started: false })
    }

    /// The next path and what stands there; the root comes first.
    pub(super) fn next_path(&mut self) -> Result<Option<(FilePath, Stat)>, WalkError> {
        if !self.started {
            self.started = true;
            return self.start().map(Some).map_err(|source| WalkError { path: FilePath::root(), source });
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(mut turn) = level.turns.pop() else {
                self.levels.pop();
                continue;
            };
            let down = turn.pop_if(|last| *last == b'/').is_some();
            let path = join(&level.path, &turn)?;
            let fail = |source| WalkError { path: path.clone(), source };
            if down {
                self.descend(&turn, path.clone()).map_err(fail)?;
                continue;
            }
            // What was removed since it was listed is not there.
            let Some(stat) = edge::stat(&level.directory, &turn).map_err(fail)? else { continue };
            if edge::is_directory(&stat) {
                level.go_down_later(turn);
            }
            return Ok(Some((path, stat)));
        }
        Ok(None)
    }

    fn start(&mut self) -> io::Result<(FilePath, Stat)> {
        let stat = rustix::fs::fstat(&self.root)?;
        let directory = open(&self.root, b".")?;
        let level = Level::list(directory, FilePath::root())?;
        self.levels.push(level);
        Ok((FilePath::root(), stat))
    }

    fn descend(&mut self, name: &[u8], path: FilePath) -> io::Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        match open(&level.directory, name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            result => {
                let level = Level::list(result?, path)?;
                self.levels.push(level);
                Ok(())
            }
        }
    }
}

impl Level {
    fn list(directory: OwnedFd, path: FilePath) -> io::Result<Self> {
        let mut names = sweep::names(&directory)?;
        if path.is_root() {
            names.retain(|name| name != CONTROL.as_bytes());
        }
        names.reverse();
        Ok(Self { directory, path, turns: names })
    }

    /// Puts the way down into `name` where its content comes in the order.
    fn go_down_later(&mut self, mut name: Vec<u8>) {
        name.push(b'/');
        let at = self.turns.partition_point(|other| *other > name);
        self.turns.insert(at, name);
    }
}

/// A directory that could not be read.
#[derive(Debug)]
pub(super) struct WalkError {
    pub(super) path: FilePath,
    pub(super) source: io::Error,
}

fn open(at: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn join(path: &FilePath, name: &[u8]) -> Result<FilePath, WalkError> {
    path.join(name).map_err(|error| WalkError { path: path.clone(), source: io::Error::other(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_in_the_order_of_keys() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["a", "a-b", "a/b", ".landfall", "b/.landfall", "a!"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["a/x", "a0", "a-b/y", ".landfall/index"] {
            std::fs::write(root.join(name), b"").unwrap();
        }
        let mut walk = Walk::new(std::fs::File::open(root).unwrap().as_fd()).unwrap();
        let mut paths = Vec::new();
        while let Some((path, _)) = walk.next_path().unwrap() {
            paths.push(path.to_string());
        }
        let expected = [".", "a", "a!", "a-b", "a-b/y", "a/b", "a/x", "a0", "b", "b/.landfall"];
        assert_eq!(paths, expected);
    }
}

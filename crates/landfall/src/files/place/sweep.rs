//! Owns the removal of what a pull made for itself. It never follows a symlink.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::edge::{self, Edge};

/// Removes what stands at `name`, with everything below it. Nothing there is fine.
pub(super) fn remove(edge: &Edge, at: impl AsFd, name: &[u8]) -> io::Result<()> {
    let at = at.as_fd();
    let Some(stat) = edge::stat(at, name)? else { return Ok(()) };
    if !edge::is_directory(&stat) {
        return edge.unlink(at, name);
    }
    empty(edge, &open(edge, at, name, stat.st_mode)?)?;
    edge.remove_directory(at, name)
}

/// Removes everything in a directory. Each level is listed to its end before the next one is entered, so the handles that are
/// open at once are as many as the tree is deep.
pub(super) fn empty(edge: &Edge, directory: &OwnedFd) -> io::Result<()> {
    for name in names(directory)? {
        remove(edge, directory, &name)?;
    }
    Ok(())
}

/// The names in a directory, in the order of their bytes.
pub(super) fn names(directory: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn open(edge: &Edge, at: impl AsFd, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if mode & 0o700 != 0o700 {
        edge.set_mode(at.as_fd(), name, 0o700)?;
    }
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => Err(Errno::AGAIN.into()),
        result => Ok(result?),
    }
}

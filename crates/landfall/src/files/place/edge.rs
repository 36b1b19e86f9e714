//! Owns every call of a pull that changes the file system, so that a test can stop the world before any of them.
//!
//! It never decides anything and never follows a symlink in the last component.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use landfall_core::files::Mtime;
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};

/// Asked before every change, by the name of the step. An error keeps the change from happening.
pub(super) trait Faults: Send + Sync {
    fn before(&self, step: &'static str) -> io::Result<()>;

    /// The longest name that the file system pretends to take.
    fn name_bytes_max(&self) -> Option<u64> {
        None
    }
}

/// The file system, as a pull changes it.
#[derive(Clone, Default)]
pub(super) struct Edge {
    faults: Option<Arc<dyn Faults>>,
}

impl Edge {
    /// An edge that asks `faults` first.
    #[cfg(test)]
    pub(super) fn with_faults(faults: Arc<dyn Faults>) -> Self {
        Self { faults: Some(faults) }
    }

    /// Passes the step, unless a fault stops it.
    pub(super) fn step(&self, name: &'static str) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.before(name))
    }

    /// The longest name that the file system of `directory` takes; any, if it does not say.
    pub(super) fn name_bytes_max(&self, directory: impl AsFd) -> u64 {
        let told = self.faults.as_ref().and_then(|faults| faults.name_bytes_max());
        told.unwrap_or_else(|| rustix::fs::fstatvfs(directory).map_or(u64::MAX, |space| space.f_namemax))
    }

    pub(super) fn make_directory(&self, at: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.step("make a directory")?;
        Ok(rustix::fs::mkdirat(at, name, Mode::RWXU)?)
    }

    /// Creates a file that must not be there yet, with the bits of `mode` that the process's mask leaves.
    pub(super) fn create(&self, at: impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
        self.step("create a file")?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(at, name, flags, Mode::from_raw_mode(mode))?.into())
    }

    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step("write")?;
        file.write_all_at(bytes, offset)
    }

    pub(super) fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        self.step("set a length")?;
        file.set_len(length)
    }

    /// Makes a range read as zeros and, where the file system can, take no space.
    pub(super) fn punch(&self, file: &File, offset: u64, length: u64) -> io::Result<()> {
        self.step("punch a hole")?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(file, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, offset, length),
            result => Ok(result?),
        }
    }

    /// Lets `to` mean what `from` meant, at one instant.
    pub(super) fn rename(&self, from_at: impl AsFd, from: &[u8], to_at: impl AsFd, to: &[u8]) -> io::Result<()> {
        self.step("rename")?;
        Ok(rustix::fs::renameat(from_at, from, to_at, to)?)
    }

    pub(super) fn link(&self, from_at: impl AsFd, from: &[u8], to_at: impl AsFd, to: &[u8]) -> io::Result<()> {
        self.step("link")?;
        Ok(rustix::fs::linkat(from_at, from, to_at, to, AtFlags::empty())?)
    }

    pub(super) fn symlink(&self, target: &[u8], at: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.step("make a symlink")?;
        Ok(rustix::fs::symlinkat(target, at, name)?)
    }

    pub(super) fn unlink(&self, at: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.step("remove a file")?;
        Ok(rustix::fs::unlinkat(at, name, AtFlags::empty())?)
    }

    pub(super) fn remove_directory(&self, at: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.step("remove a directory")?;
        Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn set_file_owner(&self, file: &File, owner: Owner) -> io::Result<()> {
        self.step("set an owner")?;
        Ok(rustix::fs::fchown(file, owner.uid(), owner.gid())?)
    }

    pub(super) fn set_file_mode(&self, file: &File, mode: u32) -> io::Result<()> {
        self.step("set a mode")?;
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }

    pub(super) fn set_file_time(&self, file: &File, mtime: Mtime) -> io::Result<()> {
        self.step("set a time")?;
        Ok(rustix::fs::futimens(file, &timestamps(mtime))?)
    }

    pub(super) fn set_owner(&self, at: impl AsFd, name: &[u8], owner: Owner) -> io::Result<()> {
        self.step("set an owner")?;
        Ok(rustix::fs::chownat(at, name, owner.uid(), owner.gid(), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the mode of anything but a symlink.
    pub(super) fn set_mode(&self, at: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
        let handle = rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if is_symlink(&rustix::fs::fstat(&handle)?) {
            return Ok(());
        }
        self.set_handle_mode(handle.as_fd(), mode)
    }

    /// Sets the mode of what a path-only handle stands for.
    pub(super) fn set_handle_mode(&self, handle: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
        self.step("set a mode")?;
        Ok(rustix::fs::chmod(through_proc(handle, b""), Mode::from_raw_mode(mode))?)
    }

    pub(super) fn set_time(&self, at: impl AsFd, name: &[u8], mtime: Mtime) -> io::Result<()> {
        self.step("set a time")?;
        Ok(rustix::fs::utimensat(at, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn set_xattr(&self, at: impl AsFd, name: &[u8], xattr: &[u8], value: &[u8]) -> io::Result<()> {
        self.step("set an extended attribute")?;
        Ok(rustix::fs::lsetxattr(through_proc(at.as_fd(), name), xattr, value, XattrFlags::empty())?)
    }

    pub(super) fn remove_xattr(&self, at: impl AsFd, name: &[u8], xattr: &[u8]) -> io::Result<()> {
        self.step("remove an extended attribute")?;
        match rustix::fs::lremovexattr(through_proc(at.as_fd(), name), xattr) {
            Err(rustix::io::Errno::NODATA) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Makes everything on the file system of `file` durable.
    pub(super) fn sync_file_system(&self, file: impl AsFd) -> io::Result<()> {
        self.step("sync the file system")?;
        Ok(rustix::fs::syncfs(file)?)
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_directory(&self, directory: impl AsFd) -> io::Result<()> {
        self.step("sync a directory")?;
        Ok(rustix::fs::fsync(directory)?)
    }
}

/// Who a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Owner {
    fn uid(self) -> Option<Uid> {
        (self.user != UNCHANGED).then(|| Uid::from_raw(self.user))
    }

    fn gid(self) -> Option<Gid> {
        (self.group != UNCHANGED).then(|| Gid::from_raw(self.group))
    }
}

/// As `chown` has it: the id that no user and no group has.
pub(super) const UNCHANGED: u32 = u32::MAX;

/// What stands at `name`, if anything does.
pub(super) fn stat(at: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(at, name_or_self(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// All extended attributes of `name`, with their values.
pub(super) fn xattrs(at: impl AsFd, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = through_proc(at.as_fd(), name);
    let mut names = vec![0u8; XATTR_BYTES_MAX];
    let length = match rustix::fs::llistxattr(&path[..], &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let mut value = vec![0u8; XATTR_BYTES_MAX];
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(&path[..], name, &mut value[..])?;
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    Ok(found)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    stat.st_mode & KIND_BITS == 0o040_000
}

pub(super) fn is_symlink(stat: &Stat) -> bool {
    stat.st_mode & KIND_BITS == 0o120_000
}

pub(super) fn is_regular(stat: &Stat) -> bool {
    stat.st_mode & KIND_BITS == 0o100_000
}

/// The name by which calls reach the directory itself, for the path of a root.
pub(super) fn name_or_self(name: &[u8]) -> &[u8] {
    if name.is_empty() { b"." } else { name }
}

/// A path for the calls that take no directory. The handle pins the directory; these calls do not follow the last name.
fn through_proc(at: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", at.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

fn write_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut at = offset;
    while at < offset + length {
        let count = (offset + length - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

fn timestamps(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos) };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: unchanged, last_modification: time }
}

const KIND_BITS: u32 = 0o170_000;
/// Longest value, and longest list of names, that Linux allows.
pub(super) const XATTR_BYTES_MAX: usize = 64 * 1024;

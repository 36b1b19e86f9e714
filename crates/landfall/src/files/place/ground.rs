//! Owns what is the same for every file of one pull: who new files belong to, how much space there is, what could not be
//! kept, and how a refusal of the operating system becomes an error that names the thing.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use landfall_core::files::{FileKind, FilePath, Meta};
use rustix::fs::Advice;
use rustix::io::Errno;

use super::edge::{self, Edge, Owner, UNCHANGED};
use super::error::PlaceError;
use super::finish::Shortfall;

/// What every file of one pull shares.
pub(super) struct Ground {
    pub(super) edge: Edge,
    /// What the user calls the destination.
    pub(super) destination: PathBuf,
    root: OwnedFd,
    created: Owner,
    mask: u32,
    /// Longest name that the file system takes.
    pub(super) name_bytes_max: u64,
    bytes_expected: AtomicU64,
    bytes_written: AtomicU64,
    /// Nobody reads the old files any more: what was copied from them need not stay in memory.
    old_is_done_with: AtomicBool,
    unkept_owners: AtomicU64,
    unkept_owner: OnceLock<FilePath>,
    unkept_xattrs: AtomicU64,
    unkept_xattr: OnceLock<FilePath>,
}

impl Ground {
    /// `control` is the directory in which a file is made for a moment, to see whom new files belong to.
    pub(super) fn new(edge: Edge, destination: PathBuf, root: OwnedFd, control: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            name_bytes_max: edge.name_bytes_max(&root),
            edge,
            destination,
            root,
            created: owner_of_new_files(control)?,
            mask: creation_mask(),
            bytes_expected: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            old_is_done_with: AtomicBool::new(false),
            unkept_owners: AtomicU64::new(0),
            unkept_owner: OnceLock::new(),
            unkept_xattrs: AtomicU64::new(0),
            unkept_xattr: OnceLock::new(),
        })
    }

    /// Refuses a pull that cannot fit. `bytes` is what is still to be written.
    pub(super) fn expect_bytes(&self, bytes: u64) -> Result<(), PlaceError> {
        self.bytes_expected.store(bytes, Ordering::Relaxed);
        self.bytes_written.store(0, Ordering::Relaxed);
        if bytes > self.free_bytes() {
            return Err(self.disk_full());
        }
        Ok(())
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn release_old_pages(&self) {
        self.old_is_done_with.store(true, Ordering::Relaxed);
    }

    /// Gives back the memory that caches a range of an old file, so that the new file's pages take its place: a machine need
    /// not hold both copies, and memory that is in use already is quicker than memory that is not.
    pub(super) fn done_with_old(&self, old: &File, offset: u64, bytes: usize) {
        let Some(length) = NonZeroU64::new(bytes as u64).filter(|_| self.old_is_done_with.load(Ordering::Relaxed))
        else {
            return;
        };
        // Advice: where it is not taken nothing is lost.
        let _ = rustix::fs::fadvise(old, offset, Some(length), Advice::DontNeed);
    }

    /// Makes an error of what the operating system said about `path`.
    pub(super) fn refused(&self, action: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> PlaceError {
        move |source| match errno(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => self.disk_full(),
            Some(Errno::LOOP | Errno::NOTDIR) => PlaceError::Blocked(path.clone()),
            Some(Errno::XDEV) => PlaceError::OtherFileSystem(path.clone()),
            _ => PlaceError::Io { action, path: self.destination.join(os_path(path)), source },
        }
    }

    /// The same for one of Landfall's own files.
    pub(super) fn refused_own(&self, action: &'static str, name: &Path) -> impl FnOnce(io::Error) -> PlaceError {
        move |source| match errno(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => self.disk_full(),
            _ => PlaceError::Io { action, path: self.destination.join(CONTROL).join(name), source },
        }
    }

    fn disk_full(&self) -> PlaceError {
        let written = self.bytes_written.load(Ordering::Relaxed);
        let needed_bytes = self.bytes_expected.load(Ordering::Relaxed).saturating_sub(written).max(4096);
        PlaceError::DiskFull { destination: self.destination.clone(), needed_bytes, free_bytes: self.free_bytes() }
    }

    fn free_bytes(&self) -> u64 {
        // A file system that does not say how much is free must not keep anybody from trying.
        let Ok(space) = rustix::fs::fstatvfs(&self.root) else { return u64::MAX };
        space.f_bavail.saturating_mul(space.f_frsize)
    }

    /// The mode to create a file with: never more than its own, and nothing by which it could be run as another user.
    pub(super) fn mode_at_creation(meta: &Meta) -> u32 {
        meta.mode & 0o777
    }

    /// Gives a new file, made with [`Self::mode_at_creation`], its owner, mode and time, with no call that changes nothing.
    pub(super) fn dress_new_file(&self, file: &File, path: &FilePath, meta: &Meta) -> io::Result<()> {
        if self.owner_differs(meta) || meta.mode & (self.mask | !0o777) != 0 {
            self.dress_owner_and_mode(file, path, meta)?;
        }
        self.edge.set_file_time(file, meta.mtime)
    }

    /// Gives an open file its owner, mode and time, whatever they are now.
    pub(super) fn dress_file(&self, file: &File, path: &FilePath, meta: &Meta) -> io::Result<()> {
        self.dress_owner_and_mode(file, path, meta)?;
        self.edge.set_file_time(file, meta.mtime)
    }

    fn dress_owner_and_mode(&self, file: &File, path: &FilePath, meta: &Meta) -> io::Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let current = Owner { user: stat.st_uid, group: stat.st_gid };
        let kept = self.give(path, current, meta, |owner| self.edge.set_file_owner(file, owner))?;
        // After the owner: a change of owner clears the set-id bits.
        self.edge.set_file_mode(file, kept.mode(meta))
    }

    /// Gives what stands at `name` its owner, mode and time. A symlink has no mode of its own.
    pub(super) fn dress(&self, at: impl AsFd, name: &[u8], path: &FilePath, meta: &Meta) -> io::Result<()> {
        let at = at.as_fd();
        let Some(stat) = edge::stat(at, name)? else { return Err(Errno::NOENT.into()) };
        let current = Owner { user: stat.st_uid, group: stat.st_gid };
        let kept = self.give(path, current, meta, |owner| self.edge.set_owner(at, name, owner))?;
        if !matches!(meta.kind, FileKind::Symlink(_)) {
            self.edge.set_mode(at, name, kept.mode(meta))?;
        }
        self.edge.set_time(at, name, meta.mtime)
    }

    fn owner_differs(&self, meta: &Meta) -> bool {
        self.created != Owner { user: meta.uid, group: meta.gid }
    }

    fn give(
        &self,
        path: &FilePath,
        current: Owner,
        meta: &Meta,
        set: impl Fn(Owner) -> io::Result<()>,
    ) -> io::Result<OwnerKept> {
        let wanted = Owner { user: meta.uid, group: meta.gid };
        if current == wanted {
            return Ok(OwnerKept::Yes);
        }
        for owner in [wanted, Owner { user: UNCHANGED, ..wanted }] {
            match set(owner) {
                Ok(()) if owner == wanted || current.user == wanted.user => return Ok(OwnerKept::Yes),
                Ok(()) => break,
                Err(error) if is_forbidden(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.unkept_owners.fetch_add(1, Ordering::Relaxed);
        self.unkept_owner.get_or_init(|| path.clone());
        Ok(OwnerKept::No)
    }

    /// Makes the extended attributes of `name` exactly `wanted`, of those that are the user's to set.
    pub(super) fn set_xattrs(
        &self,
        at: impl AsFd,
        name: &[u8],
        path: &FilePath,
        wanted: &[(Bytes, Bytes)],
    ) -> io::Result<()> {
        let at = at.as_fd();
        for (xattr, _) in edge::xattrs(at, name)? {
            if is_ours_to_remove(&xattr) && !wanted.iter().any(|(name, _)| *name == xattr) {
                self.edge.remove_xattr(at, name, &xattr)?;
            }
        }
        for (xattr, value) in wanted {
            match self.set_xattr(at, name, xattr, value) {
                Err(error) if is_forbidden(&error) || self.is_too_large(&error) => {
                    self.unkept_xattrs.fetch_add(1, Ordering::Relaxed);
                    self.unkept_xattr.get_or_init(|| path.clone());
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Is an attribute more than the file system keeps for one file? It may say that with the word for a full disk.
    fn is_too_large(&self, error: &io::Error) -> bool {
        match errno(error) {
            Some(Errno::TOOBIG | Errno::RANGE) => true,
            Some(Errno::NOSPC | Errno::DQUOT) => self.free_bytes() > ROOM_FOR_XATTRS_BYTES,
            _ => false,
        }
    }

    /// A user's attribute needs the right to write, which the mode may not give.
    fn set_xattr(&self, at: BorrowedFd<'_>, name: &[u8], xattr: &[u8], value: &[u8]) -> io::Result<()> {
        match self.edge.set_xattr(at, name, xattr, value) {
            Err(error) if errno(&error) == Some(Errno::ACCESS) => {}
            result => return result,
        }
        let Some(stat) = edge::stat(at, name)?.filter(|stat| !edge::is_symlink(stat)) else {
            return Err(Errno::ACCESS.into());
        };
        let mode = stat.st_mode & 0o7777;
        self.edge.set_mode(at, name, mode | 0o200)?;
        let set = self.edge.set_xattr(at, name, xattr, value);
        self.edge.set_mode(at, name, mode)?;
        set
    }

    /// What this process was not allowed to keep.
    pub(super) fn shortfalls(&self) -> impl Iterator<Item = Shortfall> {
        let paths = self.unkept_owners.load(Ordering::Relaxed);
        let owners = self.unkept_owner.get().map(|path| Shortfall::Owners { paths, example: path.clone() });
        let attributes = self.unkept_xattrs.load(Ordering::Relaxed);
        let xattrs = self.unkept_xattr.get().map(|path| Shortfall::Xattrs { attributes, example: path.clone() });
        owners.into_iter().chain(xattrs)
    }
}

/// Could the owner be kept? If not, the set-id bits must go: they would run as somebody else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnerKept {
    Yes,
    No,
}

impl OwnerKept {
    fn mode(self, meta: &Meta) -> u32 {
        match self {
            Self::Yes => meta.mode,
            Self::No => meta.mode & !0o6000,
        }
    }
}

/// The path as the operating system writes it.
pub(super) fn os_path(path: &FilePath) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// Is there nothing at the path, or nothing that could be reached without following what must not be followed?
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Does a file or a symlink stand where a directory is needed?
pub(super) fn is_barred(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::NOTDIR | Errno::LOOP))
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL))
}

/// Will a step that failed so fail again, however often a plan is carried out? Then it would keep all the others from being done.
pub(super) fn is_hopeless(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(
            Errno::NAMETOOLONG
                | Errno::MLINK
                | Errno::ILSEQ
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BUSY
                | Errno::XDEV
        )
    )
}

/// Labels of a security module come from its policy, not from a snapshot.
fn is_ours_to_remove(xattr: &[u8]) -> bool {
    xattr.starts_with(b"user.") || xattr.starts_with(b"system.posix_acl_") || xattr == b"security.capability"
}

/// A directory may hand its group to what is made in it, so the answer is tried out.
fn owner_of_new_files(control: &OwnedFd) -> io::Result<Owner> {
    let edge = Edge::default();
    match edge.unlink(control, PROBE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let stat = rustix::fs::fstat(edge.create(control, PROBE, 0o600)?)?;
    edge.unlink(control, PROBE)?;
    Ok(Owner { user: stat.st_uid, group: stat.st_gid })
}

/// The bits that the kernel takes off every mode. It cannot be asked for without being set, except here.
fn creation_mask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// The name below which a pull keeps its own data in the destination.
pub const CONTROL: &str = ".landfall";
const PROBE: &[u8] = b"probe";
/// Where this much is free, it was not the disk that had no room for an attribute.
const ROOM_FOR_XATTRS_BYTES: u64 = 1 << 20;

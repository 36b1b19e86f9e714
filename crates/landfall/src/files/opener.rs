//! Owns the opening of a path beneath a directory: never outside it, never over a symlink.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_core::files::FilePath;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens what stands beneath a directory, in one call where the kernel can.
pub(crate) struct Opener {
    has_openat2: AtomicBool,
}

impl Opener {
    pub(crate) fn new() -> Self {
        Self { has_openat2: AtomicBool::new(true) }
    }

    /// Opens `path`, with these flags and without following any symlink.
    pub(crate) fn open(&self, root: impl AsFd, path: &FilePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let root = root.as_fd();
        if !self.has_openat2.load(Ordering::Relaxed) {
            return open_by_component(root, path, flags);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, &path.as_bytes()[..], flags | CAREFULLY, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => {
                self.has_openat2.store(false, Ordering::Relaxed);
                open_by_component(root, path, flags)
            }
            result => result,
        }
    }

    /// An opener that has found out that there is only the old way.
    #[cfg(test)]
    pub(crate) fn without_openat2() -> Self {
        Self { has_openat2: AtomicBool::new(false) }
    }
}

/// For kernels before 5.6 and sandboxes that forbid the newer call.
fn open_by_component(root: impl AsFd, path: &FilePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut components = path.as_bytes().split(|&byte| byte == b'/').peekable();
    while let Some(component) = components.next() {
        let flags = if components.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY } else { flags };
        let parent = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        at = Some(rustix::fs::openat(parent, component, flags | CAREFULLY, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

const CAREFULLY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn never_follows_a_symlink_with_either_way_of_opening() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(root.path().join("dir")).unwrap();
        std::fs::write(root.path().join("dir/file"), b"inside").unwrap();
        std::fs::write(outside.path().join("file"), b"outside").unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();
        symlink("dir/file", root.path().join("file-link")).unwrap();
        let at = std::fs::File::open(root.path()).unwrap();
        for opener in [Opener::new(), Opener::without_openat2()] {
            let open = |path: &'static str| opener.open(&at, &FilePath::new(path).unwrap(), OFlags::RDONLY);
            let mut content = Vec::new();
            std::fs::File::from(open("dir/file").unwrap()).read_to_end(&mut content).unwrap();
            assert_eq!(content, b"inside");
            for path in ["link/file", "link", "file-link"] {
                assert!(matches!(open(path), Err(Errno::LOOP | Errno::NOTDIR)), "{path}");
            }
        }
    }
}

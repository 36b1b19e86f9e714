//! Owns the reading of extended attributes.

use std::os::fd::{AsFd, AsRawFd};

use bytes::Bytes;
use landfall_core::files::{FilePath, Xattr, XattrsError, encode_xattrs};
use rustix::io::Errno;

use super::ScanError;
use super::walk::{Found, unreadable};

/// What was found at a path.
pub(super) struct Attributes {
    /// The encoded list of those that are kept; nothing if there are none.
    pub(super) encoded: Result<Option<Bytes>, XattrsError>,
    /// Were there others?
    pub(super) others: Others,
}

impl Attributes {
    /// A path without any.
    pub(super) const NONE: Self = Self { encoded: Ok(None), others: Others::None };
}

/// Whether a path has attributes that are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    None,
    Some,
}

/// The attributes of an open file.
pub(super) fn of_file(file: impl AsFd, path: &FilePath) -> Result<Attributes, ScanError> {
    let file = file.as_fd();
    gather(path, |names| rustix::fs::flistxattr(file, names), |name, value| rustix::fs::fgetxattr(file, name, value))
}

/// The attributes of a directory, which is not opened for it: the handle of its parent pins it.
pub(super) fn of_directory(found: &Found) -> Result<Attributes, ScanError> {
    let mut path = format!("/proc/self/fd/{}/", found.directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(found.path.name());
    gather(
        &found.path,
        |names| rustix::fs::llistxattr(&path[..], names),
        |name, value| rustix::fs::lgetxattr(&path[..], name, value),
    )
}

fn gather(
    path: &FilePath,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Attributes, ScanError> {
    let mut attributes = Attributes::NONE;
    let names = match sized(LIST_BYTES_USUAL, list) {
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(attributes),
        result => result.map_err(unreadable(path))?,
    };
    let mut kept = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if !is_kept(name) {
            attributes.others = Others::Some;
            continue;
        }
        match sized(VALUE_BYTES_USUAL, |value| get(name, value)) {
            // It was removed since it was listed.
            Err(Errno::NODATA) => {}
            result => {
                let value = result.map_err(unreadable(path))?.into();
                kept.push(Xattr { name: Bytes::copy_from_slice(name), value });
            }
        }
    }
    if !kept.is_empty() {
        attributes.encoded = encode_xattrs(kept).map(|encoded| Some(encoded.into()));
    }
    Ok(attributes)
}

/// Calls with a small buffer first, and with the longest that Linux knows if that is too small.
fn sized(usual: usize, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; usual];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer = vec![0; LINUX_BYTES_MAX];
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// What belongs to the file: not the labels that a security system of this machine gave it.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

const LIST_BYTES_USUAL: usize = 256;
const VALUE_BYTES_USUAL: usize = 256;
/// Longest list of names, and longest value.
const LINUX_BYTES_MAX: usize = 64 * 1024;

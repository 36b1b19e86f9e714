//! Owns what a directory is as a tree: one entry for each file's metadata, one for each chunk of its content.
//!
//! A directory is an ordinary keyed tree, so every algorithm of [`crate::tree`] works on it. The key of a file's metadata is its
//! path and a NUL; the keys of its content follow it, path ‖ NUL ‖ offset. Content that has no entry is zeros: a hole.
//! This module never touches a file.

mod entry;
mod path;
mod xattrs;

pub use entry::{Content, FileKey, FileKind, Meta, MetaError, Mtime, decode_meta, encode_meta};
pub use path::{BadPath, FilePath};
pub use xattrs::{
    XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, Xattr, XattrsError, decode_xattrs, encode_xattrs,
};

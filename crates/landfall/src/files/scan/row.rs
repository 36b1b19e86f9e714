//! Owns what one path adds to the tree and to the index.

use bytes::Bytes;
use landfall_core::files::{FileKey, FileKind, FilePath, Meta, encode_meta};
use landfall_core::tree::{ChunkRef, Value};

use super::large::Refs;
use crate::files::index::FileStat;

/// Entries of one path, and what it looked like.
pub(super) struct Row {
    pub(super) path: FilePath,
    /// Entries that come first, in key order.
    pub(super) entries: Vec<(Bytes, Value)>,
    /// What a large file was read as. Its entries, each several times as long, are made when they are given out.
    pub(super) content: Refs,
    /// Extended attributes, which follow the content.
    pub(super) xattrs: Option<Value>,
    pub(super) stat: Option<FileStat>,
    pub(super) xattrs_kept: XattrsKept,
}

/// Whether all extended attributes of a path are in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XattrsKept {
    All,
    Some,
    TooLong,
}

impl Row {
    /// A path whose content, if it has any, is `chunk` or stands in the metadata.
    pub(super) fn new(path: FilePath, kind: FileKind, chunk: Option<ChunkRef>, stat: FileStat) -> Self {
        let key = FileKey::Meta(path.clone()).encode();
        let value = meta_value(kind, chunk, &stat);
        Self { entries: vec![(key.into(), value)], ..Self::part(path, Some(stat)) }
    }

    /// A path of which other entries were given out, or are still to be added.
    pub(super) fn part(path: FilePath, stat: Option<FileStat>) -> Self {
        Self { path, entries: Vec::new(), content: Refs::new(), xattrs: None, stat, xattrs_kept: XattrsKept::All }
    }

    /// Makes sure that the next scan reads the file again.
    pub(super) fn forget_stat(&mut self) {
        self.stat = self.stat.map(|stat| FileStat { ctime: FileStat::UNKNOWN.ctime, ..stat });
    }
}

/// The entry of a chunk of a large file.
pub(super) fn content_entry(path: &FilePath, offset: u64, chunk: ChunkRef) -> (Bytes, Value) {
    let key = FileKey::Content { path: path.clone(), offset }.encode();
    (key.into(), Value { inline: Bytes::new(), chunk: Some(chunk) })
}

fn meta_value(kind: FileKind, chunk: Option<ChunkRef>, stat: &FileStat) -> Value {
    let meta = Meta { kind, mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, mtime: stat.mtime };
    Value { inline: encode_meta(&meta).into(), chunk }
}

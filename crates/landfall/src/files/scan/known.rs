//! Owns what the last scan knows of each path: it is read alongside the walk, in the same order, in flat memory.

use std::ops::Bound;

use bytes::Bytes;
use landfall_core::files::{Content, FileKey, FileKind, FilePath, Meta, decode_meta};
use landfall_core::tree::{ChunkRef, Cursor, TreeError, Value};

use super::Previous;
use crate::files::index::{FileStat, IndexError, IndexReader};

/// The last scan, read up to where the walk is. Paths are asked for in ascending order.
pub(super) struct Known<'a> {
    tree: Option<Tree<'a>>,
    index: Option<IndexReader>,
    lost: Option<String>,
}

struct Tree<'a> {
    cursor: Cursor,
    previous: Previous<'a>,
    peeked: Option<(Bytes, Value)>,
}

/// What the last scan took a file for.
pub(super) struct OldFile {
    pub(super) value: Value,
    pub(super) size: u64,
    pub(super) content: Content,
}

impl<'a> Known<'a> {
    pub(super) fn new(previous: Option<Previous<'a>>) -> Self {
        let Some(mut previous) = previous else { return Self { tree: None, index: None, lost: None } };
        let index = previous.index.take();
        let cursor = Cursor::new(previous.root, Bound::Unbounded);
        Self { tree: Some(Tree { cursor, previous, peeked: None }), index, lost: None }
    }

    /// What stood at `path`, if it was a regular file.
    pub(super) fn file(&mut self, path: &FilePath) -> Option<OldFile> {
        let key = FileKey::Meta(path.clone()).encode();
        let value = self.read(|tree| tree.find(&key))?;
        match decode_meta(&value.inline) {
            Ok(Meta { kind: FileKind::File { size, content }, .. }) => Some(OldFile { value, size, content }),
            _ => None,
        }
    }

    /// Does the file at `path` look as it did, so that it need not be read?
    pub(super) fn is_unchanged(&mut self, path: &FilePath, stat: &FileStat) -> bool {
        let Some(index) = &mut self.index else { return false };
        let taken = index.header().taken;
        match index.find(path) {
            // What changed just before it was read may have changed once more since, within one tick of the clock.
            Ok(known) => known.is_some_and(|known| known == *stat && known.is_settled(taken)),
            Err(error) => {
                self.lose_index(&error);
                false
            }
        }
    }

    /// The next entry of `path` after the one that was asked for last, if it comes before `end`.
    pub(super) fn next_entry(&mut self, path: &FilePath, end: Option<u64>) -> Option<(Bytes, Value)> {
        self.read(|tree| tree.next_of(path, end))
    }

    /// The chunks of `path` that begin before `end`, from where the last call ended.
    pub(super) fn chunks_until(&mut self, path: &FilePath, end: u64) -> Vec<(u64, ChunkRef)> {
        let mut chunks = Vec::new();
        while let Some((key, value)) = self.next_entry(path, Some(end)) {
            if let (Ok(FileKey::Content { offset, .. }), Some(chunk)) = (FileKey::decode(&key), value.chunk) {
                chunks.push((offset, chunk));
            }
        }
        chunks
    }

    /// Why not everything could be used.
    pub(super) fn into_lost(self) -> Option<String> {
        self.lost
    }

    fn read<T>(&mut self, read: impl FnOnce(&mut Tree<'a>) -> Result<Option<T>, TreeError>) -> Option<T> {
        read(self.tree.as_mut()?).unwrap_or_else(|error| {
            self.lost.get_or_insert_with(|| error.to_string());
            self.tree = None;
            None
        })
    }

    fn lose_index(&mut self, error: &IndexError) {
        self.lost.get_or_insert_with(|| error.to_string());
        self.index = None;
    }
}

impl Tree<'_> {
    fn next(&mut self) -> Result<Option<(Bytes, Value)>, TreeError> {
        match self.peeked.take() {
            Some(entry) => Ok(Some(entry)),
            None => self.cursor.next(self.previous.nodes),
        }
    }

    /// Drops the entries before `key`.
    fn find(&mut self, key: &[u8]) -> Result<Option<Value>, TreeError> {
        while let Some((found, value)) = self.next()? {
            if found < key {
                continue;
            }
            if found == key {
                return Ok(Some(value));
            }
            self.peeked = Some((found, value));
            break;
        }
        Ok(None)
    }

    fn next_of(&mut self, path: &FilePath, end: Option<u64>) -> Result<Option<(Bytes, Value)>, TreeError> {
        let Some((key, value)) = self.next()? else { return Ok(None) };
        let of_path = key.strip_prefix(&path.as_bytes()[..]).and_then(|rest| rest.strip_prefix(&[0]));
        let is_wanted = of_path.is_some_and(|rest| end.is_none_or(|end| rest < &end.to_be_bytes()[..]));
        if !is_wanted {
            self.peeked = Some((key, value));
            return Ok(None);
        }
        Ok(Some((key, value)))
    }
}

//! Owns the order in which a tree names the chunks of one file.

use std::ops::Bound;

use landfall_core::files::{FileKey, FilePath};
use landfall_core::tree::{ChunkRef, Cursor, Nodes, Root};

use super::assembly::AssemblyError;

/// The chunks of one file in one tree, by offset.
pub(super) struct Contents<'a> {
    nodes: &'a dyn Nodes,
    path: &'a FilePath,
    cursor: Cursor,
}

impl<'a> Contents<'a> {
    pub(super) fn new(nodes: &'a dyn Nodes, root: Root, path: &'a FilePath) -> Self {
        let start = FileKey::Content { path: path.clone(), offset: 0 }.encode();
        Self { nodes, path, cursor: Cursor::new(root, Bound::Included(&start)) }
    }

    /// The next chunk and where it stands; nothing after the last.
    pub(super) fn next(&mut self) -> Result<Option<(u64, ChunkRef)>, AssemblyError> {
        let Some((key, value)) = self.cursor.next(self.nodes)? else { return Ok(None) };
        match FileKey::decode(&key)? {
            FileKey::Content { path, offset } if path == *self.path => {
                Ok(Some((offset, value.chunk.ok_or(AssemblyError::NotAFileTree)?)))
            }
            _ => Ok(None),
        }
    }
}

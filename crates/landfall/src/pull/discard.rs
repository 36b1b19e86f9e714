//! Owns what it means to discard local changes: the old tree without them, so that every path they touch counts as different.

use std::collections::BTreeMap;

use bytes::Bytes;
use landfall_core::files::{FileKey, FileKind, FilePath, Meta, Mtime, encode_meta};
use landfall_core::tree::{Cursor, Root, Salt, TreeError, Value, edit};

use super::error::PullError;
use crate::files::place::{Difference, Placement};
use crate::nodes::{NodeCache, StoringSink};

/// The tree `root` as if the paths that changed in the destination had never been pulled.
///
/// What was changed or removed loses its entries, so that it is fetched anew; where something stands now, an entry that no snapshot has makes
/// the path differ from whatever the new one says.
pub(super) fn without_changes(nodes: &NodeCache, root: Root, placement: &Placement) -> Result<Root, PullError> {
    let mut changes = Vec::new();
    placement.for_each_local_change(|change| {
        changes.push(change);
        Ok(())
    })?;
    let mut edits: BTreeMap<Vec<u8>, Option<Value>> = BTreeMap::new();
    for change in changes {
        if change.difference != Difference::Added {
            drop_entries(nodes, root, &change.path, &mut edits)?;
        }
        if change.difference != Difference::Removed {
            // Something stands there: should the new snapshot have nothing, it must go.
            edits.insert(FileKey::Meta(change.path).encode(), Some(placeholder()));
        }
    }
    let mut sink = StoringSink::new(nodes);
    let edits: Vec<(Vec<u8>, Option<Value>)> = edits.into_iter().collect();
    let edited = edit(nodes, &root, Salt::PUBLIC, &edits, &mut sink).map_err(super::AssemblyError::from)?;
    sink.finish()?;
    Ok(edited)
}

/// Marks every entry of a path as gone.
fn drop_entries(
    nodes: &NodeCache,
    root: Root,
    path: &FilePath,
    edits: &mut BTreeMap<Vec<u8>, Option<Value>>,
) -> Result<(), PullError> {
    let start = FileKey::Meta(path.clone()).encode();
    let mut cursor = Cursor::new(root, std::ops::Bound::Included(&start));
    let tree = |error: TreeError| PullError::from(super::AssemblyError::from(error));
    while let Some((key, _)) = cursor.next(nodes).map_err(tree)? {
        if !key.starts_with(&start) {
            break;
        }
        edits.insert(key.to_vec(), None);
    }
    Ok(())
}

/// Stands for a path that no snapshot has.
fn placeholder() -> Value {
    let meta = Meta {
        kind: FileKind::Symlink(Bytes::from_static(b"local")),
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
    };
    Value { inline: encode_meta(&meta).into(), chunk: None }
}

//! Owns reading through the layers of a section: overlays, newest first, and the tree below them.
//!
//! It never changes anything.

use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::overlay::{Entries, Layer};
use super::{Chunks, Look, Missing, ReadError, Way};
use crate::limits::INLINE_VALUE_BYTES_MAX;
use crate::snapshot::StateName;
use crate::tree::{self, ChunkRef, Cursor, Root, TreeError, Value};

/// Overlays of one read at most: a transaction's own, the active, the frozen.
const LAYERS_MAX: usize = 3;

/// What a read of one section sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Newest first.
    pub(super) layers: [Option<&'a Layer>; LAYERS_MAX],
    pub(super) root: Root,
    /// The section, if this member does not hold it: then nothing of it can be read.
    pub(super) not_held: Option<&'a StateName>,
}

impl<'a> View<'a> {
    pub(super) fn look(&self, key: &[u8]) -> Look {
        if let Some(section) = self.not_held {
            return Look::NotHeld(section.clone());
        }
        let found = self.layers.iter().flatten().find_map(|layer| layer.look(key));
        match found {
            Some(value) => Look::Found(value.cloned()),
            None if self.root.entries == 0 => Look::Found(None),
            None => Look::Below(self.root),
        }
    }

    pub(super) fn get(&self, source: &dyn Chunks, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        match self.look(key) {
            Look::Found(value) => Ok(value),
            Look::Below(root) => read_below(source, &root, key),
            Look::NotHeld(section) => Err(ReadError::NotHeld { section }),
        }
    }

    /// Up to `entries_max` entries in order, from `from` on.
    pub(super) fn scan(
        &self,
        source: &dyn Chunks,
        from: &[u8],
        entries_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        if let Some(section) = self.not_held {
            return Err(ReadError::NotHeld { section: section.clone() });
        }
        let mut merge = Merge::new(self, from);
        let mut found = Vec::new();
        let mut missing = Missing::default();
        for taken in 0..entries_max {
            let Some((key, stored)) = merge.next(source, entries_max - taken)? else { break };
            match stored {
                Stored::Here(value) => found.push((key, value)),
                Stored::Tree(value) => match read_value(source, &self.root, value) {
                    Ok(value) => found.push((key, value)),
                    Err(ReadError::Missing(more)) => missing.absorb(more),
                    Err(error) => return Err(error),
                },
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(ReadError::Missing(missing)) }
    }

    /// The layers down to the first that hides what is below, and the tree if none does.
    fn visible(&self) -> (impl Iterator<Item = &'a Layer>, Option<Root>) {
        let layers: Vec<&'a Layer> = self.layers.iter().flatten().copied().collect();
        let hiding = layers.iter().position(|layer| layer.hides_below());
        let root = (hiding.is_none() && self.root.entries > 0).then_some(self.root);
        (layers.into_iter().take(hiding.map_or(LAYERS_MAX, |place| place + 1)), root)
    }
}

/// The value of `key` in the tree of `root`, which [`super::KeyedState::look`] named.
///
/// # Errors
/// [`ReadError::Missing`] names the next node on the way, or the value.
pub fn read_below(source: &dyn Chunks, root: &Root, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
    let value = tree::get(source, root, key).map_err(|error| on_the_way(error, root, key))?;
    value.map(|value| read_value(source, root, value)).transpose()
}

fn read_value(source: &dyn Chunks, root: &Root, value: Value) -> Result<Bytes, ReadError> {
    match value {
        Value { inline, chunk: None } => Ok(inline),
        Value { inline, chunk: Some(chunk) } if inline.is_empty() && chunk.bytes > INLINE_VALUE_BYTES_MAX => {
            read_chunk(source, root, chunk)
        }
        _ => Err(broken(root, "it holds a value that no keyed state has")),
    }
}

fn read_chunk(source: &dyn Chunks, root: &Root, chunk: ChunkRef) -> Result<Bytes, ReadError> {
    match source.chunk(chunk.id) {
        None => Err(ReadError::Missing(Missing { chunks: vec![chunk], ..Missing::default() })),
        Some(bytes) if bytes.len() == chunk.bytes as usize => Ok(bytes),
        Some(_) => Err(broken(root, "a value has another length than its leaf claims")),
    }
}

fn broken(root: &Root, reason: &'static str) -> ReadError {
    ReadError::Broken(TreeError::Malformed { id: root.id, reason })
}

fn on_the_way(error: TreeError, root: &Root, key: &[u8]) -> ReadError {
    match error {
        TreeError::Missing(nodes) => {
            let way = Way { root: *root, key: Bytes::copy_from_slice(key) };
            ReadError::Missing(Missing { nodes, chunks: Vec::new(), ways: vec![way] })
        }
        error => ReadError::Broken(error),
    }
}

/// Where the value of an entry was found.
enum Stored {
    Here(Bytes),
    Tree(Value),
}

impl TreeHead {
    fn read(&mut self, source: &dyn Chunks, entries_max: usize) -> Result<Option<(Bytes, Value)>, ReadError> {
        let result = self.cursor.next(source).map_err(|error| match error {
            TreeError::Missing(_) => TreeError::Missing(self.cursor.missing_ahead(source, entries_max)),
            error => error,
        });
        result.map_err(|error| on_the_way(error, &self.root, &self.from))
    }
}

/// Entries of all layers in order, the newest of each key.
struct Merge<'a> {
    overlays: Vec<Peekable<Entries<'a>>>,
    tree: Option<TreeHead>,
}

/// A place in a tree, and the entry there if it was read.
struct TreeHead {
    root: Root,
    from: Bytes,
    cursor: Cursor,
    head: Option<(Bytes, Value)>,
}

impl<'a> Merge<'a> {
    fn new(view: &View<'a>, from: &[u8]) -> Self {
        let (layers, root) = view.visible();
        let overlays = layers.map(|layer| layer.entries(Bound::Included(from), Bound::Unbounded).peekable()).collect();
        let tree = root.map(|root| TreeHead {
            root,
            from: Bytes::copy_from_slice(from),
            cursor: Cursor::new(root, Bound::Included(from)),
            head: None,
        });
        Self { overlays, tree }
    }

    /// The next entry; if what is needed for it is not here, what is needed for the next `entries_max` is named with it.
    fn next(&mut self, source: &dyn Chunks, entries_max: usize) -> Result<Option<(Bytes, Stored)>, ReadError> {
        loop {
            let below = self.peek_tree(source, entries_max)?;
            let above = self.overlays.iter_mut().filter_map(|entries| entries.peek().map(|(key, _)| *key)).min();
            match (above, below) {
                (None, None) => return Ok(None),
                (Some(above), below) if below.as_ref().is_none_or(|below| above <= below) => {
                    let above = above.clone();
                    if below.is_some_and(|below| below == above) {
                        self.take_tree();
                    }
                    if let Some(value) = self.take_newest(&above) {
                        return Ok(Some((above, Stored::Here(value))));
                    }
                }
                _ => return Ok(self.take_tree().map(|(key, value)| (key, Stored::Tree(value)))),
            }
        }
    }

    /// The newest value of `key`, which is the next key of some overlays; moves past it in all of them.
    fn take_newest(&mut self, key: &Bytes) -> Option<Bytes> {
        let mut newest = None;
        for entries in &mut self.overlays {
            let entry = entries.next_if(|(next, _)| *next == key);
            newest = newest.or(entry);
        }
        newest.and_then(|(_, entry)| entry.value.clone())
    }

    fn peek_tree(&mut self, source: &dyn Chunks, entries_max: usize) -> Result<Option<Bytes>, ReadError> {
        let Some(tree) = &mut self.tree else { return Ok(None) };
        if tree.head.is_none() {
            tree.head = tree.read(source, entries_max)?;
        }
        match &tree.head {
            Some((key, _)) => Ok(Some(key.clone())),
            None => {
                self.tree = None;
                Ok(None)
            }
        }
    }

    fn take_tree(&mut self) -> Option<(Bytes, Value)> {
        let tree = self.tree.as_mut()?;
        let head = tree.head.take()?;
        // What misses next lies after this key.
        tree.from = head.0.clone();
        Some(head)
    }
}

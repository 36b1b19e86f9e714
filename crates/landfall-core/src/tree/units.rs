//! Owns editing the leaves below one node of level 1 by themselves: many hands can do that at once, and whoever edits the whole tree takes
//! what they made instead of making it again.
//!
//! It never decides where the nodes of level 1 end: that depends on what comes before them.

use bytes::Bytes;

use super::edit::Editor;
use super::node::Node;
use super::{NodeSink, Nodes, Root, Salt, TreeError, Value};
use crate::ChunkId;

/// The leaves below one node of level 1.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The node of level 2 that names the node of level 1.
    parent: Node,
    index: usize,
    end_key: Option<Bytes>,
}

/// The units that edits fall into, in key order. `next_edit` says which is the first edited key at or after a key.
///
/// A tree of less than three levels is small and has none.
///
/// # Errors
/// [`TreeError::Missing`] if a node above level 1 is not here.
pub fn units(
    nodes: &dyn Nodes,
    root: &Root,
    next_edit: &mut dyn FnMut(&[u8]) -> Option<Bytes>,
) -> Result<Vec<Unit>, TreeError> {
    if root.level < 2 {
        return Ok(Vec::new());
    }
    let node = Node::load_root(nodes, root, None)?;
    let next = next_edit(&[]);
    let mut walk = Walk { nodes, next_edit, found: Vec::new() };
    walk.visit(&node, None, next)?;
    Ok(walk.found)
}

/// A walk over the nodes above level 1, for those that edits fall below.
struct Walk<'a> {
    nodes: &'a dyn Nodes,
    next_edit: &'a mut dyn FnMut(&[u8]) -> Option<Bytes>,
    found: Vec<Unit>,
}

impl Walk<'_> {
    /// Finds units below `node` from the edit `next` on; gives the first edit after them.
    fn visit(
        &mut self,
        node: &Node,
        end_key: Option<&Bytes>,
        mut next: Option<Bytes>,
    ) -> Result<Option<Bytes>, TreeError> {
        let mut index = 0;
        while let Some(key) = next.take_if(|key| end_key.is_none_or(|end_key| *key < end_key)) {
            index = node.covering(index, &key);
            let child_end_key = node.end_key_bytes(index, end_key);
            next = if node.level() == 2 {
                self.found.push(Unit { parent: node.clone(), index, end_key: child_end_key.clone() });
                child_end_key.and_then(|end_key| (self.next_edit)(&end_key))
            } else {
                let child = node.load_child(self.nodes, index, end_key.map(Bytes::as_ref), None)?;
                self.visit(&child, child_end_key.as_ref(), Some(key))?
            };
        }
        Ok(next)
    }
}

impl Unit {
    /// The key that all its keys are below; nothing if it is the last of the tree.
    pub fn end_key(&self) -> Option<&Bytes> {
        self.end_key.as_ref()
    }

    /// Starts editing it.
    ///
    /// # Errors
    /// [`TreeError::Missing`] if its node is not here.
    pub fn editor(&self, nodes: &dyn Nodes, salt: Salt) -> Result<UnitEditor, TreeError> {
        let node = self.parent.load_child(nodes, self.index, self.end_key.as_deref(), None)?;
        let (id, totals) = (node.id(), self.parent.child(self.index).totals);
        let editor = Editor::of_unit(node, totals, self.end_key.clone(), salt);
        Ok(UnitEditor { id, editor, keys: None })
    }
}

/// Applies to a unit, one by one, all edits that fall into it.
#[derive(Debug)]
pub struct UnitEditor {
    id: ChunkId,
    editor: Editor,
    /// The first and the last key that was edited.
    keys: Option<(Bytes, Bytes)>,
}

impl UnitEditor {
    /// As [`Editor::apply`].
    ///
    /// # Errors
    /// As [`Editor::apply`].
    pub fn apply(
        &mut self,
        nodes: &dyn Nodes,
        key: &Bytes,
        value: Option<&Value>,
        sink: &mut impl NodeSink,
    ) -> Result<(), TreeError> {
        self.editor.apply(nodes, key, value, sink)?;
        match &mut self.keys {
            Some((_, last_key)) => *last_key = key.clone(),
            None => self.keys = Some((key.clone(), key.clone())),
        }
        Ok(())
    }

    /// Ends the edits. Nothing if there were none, or if the last leaf would reach into the next unit: then the two cannot be edited apart.
    ///
    /// # Errors
    /// As [`Editor::finish`].
    pub fn finish(self, nodes: &dyn Nodes, sink: &mut impl NodeSink) -> Result<Option<EditedUnit>, TreeError> {
        let Some((first_key, last_key)) = self.keys else { return Ok(None) };
        let leaves = self.editor.finish_unit(nodes, sink)?;
        Ok(leaves.map(|leaves| EditedUnit { id: self.id, first_key, last_key, leaves }))
    }
}

/// What editing a unit by itself gave.
#[derive(Debug)]
pub struct EditedUnit {
    /// The old node of level 1.
    pub(super) id: ChunkId,
    /// The first and the last key that was edited.
    pub(super) first_key: Bytes,
    pub(super) last_key: Bytes,
    /// All leaves that are there now, as the entries of inner nodes.
    pub(super) leaves: Vec<u8>,
}

impl EditedUnit {
    /// The first key that was edited.
    pub fn first_key(&self) -> &Bytes {
        &self.first_key
    }

    /// The last key that was edited.
    pub fn last_key(&self) -> &Bytes {
        &self.last_key
    }
}

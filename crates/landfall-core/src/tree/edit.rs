//! Owns changing a tree: a sorted batch of edits makes a new tree that shares with the old one all it can.
//!
//! It never reads a leaf that no edit falls into, unless an edit moved the boundaries before it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::node::{Node, Totals, check_entry, check_key, is_below};
use super::units::EditedUnit;
use super::write::Writer;
use super::{NODE_WANTS_MAX, NodeSink, NodeWant, Nodes, Root, Salt, TreeError, Value};

/// Applies a sorted batch of edits: a value to put, or nothing to delete. The result is the root that building the
/// edited content from scratch gives.
///
/// # Errors
/// [`TreeError::Missing`] names up to [`NODE_WANTS_MAX`] nodes that the edits need; call again once they are here, with
/// all edits, for nothing is kept but the nodes that were put. [`Editor`] keeps its place instead.
/// [`TreeError::Refused`] if keys do not ascend, or a key or a value is beyond a limit.
pub fn edit<K: AsRef<[u8]>>(
    nodes: &dyn Nodes,
    root: &Root,
    salt: Salt,
    edits: &[(K, Option<Value>)],
    sink: &mut impl NodeSink,
) -> Result<Root, TreeError> {
    let mut editor = Editor::new(*root, salt);
    let mut run = || {
        for (key, value) in edits {
            editor.apply(nodes, key.as_ref(), value.as_ref(), sink)?;
        }
        editor.finish(nodes, sink)
    };
    match run() {
        Err(TreeError::Missing(wants)) => Err(TreeError::Missing(missing(nodes, root, edits, wants))),
        result => result,
    }
}

/// Applies edits one by one. It keeps its place when a node is missing.
///
/// Nodes that the edits leave alone are neither read nor put; memory is two nodes per level, however many edits come.
#[derive(Debug)]
pub struct Editor {
    root: Root,
    writer: Writer,
    /// By level, the old node whose entries are being merged; nothing before the first edit.
    old: Vec<Option<OldNode>>,
    last_key: Option<Bytes>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Editing,
    Ending,
    /// All levels are written, up to this root.
    Written(Root),
}

/// A node of the old tree, and how far its entries are merged.
#[derive(Debug)]
struct OldNode {
    node: Node,
    next: usize,
    end_key: Option<Bytes>,
}

impl OldNode {
    fn covers(&self, key: &[u8]) -> bool {
        self.end_key.as_ref().is_none_or(|end_key| key < end_key.as_ref())
    }

    fn is_merged(&self) -> bool {
        self.next == self.node.len()
    }
}

impl Editor {
    /// Starts editing `root`, which was built with `salt`.
    pub fn new(root: Root, salt: Salt) -> Self {
        let old = std::iter::repeat_with(|| None).take(usize::from(root.level) + 1).collect();
        Self { root, writer: Writer::new(salt), old, last_key: None, stage: Stage::Editing }
    }

    /// Starts editing the leaves below a node of level 1, whose keys are all below `end_key`. [`Self::finish_unit`] ends it.
    pub(super) fn of_unit(node: Node, totals: Totals, end_key: Option<Bytes>, salt: Salt) -> Self {
        let root = Root::new(node.id(), node.level(), totals);
        let writer = Writer::gathering(salt, node.level());
        let old = vec![None, Some(OldNode { node, next: 0, end_key })];
        Self { root, writer, old, last_key: None, stage: Stage::Editing }
    }

    /// Puts `value` at `key`, or deletes the key, which may be absent. Keys come in ascending order.
    ///
    /// # Errors
    /// [`TreeError::Missing`]: call again with the same edit once the node is here. [`TreeError::Refused`]: the edit has
    /// no effect.
    pub fn apply(
        &mut self,
        nodes: &dyn Nodes,
        key: &[u8],
        value: Option<&Value>,
        sink: &mut impl NodeSink,
    ) -> Result<(), TreeError> {
        value.map_or_else(|| check_key(key), |value| check_entry(key, value).map(drop))?;
        self.check_next(key)?;
        self.seek(nodes, 0, key, sink)?;
        if let Some(old) = &mut self.old[0] {
            let at = old.node.lower_bound(old.next, key);
            self.writer.copy(&old.node, old.next..at, sink);
            let is_replaced = at < old.node.len() && old.node.key(at) == key;
            old.next = at + usize::from(is_replaced);
            if is_replaced && value.is_some() {
                self.writer.overwrites();
            }
        }
        if let Some(value) = value {
            self.writer.push(key, value, sink)?;
        }
        self.last_key = Some(Bytes::copy_from_slice(key));
        Ok(())
    }

    /// Takes what editing a unit by itself gave, instead of the edits that fall into it. Those before it come first.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn adopt(
        &mut self,
        nodes: &dyn Nodes,
        unit: &EditedUnit,
        sink: &mut impl NodeSink,
    ) -> Result<Adopted, TreeError> {
        self.check_next(&unit.first_key)?;
        if self.root.level < 1 || self.old[0].as_ref().is_some_and(|old| old.covers(&unit.first_key)) {
            return Ok(Adopted::No);
        }
        self.copy_rest(0, sink);
        if self.writer.is_open(0) {
            return Ok(Adopted::No);
        }
        self.seek(nodes, 1, &unit.first_key, sink)?;
        let Some(old) = self.old[1].as_mut().filter(|old| old.next == 0 && old.node.id() == unit.id) else {
            return Ok(Adopted::No);
        };
        old.next = old.node.len();
        self.writer.enter(1, &unit.leaves, sink);
        self.last_key = Some(unit.last_key.clone());
        Ok(Adopted::Yes)
    }

    /// Ends the edits of a unit and gives the entries of all its leaves; nothing if the last of them is not complete.
    pub(super) fn finish_unit(
        mut self,
        nodes: &dyn Nodes,
        sink: &mut impl NodeSink,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        self.drain(nodes, 0, sink)?;
        let is_last = self.old[1].as_ref().is_none_or(|unit| unit.end_key.is_none());
        match self.writer.is_open(0) {
            true if is_last => self.writer.close(0, sink),
            true => return Ok(None),
            false => {}
        }
        self.copy_rest(1, sink);
        Ok(Some(self.writer.into_gathered()))
    }

    /// Ends the edits and gives the new root.
    ///
    /// # Errors
    /// [`TreeError::Missing`]: call again once the node is here.
    pub fn finish(&mut self, nodes: &dyn Nodes, sink: &mut impl NodeSink) -> Result<Root, TreeError> {
        if self.last_key.is_none() {
            return Ok(self.root);
        }
        let root = match self.stage {
            Stage::Written(root) => root,
            Stage::Editing | Stage::Ending => self.finish_levels(nodes, sink)?,
        };
        self.stage = Stage::Written(root);
        self.skip_single_children(nodes, root)
    }

    fn check_next(&self, key: &[u8]) -> Result<(), TreeError> {
        if self.stage != Stage::Editing {
            return Err(TreeError::Refused("the edits have ended"));
        }
        if self.last_key.as_ref().is_some_and(|last_key| !is_below(last_key, key)) {
            return Err(TreeError::Refused("the keys do not ascend"));
        }
        Ok(())
    }

    fn finish_levels(&mut self, nodes: &dyn Nodes, sink: &mut impl NodeSink) -> Result<Root, TreeError> {
        self.stage = Stage::Ending;
        let mut level = 0;
        loop {
            self.drain(nodes, level, sink)?;
            if self.writer.is_top(level) && self.is_merged_above(level) {
                return Ok(self.writer.finish(level, sink));
            }
            if self.writer.is_open(level) {
                self.writer.close(level, sink);
            }
            level += 1;
        }
    }

    /// When all but the last nodes of an old level are gone, the last may be an inner node with one child: no root.
    fn skip_single_children(&self, nodes: &dyn Nodes, mut root: Root) -> Result<Root, TreeError> {
        // A node that was written now has more than one child, and need not be among `nodes` yet.
        while root.level > 0 && !self.writer.closed_last(root.level, root.id) {
            let node = Node::load(nodes, root.id, &root.claim(), None)?;
            if node.len() > 1 {
                break;
            }
            let child = node.child(0);
            root = Root::new(child.id, root.level - 1, child.totals);
        }
        Ok(root)
    }

    /// Makes the old node of `level` the one that covers `key`, having merged all that is before it.
    fn seek(&mut self, nodes: &dyn Nodes, level: u8, key: &[u8], sink: &mut impl NodeSink) -> Result<(), TreeError> {
        loop {
            match &self.old[usize::from(level)] {
                Some(old) if old.covers(key) => return Ok(()),
                Some(_) => self.copy_rest(level, sink),
                None => {}
            }
            if self.writer.is_open(level) {
                // The new node did not close where the old one did, so the next old node changes too.
                if self.take_next(nodes, level)? == Taken::NoneLeft {
                    return Ok(());
                }
            } else {
                self.take_covering(nodes, level, key, sink)?;
            }
        }
    }

    fn take_covering(
        &mut self,
        nodes: &dyn Nodes,
        level: u8,
        key: &[u8],
        sink: &mut impl NodeSink,
    ) -> Result<(), TreeError> {
        if level < self.root.level {
            self.seek(nodes, level + 1, key, sink)?;
            if let Some(parent) = &mut self.old[usize::from(level) + 1] {
                let at = parent.node.covering(parent.next, key);
                self.writer.copy(&parent.node, parent.next..at, sink);
                parent.next = at;
            }
        }
        self.take(nodes, level)
    }

    /// Takes the old node of `level` that follows the present one.
    fn take_next(&mut self, nodes: &dyn Nodes, level: u8) -> Result<Taken, TreeError> {
        if level == self.root.level {
            return Ok(Taken::NoneLeft);
        }
        let parent_is_merged = self.old[usize::from(level) + 1].as_ref().is_none_or(OldNode::is_merged);
        if parent_is_merged && self.take_next(nodes, level + 1)? == Taken::NoneLeft {
            return Ok(Taken::NoneLeft);
        }
        self.take(nodes, level).map(|()| Taken::One)
    }

    /// Gets the node that the level above names next. Its entry is thereby merged: new nodes take its place.
    fn take(&mut self, nodes: &dyn Nodes, level: u8) -> Result<(), TreeError> {
        let (below, above) = self.old.split_at_mut(usize::from(level) + 1);
        let (node, end_key) = match above.first_mut().and_then(Option::as_mut) {
            None => (Node::load_root(nodes, &self.root, None)?, None),
            Some(parent) => {
                let node = parent.node.load_child(nodes, parent.next, parent.end_key.as_deref(), None)?;
                let end_key = parent.node.end_key_bytes(parent.next, parent.end_key.as_ref());
                parent.next += 1;
                (node, end_key)
            }
        };
        self.writer.replace(level, node.id());
        below[usize::from(level)] = Some(OldNode { node, next: 0, end_key });
        Ok(())
    }

    fn copy_rest(&mut self, level: u8, sink: &mut impl NodeSink) {
        if let Some(old) = &mut self.old[usize::from(level)] {
            self.writer.copy(&old.node, old.next..old.node.len(), sink);
            old.next = old.node.len();
        }
    }

    /// Merges what is left of the old nodes of `level` that change.
    fn drain(&mut self, nodes: &dyn Nodes, level: u8, sink: &mut impl NodeSink) -> Result<(), TreeError> {
        if level > self.root.level {
            return Ok(());
        }
        self.copy_rest(level, sink);
        while self.writer.is_open(level) && self.take_next(nodes, level)? == Taken::One {
            self.copy_rest(level, sink);
        }
        Ok(())
    }

    fn is_merged_above(&self, level: u8) -> bool {
        self.old.iter().skip(usize::from(level) + 1).flatten().all(OldNode::is_merged)
    }
}

/// Whether a unit that was edited by itself fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// Its edits are done.
    Yes,
    /// The leaf before it reaches into it, or it was begun: its edits are to be applied one by one.
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    One,
    NoneLeft,
}

/// All missing nodes on the way to the edits that the nodes which are here name, after `wants`.
fn missing<K: AsRef<[u8]>>(
    nodes: &dyn Nodes,
    root: &Root,
    edits: &[(K, Option<Value>)],
    wants: Vec<NodeWant>,
) -> Vec<NodeWant> {
    let seen = wants.iter().map(|want| want.id).collect();
    let mut ways = Ways { nodes, wants, seen };
    // A malformed node is reported when the edits come to it.
    if let Ok(node) = Node::load_root(nodes, root, None) {
        ways.visit(&node, None, edits);
    }
    ways.wants
}

/// A walk over the ways from a root to the keys of edits.
struct Ways<'a> {
    nodes: &'a dyn Nodes,
    wants: Vec<NodeWant>,
    seen: BTreeSet<crate::ChunkId>,
}

impl Ways<'_> {
    fn visit<K: AsRef<[u8]>>(&mut self, node: &Node, end_key: Option<&Bytes>, mut edits: &[(K, Option<Value>)]) {
        let mut index = 0;
        while node.level() > 0 && self.wants.len() < NODE_WANTS_MAX {
            let Some((key, _)) = edits.first() else { return };
            index = node.covering(index, key.as_ref());
            let child_end_key = node.end_key_bytes(index, end_key);
            let here = edits.partition_point(|(key, _)| child_end_key.as_ref().is_none_or(|end| key.as_ref() < end));
            let (below, after) = edits.split_at(here.max(1));
            match node.load_child(self.nodes, index, end_key.map(Bytes::as_ref), None) {
                Ok(child) => self.visit(&child, child_end_key.as_ref(), below),
                Err(TreeError::Missing(wants)) => {
                    self.wants.extend(wants.into_iter().filter(|want| self.seen.insert(want.id)));
                }
                Err(_) => {}
            }
            edits = after;
        }
    }
}

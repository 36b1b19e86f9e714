//! Owns reading a tree: one key, or entries in order from some key on.

use std::ops::Bound;

use bytes::Bytes;

use super::node::Node;
use super::{NODE_WANTS_MAX, NodeWant, Nodes, Root, TreeError, Value};
use crate::ChunkId;

/// The value of `key`.
///
/// # Errors
/// [`TreeError::Missing`] names the next node on the way to the key.
pub fn get(nodes: &dyn Nodes, root: &Root, key: &[u8]) -> Result<Option<Value>, TreeError> {
    let mut node = Node::load_root(nodes, root, None)?;
    let mut end_key: Option<Bytes> = None;
    while node.level() > 0 {
        let index = node.covering(0, key);
        let child = node.load_child(nodes, index, end_key.as_deref(), None)?;
        end_key = node.end_key_bytes(index, end_key.as_ref());
        node = child;
    }
    let index = node.lower_bound(0, key);
    let found = index < node.len() && node.key(index) == key;
    Ok(found.then(|| node.value(index)))
}

/// For each node on the way to `key` in a tree of `target_level`, from the root on, the one at the same level on the way to it in `base`: the
/// likeliest bases of patches. The last one need not be here itself; a base of which too much is not here has none to give.
pub fn bases_on_way(nodes: &dyn Nodes, base: &Root, target_level: u8, key: &[u8]) -> Vec<Option<ChunkId>> {
    let way = way_to(nodes, base, key);
    let at_level = |level: u8| way.get(usize::from(base.level.checked_sub(level)?)).copied();
    (0..=target_level).rev().map(at_level).collect()
}

/// The nodes on the way to `key`, from the root down, as far as they are known.
fn way_to(nodes: &dyn Nodes, root: &Root, key: &[u8]) -> Vec<ChunkId> {
    let mut way = vec![root.id];
    let mut end_key: Option<Bytes> = None;
    let mut next = Node::load_root(nodes, root, None);
    while let Ok(node) = next
        && node.level() > 0
    {
        let index = node.covering(0, key);
        way.push(node.child(index).id);
        next = node.load_child(nodes, index, end_key.as_deref(), None);
        end_key = node.end_key_bytes(index, end_key.as_ref());
    }
    way
}

/// The leaf that covers `key`, which need not be here itself.
///
/// # Errors
/// [`TreeError::Missing`] names the next inner node on the way.
pub fn leaf_of(nodes: &dyn Nodes, root: &Root, key: &[u8]) -> Result<ChunkId, TreeError> {
    if root.level == 0 {
        return Ok(root.id);
    }
    let mut node = Node::load_root(nodes, root, None)?;
    let mut end_key: Option<Bytes> = None;
    loop {
        let index = node.covering(0, key);
        if node.level() == 1 {
            return Ok(node.child(index).id);
        }
        let child = node.load_child(nodes, index, end_key.as_deref(), None)?;
        end_key = node.end_key_bytes(index, end_key.as_ref());
        node = child;
    }
}

/// Reads entries in order. It keeps its place when a node is missing.
#[derive(Debug, Clone)]
pub struct Cursor {
    root: Root,
    start: Bound<Bytes>,
    /// From the root to the leaf that is being read; empty before the first read.
    path: Vec<Step>,
}

impl Cursor {
    /// Starts before the first entry of `root` that `start` admits.
    pub fn new(root: Root, start: Bound<&[u8]>) -> Self {
        Self { root, start: start.map(Bytes::copy_from_slice), path: Vec::new() }
    }

    /// The next entry, sharing the bytes of its leaf; nothing at the end.
    ///
    /// # Errors
    /// [`TreeError::Missing`] names the next node of the way; call again once it is here.
    pub fn next(&mut self, nodes: &dyn Nodes) -> Result<Option<(Bytes, Value)>, TreeError> {
        if self.path.is_empty() {
            let root = Node::load_root(nodes, &self.root, None)?;
            self.enter(root, None);
        }
        loop {
            let Some(step) = self.path.last_mut() else { return Ok(None) };
            if step.next == step.node.len() {
                if self.path.len() == 1 {
                    return Ok(None);
                }
                self.path.pop();
            } else if step.node.level() == 0 {
                step.next += 1;
                return Ok(Some((step.node.key_bytes(step.next - 1), step.node.value(step.next - 1))));
            } else {
                let (child, end_key) = step.open(nodes)?;
                self.enter(child, end_key);
            }
        }
    }

    /// Moves past the node that the last call of [`Self::next`] could not read, and says which keys lie below it. Nothing if
    /// that was the root: then there is nothing else to read.
    pub fn pass_over(&mut self) -> Option<KeySpan> {
        let step = self.path.last_mut()?;
        if step.next == step.node.len() || step.node.level() == 0 {
            return None;
        }
        let first = step.node.key_bytes(step.next);
        let end = step.node.end_key_bytes(step.next, step.end_key.as_ref());
        step.next += 1;
        Some(KeySpan { first, end })
    }

    /// After a miss: the node that is missing, and those after it that are not here either and hold the next `entries_max`
    /// entries, as far as its parent names them. Fetching them together saves a round trip for each.
    pub fn missing_ahead(&self, nodes: &dyn Nodes, entries_max: usize) -> Vec<NodeWant> {
        let Some(step) = self.path.last() else { return vec![NodeWant { id: self.root.id, base: None }] };
        let mut wants = Vec::new();
        let mut entries_left = entries_max as u64;
        for index in step.next..step.node.len() {
            if step.node.level() == 0 || entries_left == 0 || wants.len() == NODE_WANTS_MAX {
                break;
            }
            let child = step.node.child(index);
            if nodes.node(child.id).is_none() {
                wants.push(NodeWant { id: child.id, base: None });
            }
            // A scan may begin at the end of the first node, which then holds nothing of it.
            if index > step.next {
                entries_left = entries_left.saturating_sub(child.totals.entries);
            }
        }
        wants
    }

    fn enter(&mut self, node: Node, end_key: Option<Bytes>) {
        let next = match &self.start {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) if node.level() > 0 => node.covering(0, key),
            Bound::Included(key) => node.lower_bound(0, key),
            Bound::Excluded(key) => {
                let next = node.lower_bound(0, key);
                next + usize::from(next < node.len() && node.key(next) == key)
            }
        };
        if node.level() == 0 {
            // The start lies in this leaf or before it: it says nothing about the leaves that follow.
            self.start = Bound::Unbounded;
        }
        self.path.push(Step { node, next, end_key });
    }
}

/// Keys that lie next to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpan {
    /// No key comes before it.
    pub first: Bytes,
    /// All keys come before it; nothing if they reach to the end of the tree.
    pub end: Option<Bytes>,
}

/// A node and the place in it.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) node: Node,
    pub(super) next: usize,
    /// The first key of the next node of this level.
    pub(super) end_key: Option<Bytes>,
}

impl Step {
    /// Gets the next child of an inner node, and the first key after it.
    pub(super) fn peek(&self, nodes: &dyn Nodes) -> Result<(Node, Option<Bytes>), TreeError> {
        let child = self.node.load_child(nodes, self.next, self.end_key.as_deref(), None)?;
        Ok((child, self.node.end_key_bytes(self.next, self.end_key.as_ref())))
    }

    /// Gets the next child and moves past it if it is here.
    pub(super) fn open(&mut self, nodes: &dyn Nodes) -> Result<(Node, Option<Bytes>), TreeError> {
        let opened = self.peek(nodes)?;
        self.next += 1;
        Ok(opened)
    }
}

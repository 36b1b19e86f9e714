//! Owns finding the leaves of a tree that another tree does not have.
//!
//! It never reads a leaf, except a root that is one: inner nodes of both trees suffice.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::lookup::Step;
use super::node::Node;
use super::{NODE_WANTS_MAX, NewLeaf, NodeWant, Nodes, Root, TreeError};
use crate::ChunkId;

/// Lists, in key order, the leaves of a target that a base does not have. It keeps its place when a node is missing.
///
/// When inner nodes are missing, it names all that it can: whoever fetches them all needs about one round trip per
/// level, not one per node.
#[derive(Debug)]
pub struct NewLeaves {
    target: Root,
    base: Option<Covers>,
    /// From the root to the level-1 node whose leaves are being listed.
    path: Vec<Step>,
    started: Started,
    entries_held: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    No,
    Yes,
}

/// Nodes that one look ahead reads at most, so that a call's work is bounded when most of the tree is already here.
const LOOK_AHEAD_NODES_MAX: usize = 1024;

impl NewLeaves {
    /// Compares `target` with `base`; without a base every leaf is new.
    pub fn new(base: Option<Root>, target: Root) -> Self {
        Self { target, base: base.map(Covers::new), path: Vec::new(), started: Started::No, entries_held: 0 }
    }

    /// Entries before the present place in leaves that the base has: those that were passed over.
    pub fn entries_held(&self) -> u64 {
        self.entries_held
    }

    /// The next leaves, at most `leaves_max`; none at the end.
    ///
    /// # Errors
    /// [`TreeError::Missing`], only when no leaf can be returned first: up to [`NODE_WANTS_MAX`] inner nodes, each with
    /// the base's node of the same level that covers its first key.
    pub fn next(&mut self, nodes: &dyn Nodes, leaves_max: usize) -> Result<Vec<NewLeaf>, TreeError> {
        let mut leaves = Vec::new();
        while leaves.len() < leaves_max {
            match self.step(nodes) {
                Ok(Some(leaf)) => leaves.push(leaf),
                Ok(None) => break,
                // The place is kept: the error comes back with the next call.
                Err(_) if !leaves.is_empty() => break,
                Err(TreeError::Missing(wants)) => return Err(TreeError::Missing(self.look_ahead(nodes, wants))),
                Err(error) => return Err(error),
            }
        }
        Ok(leaves)
    }

    fn step(&mut self, nodes: &dyn Nodes) -> Result<Option<NewLeaf>, TreeError> {
        if self.started == Started::No {
            let leaf = self.start(nodes)?;
            self.started = Started::Yes;
            if leaf.is_some() {
                return Ok(leaf);
            }
        }
        while let Some(step) = self.path.last_mut() {
            if step.next == step.node.len() {
                self.path.pop();
                continue;
            }
            let child = step.node.child(step.next);
            let base = cover(&mut self.base, nodes, step.node.level() - 1, child.key)?;
            if base == Some(child.id) {
                step.next += 1;
                self.entries_held += child.totals.entries;
            } else if step.node.level() == 1 {
                let leaf = new_leaf(&step.node, step.next, base);
                step.next += 1;
                return Ok(Some(leaf));
            } else {
                let (node, end_key) = step.open(nodes).map_err(|error| with_base(error, base))?;
                self.path.push(Step { node, next: 0, end_key });
            }
        }
        Ok(None)
    }

    /// Enters the root; if that is a leaf, it is the only one that can be new.
    fn start(&mut self, nodes: &dyn Nodes) -> Result<Option<NewLeaf>, TreeError> {
        // A root does not say its first key; the first node of its level is the likeliest match.
        let base = cover(&mut self.base, nodes, self.target.level, &[])?;
        if base == Some(self.target.id) {
            self.entries_held = self.target.entries;
            return Ok(None);
        }
        let node = Node::load_root(nodes, &self.target, base)?;
        if node.level() > 0 {
            self.path.push(Step { node, next: 0, end_key: None });
            return Ok(None);
        }
        let first_key = if node.len() == 0 { Bytes::new() } else { node.key_bytes(0) };
        let base = cover(&mut self.base, nodes, 0, &first_key)?;
        let leaf = NewLeaf {
            id: node.id(),
            base,
            first_key,
            entries: self.target.entries,
            payload_bytes: self.target.payload_bytes,
            chunk_refs: self.target.chunk_refs,
        };
        if base == Some(leaf.id) {
            self.entries_held = leaf.entries;
            return Ok(None);
        }
        Ok(Some(leaf))
    }

    /// All missing nodes that the nodes which are here name, from the present place on, after `wants`.
    fn look_ahead(&mut self, nodes: &dyn Nodes, wants: Vec<NodeWant>) -> Vec<NodeWant> {
        let mut ahead = LookAhead {
            nodes,
            base: &mut self.base,
            seen: wants.iter().map(|want| want.id).collect(),
            wants,
            nodes_left: LOOK_AHEAD_NODES_MAX,
        };
        for step in self.path.iter().rev() {
            ahead.visit_children(&step.node, step.next, step.end_key.as_ref());
        }
        ahead.wants
    }
}

fn new_leaf(node: &Node, index: usize, base: Option<ChunkId>) -> NewLeaf {
    let child = node.child(index);
    NewLeaf {
        id: child.id,
        base,
        first_key: node.key_bytes(index),
        entries: child.totals.entries,
        payload_bytes: child.totals.payload_bytes,
        chunk_refs: child.totals.chunk_refs,
    }
}

fn with_base(error: TreeError, base: Option<ChunkId>) -> TreeError {
    match error {
        TreeError::Missing(wants) => {
            TreeError::Missing(wants.into_iter().map(|want| NodeWant { base, ..want }).collect())
        }
        error => error,
    }
}

/// A walk over the nodes that are here, for those that are not.
struct LookAhead<'a> {
    nodes: &'a dyn Nodes,
    base: &'a mut Option<Covers>,
    wants: Vec<NodeWant>,
    seen: BTreeSet<ChunkId>,
    nodes_left: usize,
}

impl LookAhead<'_> {
    fn visit_children(&mut self, node: &Node, from: usize, end_key: Option<&Bytes>) {
        for index in from..node.len() {
            if self.wants.len() >= NODE_WANTS_MAX || self.nodes_left == 0 {
                return;
            }
            let child = node.child(index);
            match cover(self.base, self.nodes, node.level() - 1, child.key) {
                Ok(base) if base == Some(child.id) || node.level() == 1 => {}
                Ok(base) => self.visit(node, index, end_key, base),
                // The base's nodes are needed too. Until they are here nobody knows if the child is new.
                Err(TreeError::Missing(wants)) => self.want(wants),
                // A malformed node is reported when the walk comes to it.
                Err(_) => {}
            }
        }
    }

    fn visit(&mut self, node: &Node, index: usize, end_key: Option<&Bytes>, base: Option<ChunkId>) {
        self.nodes_left -= 1;
        match node.load_child(self.nodes, index, end_key.map(Bytes::as_ref), base) {
            Ok(child) => self.visit_children(&child, 0, node.end_key_bytes(index, end_key).as_ref()),
            Err(TreeError::Missing(wants)) => self.want(wants),
            Err(_) => {}
        }
    }

    fn want(&mut self, wants: Vec<NodeWant>) {
        self.wants.extend(wants.into_iter().filter(|want| self.seen.insert(want.id)));
    }
}

fn cover(base: &mut Option<Covers>, nodes: &dyn Nodes, level: u8, key: &[u8]) -> Result<Option<ChunkId>, TreeError> {
    base.as_mut().map_or(Ok(None), |base| base.cover(nodes, level, key))
}

/// Answers which node of a tree covers a key at a level, cheaply for keys in ascending order.
#[derive(Debug)]
struct Covers {
    root: Root,
    /// The node of each level above the leaves that covered the last key.
    path: Vec<Option<Covering>>,
}

/// An inner node and the range of keys that it covers.
#[derive(Debug)]
struct Covering {
    node: Node,
    /// Nothing if it is the first node of its level, which covers all lower keys too.
    start_key: Option<Bytes>,
    end_key: Option<Bytes>,
}

impl Covers {
    fn new(root: Root) -> Self {
        let levels = usize::from(root.level);
        Self { root, path: std::iter::repeat_with(|| None).take(levels).collect() }
    }

    /// The node at `level` that covers `key`; nothing if the tree is not that high.
    fn cover(&mut self, nodes: &dyn Nodes, level: u8, key: &[u8]) -> Result<Option<ChunkId>, TreeError> {
        if level >= self.root.level {
            return Ok((level == self.root.level).then_some(self.root.id));
        }
        let parent = &self.enter(nodes, level + 1, key)?.node;
        Ok(Some(parent.child(parent.covering(0, key)).id))
    }

    /// The inner node at `level`, at most the root's, that covers `key`.
    fn enter(&mut self, nodes: &dyn Nodes, level: u8, key: &[u8]) -> Result<&Covering, TreeError> {
        let slot = usize::from(level) - 1;
        if !self.path[slot].as_ref().is_some_and(|covering| covering.covers(key)) {
            let covering = if level == self.root.level {
                let node = Node::load_root(nodes, &self.root, None)?;
                Covering { node, start_key: None, end_key: None }
            } else {
                let parent = self.enter(nodes, level + 1, key)?;
                parent.open(nodes, parent.node.covering(0, key))?
            };
            self.path[slot] = Some(covering);
        }
        Ok(self.path[slot].as_ref().expect("entered above"))
    }
}

impl Covering {
    fn covers(&self, key: &[u8]) -> bool {
        self.start_key.as_ref().is_none_or(|start_key| start_key.as_ref() <= key)
            && self.end_key.as_ref().is_none_or(|end_key| key < end_key.as_ref())
    }

    /// Gets the child at `index`.
    fn open(&self, nodes: &dyn Nodes, index: usize) -> Result<Self, TreeError> {
        let node = self.node.load_child(nodes, index, self.end_key.as_deref(), None)?;
        let start_key = if index == 0 { self.start_key.clone() } else { Some(self.node.key_bytes(index)) };
        Ok(Self { node, start_key, end_key: self.node.end_key_bytes(index, self.end_key.as_ref()) })
    }
}

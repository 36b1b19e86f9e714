//! Owns looking into single nodes: the entries of a leaf, and what hangs below any node.

use bytes::Bytes;

use super::node::{Claim, Node};
use super::{ChunkRef, TreeError, Value};
use crate::ChunkId;

/// A leaf whose every byte was checked.
#[derive(Debug, Clone)]
pub struct Leaf {
    node: Node,
}

impl Leaf {
    /// Checks that `bytes`, about which nothing is known, are a leaf.
    ///
    /// # Errors
    /// [`TreeError::Malformed`] if they are an inner node or no node at all.
    pub fn parse(bytes: &Bytes) -> Result<Self, TreeError> {
        Self::of_node(Node::parse(bytes.clone())?)
    }

    /// Checks that bytes which hash to `id`, as the caller has checked, are a leaf.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn read(id: ChunkId, bytes: Bytes) -> Result<Self, TreeError> {
        Self::of_node(Node::read(id, bytes)?)
    }

    /// The leaf that a node is; nothing if it is an inner node.
    pub fn of(node: Node) -> Option<Self> {
        (node.level() == 0).then_some(Self { node })
    }

    fn of_node(node: Node) -> Result<Self, TreeError> {
        let id = node.id();
        Self::of(node).ok_or(TreeError::Malformed { id, reason: "it is not a leaf" })
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.node.len()
    }

    /// Whether it has no entries: the leaf of the empty tree.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `index`, sharing the leaf's bytes.
    pub fn entry(&self, index: usize) -> Option<(Bytes, Value)> {
        (index < self.len()).then(|| (self.node.key_bytes(index), self.node.value(index)))
    }

    /// The entries whose values are chunks, in order: where each stands, its key, and its chunk.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, &[u8], ChunkRef)> + '_ {
        (0..self.len()).filter_map(|index| Some((index, self.node.key(index), self.node.leaf_entry(index).chunk()?)))
    }

    /// All entries in order, with their indices, sharing the leaf's bytes.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (usize, Bytes, Value)> + '_ {
        (0..self.len()).map(|index| (index, self.node.key_bytes(index), self.node.value(index)))
    }
}

/// Checks a node's bytes against what its parent, or a snapshot, says about it.
///
/// The caller has checked that the bytes hash to `id`.
///
/// # Errors
/// [`TreeError::Malformed`]: whoever published the tree is broken, not the peer that sent the node.
pub fn check_node(id: ChunkId, bytes: &Bytes, claim: &Claim<'_>) -> Result<(), TreeError> {
    Node::check(id, bytes.clone(), claim).map(drop)
}

/// What a node refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// The children of an inner node, in order.
    Nodes(Vec<Child>),
    /// The chunks that a leaf refers to, in order; a chunk may stand here more than once.
    Chunks(Vec<ChunkRef>),
}

/// A child of an inner node, and what the node claims about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The child.
    pub id: ChunkId,
    /// Its level: 0 for a leaf.
    pub level: u8,
    /// Its first key.
    pub first_key: Bytes,
    /// Entries in all leaves below.
    pub entries: u64,
    /// Bytes of all inline values and referred chunks below.
    pub payload_bytes: u64,
    /// Chunk references below; if there are none, a walk for chunks need not go down.
    pub chunk_refs: u64,
}

impl Child {
    /// What its parent says about it.
    pub fn claim(&self) -> Claim<'_> {
        Claim {
            level: self.level,
            first_key: Some(&self.first_key),
            end_key: None,
            entries: self.entries,
            payload_bytes: self.payload_bytes,
            chunk_refs: self.chunk_refs,
        }
    }
}

/// Lists what a node refers to: one step of a walk over everything below a root.
///
/// # Errors
/// [`TreeError::Malformed`] if the bytes are not a node.
pub fn children(bytes: &Bytes) -> Result<Children, TreeError> {
    let node = Node::parse(bytes.clone())?;
    if node.level() == 0 {
        return Ok(Children::Chunks((0..node.len()).filter_map(|index| node.leaf_entry(index).chunk()).collect()));
    }
    Ok(Children::Nodes((0..node.len()).map(|index| child(&node, index)).collect()))
}

fn child(node: &Node, index: usize) -> Child {
    let entry = node.child(index);
    Child {
        id: entry.id,
        level: node.level() - 1,
        first_key: node.key_bytes(index),
        entries: entry.totals.entries,
        payload_bytes: entry.totals.payload_bytes,
        chunk_refs: entry.totals.chunk_refs,
    }
}

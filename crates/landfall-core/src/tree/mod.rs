//! Owns the history-independent tree: an ordered map whose root is the same for the same content, however it got there.

use bytes::Bytes;

use crate::codec::Copied;
use crate::{Chunk, ChunkId};

mod boundary;
mod build;
mod diff;
mod directory;
mod edit;
mod leaf;
mod leaves;
mod lookup;
mod memory;
mod node;
mod units;
mod write;

pub use build::Builder;
pub use diff::Diff;
pub use edit::{Adopted, Editor, edit};
pub use leaf::{Child, Children, Leaf, check_node, children};
pub use leaves::NewLeaves;
pub use lookup::{Cursor, KeySpan, bases_on_way, get, leaf_of};
pub use memory::MemoryNodes;
pub use node::{Claim, Node, empty_leaf};
pub use units::{EditedUnit, Unit, UnitEditor, units};

/// The secret, or public, key of a tree's boundary hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// The salt of every file tree: equal directories have equal roots everywhere.
    pub const PUBLIC: Self = Self(*b"landfall/files/1");
}

/// A tree's root and what hangs below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The root node.
    pub id: ChunkId,
    /// Level of the root node: 0 for a leaf.
    pub level: u8,
    /// Entries in all leaves.
    pub entries: u64,
    /// Bytes of all inline values and of all chunks that are referred to.
    pub payload_bytes: u64,
    /// Chunk references in all leaves.
    pub chunk_refs: u64,
}

/// A value of a tree: bytes beside the key, a chunk elsewhere, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Value {
    /// Bytes that live inside the leaf; at most [`crate::limits::INLINE_VALUE_BYTES_MAX`].
    pub inline: Bytes,
    /// Content too long to live inside the leaf.
    pub chunk: Option<ChunkRef>,
}

impl Value {
    /// A value that lives inside the leaf.
    pub fn inline(bytes: impl Into<Bytes>) -> Self {
        Self { inline: bytes.into(), chunk: None }
    }

    /// A value that lives in a chunk of `bytes` bytes.
    pub fn chunk(id: ChunkId, bytes: u32) -> Self {
        Self { inline: Bytes::new(), chunk: Some(ChunkRef { id, bytes }) }
    }
}

/// Names a chunk of data from inside a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// The chunk, in the data domain.
    pub id: ChunkId,
    /// Length of its plaintext, at most [`crate::limits::CHUNK_BYTES_MAX`].
    pub bytes: u32,
}

/// Where verified nodes can be had without waiting.
pub trait Nodes {
    /// The plaintext of a node that was verified in the node domain, or nothing if it is not here.
    fn node(&self, id: ChunkId) -> Option<Bytes>;

    /// The same node, its entries found: whoever keeps nodes in memory keeps them like that, or each look goes through the bytes again.
    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.node(id).map(|bytes| Node::read(id, bytes))
    }
}

/// A node that an operation needs and that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeWant {
    /// The node.
    pub id: ChunkId,
    /// The node of the base tree that covers its first key: what a patch would be made against.
    pub base: Option<ChunkId>,
}

/// Nodes that one [`TreeError::Missing`] names at most.
pub const NODE_WANTS_MAX: usize = 512;

/// Why an operation on a tree did not finish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Nodes are not here: fetch them and call again.
    #[error("{} tree nodes are not here", .0.len())]
    Missing(Vec<NodeWant>),
    /// A node's bytes match its hash but are not a node, or not what its parent claims: whoever published it is broken.
    #[error("tree node {id} is malformed: {reason}")]
    Malformed {
        /// The node.
        id: ChunkId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key or the value is beyond a limit.
    #[error("refused: {0}")]
    Refused(&'static str),
}

/// A difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key that differs.
    pub key: Bytes,
    /// Its value in the base, if it is there.
    pub old: Option<Value>,
    /// Its value in the target, if it is there.
    pub new: Option<Value>,
}

/// A leaf of the target that the base does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLeaf {
    /// The leaf.
    pub id: ChunkId,
    /// The base's leaf that covers its first key.
    pub base: Option<ChunkId>,
    /// Its first key.
    pub first_key: Bytes,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of its inline values and of the chunks it refers to.
    pub payload_bytes: u64,
    /// Chunk references in it.
    pub chunk_refs: u64,
}

/// Receives the nodes that an operation makes.
pub trait NodeSink {
    /// Takes one new node.
    fn put(&mut self, node: Chunk);

    /// Takes one new node and hears which old node of the same level covers its first key, if one does: the likeliest base
    /// of a patch. None is named for a leaf that shares no key with it. It is a hint; nothing depends on it.
    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        let _ = old;
        self.put(node);
    }

    /// Takes one new leaf and hears which bytes of it stand in the old one too, in ascending order. It is a hint.
    fn put_copied(&mut self, node: Chunk, old: ChunkId, copied: &[Copied]) {
        let _ = copied;
        self.put_in_place_of(node, Some(old));
    }
}

impl<S: NodeSink + ?Sized> NodeSink for &mut S {
    fn put(&mut self, node: Chunk) {
        (**self).put(node);
    }

    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        (**self).put_in_place_of(node, old);
    }

    fn put_copied(&mut self, node: Chunk, old: ChunkId, copied: &[Copied]) {
        (**self).put_copied(node, old, copied);
    }
}

#[cfg(test)]
mod tests;

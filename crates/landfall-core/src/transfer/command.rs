//! Owns the words that a transfer and its driver exchange. Plain data: printed, compared, dropped by a simulator.

use std::fmt;

use crate::chunk::ChunkId;
use crate::tree::NodeWant;

/// A peer, as one transfer numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One of the connections to a peer. Requests on one lane are answered in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The peer.
    pub peer: PeerId,
    /// Which of its connections, counted from 0.
    pub index: u32,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.peer, self.index)
    }
}

/// A request, unique within one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// A chunk that is wanted, named by its place in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which entry of the leaf, counted from 0.
    pub entry: u32,
    /// Length of the chunk.
    pub bytes: u32,
    /// A chunk here against which a patch may be made.
    pub base: Option<ChunkId>,
}

/// Everything that a transfer can ask of the world. The driver obeys; it never decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask a peer for tree nodes.
    FetchNodes {
        /// Names the request in what comes back.
        request: RequestId,
        /// Where to ask.
        lane: Lane,
        /// The nodes.
        wants: Vec<NodeWant>,
    },
    /// Ask a peer for chunks of one leaf.
    FetchChunks {
        /// Names the request in what comes back.
        request: RequestId,
        /// Where to ask.
        lane: Lane,
        /// The leaf that names the chunks.
        leaf: ChunkId,
        /// The chunks.
        wants: Vec<Want>,
    },
    /// Tell a peer that the rest of a request is no longer needed.
    Cancel {
        /// The request.
        request: RequestId,
        /// Where it was asked.
        lane: Lane,
    },
    /// Find out which chunks of a leaf are not here yet, and say so with `handle_inspected`. The leaf's node is here.
    Inspect {
        /// Which of the transfer's trees it belongs to.
        tree: usize,
        /// The leaf.
        leaf: ChunkId,
    },
    /// Close every connection to a peer.
    DropPeer {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: DropReason,
    },
}

impl Command {
    /// The peer that hears of it.
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::FetchNodes { lane, .. } | Self::FetchChunks { lane, .. } | Self::Cancel { lane, .. } => {
                Some(lane.peer)
            }
            Self::DropPeer { peer, .. } => Some(*peer),
            Self::Inspect { .. } => None,
        }
    }
}

/// Why a transfer will not deal with a peer any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It sent bytes that do not match their hash, more than once.
    Corrupt,
    /// It had work and made no progress for longer than the limit.
    Stalled,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corrupt => "it sent bytes that do not match their hash",
            Self::Stalled => "it had work and made no progress",
        })
    }
}

/// What came of one want of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The bytes matched their hash and are stored here.
    Stored,
    /// They are, and whoever stored them saw a leaf, of so many bytes, that refers to no chunk: it need not be inspected.
    Chunkless {
        /// Its length.
        leaf_bytes: u32,
    },
    /// The peer does not hold them, or found its own copy damaged.
    Missing,
    /// The bytes that came are not what their name promises.
    Corrupt,
    /// They came as a patch on what can no longer be read here. Nobody is to blame: they are asked for again, without that base.
    Baseless,
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Work is under way, or waits for a peer.
    Running,
    /// Every node and every wanted chunk is here.
    Complete,
    /// It cannot go on.
    Stuck(Stuck),
}

/// Why a transfer cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Every peer was lost and none came back in time.
    #[error("no source is left")]
    NoPeers,
    /// Every peer that is left lacks this node.
    #[error("no source holds tree node {0}")]
    NobodyHasNode(ChunkId),
    /// Every peer that is left lacks a chunk of this leaf.
    #[error("no source holds entry {entry} of leaf {leaf}")]
    NobodyHasChunk {
        /// The leaf.
        leaf: ChunkId,
        /// The entry that refers to the chunk.
        entry: u32,
    },
    /// A node matches its hash and is no node: the publisher is broken.
    #[error("the snapshot is broken at its source: {0}")]
    BrokenTree(String),
}

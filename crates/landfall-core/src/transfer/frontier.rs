//! Owns the walk over the trees of a transfer: which nodes are needed next, and which leaves are ready to be inspected.
//!
//! It keeps a bounded number of leaves ahead of the chunks, so that its memory does not grow with the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{PeerId, RequestId, Stuck};
use super::schedule::NODES_PER_REQUEST_MAX;
use crate::chunk::ChunkId;
use crate::tree::{NewLeaves, NodeWant, Nodes, Root, TreeError};

/// Leaves that are fetched ahead of the chunks they name.
const LEAVES_AHEAD_MAX: usize = 160;
/// Leaves whose chunks are being compared with what is here.
const INSPECTIONS_MAX: usize = 8;

/// A tree that is wanted, and the one that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePair {
    /// The tree whose nodes are all here.
    pub base: Option<Root>,
    /// The tree that is wanted.
    pub target: Root,
}

/// A node that is needed and not here.
#[derive(Debug)]
pub(super) struct NodeWork {
    pub(super) want: NodeWant,
    /// The requests that ask for it now.
    pub(super) requests: BTreeSet<RequestId>,
    /// Peers that said they do not hold it, or sent it damaged.
    pub(super) lacking: BTreeSet<PeerId>,
}

/// A leaf on its way from being named to being inspected.
#[derive(Debug)]
struct LeafWork {
    tree: usize,
    want: NodeWant,
    entries: u64,
    /// Its length, if it was seen to refer to no chunk as it came.
    chunkless_bytes: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Frontier {
    trees: Vec<TreePair>,
    walk: Option<(usize, NewLeaves)>,
    /// Entries in leaves of the trees that were walked through, which their bases have.
    entries_held: u64,
    /// Leaves in key order whose nodes are here or under way.
    leaves: VecDeque<LeafWork>,
    /// Leaves that are being compared with what is here; a leaf that several trees have stands here for each.
    inspecting: Vec<ChunkId>,
    /// Nodes that nobody is asked for, soonest first.
    queue: VecDeque<ChunkId>,
    /// Nodes that are in the queue or have been asked for.
    pending: BTreeMap<ChunkId, NodeWork>,
    passed: Passed,
    /// Nodes came since the walk last stopped for want of them.
    walk_may_go_on: bool,
}

/// What was in leaves that need not be inspected.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) entries: u64,
    pub(super) leaf_bytes: u64,
}

impl Frontier {
    pub(super) fn new(trees: Vec<TreePair>) -> Self {
        let mut frontier = Self {
            trees,
            walk: None,
            entries_held: 0,
            leaves: VecDeque::new(),
            inspecting: Vec::new(),
            queue: VecDeque::new(),
            pending: BTreeMap::new(),
            passed: Passed::default(),
            walk_may_go_on: true,
        };
        frontier.begin_tree(0);
        frontier
    }

    /// Walks on as far as the nodes that are here allow and the limits permit.
    pub(super) fn advance(&mut self, nodes: &dyn Nodes) -> Result<(), Stuck> {
        self.pass_chunkless();
        // A leaf that is asked for by itself costs both sides what a whole request does.
        while self.walk_may_go_on && self.leaves.len() + NODES_PER_REQUEST_MAX <= LEAVES_AHEAD_MAX {
            let Some((tree, walk)) = &mut self.walk else { break };
            let tree = *tree;
            match walk.next(nodes, LEAVES_AHEAD_MAX - self.leaves.len()) {
                Ok(found) if found.is_empty() => self.begin_tree(tree + 1),
                Ok(found) => {
                    for leaf in found {
                        let want = NodeWant { id: leaf.id, base: leaf.base };
                        self.leaves.push_back(LeafWork { tree, want, entries: leaf.entries, chunkless_bytes: None });
                        if nodes.node(want.id).is_none() {
                            self.want_node(want);
                        }
                    }
                }
                Err(TreeError::Missing(wants)) => {
                    self.walk_may_go_on = false;
                    // Inner nodes stand in front of leaves: nothing can go on without them.
                    for want in wants.into_iter().rev() {
                        self.want_node_first(want);
                    }
                }
                Err(broken) => return Err(Stuck::BrokenTree(broken.to_string())),
            }
        }
        Ok(())
    }

    /// The next leaf to inspect: its node is here, and few enough are being inspected.
    pub(super) fn next_inspection(&mut self) -> Option<(usize, ChunkId)> {
        self.pass_chunkless();
        if self.inspecting.len() >= INSPECTIONS_MAX {
            return None;
        }
        let front = self.leaves.front()?;
        if self.pending.contains_key(&front.want.id) {
            return None;
        }
        let leaf = self.leaves.pop_front()?;
        self.inspecting.push(leaf.want.id);
        Some((leaf.tree, leaf.want.id))
    }

    /// Is the driver comparing the leaf with what is here?
    pub(super) fn is_inspecting(&self, leaf: ChunkId) -> bool {
        self.inspecting.contains(&leaf)
    }

    /// A leaf was inspected. True if it had been asked for.
    pub(super) fn inspected(&mut self, leaf: ChunkId) -> bool {
        let at = self.inspecting.iter().position(|&inspecting| inspecting == leaf);
        at.map(|at| self.inspecting.swap_remove(at)).is_some()
    }

    /// A leaf came that refers to no chunk. Where it stands once more, in another tree, it is inspected there.
    pub(super) fn note_chunkless(&mut self, id: ChunkId, leaf_bytes: u32) {
        if let Some(leaf) = self.leaves.iter_mut().find(|leaf| leaf.want.id == id) {
            leaf.chunkless_bytes = Some(leaf_bytes);
        }
    }

    fn pass_chunkless(&mut self) {
        while let Some((leaf, bytes)) = self.leaves.front().and_then(|leaf| Some((leaf, leaf.chunkless_bytes?))) {
            // A claim of the publisher, as are all counts of entries.
            self.passed.entries = self.passed.entries.saturating_add(leaf.entries);
            self.passed.leaf_bytes += u64::from(bytes);
            self.leaves.pop_front();
        }
    }

    /// Leaves so far that came without chunks and were passed over.
    pub(super) fn passed(&self) -> Passed {
        self.passed
    }

    /// A node is here. Names the requests that asked for it.
    pub(super) fn node_arrived(&mut self, id: ChunkId) -> BTreeSet<RequestId> {
        self.walk_may_go_on = true;
        self.pending.remove(&id).map(|work| work.requests).unwrap_or_default()
    }

    /// The node to ask for next.
    pub(super) fn front(&self) -> Option<&NodeWork> {
        self.pending.get(self.queue.front()?)
    }

    /// The node, if it is still needed.
    pub(super) fn node(&self, id: ChunkId) -> Option<&NodeWork> {
        self.pending.get(&id)
    }

    /// Takes the nodes at the front of the queue, up to the first that `peer` lacks.
    pub(super) fn take_front(&mut self, peer: PeerId, nodes_max: usize) -> Vec<ChunkId> {
        let held = |id: &&ChunkId| self.pending.get(id).is_some_and(|work| !work.lacking.contains(&peer));
        let nodes = self.queue.iter().take(nodes_max).take_while(held).count();
        self.queue.drain(..nodes).collect()
    }

    /// Notes that a request asks for a node that does not wait.
    pub(super) fn asked(&mut self, id: ChunkId, request: RequestId) {
        if let Some(work) = self.pending.get_mut(&id) {
            work.requests.insert(request);
        }
    }

    /// A peer cannot give a node.
    pub(super) fn lacks(&mut self, id: ChunkId, peer: PeerId) {
        if let Some(work) = self.pending.get_mut(&id) {
            work.lacking.insert(peer);
        }
    }

    /// What a node could be a patch on cannot be read.
    pub(super) fn forget_base(&mut self, id: ChunkId) {
        if let Some(work) = self.pending.get_mut(&id) {
            work.want.base = None;
        }
    }

    /// A request will not bring a node. If nobody else is asked for it, it waits again, in front.
    pub(super) fn request_ended(&mut self, id: ChunkId, request: RequestId) {
        let Some(work) = self.pending.get_mut(&id) else { return };
        if work.requests.remove(&request) && work.requests.is_empty() {
            self.queue.push_front(id);
        }
    }

    /// A peer that was thought to lack nodes is gone: should it come back, it is asked anew.
    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        for work in self.pending.values_mut() {
            work.lacking.remove(&peer);
        }
    }

    /// Entries so far that are here because the bases have their leaves.
    pub(super) fn entries_held(&self) -> u64 {
        let walked = self.walk.as_ref().map_or(0, |(_, walk)| walk.entries_held());
        // Each tree's count is what its publisher claims: their sum need not fit.
        self.entries_held.saturating_add(walked)
    }

    /// Every node is here and every leaf was inspected.
    pub(super) fn is_done(&self) -> bool {
        self.walk.is_none() && self.leaves.is_empty() && self.inspecting.is_empty() && self.pending.is_empty()
    }

    fn begin_tree(&mut self, tree: usize) {
        self.entries_held = self.entries_held();
        self.walk = self.trees.get(tree).map(|pair| (tree, NewLeaves::new(pair.base, pair.target)));
    }

    fn want_node(&mut self, want: NodeWant) {
        if self.note_pending(want) {
            self.queue.push_back(want.id);
        }
    }

    fn want_node_first(&mut self, want: NodeWant) {
        if self.note_pending(want) {
            self.queue.push_front(want.id);
        }
    }

    /// True if the node was not needed before.
    fn note_pending(&mut self, want: NodeWant) -> bool {
        let is_new = !self.pending.contains_key(&want.id);
        if is_new {
            let work = NodeWork { want, requests: BTreeSet::new(), lacking: BTreeSet::new() };
            self.pending.insert(want.id, work);
        }
        is_new
    }
}

//! Owns the walk over the trees of a transfer: which nodes are needed next, and which leaves are ready to be inspected.
//!
//! It keeps a bounded number of leaves ahead of the chunks, so that its memory does not grow with the state.

use std::collections::{BTreeSet, VecDeque};

use super::command::{PeerId, Stuck};
use crate::chunk::ChunkId;
use crate::tree::{NewLeaves, NodeWant, Nodes, Root, TreeError};

/// Leaves that are fetched ahead of the chunks they name.
const LEAVES_AHEAD_MAX: usize = 128;
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

/// A node that someone must be asked for.
#[derive(Debug, Clone)]
pub(super) struct NodeWork {
    pub(super) want: NodeWant,
    /// Peers that said they do not hold it.
    pub(super) lacking: BTreeSet<PeerId>,
}

/// A leaf on its way from being named to being inspected.
#[derive(Debug)]
struct LeafWork {
    tree: usize,
    want: NodeWant,
}

#[derive(Debug)]
pub(super) struct Frontier {
    trees: Vec<TreePair>,
    walk: Option<(usize, NewLeaves)>,
    /// Leaves in key order whose nodes are here or under way.
    leaves: VecDeque<LeafWork>,
    /// Leaves that are being compared with what is here; a leaf that several trees have stands here for each.
    inspecting: Vec<ChunkId>,
    /// Nodes to ask for, soonest first.
    queue: VecDeque<NodeWork>,
    /// Nodes that are in the queue or have been asked for.
    pending: BTreeSet<ChunkId>,
    /// Nodes came since the walk last stopped for want of them.
    walk_may_go_on: bool,
}

impl Frontier {
    pub(super) fn new(trees: Vec<TreePair>) -> Self {
        let mut frontier = Self {
            trees,
            walk: None,
            leaves: VecDeque::new(),
            inspecting: Vec::new(),
            queue: VecDeque::new(),
            pending: BTreeSet::new(),
            walk_may_go_on: true,
        };
        frontier.begin_tree(0);
        frontier
    }

    /// Walks on as far as the nodes that are here allow and the limits permit.
    pub(super) fn advance(&mut self, nodes: &dyn Nodes) -> Result<(), Stuck> {
        while self.walk_may_go_on && self.leaves.len() < LEAVES_AHEAD_MAX {
            let Some((tree, walk)) = &mut self.walk else { break };
            let tree = *tree;
            match walk.next(nodes, LEAVES_AHEAD_MAX - self.leaves.len()) {
                Ok(found) if found.is_empty() => self.begin_tree(tree + 1),
                Ok(found) => {
                    for leaf in found {
                        let want = NodeWant { id: leaf.id, base: leaf.base };
                        self.leaves.push_back(LeafWork { tree, want });
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
        if self.inspecting.len() >= INSPECTIONS_MAX {
            return None;
        }
        let front = self.leaves.front()?;
        if self.pending.contains(&front.want.id) {
            return None;
        }
        let leaf = self.leaves.pop_front()?;
        self.inspecting.push(leaf.want.id);
        Some((leaf.tree, leaf.want.id))
    }

    /// A leaf was inspected. True if it had been asked for.
    pub(super) fn inspected(&mut self, leaf: ChunkId) -> bool {
        let at = self.inspecting.iter().position(|&inspecting| inspecting == leaf);
        at.map(|at| self.inspecting.swap_remove(at)).is_some()
    }

    pub(super) fn node_arrived(&mut self, id: ChunkId) {
        self.pending.remove(&id);
        self.walk_may_go_on = true;
    }

    pub(super) fn front(&self) -> Option<&NodeWork> {
        self.queue.front()
    }

    pub(super) fn take_front(&mut self) -> Option<NodeWork> {
        self.queue.pop_front()
    }

    /// Puts a node back that was asked for and did not come.
    pub(super) fn put_back(&mut self, work: NodeWork) {
        self.queue.push_front(work);
    }

    /// Every node is here and every leaf was inspected.
    pub(super) fn is_done(&self) -> bool {
        self.walk.is_none() && self.leaves.is_empty() && self.inspecting.is_empty() && self.pending.is_empty()
    }

    fn begin_tree(&mut self, tree: usize) {
        self.walk = self.trees.get(tree).map(|pair| (tree, NewLeaves::new(pair.base, pair.target)));
    }

    fn want_node(&mut self, want: NodeWant) {
        if self.pending.insert(want.id) {
            self.queue.push_back(NodeWork { want, lacking: BTreeSet::new() });
        }
    }

    fn want_node_first(&mut self, want: NodeWant) {
        if self.pending.insert(want.id) {
            self.queue.push_front(NodeWork { want, lacking: BTreeSet::new() });
        }
    }
}

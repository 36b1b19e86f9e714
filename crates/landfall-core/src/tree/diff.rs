//! Owns comparing two trees entry by entry, in time proportional to what differs.
//!
//! It never opens a node that both trees have, as far as their alignment lets it see that.

use std::cmp::Ordering;

use super::lookup::Step;
use super::node::Node;
use super::{Change, Nodes, Root, TreeError};
use crate::ChunkId;

/// Lists, in key order, what differs between two trees. It keeps its place when a node is missing.
#[derive(Debug)]
pub struct Diff {
    base: Side,
    target: Side,
}

/// One tree, and the place in it.
#[derive(Debug)]
struct Side {
    root: Root,
    /// From the root to the node of the next item; empty before the root is opened and at the end.
    path: Vec<Step>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    AtRoot,
    Inside,
    AtEnd,
}

/// What comes next on a side.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    /// A whole node, all of whose entries come next. A root does not say its first key: it has the lowest here.
    Node {
        level: u8,
        id: ChunkId,
        key: &'a [u8],
    },
    /// One entry.
    Entry {
        key: &'a [u8],
    },
    End,
}

/// What to do about the two next items.
enum Move {
    OpenBase,
    OpenTarget,
    OpenBoth,
    /// The items are the same node.
    SkipBoth,
    /// Both are entries, or one is and the other side has nothing at its key.
    Compare(Ordering),
    End,
}

impl Diff {
    /// Compares `target` with `base`.
    pub fn new(base: Root, target: Root) -> Self {
        Self { base: Side::new(base), target: Side::new(target) }
    }

    /// The next change; nothing at the end.
    ///
    /// # Errors
    /// [`TreeError::Missing`] names the next nodes of one or both trees; call again once they are here.
    pub fn next(&mut self, nodes: &dyn Nodes) -> Result<Option<Change>, TreeError> {
        loop {
            match choose(self.base.item(), self.target.item()) {
                Move::OpenBase => self.base.open(nodes)?,
                Move::OpenTarget => self.target.open(nodes)?,
                Move::OpenBoth => open_both(&mut self.base, &mut self.target, nodes)?,
                Move::SkipBoth => self.skip_equal_nodes(),
                Move::Compare(order) => {
                    if let Some(change) = self.compare(order) {
                        return Ok(Some(change));
                    }
                }
                Move::End => return Ok(None),
            }
        }
    }

    /// Moves past a node that both sides have, and all that are equal after it.
    fn skip_equal_nodes(&mut self) {
        let equal = match (self.base.path.last(), self.target.path.last()) {
            (Some(base), Some(target)) => equal_entries(base, target),
            // A root has no neighbours.
            _ => 1,
        };
        self.base.skip(equal.max(1));
        self.target.skip(equal.max(1));
    }

    /// Moves past the entry with the lower key, or past both and all that are equal after them.
    fn compare(&mut self, order: Ordering) -> Option<Change> {
        match order {
            Ordering::Less => self.base.entry().map(|(key, old)| Change { key, old: Some(old), new: None }),
            Ordering::Greater => self.target.entry().map(|(key, new)| Change { key, old: None, new: Some(new) }),
            Ordering::Equal => {
                let equal = equal_entries(self.base.path.last()?, self.target.path.last()?);
                if equal > 0 {
                    self.base.skip(equal);
                    self.target.skip(equal);
                    return None;
                }
                let ((key, old), (_, new)) = (self.base.entry()?, self.target.entry()?);
                Some(Change { key, old: Some(old), new: Some(new) })
            }
        }
    }
}

fn choose(base: Item<'_>, target: Item<'_>) -> Move {
    match (base, target) {
        (Item::End, Item::End) => Move::End,
        (Item::Node { .. }, Item::End) => Move::OpenBase,
        (Item::End, Item::Node { .. }) => Move::OpenTarget,
        (Item::Entry { .. }, Item::End) => Move::Compare(Ordering::Less),
        (Item::End, Item::Entry { .. }) => Move::Compare(Ordering::Greater),
        (Item::Entry { key: base }, Item::Entry { key: target }) => Move::Compare(base.cmp(target)),
        (Item::Node { key: base, .. }, Item::Entry { key: target }) => match base.cmp(target) {
            Ordering::Greater => Move::Compare(Ordering::Greater),
            Ordering::Less | Ordering::Equal => Move::OpenBase,
        },
        (Item::Entry { key: base }, Item::Node { key: target, .. }) => match base.cmp(target) {
            Ordering::Less => Move::Compare(Ordering::Less),
            Ordering::Greater | Ordering::Equal => Move::OpenTarget,
        },
        (
            Item::Node { level: base, id, key: base_key },
            Item::Node { level: target, id: target_id, key: target_key },
        ) => match base_key.cmp(target_key).then(target.cmp(&base)) {
            Ordering::Less => Move::OpenBase,
            Ordering::Greater => Move::OpenTarget,
            Ordering::Equal if id == target_id => Move::SkipBoth,
            Ordering::Equal => Move::OpenBoth,
        },
    }
}

/// Opens both sides, or names what is missing on both.
fn open_both(base: &mut Side, target: &mut Side, nodes: &dyn Nodes) -> Result<(), TreeError> {
    let opened_target = target.opened(nodes);
    match (base.opened(nodes), opened_target) {
        (Ok(opened_base), Ok(opened_target)) => {
            base.enter(opened_base);
            target.enter(opened_target);
            Ok(())
        }
        (Err(TreeError::Missing(mut wants)), Err(TreeError::Missing(more))) => {
            wants.extend(more);
            Err(TreeError::Missing(wants))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// How many entries of two nodes of one level are equal, from the two places on.
fn equal_entries(base: &Step, target: &Step) -> usize {
    let start = base.node.start(base.next);
    let equal_bytes = equal_prefix(&base.node.bytes()[start..], &target.node.bytes()[target.node.start(target.next)..]);
    base.node.entry_at_offset(base.next, start + equal_bytes) - base.next
}

/// How many bytes are equal from the start on.
fn equal_prefix(left: &[u8], right: &[u8]) -> usize {
    // Long blocks are compared faster, short ones leave less to look at byte by byte.
    let mut equal = equal_blocks::<512>(left, right);
    equal += equal_blocks::<16>(&left[equal..], &right[equal..]);
    equal + equal_blocks::<1>(&left[equal..], &right[equal..])
}

/// Bytes of the blocks that are equal from the start on.
fn equal_blocks<const BLOCK_BYTES: usize>(left: &[u8], right: &[u8]) -> usize {
    let (left, right) = (left.as_chunks::<BLOCK_BYTES>().0, right.as_chunks::<BLOCK_BYTES>().0);
    left.iter().zip(right).take_while(|(left, right)| left == right).count() * BLOCK_BYTES
}

/// A node that was opened, and the first key after it.
type Opened = (Node, Option<bytes::Bytes>);

impl Side {
    fn new(root: Root) -> Self {
        Self { root, path: Vec::new(), stage: Stage::AtRoot }
    }

    fn item(&self) -> Item<'_> {
        match (self.stage, self.path.last()) {
            (Stage::AtRoot, _) => Item::Node { level: self.root.level, id: self.root.id, key: &[] },
            (Stage::Inside, Some(step)) if step.node.level() == 0 => Item::Entry { key: step.node.key(step.next) },
            (Stage::Inside, Some(step)) => {
                let child = step.node.child(step.next);
                Item::Node { level: step.node.level() - 1, id: child.id, key: child.key }
            }
            (Stage::Inside, None) | (Stage::AtEnd, _) => Item::End,
        }
    }

    /// Opens the node that comes next.
    fn open(&mut self, nodes: &dyn Nodes) -> Result<(), TreeError> {
        let opened = self.opened(nodes)?;
        self.enter(opened);
        Ok(())
    }

    fn opened(&self, nodes: &dyn Nodes) -> Result<Opened, TreeError> {
        match self.path.last() {
            None => Ok((Node::load_root(nodes, &self.root, None)?, None)),
            Some(step) => step.peek(nodes),
        }
    }

    fn enter(&mut self, (node, end_key): Opened) {
        if let Some(parent) = self.path.last_mut() {
            parent.next += 1;
        }
        self.stage = Stage::Inside;
        self.path.push(Step { node, next: 0, end_key });
        self.leave_finished();
    }

    /// Moves past `items` items of the present node.
    fn skip(&mut self, items: usize) {
        if let Some(step) = self.path.last_mut() {
            step.next += items;
        } else {
            self.stage = Stage::AtEnd;
        }
        self.leave_finished();
    }

    /// Takes the entry that comes next.
    fn entry(&mut self) -> Option<(bytes::Bytes, super::Value)> {
        let step = self.path.last()?;
        let entry = (step.node.key_bytes(step.next), step.node.value(step.next));
        self.skip(1);
        Some(entry)
    }

    /// Goes up to the highest node with something left, so that equal subtrees are met whole.
    fn leave_finished(&mut self) {
        while self.path.last().is_some_and(|step| step.next == step.node.len()) {
            self.path.pop();
        }
        if self.path.is_empty() {
            self.stage = Stage::AtEnd;
        }
    }
}

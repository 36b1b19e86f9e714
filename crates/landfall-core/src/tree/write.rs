//! Owns the nodes that are being written, one per level, and closes them.
//!
//! It never reads a tree from anywhere: old entries come in as parts of nodes that the caller got.

use std::ops::Range;

use bytes::Bytes;

use super::boundary::{Boundary, NODE_BYTES_CLOSE};
use super::node::{
    HEADER_BYTES, InnerEntry, Node, Totals, check_entry, first_key_of, seal_header, write_header, write_inner_entry,
    write_leaf_entry,
};
use super::{NodeSink, Root, Salt, TreeError, Value};
use crate::codec::Copied;
use crate::{Chunk, ChunkId, Domain};

/// Writes the levels of a tree side by side, from entries in ascending order.
#[derive(Debug)]
pub(super) struct Writer {
    salt: Salt,
    levels: Vec<OpenNode>,
    /// Entries of this level are only gathered: whoever takes them decides where its nodes end.
    gathered: Option<u8>,
}

impl Writer {
    pub(super) fn new(salt: Salt) -> Self {
        Self { salt, levels: vec![OpenNode::new(salt, 0)], gathered: None }
    }

    /// Writes the levels below `level`, and gathers the entries of that one.
    pub(super) fn gathering(salt: Salt, level: u8) -> Self {
        Self { gathered: Some(level), ..Self::new(salt) }
    }

    /// The entries that were gathered.
    pub(super) fn into_gathered(mut self) -> Vec<u8> {
        let Some(level) = self.gathered else { return Vec::new() };
        self.open(level).bytes.split_off(HEADER_BYTES)
    }

    /// Says that the next entry of the open leaf takes the place of one of the old leaf.
    pub(super) fn overwrites(&mut self) {
        let open = &mut self.levels[0];
        open.overwrites |= open.entries == 0 || open.began_in == open.replaced;
    }

    /// Appends an entry to the open leaf.
    pub(super) fn push(&mut self, key: &[u8], value: &Value, sink: &mut impl NodeSink) -> Result<(), TreeError> {
        let totals = check_entry(key, value)?;
        let open = &mut self.levels[0];
        let start = open.bytes.len();
        write_leaf_entry(&mut open.bytes, key, value);
        open.count(1, totals);
        if open.closes_after(start, key) {
            self.close(0, sink);
        }
        Ok(())
    }

    /// Appends entries of an old node to the open node of the same level.
    pub(super) fn copy(&mut self, node: &Node, mut range: Range<usize>, sink: &mut impl NodeSink) {
        let level = node.level();
        if self.gathered == Some(level) {
            self.open(level).extend(node, range);
            return;
        }
        while !range.is_empty() {
            let open = self.open(level);
            if open.bytes.len() == node.start(range.start) {
                // The rule sees only lengths and keys, and both are as they were: none but the last entry can close.
                let undecided = range.end.min(node.len() - 1);
                open.extend(node, range.start..undecided);
                range.start = undecided;
            }
            if let Some(index) = range.next() {
                let start = open.bytes.len();
                open.extend(node, index..index + 1);
                if open.closes_after(start, node.key(index)) {
                    self.close(level, sink);
                }
            }
        }
    }

    /// Whether the node of `level` has entries and is not closed.
    pub(super) fn is_open(&self, level: u8) -> bool {
        self.levels.get(usize::from(level)).is_some_and(|open| open.entries > 0)
    }

    /// Whether no level above `level` has anything.
    pub(super) fn is_top(&self, level: u8) -> bool {
        self.levels.iter().skip(usize::from(level) + 1).all(|open| open.entries == 0 && open.last_closed.is_none())
    }

    /// Says that the next nodes of `level` take the place of an old one: if one is equal, it is not put again.
    pub(super) fn replace(&mut self, level: u8, old: ChunkId) {
        self.open(level).replaced = Some(old);
    }

    /// Whether `id` is the last node that was closed at `level`.
    pub(super) fn closed_last(&self, level: u8, id: ChunkId) -> bool {
        self.levels.get(usize::from(level)).is_some_and(|open| open.last_closed == Some(id))
    }

    /// Closes the open node of `level`, whatever the rule says, and enters it into the level above.
    pub(super) fn close(&mut self, level: u8, sink: &mut impl NodeSink) {
        self.open(level + 1);
        let (below, above) = self.levels.split_at_mut(usize::from(level) + 1);
        let (node, above) = (&mut below[usize::from(level)], &mut above[0]);
        let id = node.put(sink);
        let entry = InnerEntry { key: first_key_of(&node.bytes, level), id, totals: node.totals };
        let closes_above = above.enter(&entry) && self.gathered != Some(level + 1);
        node.clear();
        if closes_above {
            self.close(level + 1, sink);
        }
    }

    /// Enters nodes that were written elsewhere, as [`Self::into_gathered`] gave them, into the node of `level`.
    pub(super) fn enter(&mut self, level: u8, gathered: &[u8], sink: &mut impl NodeSink) {
        let mut rest = gathered;
        while !rest.is_empty() {
            let entry = InnerEntry::written(rest);
            rest = &rest[entry.bytes()..];
            if self.open(level).enter(&entry) {
                self.close(level, sink);
            }
        }
    }

    /// Ends a tree none of whose levels above `level` has anything: the node of `level` is its root, unless that would
    /// be a root with one child.
    pub(super) fn finish(&mut self, level: u8, sink: &mut impl NodeSink) -> Root {
        let open = self.open(level);
        if level > 0 && open.entries == 1 {
            let child = open.only_child();
            return Root::new(child.id, level - 1, child.totals);
        }
        Root::new(open.put(sink), level, open.totals)
    }

    fn open(&mut self, level: u8) -> &mut OpenNode {
        while self.levels.len() <= usize::from(level) {
            self.levels.push(OpenNode::new(self.salt, self.levels.len() as u8));
        }
        &mut self.levels[usize::from(level)]
    }
}

/// A node that is not complete.
#[derive(Debug)]
struct OpenNode {
    level: u8,
    boundary: Boundary,
    /// Kept from node to node, so that only the bytes of complete nodes are allocated.
    bytes: Vec<u8>,
    entries: u32,
    totals: Totals,
    last_closed: Option<ChunkId>,
    /// The old node whose entries are being merged at this level.
    replaced: Option<ChunkId>,
    /// The old node that was being merged when this node got its first entry.
    began_in: Option<ChunkId>,
    /// What a leaf has of that old node.
    copied: Vec<Copied>,
    /// Whether a leaf has other values of keys of that old node.
    overwrites: bool,
}

impl OpenNode {
    fn new(salt: Salt, level: u8) -> Self {
        let mut bytes = Vec::with_capacity(NODE_BYTES_CLOSE);
        write_header(&mut bytes, level);
        Self {
            level,
            boundary: Boundary::new(salt, level),
            bytes,
            entries: 0,
            totals: Totals::default(),
            last_closed: None,
            replaced: None,
            began_in: None,
            copied: Vec::new(),
            overwrites: false,
        }
    }

    fn count(&mut self, entries: u32, totals: Totals) {
        if self.entries == 0 {
            self.began_in = self.replaced;
        }
        self.entries += entries;
        self.totals.add(totals);
    }

    fn extend(&mut self, node: &Node, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(node.entries_bytes(range.clone()));
        let from = node.start(range.start);
        self.count(range.len() as u32, node.totals(range));
        if self.level == 0 && self.began_in == Some(node.id()) {
            self.note_copied(at, from);
        }
    }

    /// Remembers that everything from `at` on is copied.
    fn note_copied(&mut self, at: usize, from: usize) {
        let copied = Copied { at: at as u32, from: from as u32, bytes: (self.bytes.len() - at) as u32 };
        match self.copied.last_mut() {
            Some(last) if last.at + last.bytes == copied.at && last.from + last.bytes == copied.from => {
                last.bytes += copied.bytes;
            }
            _ => self.copied.push(copied),
        }
    }

    /// Appends the entry of a child; whether the node closes after it.
    fn enter(&mut self, entry: &InnerEntry<'_>) -> bool {
        let start = self.bytes.len();
        write_inner_entry(&mut self.bytes, entry);
        self.count(1, entry.totals);
        self.closes_after(start, entry.key)
    }

    /// Whether the node closes after its last entry, which starts at `start`.
    fn closes_after(&self, start: usize, key: &[u8]) -> bool {
        // With one child per inner node, a tree of long keys would grow upwards for ever.
        let children_suffice = self.level == 0 || self.entries >= 2;
        children_suffice && self.boundary.closes(self.bytes.len(), self.bytes.len() - start, key)
    }

    /// Completes the node and puts it if it is new.
    fn put(&mut self, sink: &mut impl NodeSink) -> ChunkId {
        // A node has far fewer entries than fit into its count.
        seal_header(&mut self.bytes, self.entries as u16);
        let node = Chunk::new(Domain::Node, Bytes::copy_from_slice(&self.bytes));
        let id = node.id();
        if self.replaced != Some(id) {
            match self.began_in {
                Some(old) if !self.copied.is_empty() => sink.put_copied(node, old, &self.copied),
                // A leaf that only stands behind the old one has nothing in common with it.
                old => sink.put_in_place_of(node, old.filter(|_| self.level > 0 || self.overwrites)),
            }
        }
        self.last_closed = Some(id);
        id
    }

    /// Starts the next node.
    fn clear(&mut self) {
        self.entries = 0;
        self.began_in = None;
        self.copied.clear();
        self.overwrites = false;
        self.totals = Totals::default();
        self.bytes.truncate(HEADER_BYTES);
    }

    /// The child of an inner node that has one.
    fn only_child(&self) -> InnerEntry<'_> {
        InnerEntry::first(&self.bytes)
    }
}

//! Owns the bytes of a node: how entries are laid out, and every check that bytes from outside must pass.
//!
//! It never decides where a node ends. The layout, byte by byte, is in `docs/format.md`.

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::boundary::NODE_BYTES_CLOSE;
use super::directory::Directory;
use super::{ChunkRef, NewLeaf, NodeWant, Nodes, Root, TreeError, Value};
use crate::limits::{CHUNK_BYTES_MAX, INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX};
use crate::{Chunk, ChunkId, Domain};

/// Format byte, level, count of entries.
pub(super) const HEADER_BYTES: usize = 4;
/// Longest node: one byte below the length that closes it, and the longest entry.
pub(super) const NODE_BYTES_MAX: usize = NODE_BYTES_CLOSE - 1 + LEAF_ENTRY_BYTES_MAX;
/// Every inner node but the last of its level has two entries, so no tree that fits its counts is higher.
pub(super) const LEVEL_MAX: u8 = 64;

const FORMAT: u8 = 1;
const LEAF_ENTRY_HEADER_BYTES: usize = 4;
const INNER_ENTRY_HEADER_BYTES: usize = 2;
const CHUNK_REF_BYTES: usize = ChunkId::BYTES + 4;
const CHILD_BYTES: usize = ChunkId::BYTES + 3 * 8;
const LEAF_ENTRY_BYTES_MAX: usize =
    LEAF_ENTRY_HEADER_BYTES + KEY_BYTES_MAX as usize + INLINE_VALUE_BYTES_MAX as usize + CHUNK_REF_BYTES;
/// In the value word of a leaf entry: a chunk reference follows the inline bytes.
const CHUNK_FLAG: u16 = 1 << 15;

const _: () = assert!(NODE_BYTES_MAX <= CHUNK_BYTES_MAX as usize);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as u32);
// Every entry starts before the length that closes a node.
const _: () = assert!(NODE_BYTES_CLOSE - 1 <= u16::MAX as usize);
const _: () = assert!(INLINE_VALUE_BYTES_MAX < CHUNK_FLAG as u32);

/// What hangs below a node, an entry or a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) entries: u64,
    pub(super) payload_bytes: u64,
    pub(super) chunk_refs: u64,
}

impl Totals {
    /// Adds what this member itself wrote or checked before: such sums cannot overflow.
    pub(super) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.payload_bytes += other.payload_bytes;
        self.chunk_refs += other.chunk_refs;
    }

    fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            entries: self.entries.checked_add(other.entries)?,
            payload_bytes: self.payload_bytes.checked_add(other.payload_bytes)?,
            chunk_refs: self.chunk_refs.checked_add(other.chunk_refs)?,
        })
    }
}

/// What a parent, or a snapshot, says about a node before anyone has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Level of the node: 0 for a leaf.
    pub level: u8,
    /// Its first key; unknown for a root.
    pub first_key: Option<&'a [u8]>,
    /// The first key of the next node, which all its keys are below; unknown for a root and for the last child.
    pub end_key: Option<&'a [u8]>,
    /// Entries in all leaves below.
    pub entries: u64,
    /// Bytes of all inline values and referred chunks below.
    pub payload_bytes: u64,
    /// Chunk references below.
    pub chunk_refs: u64,
}

/// The one leaf without entries. Every empty tree is this node, whatever its salt.
pub fn empty_leaf() -> Chunk {
    Chunk::new(Domain::Node, Bytes::from_static(&[FORMAT, 0, 0, 0]))
}

impl Root {
    /// The root of a tree without entries.
    pub fn empty() -> Self {
        Self::new(*EMPTY_LEAF_ID, 0, Totals::default())
    }

    /// What the root says about its node.
    pub fn claim(&self) -> Claim<'static> {
        Claim {
            level: self.level,
            first_key: None,
            end_key: None,
            entries: self.entries,
            payload_bytes: self.payload_bytes,
            chunk_refs: self.chunk_refs,
        }
    }

    pub(super) fn new(id: ChunkId, level: u8, totals: Totals) -> Self {
        Self { id, level, entries: totals.entries, payload_bytes: totals.payload_bytes, chunk_refs: totals.chunk_refs }
    }
}

impl NewLeaf {
    /// What its parent says about it.
    pub fn claim(&self) -> Claim<'_> {
        Claim {
            level: 0,
            first_key: Some(&self.first_key),
            end_key: None,
            entries: self.entries,
            payload_bytes: self.payload_bytes,
            chunk_refs: self.chunk_refs,
        }
    }
}

/// An entry of a leaf, in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafEntry<'a> {
    key: &'a [u8],
    inline: &'a [u8],
    chunk: Option<&'a [u8; CHUNK_REF_BYTES]>,
}

impl<'a> LeafEntry<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Result<Self, Defect> {
        let (header, rest) = bytes.split_first_chunk::<LEAF_ENTRY_HEADER_BYTES>().ok_or(CUT_SHORT)?;
        let key_bytes = u16::from_le_bytes([header[0], header[1]]);
        let value_word = u16::from_le_bytes([header[2], header[3]]);
        let inline_bytes = value_word & !CHUNK_FLAG;
        if u32::from(key_bytes) > KEY_BYTES_MAX {
            return Err("a key is too long");
        }
        if u32::from(inline_bytes) > INLINE_VALUE_BYTES_MAX {
            return Err("an inline value is too long");
        }
        let (key, rest) = rest.split_at_checked(key_bytes.into()).ok_or(CUT_SHORT)?;
        let (inline, rest) = rest.split_at_checked(inline_bytes.into()).ok_or(CUT_SHORT)?;
        let chunk = match value_word & CHUNK_FLAG {
            0 => None,
            _ => Some(rest.first_chunk().ok_or(CUT_SHORT)?),
        };
        Ok(Self { key, inline, chunk })
    }

    fn bytes(&self) -> usize {
        let chunk_bytes = if self.chunk.is_some() { CHUNK_REF_BYTES } else { 0 };
        LEAF_ENTRY_HEADER_BYTES + self.key.len() + self.inline.len() + chunk_bytes
    }

    pub(super) fn chunk(&self) -> Option<ChunkRef> {
        let id = ChunkId::from_bytes(*self.chunk?.first_chunk()?);
        Some(ChunkRef { id, bytes: self.chunk_bytes()? })
    }

    fn chunk_bytes(&self) -> Option<u32> {
        let [.., a, b, c, d] = *self.chunk?;
        Some(u32::from_le_bytes([a, b, c, d]))
    }

    #[inline]
    fn totals(&self) -> Totals {
        let chunk_bytes = self.chunk_bytes();
        Totals {
            entries: 1,
            payload_bytes: self.inline.len() as u64 + u64::from(chunk_bytes.unwrap_or(0)),
            chunk_refs: u64::from(chunk_bytes.is_some()),
        }
    }
}

/// An entry of an inner node, in place: one child and what it claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct InnerEntry<'a> {
    pub(super) key: &'a [u8],
    pub(super) id: ChunkId,
    pub(super) totals: Totals,
}

impl<'a> InnerEntry<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Result<Self, Defect> {
        let (key_bytes, rest) = bytes.split_first_chunk::<INNER_ENTRY_HEADER_BYTES>().ok_or(CUT_SHORT)?;
        let key_bytes = u16::from_le_bytes(*key_bytes);
        if u32::from(key_bytes) > KEY_BYTES_MAX {
            return Err("a key is too long");
        }
        let (key, rest) = rest.split_at_checked(key_bytes.into()).ok_or(CUT_SHORT)?;
        let (id, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
        let (entries, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
        let (payload_bytes, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
        let chunk_refs = rest.first_chunk().ok_or(CUT_SHORT)?;
        let totals = Totals {
            entries: u64::from_le_bytes(*entries),
            payload_bytes: u64::from_le_bytes(*payload_bytes),
            chunk_refs: u64::from_le_bytes(*chunk_refs),
        };
        Ok(Self { key, id: ChunkId::from_bytes(*id), totals })
    }

    /// The first child of a node that this member is writing.
    pub(super) fn first(node: &'a [u8]) -> Self {
        Self::written(&node[HEADER_BYTES..])
    }

    /// The first of some entries that this member wrote.
    pub(super) fn written(entries: &'a [u8]) -> Self {
        Self::read(entries).expect("written by this member")
    }

    pub(super) fn bytes(&self) -> usize {
        INNER_ENTRY_HEADER_BYTES + self.key.len() + CHILD_BYTES
    }
}

/// Appends the header that [`seal_header`] completes once the count is known.
pub(super) fn write_header(into: &mut Vec<u8>, level: u8) {
    into.extend_from_slice(&[FORMAT, level, 0, 0]);
}

/// Writes the count of entries into the header.
pub(super) fn seal_header(bytes: &mut [u8], entries: u16) {
    bytes[2..HEADER_BYTES].copy_from_slice(&entries.to_le_bytes());
}

/// Appends an entry whose lengths were checked by [`check_entry`].
pub(super) fn write_leaf_entry(into: &mut Vec<u8>, key: &[u8], value: &Value) {
    let flag = if value.chunk.is_some() { CHUNK_FLAG } else { 0 };
    let [key_low, key_high] = (key.len() as u16).to_le_bytes();
    let [value_low, value_high] = (value.inline.len() as u16 | flag).to_le_bytes();
    into.extend_from_slice(&[key_low, key_high, value_low, value_high]);
    into.extend_from_slice(key);
    into.extend_from_slice(&value.inline);
    if let Some(chunk) = value.chunk {
        into.extend_from_slice(chunk.id.as_bytes());
        into.extend_from_slice(&chunk.bytes.to_le_bytes());
    }
}

/// Appends the entry of a child.
pub(super) fn write_inner_entry(into: &mut Vec<u8>, entry: &InnerEntry<'_>) {
    into.extend_from_slice(&(entry.key.len() as u16).to_le_bytes());
    into.extend_from_slice(entry.key);
    into.extend_from_slice(entry.id.as_bytes());
    into.extend_from_slice(&entry.totals.entries.to_le_bytes());
    into.extend_from_slice(&entry.totals.payload_bytes.to_le_bytes());
    into.extend_from_slice(&entry.totals.chunk_refs.to_le_bytes());
}

/// The first key of the non-empty node that starts with `bytes`.
pub(super) fn first_key_of(bytes: &[u8], level: u8) -> &[u8] {
    &bytes[key_range(bytes, level, HEADER_BYTES)]
}

/// Where the key of the entry lies that starts at `start`.
fn key_range(node: &[u8], level: u8, start: usize) -> Range<usize> {
    let key_bytes = usize::from(u16::from_le_bytes([node[start], node[start + 1]]));
    let entry_header_bytes = if level == 0 { LEAF_ENTRY_HEADER_BYTES } else { INNER_ENTRY_HEADER_BYTES };
    let start = start + entry_header_bytes;
    start..start + key_bytes
}

/// What an entry adds to a tree, or why a tree does not take it.
pub(super) fn check_entry(key: &[u8], value: &Value) -> Result<Totals, TreeError> {
    check_key(key)?;
    if value.inline.len() > INLINE_VALUE_BYTES_MAX as usize {
        return Err(TreeError::Refused("the inline value is longer than 2 KiB"));
    }
    if value.chunk.is_some_and(|chunk| chunk.bytes > CHUNK_BYTES_MAX) {
        return Err(TreeError::Refused("the chunk is longer than 1 MiB"));
    }
    Ok(Totals {
        entries: 1,
        payload_bytes: value.inline.len() as u64 + value.chunk.map_or(0, |chunk| u64::from(chunk.bytes)),
        chunk_refs: u64::from(value.chunk.is_some()),
    })
}

/// Refuses a key that no tree takes.
pub(super) fn check_key(key: &[u8]) -> Result<(), TreeError> {
    if key.len() > KEY_BYTES_MAX as usize {
        return Err(TreeError::Refused("the key is longer than 4 KiB"));
    }
    Ok(())
}

/// A node whose every byte was checked, and where each of its entries lies: looking a key up reads a few keys, not the node.
///
/// Cheap to clone. Whoever keeps nodes in memory keeps them like this, so that the bytes are gone through once.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: ChunkId,
    bytes: Bytes,
    level: u8,
    directory: Directory,
    totals: Totals,
    /// Of the children of an inner node, those that were found to be what it claims. Claims and children are fixed by their
    /// hashes, so once is enough; only that of the last child depends on what lies beside the node.
    children_checked: Box<[AtomicBool]>,
}

impl Node {
    /// Checks that bytes which hash to `id`, as the caller has checked, are a node.
    ///
    /// # Errors
    /// [`TreeError::Malformed`]: whoever published the tree is broken, not the peer that sent the node.
    pub fn read(id: ChunkId, bytes: Bytes) -> Result<Self, TreeError> {
        Self::scan(id, bytes).map_err(|reason| TreeError::Malformed { id, reason })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.inner.bytes
    }

    /// Bytes of memory that it takes, nearly: its own, and those that say where its entries lie.
    pub fn memory_bytes(&self) -> u64 {
        let beside = self.inner.directory.memory_bytes() + self.inner.children_checked.len() + size_of::<Inner>();
        (self.inner.bytes.len() + beside) as u64
    }

    /// Gets and checks a node; `base` goes into the want if it is not here.
    pub(super) fn load(
        nodes: &dyn Nodes,
        id: ChunkId,
        claim: &Claim<'_>,
        base: Option<ChunkId>,
    ) -> Result<Self, TreeError> {
        let Some(node) = nodes.read(id) else {
            return Err(TreeError::Missing(vec![NodeWant { id, base }]));
        };
        let node = node?;
        node.check_claim(claim)?;
        Ok(node)
    }

    /// Gets the child at `index` of this inner node, whose keys are all below `end_key`.
    pub(super) fn load_child(
        &self,
        nodes: &dyn Nodes,
        index: usize,
        end_key: Option<&[u8]>,
        base: Option<ChunkId>,
    ) -> Result<Self, TreeError> {
        let id = self.child(index).id;
        let Some(child) = nodes.read(id) else { return Err(TreeError::Missing(vec![NodeWant { id, base }])) };
        let (child, checked) = (child?, &self.inner.children_checked[index]);
        if !checked.load(Ordering::Relaxed) {
            child.check_claim(&self.child_claim(index, end_key))?;
            checked.store(index + 1 < self.len(), Ordering::Relaxed);
        }
        Ok(child)
    }

    /// Gets and checks the node of a root.
    pub(super) fn load_root(nodes: &dyn Nodes, root: &Root, base: Option<ChunkId>) -> Result<Self, TreeError> {
        let node = Self::load(nodes, root.id, &root.claim(), base)?;
        if node.level() > 0 && node.len() == 1 {
            return Err(TreeError::Malformed { id: node.id(), reason: "it is a root with one child" });
        }
        Ok(node)
    }

    /// Checks that `bytes` are a node and what `claim` says.
    pub(super) fn check(id: ChunkId, bytes: Bytes, claim: &Claim<'_>) -> Result<Self, TreeError> {
        let node = Self::read(id, bytes)?;
        node.check_claim(claim)?;
        Ok(node)
    }

    /// Checks bytes about which nothing else is known.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, TreeError> {
        Self::read(ChunkId::of(Domain::Node, &bytes), bytes)
    }

    fn scan(id: ChunkId, bytes: Bytes) -> Result<Self, Defect> {
        if bytes.len() > NODE_BYTES_MAX {
            return Err("it is too long");
        }
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(CUT_SHORT)?;
        let [format, level, low, high] = *header;
        if format != FORMAT {
            return Err("its format is unknown");
        }
        if level > LEVEL_MAX {
            return Err("its level is too high");
        }
        let entries = usize::from(u16::from_le_bytes([low, high]));
        touch(&bytes);
        let (starts, totals) = match level {
            0 => scan_leaf(&bytes, entries)?,
            _ => scan_inner(&bytes, entries)?,
        };
        let children = if level == 0 { 0 } else { entries };
        let children_checked = std::iter::repeat_with(AtomicBool::default).take(children).collect();
        let directory = Directory::new(starts);
        Ok(Self { inner: Arc::new(Inner { id, bytes, level, directory, totals, children_checked }) })
    }

    fn check_claim(&self, claim: &Claim<'_>) -> Result<(), TreeError> {
        self.compare_with(claim).map_err(|reason| TreeError::Malformed { id: self.id(), reason })
    }

    fn compare_with(&self, claim: &Claim<'_>) -> Result<(), Defect> {
        if self.level() != claim.level {
            return Err("its level is not what its parent claims");
        }
        let claimed =
            Totals { entries: claim.entries, payload_bytes: claim.payload_bytes, chunk_refs: claim.chunk_refs };
        if self.inner.totals != claimed {
            return Err("its counts are not what its parent claims");
        }
        let Some(last) = self.len().checked_sub(1) else {
            // Counts agree, so an empty node is the leaf of an empty tree, or its parent claims no entries and is
            // refused for that.
            return Ok(());
        };
        match claim.first_key {
            Some(first_key) if first_key != self.key(0) => Err("its first key is not what its parent claims"),
            _ if claim.end_key.is_some_and(|end_key| self.key(last) >= end_key) => Err("it reaches into the next node"),
            _ => Ok(()),
        }
    }

    pub(super) fn id(&self) -> ChunkId {
        self.inner.id
    }

    pub(super) fn level(&self) -> u8 {
        self.inner.level
    }

    pub(super) fn len(&self) -> usize {
        self.inner.directory.len()
    }

    /// Where entry `index` starts; for `index == len`, where the last one ends.
    pub(super) fn start(&self, index: usize) -> usize {
        self.inner.directory.start(index).unwrap_or(self.inner.bytes.len())
    }

    /// The encoded entries of `range`.
    pub(super) fn entries_bytes(&self, range: Range<usize>) -> &[u8] {
        &self.inner.bytes[self.start(range.start)..self.start(range.end)]
    }

    /// What the entries of `range` add up to.
    pub(super) fn totals(&self, range: Range<usize>) -> Totals {
        let mut totals = Totals::default();
        for index in range {
            totals.add(if self.level() == 0 { self.leaf_entry(index).totals() } else { self.child(index).totals });
        }
        totals
    }

    /// The first entry at or after `from` that does not end at or before `offset`.
    pub(super) fn entry_at_offset(&self, from: usize, offset: usize) -> usize {
        if from == self.len() {
            return from;
        }
        let ends_before_last = self.inner.directory.starts_after(from);
        let passed = ends_before_last.partition_point(|&end| usize::from(end) <= offset);
        let last_passed = passed == ends_before_last.len() && self.inner.bytes.len() <= offset;
        from + passed + usize::from(last_passed)
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        &self.inner.bytes[self.key_range(index)]
    }

    pub(super) fn key_bytes(&self, index: usize) -> Bytes {
        self.inner.bytes.slice(self.key_range(index))
    }

    fn key_range(&self, index: usize) -> Range<usize> {
        key_range(&self.inner.bytes, self.level(), self.start(index))
    }

    /// The entry of this leaf.
    pub(super) fn leaf_entry(&self, index: usize) -> LeafEntry<'_> {
        debug_assert_eq!(self.level(), 0);
        LeafEntry::read(self.entries_bytes(index..index + 1)).expect("checked when the node was scanned")
    }

    /// The value of entry `index` of this leaf, sharing the node's bytes.
    pub(super) fn value(&self, index: usize) -> Value {
        let entry = self.leaf_entry(index);
        let start = self.key_range(index).end;
        Value { inline: self.inner.bytes.slice(start..start + entry.inline.len()), chunk: entry.chunk() }
    }

    /// The child at `index` of this inner node.
    pub(super) fn child(&self, index: usize) -> InnerEntry<'_> {
        debug_assert_ne!(self.level(), 0);
        InnerEntry::read(self.entries_bytes(index..index + 1)).expect("checked when the node was scanned")
    }

    /// What this inner node, whose keys are all below `end_key`, says about its child at `index`.
    pub(super) fn child_claim<'a>(&'a self, index: usize, end_key: Option<&'a [u8]>) -> Claim<'a> {
        let child = self.child(index);
        Claim {
            level: self.level() - 1,
            first_key: Some(child.key),
            end_key: self.end_key(index, end_key),
            entries: child.totals.entries,
            payload_bytes: child.totals.payload_bytes,
            chunk_refs: child.totals.chunk_refs,
        }
    }

    /// The key that entry `index` ends before, if this node ends before `end_key`.
    pub(super) fn end_key<'a>(&'a self, index: usize, end_key: Option<&'a [u8]>) -> Option<&'a [u8]> {
        if index + 1 < self.len() { Some(self.key(index + 1)) } else { end_key }
    }

    /// [`Self::end_key`], sharing bytes.
    pub(super) fn end_key_bytes(&self, index: usize, end_key: Option<&Bytes>) -> Option<Bytes> {
        if index + 1 < self.len() { Some(self.key_bytes(index + 1)) } else { end_key.cloned() }
    }

    /// The first entry at or after `from` whose key is not below `key`.
    pub(super) fn lower_bound(&self, from: usize, key: &[u8]) -> usize {
        self.inner.directory.lower_bound(from, key, |index| self.key(index))
    }

    /// The entry at or after `from` whose range holds `key`: the last whose key is not above it, else `from`.
    pub(super) fn covering(&self, from: usize, key: &[u8]) -> usize {
        let at = self.lower_bound(from, key);
        if at < self.len() && self.key(at) == key { at } else { at.saturating_sub(1).max(from) }
    }
}

static EMPTY_LEAF_ID: LazyLock<ChunkId> = LazyLock::new(|| empty_leaf().id());

/// Reads a byte of each line of the processor's cache. In a walk over entries each one says where the next begins, so it waits for memory
/// at every line that is not near; these loads wait for nothing, hence all at once.
fn touch(bytes: &[u8]) {
    const LINE_BYTES: usize = 64;
    black_box(bytes.iter().step_by(LINE_BYTES).fold(0, |sum, byte| sum ^ byte));
}

/// What is wrong with a node.
type Defect = &'static str;

const CUT_SHORT: Defect = "it is cut short";

const TRAILING_BYTES: Defect = "bytes follow its last entry";

fn scan_leaf(bytes: &[u8], entries: usize) -> Result<(Box<[u16]>, Totals), Defect> {
    let mut scan = Scan::new(bytes, entries, LEAF_ENTRY_HEADER_BYTES)?;
    for _ in 0..entries {
        let entry = LeafEntry::read(scan.rest())?;
        if entry.chunk_bytes().is_some_and(|bytes| bytes > CHUNK_BYTES_MAX) {
            return Err("a chunk is too long");
        }
        scan.step(entry.key, entry.bytes(), entry.totals())?;
    }
    scan.end()
}

fn scan_inner(bytes: &[u8], entries: usize) -> Result<(Box<[u16]>, Totals), Defect> {
    if entries == 0 {
        return Err("an inner node without children");
    }
    let mut scan = Scan::new(bytes, entries, INNER_ENTRY_HEADER_BYTES)?;
    for _ in 0..entries {
        let entry = InnerEntry::read(scan.rest())?;
        if entry.totals.entries == 0 {
            return Err("a child without entries");
        }
        scan.step(entry.key, entry.bytes(), entry.totals)?;
    }
    scan.end()
}

/// A walk over the entries of a node that checks what all nodes have in common.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    previous: Option<&'a [u8]>,
    starts: Vec<u16>,
    totals: Totals,
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8], entries: usize, entry_bytes_min: usize) -> Result<Self, Defect> {
        if HEADER_BYTES + entries * entry_bytes_min > bytes.len() {
            return Err(CUT_SHORT);
        }
        let starts = Vec::with_capacity(entries);
        Ok(Self { bytes, at: HEADER_BYTES, previous: None, starts, totals: Totals::default() })
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    fn step(&mut self, key: &'a [u8], entry_bytes: usize, totals: Totals) -> Result<(), Defect> {
        if self.at >= NODE_BYTES_CLOSE {
            return Err("it goes on after the length that closes it");
        }
        if self.previous.is_some_and(|previous| !is_below(previous, key)) {
            return Err("its keys do not ascend");
        }
        self.previous = Some(key);
        self.totals = self.totals.checked_add(totals).ok_or("its counts overflow")?;
        self.starts.push(self.at as u16);
        self.at += entry_bytes;
        Ok(())
    }

    fn end(self) -> Result<(Box<[u16]>, Totals), Defect> {
        if self.at == self.bytes.len() { Ok((self.starts.into(), self.totals)) } else { Err(TRAILING_BYTES) }
    }
}

/// Whether `left < right`. Most keys differ in their first eight bytes: those need no call.
#[inline]
pub(super) fn is_below(left: &[u8], right: &[u8]) -> bool {
    match (left.first_chunk::<8>(), right.first_chunk::<8>()) {
        (Some(left), Some(right)) if left != right => u64::from_be_bytes(*left) < u64::from_be_bytes(*right),
        _ => left < right,
    }
}

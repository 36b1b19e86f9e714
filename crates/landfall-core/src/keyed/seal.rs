//! Owns a seal: the merge of a frozen overlay into the trees below it, in slices.
//!
//! It never touches the state that it came from: writers go on meanwhile. A section without changes is neither read nor written.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::SectionId;
use super::overlay::{Layer, Overlay};
use super::seal_part::{MergedPart, SealPart, parts};
use crate::limits::INLINE_VALUE_BYTES_MAX;
use crate::snapshot::{Manifest, Position};
use crate::tree::{Adopted, Editor, Node, NodeSink, Nodes, Root, Salt, TreeError, Value, empty_leaf};
use crate::{Chunk, ChunkId, Domain};

/// Receives what a seal makes.
pub trait SealSink: NodeSink {
    /// Takes one long value. It comes before the leaf that refers to it, and may come again.
    fn put_value(&mut self, value: Chunk);
}

impl<S: SealSink + ?Sized> SealSink for &mut S {
    fn put_value(&mut self, value: Chunk) {
        (**self).put_value(value);
    }
}

/// A seal under way.
#[derive(Debug)]
pub struct Sealing {
    number: u64,
    overlay: Arc<Overlay>,
    /// The snapshot to be; sections before `section` have their new roots.
    manifest: Manifest,
    section: usize,
    merge: Option<Merge>,
    entries_done: u64,
}

/// One section that is being merged.
#[derive(Debug)]
struct Merge {
    editor: Editor,
    /// The last key that was merged.
    last_key: Option<Bytes>,
}

/// How far a seal is.
#[derive(Debug)]
pub enum Step {
    /// Call again.
    More,
    /// The snapshot is complete: once its chunks are durable, [`super::KeyedState::finish_seal`] makes it the base.
    Done(Sealed),
}

/// What a seal made.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub(super) number: u64,
    /// The snapshot of exactly the position at which the state was frozen.
    pub manifest: Manifest,
    /// Kept so that the last of it is freed here and not in the state, which may be locked.
    _overlay: Arc<Overlay>,
}

impl Sealing {
    pub(super) fn new(number: u64, overlay: Arc<Overlay>, manifest: Manifest) -> Self {
        Self { number, overlay, manifest, section: 0, merge: None, entries_done: 0 }
    }

    /// The position at which the state was frozen.
    pub fn position(&self) -> Position {
        self.manifest.position
    }

    /// Changes that were merged so far.
    pub fn entries_done(&self) -> u64 {
        self.entries_done
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Merges up to `entries_max` changes, at least one.
    ///
    /// # Errors
    /// [`TreeError::Missing`]: call again once the nodes are here. After any other error the seal is to be abandoned.
    pub fn step(&mut self, nodes: &dyn Nodes, entries_max: usize, sink: &mut impl SealSink) -> Result<Step, TreeError> {
        let nodes = &WithEmptyLeaf(nodes);
        let mut entries_left = entries_max.max(1);
        while self.section < self.manifest.sections.len() {
            if self.merge_section(nodes, &mut entries_left, sink)? == Merged::Part {
                return Ok(Step::More);
            }
            self.section += 1;
        }
        if self.manifest.sections.iter().any(|section| section.root.entries == 0) {
            // No edit ever makes it, and whoever fetches the snapshot asks for it.
            sink.put(empty_leaf());
        }
        let overlay = Arc::clone(&self.overlay);
        Ok(Step::Done(Sealed { number: self.number, manifest: self.manifest.clone(), _overlay: overlay }))
    }

    /// What can be merged apart, in the order in which [`Self::adopt`] takes it. Ask before the first step.
    ///
    /// # Errors
    /// [`TreeError::Missing`] if a node above level 1 is not here.
    pub fn parts(&self, nodes: &dyn Nodes) -> Result<Vec<SealPart>, TreeError> {
        let mut found = Vec::new();
        for (section, place) in self.manifest.sections.iter().zip(0..).skip(self.section) {
            let id = SectionId(place);
            let layer = self.overlay.layer(id);
            if layer.len() >= ENTRIES_APART_MIN && !layer.hides_below() {
                found.extend(parts(&self.overlay, id, section.salt, &section.root, nodes)?);
            }
        }
        Ok(found)
    }

    /// Takes a part that was merged, and merges what is before it. One that does not fit is merged by the steps that follow.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn adopt(&mut self, nodes: &dyn Nodes, part: &MergedPart, sink: &mut impl SealSink) -> Result<(), TreeError> {
        let (nodes, mut all) = (&WithEmptyLeaf(nodes), usize::MAX);
        while self.section < part.section.index() {
            self.merge_section(nodes, &mut all, sink)?;
            self.section += 1;
        }
        let Some(unit) = part.unit.as_ref().filter(|_| self.section == part.section.index()) else { return Ok(()) };
        self.merge_entries(nodes, Bound::Excluded(unit.first_key()), &mut all, sink)?;
        let Some(merge) = self.merge.as_mut().filter(|merge| merge.is_before(unit.first_key())) else { return Ok(()) };
        if merge.editor.adopt(nodes, unit, sink)? == Adopted::Yes {
            merge.last_key = Some(unit.last_key().clone());
            self.entries_done += part.entries;
        }
        Ok(())
    }

    fn merge_section(
        &mut self,
        nodes: &dyn Nodes,
        entries_left: &mut usize,
        sink: &mut impl SealSink,
    ) -> Result<Merged, TreeError> {
        if self.overlay.layer(SectionId(self.section as u16)).is_empty() {
            return Ok(Merged::All);
        }
        if self.merge_entries(nodes, Bound::Unbounded, entries_left, sink)? == Merged::Part {
            return Ok(Merged::Part);
        }
        if let Some(merge) = &mut self.merge {
            self.manifest.sections[self.section].root = merge.editor.finish(nodes, sink)?;
        }
        self.merge = None;
        Ok(Merged::All)
    }

    /// Merges entries of the present section that are before `end`.
    fn merge_entries(
        &mut self,
        nodes: &dyn Nodes,
        end: Bound<&[u8]>,
        entries_left: &mut usize,
        sink: &mut impl SealSink,
    ) -> Result<Merged, TreeError> {
        let layer = self.overlay.layer(SectionId(self.section as u16));
        let section = &self.manifest.sections[self.section];
        let merge = self.merge.get_or_insert_with(|| Merge::new(layer, section.root, section.salt));
        let start = merge.last_key.clone();
        if let Bound::Excluded(end) = end
            && !merge.is_before(end)
        {
            return Ok(Merged::All);
        }
        let start = start.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_ref()));
        for (key, entry) in layer.entries(start, end) {
            if *entries_left == 0 {
                return Ok(Merged::Part);
            }
            let value = entry.value.as_ref().map(|value| as_tree_value(value, sink));
            merge.editor.apply(nodes, key, value.as_ref(), sink)?;
            merge.last_key = Some(key.clone());
            *entries_left -= 1;
            self.entries_done += 1;
        }
        Ok(Merged::All)
    }
}

impl Merge {
    fn new(layer: &Layer, root: Root, salt: Salt) -> Self {
        let root = if layer.hides_below() { Root::empty() } else { root };
        Self { editor: Editor::new(root, salt), last_key: None }
    }

    fn is_before(&self, key: &[u8]) -> bool {
        self.last_key.as_ref().is_none_or(|last_key| last_key < key)
    }
}

/// Fewer changes of a section are merged sooner than any thread begins.
const ENTRIES_APART_MIN: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    Part,
    All,
}

/// A value as a leaf holds it; a long one goes into a chunk beside it.
pub(super) fn as_tree_value(value: &Bytes, sink: &mut impl SealSink) -> Value {
    if value.len() <= INLINE_VALUE_BYTES_MAX as usize {
        return Value::inline(value.clone());
    }
    let chunk = Chunk::new(Domain::Data, value.clone());
    let value = Value::chunk(chunk.id(), value.len() as u32);
    sink.put_value(chunk);
    value
}

/// Nodes, and the empty leaf: a state that was just born, or cleared, stands on it before anyone stored it.
struct WithEmptyLeaf<'a>(&'a dyn Nodes);

impl Nodes for WithEmptyLeaf<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        if id == Root::empty().id {
            return Some(empty_leaf().into_bytes());
        }
        self.0.node(id)
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        if id == Root::empty().id {
            return Some(Node::read(id, empty_leaf().into_bytes()));
        }
        self.0.read(id)
    }
}

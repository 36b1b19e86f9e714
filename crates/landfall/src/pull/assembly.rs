//! Owns the destination while content arrives: which chunks are here already, where each new one goes, and what the old copy gives.
//!
//! It knows trees and files; it knows no peer and does not decide whom to ask.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use landfall_core::codec::Codec;
use landfall_core::files::{BadPath, Content, FileKey, FileKind, FilePath, Meta, MetaError, decode_meta};
use landfall_core::transfer::Want;
use landfall_core::tree::{ChunkRef, Cursor, Leaf, NodeWant, Nodes, Root, TreeError, Value, get};
use landfall_core::wire::ItemForm;
use landfall_core::{Chunk, ChunkId, Domain, Proven};
use landfall_store::{Store, StoreError};

use super::contents::Contents;
use crate::fetch::landing::{Inspection, Kept, Landing};
use crate::fetch::status::Status;
use crate::files::place::{Copied, Origin, PlaceError, Placement, StagedFile};
use crate::nodes::NodeCache;

/// Large files that are kept open between two chunks.
const OPEN_FILES_MAX: usize = 256;
/// Chunks of an old file that are remembered by id, so that content that moved inside the file is found.
const OLD_CHUNKS_MAX: usize = 256 * 1024;

/// Why the destination cannot be built, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The destination's file system refused something.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree is broken at its publisher, or a node is missing that was here.
    #[error("the tree of the snapshot cannot be read: {0}")]
    Tree(#[from] TreeError),
    /// A node that was here is gone: the data directory is damaged.
    #[error("tree node {0} was here and is gone: the data directory is damaged; pull again into a new directory")]
    NodeLost(ChunkId),
    /// The snapshot names a place outside the destination, or no place at all: its publisher is broken or hostile.
    #[error("the snapshot is refused: {0}")]
    Path(#[from] BadPath),
    /// The snapshot's metadata is broken at its publisher.
    #[error("the snapshot is refused: {0}")]
    Xattrs(#[from] landfall_core::files::XattrsError),
    /// The snapshot's metadata is broken at its publisher.
    #[error("the snapshot is refused: {0}")]
    Meta(#[from] MetaError),
    /// The snapshot is not a file tree.
    #[error("the snapshot is refused: an entry that has no place in a file tree")]
    NotAFileTree,
    /// A local file was changed while it was being built upon.
    #[error("{0} changed in the destination while the pull ran: pull again with --discard-local-changes")]
    BaseChanged(String),
    /// The system gives no thread for the work: pull again when it has some.
    #[error("the system gave no thread for comparing what is here")]
    NoThread,
}

/// Where a chunk goes.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// It is all of a small file.
    Whole { path: FilePath, meta: Meta },
    /// It is a part of a larger file.
    Range { path: FilePath, offset: u64 },
    /// It is the extended attributes of a path; it stays in the store until they are set.
    Xattrs { path: FilePath },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { path, .. } => write!(f, "{path}"),
            Self::Range { path, offset } => write!(f, "{path} at offset {offset}"),
            Self::Xattrs { path } => write!(f, "the attributes of {path}"),
        }
    }
}

/// A chunk that the old copy has.
#[derive(Debug, Clone)]
pub(crate) struct Unchanged {
    /// The entry of the leaf that names it.
    pub(crate) entry: u32,
    pub(crate) path: FilePath,
    pub(crate) offset: u64,
    pub(crate) old_offset: u64,
    pub(crate) chunk: ChunkRef,
}

/// A destination under construction.
pub(crate) struct Assembly {
    pub(crate) placement: Placement,
    pub(crate) store: Arc<Store>,
    nodes: Arc<NodeCache>,
    status: Arc<Status>,
    pub(crate) base: Option<Root>,
    pub(crate) target: Root,
    open: Mutex<VecDeque<(FilePath, Arc<Building>)>>,
    /// Files that this pull itself began, by a hash of their paths: when opened again they still hold only what it wrote.
    begun: Mutex<HashSet<ChunkId>>,
}

/// A large file under construction.
pub(crate) struct Building {
    pub(crate) staged: StagedFile,
    content: Content,
    /// It may hold what another pull left: nothing in it counts before it is hashed.
    pub(crate) is_leftover: bool,
    /// Chunks of the old file by id, where they may have moved.
    old_chunks: Option<OldChunks>,
}

/// The chunks of an old file whose chunks the content delimits.
struct OldChunks {
    offsets: HashMap<ChunkId, u64>,
    in_order: Vec<(u64, ChunkRef)>,
}

impl Assembly {
    pub(crate) fn new(
        placement: Placement,
        store: Arc<Store>,
        nodes: Arc<NodeCache>,
        status: Arc<Status>,
        base: Option<Root>,
        target: Root,
    ) -> Self {
        Self { placement, store, nodes, status, base, target, open: Mutex::default(), begun: Mutex::default() }
    }

    fn inspect_entry(&self, entry: Entry, shift: &mut Shift, inspection: &mut Inspected) -> Result<(), AssemblyError> {
        match &entry.key {
            FileKey::Meta(path) => self.inspect_meta(path, &entry, inspection),
            FileKey::Content { path, offset } => {
                let chunk = entry.value.chunk.ok_or(AssemblyError::NotAFileTree)?;
                self.inspect_content(path, *offset, chunk, &entry, shift, inspection)
            }
            FileKey::Xattrs(_) => {
                if let Some(chunk) = entry.value.chunk
                    && !self.store.contains(chunk.id)?
                {
                    inspection.wants.push(Want { entry: entry.index, bytes: chunk.bytes, base: None });
                }
                Ok(())
            }
        }
    }

    /// Small files: what is inline is placed at once, what is one chunk is wanted unless it did not change.
    fn inspect_meta(&self, path: &FilePath, entry: &Entry, inspection: &mut Inspected) -> Result<(), AssemblyError> {
        if entry.old.as_ref() == Some(&entry.value) {
            return Ok(());
        }
        let meta = decode_meta(&entry.value.inline)?;
        let FileKind::File { size, content } = &meta.kind else { return Ok(()) };
        match content {
            Content::Inline(bytes) => Ok(self.placement.place_small(path, &meta, bytes)?),
            Content::Whole => {
                let chunk = entry.value.chunk.filter(|chunk| u64::from(chunk.bytes) == *size);
                let chunk = chunk.ok_or(AssemblyError::NotAFileTree)?;
                let old = entry.old.as_ref().and_then(|old| old.chunk);
                if old == Some(chunk) || self.is_placed(path, &meta, chunk)? {
                    return Ok(());
                }
                let base = old.map(|old| old.id);
                inspection.wants.push(Want { entry: entry.index, bytes: chunk.bytes, base });
                Ok(())
            }
            // A file of nothing but a hole has no content entries that would begin it.
            Content::Pages | Content::ContentDefined => Ok(()),
        }
    }

    fn is_placed(&self, path: &FilePath, meta: &Meta, chunk: ChunkRef) -> Result<bool, AssemblyError> {
        let placed = self.placement.small_is_placed(path, meta, chunk)?;
        if placed {
            self.status.note_reused(u64::from(chunk.bytes));
        }
        Ok(placed)
    }

    fn inspect_content(
        &self,
        path: &FilePath,
        offset: u64,
        chunk: ChunkRef,
        entry: &Entry,
        shift: &mut Shift,
        inspection: &mut Inspected,
    ) -> Result<(), AssemblyError> {
        let building = self.building(path)?;
        if building.is_leftover && holds(&building.staged, offset, chunk)? {
            self.status.note_reused(u64::from(chunk.bytes));
            return Ok(());
        }
        let old = entry.old.as_ref().and_then(|old| old.chunk).filter(|_| building.staged.has_old());
        if let Some(old_offset) = building.old_offset(chunk, old, offset) {
            shift.matched(path, offset, old_offset);
            let (path, entry) = (path.clone(), entry.index);
            inspection.unchanged.push(Unchanged { entry, path, offset, old_offset, chunk });
            return Ok(());
        }
        let base = match &building.old_chunks {
            Some(old_chunks) => old_chunks.covering(shift.old_offset(path, offset)),
            None => old.map(|old| old.id),
        };
        inspection.wants.push(Want { entry: entry.index, bytes: chunk.bytes, base });
        Ok(())
    }

    fn old_value(&self, key: &FileKey) -> Result<Option<Value>, AssemblyError> {
        let Some(base) = &self.base else { return Ok(None) };
        Ok(get(&*self.nodes, base, &key.encode())?)
    }

    /// The large file at `path`, begun if it is not.
    pub(crate) fn building(&self, path: &FilePath) -> Result<Arc<Building>, AssemblyError> {
        let mut open = self.open.lock().expect("no panic under the lock");
        if let Some((_, building)) = open.iter().find(|(open, _)| open == path) {
            return Ok(building.clone());
        }
        let building = Arc::new(self.begin(path)?);
        if open.len() >= OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((path.clone(), building.clone()));
        Ok(building)
    }

    /// Gives the destination back, for its last step.
    pub(crate) fn into_placement(self) -> Placement {
        self.placement
    }

    /// Closes every large file.
    pub(crate) fn close_files(&self) {
        self.open.lock().expect("no panic under the lock").clear();
    }

    fn begin(&self, path: &FilePath) -> Result<Building, AssemblyError> {
        let key = FileKey::Meta(path.clone());
        let value = get(&*self.nodes, &self.target, &key.encode())?.ok_or(AssemblyError::NotAFileTree)?;
        let meta = decode_meta(&value.inline)?;
        let FileKind::File { content, .. } = &meta.kind else { return Err(AssemblyError::NotAFileTree) };
        let content = content.clone();
        let staged = self.placement.begin_file(path, &meta)?;
        let old_chunks = match content {
            Content::ContentDefined if staged.has_old() => self.old_chunks(path)?,
            _ => None,
        };
        let is_leftover = self.is_leftover(&staged);
        Ok(Building { staged, content, is_leftover, old_chunks })
    }

    fn is_leftover(&self, staged: &StagedFile) -> bool {
        let mut begun = self.begun.lock().expect("no panic under the lock");
        let name = ChunkId::of(Domain::Data, staged.path().as_bytes());
        match staged.origin() {
            Origin::New => {
                begun.insert(name);
                false
            }
            Origin::Resumed => !begun.contains(&name),
        }
    }

    fn old_chunks(&self, path: &FilePath) -> Result<Option<OldChunks>, AssemblyError> {
        let Some(base) = self.base else { return Ok(None) };
        let mut contents = Contents::new(&*self.nodes, base, path);
        let mut old = OldChunks { offsets: HashMap::new(), in_order: Vec::new() };
        while let Some((offset, chunk)) = contents.next()? {
            if old.in_order.len() >= OLD_CHUNKS_MAX {
                return Ok(None);
            }
            old.offsets.insert(chunk.id, offset);
            old.in_order.push((offset, chunk));
        }
        Ok(Some(old))
    }
}

/// What comparing a leaf with the destination gave.
type Inspected = Inspection<Unchanged>;

impl Landing for Assembly {
    type Place = Place;
    type Unchanged = Unchanged;
    type Failure = AssemblyError;

    fn nodes(&self) -> &NodeCache {
        &self.nodes
    }

    fn inspect(&self, tree: usize, leaf: ChunkId) -> Result<Inspected, AssemblyError> {
        debug_assert_eq!(tree, 0, "a directory is one section");
        let nodes = &*self.nodes;
        let bytes = nodes.get(leaf)?.ok_or(AssemblyError::NodeLost(leaf))?;
        let leaf = Leaf::read(leaf, bytes)?;
        let mut inspection = Inspection { wants: Vec::new(), unchanged: Vec::new() };
        let Some((first_key, _)) = leaf.entry(0) else { return Ok(inspection) };
        let mut base = BaseEntries::from(self.base, &first_key, nodes)?;
        let mut shift = Shift::default();
        for (index, key, value) in leaf.entries() {
            let old = base.find(&key, nodes)?;
            let entry = Entry { index: index as u32, key: FileKey::decode(&key)?, value, old };
            self.inspect_entry(entry, &mut shift, &mut inspection)?;
        }
        Ok(inspection)
    }

    fn take_unchanged(&self, unchanged: Vec<Unchanged>) -> Result<Vec<Want>, AssemblyError> {
        let mut wants = Vec::new();
        let mut buffer = Vec::new();
        for chunk in unchanged {
            let building = self.building(&chunk.path)?;
            buffer.resize(chunk.chunk.bytes as usize, 0);
            match building.staged.copy_from_old(chunk.old_offset, chunk.offset, chunk.chunk.id, &mut buffer)? {
                Copied::Yes => self.status.note_reused(u64::from(chunk.chunk.bytes)),
                Copied::No => wants.push(Want { entry: chunk.entry, bytes: chunk.chunk.bytes, base: None }),
            }
        }
        Ok(wants)
    }

    fn put_node(&self, _: &NodeWant, node: &Chunk, _: &ItemForm<'_, Codec>) -> Result<Kept, AssemblyError> {
        self.nodes.put(node)?;
        Ok(Kept::Unseen)
    }

    fn place_of(&self, key: &Bytes, value: &Value) -> Result<Place, AssemblyError> {
        Ok(match FileKey::decode(key)? {
            FileKey::Meta(path) => Place::Whole { path, meta: decode_meta(&value.inline)? },
            FileKey::Content { path, offset } => Place::Range { path, offset },
            FileKey::Xattrs(path) => Place::Xattrs { path },
        })
    }

    fn put(&self, place: &Place, chunk: Proven<'_>) -> Result<(), AssemblyError> {
        match place {
            Place::Whole { path, meta } => Ok(self.placement.place_small(path, meta, chunk.bytes())?),
            Place::Range { path, offset } => Ok(self.building(path)?.staged.write_chunk(*offset, chunk)?),
            Place::Xattrs { .. } => Ok(self.store.put(&chunk.to_chunk())?),
        }
    }

    fn read_base(&self, place: &Place, base: ChunkId, out: &mut Vec<u8>) -> Result<bool, AssemblyError> {
        match place {
            Place::Whole { path, .. } => {
                let old = self.old_value(&FileKey::Meta(path.clone()))?.and_then(|old| old.chunk);
                let Some(old) = old.filter(|old| old.id == base) else { return Ok(false) };
                out.resize(old.bytes as usize, 0);
                Ok(self.placement.read_old(path, 0, out)?)
            }
            Place::Range { path, offset } => {
                let building = self.building(path)?;
                let old = match &building.old_chunks {
                    Some(old_chunks) => old_chunks.find(base),
                    None => {
                        self.old_value(&FileKey::Content { path: path.clone(), offset: *offset })?.and_then(|old| {
                            let chunk = old.chunk.filter(|chunk| chunk.id == base)?;
                            Some((*offset, chunk.bytes))
                        })
                    }
                };
                let Some((offset, bytes)) = old else { return Ok(false) };
                out.resize(bytes as usize, 0);
                Ok(building.staged.read_old(offset, out)?)
            }
            Place::Xattrs { .. } => Ok(false),
        }
    }

    fn node_lost(&self, node: ChunkId) -> AssemblyError {
        AssemblyError::NodeLost(node)
    }

    fn no_thread(&self) -> AssemblyError {
        AssemblyError::NoThread
    }

    fn no_such_chunk(&self) -> AssemblyError {
        AssemblyError::NotAFileTree
    }

    fn base_gone(&self, place: &Place) -> Result<(), AssemblyError> {
        // It was in a file of the destination: somebody changes what the pull is to replace.
        Err(AssemblyError::BaseChanged(place.to_string()))
    }
}

impl Building {
    /// Where the old file has the very chunk, if it has it.
    fn old_offset(&self, chunk: ChunkRef, old: Option<ChunkRef>, offset: u64) -> Option<u64> {
        if old == Some(chunk) {
            return Some(offset);
        }
        debug_assert!(self.old_chunks.is_none() || self.content == Content::ContentDefined);
        self.old_chunks.as_ref()?.offsets.get(&chunk.id).copied()
    }
}

impl OldChunks {
    /// The chunk that covers an offset of the old file.
    fn covering(&self, offset: u64) -> Option<ChunkId> {
        let after = self.in_order.partition_point(|(begin, _)| *begin <= offset);
        let (_, chunk) = self.in_order.get(after.checked_sub(1)?)?;
        Some(chunk.id)
    }

    /// Offset and length of a chunk of the old file.
    fn find(&self, id: ChunkId) -> Option<(u64, u32)> {
        let offset = *self.offsets.get(&id)?;
        let at = self.in_order.binary_search_by_key(&offset, |(begin, _)| *begin).ok()?;
        Some((offset, self.in_order[at].1.bytes))
    }
}

/// An entry of a leaf, and the old value at its key.
struct Entry {
    index: u32,
    key: FileKey,
    value: Value,
    old: Option<Value>,
}

/// How far content has moved inside a file, learnt from the last chunk that was found again.
#[derive(Default)]
struct Shift {
    path: FilePath,
    new_offset: u64,
    old_offset: u64,
}

impl Shift {
    fn matched(&mut self, path: &FilePath, new_offset: u64, old_offset: u64) {
        *self = Self { path: path.clone(), new_offset, old_offset };
    }

    /// Where the old file probably has what the new one has at `offset`.
    fn old_offset(&self, path: &FilePath, offset: u64) -> u64 {
        if self.path != *path {
            return offset;
        }
        self.old_offset + offset.saturating_sub(self.new_offset)
    }
}

/// The base's entries, read in step with a leaf's.
struct BaseEntries {
    cursor: Option<Cursor>,
    next: Option<(Bytes, Value)>,
}

impl BaseEntries {
    fn from(base: Option<Root>, first_key: &[u8], nodes: &dyn Nodes) -> Result<Self, TreeError> {
        let mut cursor = base.map(|base| Cursor::new(base, Bound::Included(first_key)));
        let next = match &mut cursor {
            Some(cursor) => cursor.next(nodes)?,
            None => None,
        };
        Ok(Self { cursor, next })
    }

    /// The value at `key`. Keys must ascend from call to call.
    fn find(&mut self, key: &[u8], nodes: &dyn Nodes) -> Result<Option<Value>, TreeError> {
        while let (Some(cursor), Some((found, value))) = (&mut self.cursor, &self.next) {
            if found.as_ref() >= key {
                return Ok((found.as_ref() == key).then(|| value.clone()));
            }
            self.next = cursor.next(nodes)?;
        }
        Ok(None)
    }
}

/// Does a staged file already hold the chunk?
pub(crate) fn holds(staged: &StagedFile, offset: u64, chunk: ChunkRef) -> Result<bool, AssemblyError> {
    let mut buffer = vec![0; chunk.bytes as usize];
    staged.read_range(offset, &mut buffer)?;
    Ok(ChunkId::of(Domain::Data, &buffer) == chunk.id)
}

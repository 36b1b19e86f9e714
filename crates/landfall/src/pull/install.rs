//! Owns the last pass of a pull: everything that differs between the old tree and the new one becomes a step of the plan, in key order.
//! It runs when every chunk is here; what it records, the placement carries out.

use std::ops::Bound;

use bytes::Bytes;
use landfall_core::files::{Content, FileKey, FileKind, FilePath, Meta, decode_meta, decode_xattrs};
use landfall_core::tree::{Change, ChunkRef, Cursor, Diff, Nodes, TreeError, Value, get};

use super::assembly::{Assembly, AssemblyError, Building, holds};
use super::contents::Contents;
use crate::content::PackedContent;
use crate::files::place::{Copied, Operation};

/// What a pull changed, in paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChangedPaths {
    /// Paths that were not there before.
    pub created: u64,
    /// Paths whose content is new.
    pub replaced: u64,
    /// Paths of which only owner, mode, time or attributes are new.
    pub altered: u64,
    /// Paths that are gone.
    pub removed: u64,
}

/// Records every step that turns the old directory into the new one.
pub(super) fn record_changes(assembly: &Assembly, nodes: &dyn Nodes) -> Result<ChangedPaths, AssemblyError> {
    let mut recorder = Recorder { assembly, nodes, changed: ChangedPaths::default() };
    let mut changes = Changes::new(assembly);
    let mut group: Option<PathChanges> = None;
    while let Some(change) = changes.next(nodes)? {
        let key = FileKey::decode(&change.key)?;
        if group.as_ref().is_some_and(|group| group.path != *key.path()) {
            recorder.record(group.take().expect("just seen"))?;
        }
        group.get_or_insert_with(|| PathChanges::new(key.path().clone())).add(&key, change);
    }
    if let Some(group) = group {
        recorder.record(group)?;
    }
    Ok(recorder.changed)
}

/// Every entry that differs; all of them where there is no old tree.
enum Changes {
    All(Cursor),
    Some(Diff),
}

impl Changes {
    fn new(assembly: &Assembly) -> Self {
        match assembly.base {
            Some(base) => Self::Some(Diff::new(base, assembly.target)),
            None => Self::All(Cursor::new(assembly.target, Bound::Unbounded)),
        }
    }

    fn next(&mut self, nodes: &dyn Nodes) -> Result<Option<Change>, TreeError> {
        match self {
            Self::All(cursor) => Ok(cursor.next(nodes)?.map(|(key, new)| Change { key, old: None, new: Some(new) })),
            Self::Some(diff) => diff.next(nodes),
        }
    }
}

/// What differs at one path.
struct PathChanges {
    path: FilePath,
    meta: Option<Change>,
    content: bool,
    xattrs: Option<Change>,
}

impl PathChanges {
    fn new(path: FilePath) -> Self {
        Self { path, meta: None, content: false, xattrs: None }
    }

    fn add(&mut self, key: &FileKey, change: Change) {
        match key {
            FileKey::Meta(_) => self.meta = Some(change),
            FileKey::Content { .. } => self.content = true,
            FileKey::Xattrs(_) => self.xattrs = Some(change),
        }
    }
}

struct Recorder<'a> {
    assembly: &'a Assembly,
    nodes: &'a dyn Nodes,
    changed: ChangedPaths,
}

impl Recorder<'_> {
    fn record(&mut self, changes: PathChanges) -> Result<(), AssemblyError> {
        let PathChanges { path, meta, content, xattrs } = changes;
        let old = meta.as_ref().and_then(|change| change.old.clone());
        let new = match &meta {
            Some(Change { new: None, .. }) => {
                self.changed.removed += 1;
                return self.step(Operation::Remove { path });
            }
            Some(change) => change.new.clone(),
            None => get(self.nodes, &self.assembly.target, &FileKey::Meta(path.clone()).encode())?,
        };
        let new = new.ok_or(AssemblyError::NotAFileTree)?;
        let new_meta = decode_meta(&new.inline)?;
        let created = meta.is_some() && old.is_none();
        if content || created || old.is_some_and(|old| is_other_content(&old, &new, &new_meta)) {
            self.complete_content(&path, &new_meta)?;
            self.step(Operation::Put { path: path.clone(), meta: new_meta })?;
            *(if created { &mut self.changed.created } else { &mut self.changed.replaced }) += 1;
            // What stands there is new, so it has no attributes yet, whether or not they changed.
            return self.record_xattrs(&path, xattrs.is_some());
        }
        self.changed.altered += 1;
        if meta.is_some() {
            self.step(Operation::Alter { path: path.clone(), meta: new_meta })?;
        }
        match xattrs {
            Some(_) => self.record_xattrs(&path, true),
            None => Ok(()),
        }
    }

    fn record_xattrs(&self, path: &FilePath, changed: bool) -> Result<(), AssemblyError> {
        let value = get(self.nodes, &self.assembly.target, &FileKey::Xattrs(path.clone()).encode())?;
        let xattrs = match value {
            Some(value) => {
                let decoded = decode_xattrs(&self.xattr_bytes(&value)?)?;
                decoded.into_iter().map(|xattr| (xattr.name, xattr.value)).collect()
            }
            None if changed => Vec::new(),
            None => return Ok(()),
        };
        self.step(Operation::Xattrs { path: path.clone(), xattrs })
    }

    fn xattr_bytes(&self, value: &Value) -> Result<Bytes, AssemblyError> {
        let Some(chunk) = value.chunk else { return Ok(value.inline.clone()) };
        let packs = PackedContent::new(&self.assembly.store);
        let mut plain = Vec::new();
        let mut decoder = landfall_core::codec::Decoder::new();
        let read = packs.frame(chunk.id).and_then(|frame| packs.plain(&frame, &mut decoder, &mut plain));
        read.map_err(|_| AssemblyError::NodeLost(chunk.id))?;
        Ok(plain.into())
    }

    fn step(&self, operation: Operation) -> Result<(), AssemblyError> {
        Ok(self.assembly.placement.record(operation)?)
    }

    /// Makes a large file whole: its chunks came, but what did not change may still be only in the old file.
    fn complete_content(&self, path: &FilePath, meta: &Meta) -> Result<(), AssemblyError> {
        let FileKind::File { size, content: Content::Pages | Content::ContentDefined } = &meta.kind else {
            return Ok(());
        };
        let building = self.assembly.building(path)?;
        if building.staged.has_old() || building.is_leftover {
            self.fill(path, *size, &building)?;
        }
        Ok(building.staged.complete()?)
    }

    fn fill(&self, path: &FilePath, size: u64, building: &Building) -> Result<(), AssemblyError> {
        let extents = building.staged.data_extents()?;
        let mut content = ContentEntries::new(self.assembly, self.nodes, path);
        let mut end = 0;
        let mut buffer = Vec::new();
        while let Some((offset, chunk, old)) = content.next()? {
            building.staged.write_hole(end, offset.saturating_sub(end))?;
            end = offset + u64::from(chunk.bytes);
            let staged = extents.partition_point(|extent| extent.end <= offset);
            let has_data = extents.get(staged).is_some_and(|extent| extent.start <= offset);
            let is_here = has_data && (!building.is_leftover || holds(&building.staged, offset, chunk)?);
            if is_here || old != Some(chunk) {
                continue;
            }
            buffer.resize(chunk.bytes as usize, 0);
            if building.staged.copy_from_old(offset, offset, chunk.id, &mut buffer)? == Copied::No {
                return Err(AssemblyError::BaseChanged(format!("{path} at offset {offset}")));
            }
        }
        Ok(building.staged.write_hole(end, size.saturating_sub(end))?)
    }
}

/// The chunks of one file in the new tree, each with the old tree's chunk at the same place.
struct ContentEntries<'a> {
    new: Contents<'a>,
    old: Option<Contents<'a>>,
    old_next: Option<(u64, ChunkRef)>,
}

impl<'a> ContentEntries<'a> {
    fn new(assembly: &Assembly, nodes: &'a dyn Nodes, path: &'a FilePath) -> Self {
        let contents = |root| Contents::new(nodes, root, path);
        Self { new: contents(assembly.target), old: assembly.base.map(contents), old_next: None }
    }

    fn next(&mut self) -> Result<Option<(u64, ChunkRef, Option<ChunkRef>)>, AssemblyError> {
        let Some((offset, chunk)) = self.new.next()? else { return Ok(None) };
        while let Some(old) = &mut self.old
            && self.old_next.is_none_or(|(at, _)| at < offset)
        {
            self.old_next = old.next()?;
            if self.old_next.is_none() {
                self.old = None;
            }
        }
        let old = self.old_next.filter(|(at, _)| *at == offset).map(|(_, chunk)| chunk);
        Ok(Some((offset, chunk, old)))
    }
}

/// Must what stands at a path be made anew, or does it only look different?
fn is_other_content(old: &Value, new: &Value, new_meta: &Meta) -> bool {
    let Ok(old_meta) = decode_meta(&old.inline) else { return true };
    // What another name shows belongs to its file, which may have been replaced: the name is linked anew.
    if matches!(new_meta.kind, FileKind::HardLink(_)) {
        return true;
    }
    old_meta.kind != new_meta.kind || old.chunk != new.chunk
}

//! Owns what can be said of a state without changing it: its snapshots, its files, what differs, and whether all of it is intact.

use std::cell::RefCell;
use std::ops::Bound;
use std::path::PathBuf;

use bytes::Bytes;
use landfall_core::codec::Decoder;
use landfall_core::files::{Content as FileContent, FileKey, FileKind, FilePath, Meta, decode_meta};
use landfall_core::snapshot::{Manifest, StateName};
use landfall_core::tree::{Change, Child, Children, ChunkRef, Cursor, Diff, KeySpan, Root, TreeError, Value, children};
use landfall_core::{ChunkId, Domain};
use landfall_store::{Below, CollectBudget, Reach, Reference, Store, StoreError, StoredFrame, Undecodable, UnixMillis};

use super::Member;
use super::error::InspectError;
use super::publisher::Publisher;
use crate::clock::wall_seconds;
use crate::content::{ContentError, FilesInPlace, PackedContent};
use crate::history::Held;
use crate::source::{Content, ServedState};

/// Damages that a report lists; more are counted.
const DAMAGES_MAX: usize = 1000;

/// A snapshot that is held.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotSummary {
    /// Its id, in hexadecimal.
    pub snapshot: String,
    /// Its position.
    pub position: String,
    /// The hash of its content, in hexadecimal.
    pub state_root: String,
    /// Entries of its trees.
    pub entries: u64,
    /// Bytes of its content.
    pub bytes: u64,
    /// Seconds since it came to be held here.
    pub age_seconds: u64,
    /// Whether a transfer needs it now.
    pub leased: bool,
    /// Whether its writer signed it.
    pub signed: bool,
}

/// A path of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The path.
    pub path: FilePath,
    /// What stands there.
    pub meta: Meta,
    /// Length in bytes; 0 for what is no file.
    pub bytes: u64,
}

/// What differs between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiffReport {
    /// Paths only the new one has.
    pub created: u64,
    /// Paths only the old one has.
    pub removed: u64,
    /// Paths that both have and that differ.
    pub changed: u64,
    /// Chunks only the new one refers to at their place.
    pub chunks: u64,
    /// Bytes of these chunks and of changed inline content.
    pub bytes: u64,
    /// The paths that differ, with a sign: `+` created, `-` removed, `~` changed.
    pub paths: Vec<String>,
    /// Paths beyond those that are listed.
    pub paths_unlisted: u64,
}

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The file, or the part of the data directory.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

/// What re-reading everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// The snapshot that was compared with, in hexadecimal.
    pub snapshot: String,
    /// The hash of its content, in hexadecimal.
    pub state_root: String,
    /// Chunks that were read and hashed.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tree entries that were read.
    pub entries: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// Damages beyond those that are listed.
    pub damages_unlisted: u64,
}

impl VerifyReport {
    /// Is everything what it should be?
    pub fn is_clean(&self) -> bool {
        self.damages.is_empty()
    }

    fn damaged(&mut self, place: impl Into<String>, what: impl Into<String>) {
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(Damage { place: place.into(), what: what.into() });
        } else {
            self.damages_unlisted += 1;
        }
    }
}

/// What garbage collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CollectReport {
    /// Bytes of packs before.
    pub bytes_before: u64,
    /// Bytes of packs after.
    pub bytes_after: u64,
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Nodes that pinned snapshots refer to and that are not here.
    pub missing: u64,
}

impl Member {
    /// The snapshots that are held, oldest first.
    pub fn log(&self, state: &StateName) -> Result<Vec<SnapshotSummary>, InspectError> {
        let publisher = self.publisher(state)?;
        let now = wall_seconds();
        let summary = |held: &Held| SnapshotSummary {
            snapshot: held.id.to_string(),
            position: held.manifest.position.to_string(),
            state_root: held.manifest.state_root().to_string(),
            entries: held.manifest.sections.iter().map(|section| section.root.entries).sum(),
            bytes: held.manifest.payload_bytes(),
            age_seconds: now.saturating_sub(held.since),
            leased: publisher.state.leases.hold(held.id, publisher.clock.now()),
            signed: held.head.is_some(),
        };
        Ok(publisher.state.held().iter().map(|held| summary(held)).collect())
    }

    /// Calls `visit` for every path of a snapshot, the newest where none is named, in key order.
    pub fn list(
        &self,
        state: &StateName,
        snapshot: Option<ChunkId>,
        visit: &mut dyn FnMut(ListedFile),
    ) -> Result<(), InspectError> {
        let publisher = self.publisher(state)?;
        let held = find(&publisher.state, snapshot)?;
        let mut cursor = Cursor::new(root(&held.manifest)?, Bound::Unbounded);
        while let Some((key, value)) = cursor.next(&*publisher.state.nodes)? {
            if let FileKey::Meta(path) = decode_key(&key)? {
                let meta = decode_meta(&value.inline).map_err(|error| InspectError::NotFiles(error.to_string()))?;
                let bytes = match &meta.kind {
                    FileKind::File { size, .. } => *size,
                    _ => 0,
                };
                visit(ListedFile { path, meta, bytes });
            }
        }
        Ok(())
    }

    /// The snapshot whose id begins with `prefix`, if there is exactly one.
    pub fn find_snapshot(&self, state: &StateName, prefix: &str) -> Result<ChunkId, InspectError> {
        let held = self.publisher(state)?.state.held();
        let mut found = held.iter().filter(|held| held.id.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(held), None) => Ok(held.id),
            _ => Err(InspectError::UnknownSnapshot(prefix.to_owned())),
        }
    }

    /// What differs between two snapshots.
    pub fn diff(&self, state: &StateName, old: ChunkId, new: ChunkId) -> Result<DiffReport, InspectError> {
        let state = &self.publisher(state)?.state;
        let (old, new) = (find(state, Some(old))?, find(state, Some(new))?);
        let mut diff = Diff::new(root(&old.manifest)?, root(&new.manifest)?);
        let mut report = DiffReport::default();
        let mut last: Option<FilePath> = None;
        while let Some(change) = diff.next(&*state.nodes)? {
            let key = decode_key(&change.key)?;
            report.count(&change);
            if last.as_ref() != Some(key.path()) {
                report.note_path(&key, &change);
                last = Some(key.path().clone());
            }
        }
        Ok(report)
    }

    /// Reads everything that the newest snapshot refers to again and compares it with its hashes.
    pub fn verify(&self, state: &StateName) -> Result<VerifyReport, InspectError> {
        let publisher = self.publisher(state)?;
        let held = find(&publisher.state, None)?;
        let mut report = VerifyReport {
            snapshot: held.id.to_string(),
            state_root: held.manifest.state_root().to_string(),
            ..VerifyReport::default()
        };
        verify_tree(publisher, root(&held.manifest)?, &mut report)?;
        Ok(report)
    }

    /// Removes what no snapshot that is held refers to.
    pub fn collect(&self, state: &StateName) -> Result<CollectReport, InspectError> {
        let store = &self.publisher(state)?.state.store;
        let before = store.stats().pack_bytes;
        let collected = collect(store, CollectBudget::default())?;
        Ok(CollectReport {
            bytes_before: before,
            bytes_after: store.stats().pack_bytes,
            packs_removed: collected.packs_removed,
            missing: collected.references_missing,
        })
    }
}

impl DiffReport {
    /// Paths that are listed.
    const PATHS_MAX: usize = 10_000;

    fn count(&mut self, change: &Change) {
        let Some(new) = &change.new else { return };
        let old_chunk = change.old.as_ref().and_then(|old| old.chunk);
        match new.chunk {
            Some(chunk) if Some(chunk) != old_chunk => {
                self.chunks += 1;
                self.bytes += u64::from(chunk.bytes);
            }
            Some(_) => {}
            None => self.bytes += inline_bytes(new),
        }
    }

    fn note_path(&mut self, key: &FileKey, change: &Change) {
        let (sign, count) = match (key, &change.old, &change.new) {
            (FileKey::Meta(_), None, Some(_)) => ('+', &mut self.created),
            (FileKey::Meta(_), Some(_), None) => ('-', &mut self.removed),
            _ => ('~', &mut self.changed),
        };
        *count += 1;
        if self.paths.len() < Self::PATHS_MAX {
            self.paths.push(format!("{sign} {}", key.path()));
        } else {
            self.paths_unlisted += 1;
        }
    }
}

fn inline_bytes(value: &Value) -> u64 {
    match decode_meta(&value.inline) {
        Ok(Meta { kind: FileKind::File { size, content: FileContent::Inline(_) }, .. }) => size,
        _ => 0,
    }
}

/// Reads every entry and every chunk below `root`.
fn verify_tree(publisher: &Publisher, root: Root, report: &mut VerifyReport) -> Result<(), InspectError> {
    let state = &publisher.state;
    let mut cursor = Cursor::new(root, Bound::Unbounded);
    let mut reader = ChunkReader { state, decoder: Decoder::new(), plain: Vec::new() };
    let nodes = state.nodes.reader();
    loop {
        let (key, value) = match cursor.next(&nodes) {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => entry,
            Err(error) => {
                // A store that cannot be read is not a tree that is damaged.
                nodes.check()?;
                let span = cursor.pass_over();
                report.damaged("tree of the snapshot", lost(&error, span.as_ref()));
                match span {
                    Some(_) => continue,
                    None => return Ok(()),
                }
            }
        };
        report.entries += 1;
        let key = decode_key(&key)?;
        if let Some(chunk) = value.chunk {
            report.chunks += 1;
            report.bytes += u64::from(chunk.bytes);
            if let Err(what) = reader.check(&key, chunk) {
                report.damaged(key.path().to_string(), what);
            }
        }
        if let (Some(directory), Content::Files(files), FileKey::Meta(path)) =
            (publisher.copy_directory(), &state.content, &key)
        {
            check_on_disk(&directory, files, path, &value, report);
        }
    }
}

/// Says what cannot be checked because of a node that cannot be read.
fn lost(error: &TreeError, span: Option<&KeySpan>) -> String {
    let what = match error {
        TreeError::Missing(wants) => {
            wants.first().map_or("a node".to_owned(), |want| format!("node {}", want.id.short()))
        }
        error => error.to_string(),
    };
    let place = |key: &Bytes| FileKey::decode(key).map_or("?".to_owned(), |key| format!("'{}'", key.path()));
    match span {
        None => format!("{what} is lost, and with it the names and hashes of everything"),
        Some(KeySpan { first, end: Some(end) }) => {
            format!("{what} is lost, and with it names and hashes from {} up to {}", place(first), place(end))
        }
        Some(KeySpan { first, end: None }) => {
            format!("{what} is lost, and with it names and hashes from {} to the end", place(first))
        }
    }
}

/// Reads chunks and hashes them.
struct ChunkReader<'a> {
    state: &'a ServedState,
    decoder: Decoder,
    plain: Vec<u8>,
}

impl ChunkReader<'_> {
    fn check(&mut self, key: &FileKey, chunk: ChunkRef) -> Result<(), String> {
        let in_packs = matches!((&self.state.content, key), (Content::Packs, _) | (_, FileKey::Xattrs(_)));
        let read = match &self.state.content {
            Content::Files(files) if !in_packs => {
                let offset = if let FileKey::Content { offset, .. } = key { *offset } else { 0 };
                files.read(key.path(), offset, chunk, &mut self.plain)
            }
            _ => self.read_packed(chunk),
        };
        match read {
            Ok(()) => Ok(()),
            Err(ContentError::Missing) => Err("its content is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn read_packed(&mut self, chunk: ChunkRef) -> Result<(), ContentError> {
        let packs = PackedContent::new(&self.state.store);
        let frame = packs.frame(chunk.id)?;
        packs.plain(&frame, &mut self.decoder, &mut self.plain)?;
        if ChunkId::of(Domain::Data, &self.plain) != chunk.id {
            return Err(ContentError::Damaged(format!("chunk {} does not match its hash", chunk.id.short())));
        }
        Ok(())
    }
}

/// Content that lives in the tree is compared with the file that it became.
fn check_on_disk(
    directory: &std::path::Path,
    files: &FilesInPlace,
    path: &FilePath,
    value: &Value,
    report: &mut VerifyReport,
) {
    use std::os::unix::ffi::OsStrExt;
    let Ok(meta) = decode_meta(&value.inline) else { return };
    let on_disk: PathBuf = directory.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let found = std::fs::symlink_metadata(&on_disk);
    let wrong = match (&meta.kind, found) {
        (_, Err(error)) => Some(error.to_string()),
        (FileKind::File { content: FileContent::Inline(bytes), .. }, Ok(found)) => {
            let same = found.len() == bytes.len() as u64 && files.holds(path, bytes);
            (!same).then(|| "its content is not what was pulled".to_owned())
        }
        (FileKind::File { size, .. }, Ok(found)) => {
            let same = found.is_file() && found.len() == *size;
            (!same).then(|| format!("it is not a file of {size} bytes"))
        }
        (FileKind::Directory, Ok(found)) => (!found.is_dir()).then(|| "it is not a directory".to_owned()),
        (FileKind::Symlink(target), Ok(_)) => {
            let same = std::fs::read_link(&on_disk).is_ok_and(|found| found.as_os_str().as_bytes() == &target[..]);
            (!same).then(|| "it is not the symlink that was pulled".to_owned())
        }
        (FileKind::HardLink(_), Ok(_)) => None,
    };
    if let Some(what) = wrong {
        report.damaged(path.to_string(), what);
    }
}

/// Removes what no pin needs.
pub(crate) fn collect(store: &Store, budget: CollectBudget) -> Result<landfall_store::CollectReport, StoreError> {
    store.collect(&[], &SnapshotReach::new(store), UnixMillis(wall_seconds() * 1000), budget)
}

/// Tells the store what a snapshot refers to.
struct SnapshotReach<'a> {
    packs: PackedContent<'a>,
    decoder: RefCell<Decoder>,
}

impl<'a> SnapshotReach<'a> {
    fn new(store: &'a Store) -> Self {
        Self { packs: PackedContent::new(store), decoder: RefCell::new(Decoder::new()) }
    }

    /// The plaintext of a stored node, which may be a patch.
    fn plain(&self, frame: &StoredFrame) -> Result<Bytes, Undecodable> {
        let mut plain = Vec::new();
        self.packs.plain(frame, &mut self.decoder.borrow_mut(), &mut plain).map_err(|_| Undecodable)?;
        Ok(plain.into())
    }
}

impl Reach for SnapshotReach<'_> {
    fn references(&self, _: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable> {
        match frame.domain {
            Domain::Data => {}
            Domain::Node => match children(&self.plain(frame)?).map_err(|_| Undecodable)? {
                Children::Nodes(nodes) => {
                    found.extend(nodes.iter().map(|node| Reference { id: node.id, below: below(node) }));
                }
                Children::Chunks(chunks) => {
                    found.extend(chunks.iter().map(|chunk| Reference { id: chunk.id, below: Below::Nothing }));
                }
            },
            Domain::Manifest => {
                let manifest = Manifest::decode(&frame.bytes).map_err(|_| Undecodable)?;
                let roots = manifest.sections.iter().map(|section| section.root.id);
                found.extend(roots.map(|id| Reference { id, below: Below::References }));
            }
        }
        Ok(())
    }
}

/// A leaf without chunk references need not be read.
fn below(node: &Child) -> Below {
    if node.level == 0 && node.chunk_refs == 0 { Below::Nothing } else { Below::References }
}

fn find(state: &ServedState, snapshot: Option<ChunkId>) -> Result<std::sync::Arc<Held>, InspectError> {
    match snapshot {
        None => state.newest().ok_or_else(|| InspectError::NoSnapshot(state.name.clone())),
        Some(id) => state.find(id).ok_or_else(|| InspectError::UnknownSnapshot(id.to_string())),
    }
}

fn root(manifest: &Manifest) -> Result<Root, InspectError> {
    match &manifest.sections[..] {
        [section] => Ok(section.root),
        _ => Err(InspectError::NotFiles("it has not exactly one section".to_owned())),
    }
}

fn decode_key(key: &Bytes) -> Result<FileKey, InspectError> {
    FileKey::decode(key).map_err(|error| InspectError::NotFiles(error.to_string()))
}

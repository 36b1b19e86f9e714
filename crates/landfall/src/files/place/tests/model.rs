//! Owns a directory as plain data, a reader that makes one of what is on disk, and a caller that pulls one as the engine does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use landfall_core::files::{Content, FileKind, FilePath, Meta, Mtime};
use landfall_core::{Chunk, ChunkId, Domain};

use crate::files::place::edge::{self, Edge, Faults};
use crate::files::place::{
    CONTROL, FinishReport, Kind, Operation, Origin, PlaceError, Placement, Previous, open as opening,
};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) what: What,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Vec<(Bytes, Bytes)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Link(FilePath),
}

pub(super) type Model = BTreeMap<FilePath, Node>;

pub(super) fn path(path: impl AsRef<[u8]>) -> FilePath {
    FilePath::new(path.as_ref().to_vec()).unwrap()
}

/// A model of these paths; owner, mode and time are different for each.
pub(super) fn model<'a>(entries: impl IntoIterator<Item = (&'a str, What)>) -> Model {
    let entries = entries.into_iter().map(|(name, what)| (path(name), node(what, name.len() as i64)));
    let mut model: Model = entries.collect();
    model.entry(FilePath::root()).or_insert_with(|| Node { mode: 0o750, ..node(What::Directory, 7) });
    // All names of a file share its metadata.
    for name in model.keys().cloned().collect::<Vec<_>>() {
        if let What::Link(first) = model[&name].what.clone() {
            let shared = Node { what: What::Link(first.clone()), ..model[&first].clone() };
            model.insert(name, shared);
        }
    }
    model
}

pub(super) fn node(what: What, salt: i64) -> Node {
    let mode = match what {
        What::Directory => 0o755,
        What::Symlink(_) => 0o777,
        What::File(_) | What::Link(_) => 0o640,
    };
    let mtime = Mtime { seconds: 1_600_000_000 + salt, nanos: 123_456_789 };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Node { what, mode, uid, gid, mtime, xattrs: Vec::new() }
}

pub(super) fn file(content: &str) -> What {
    What::File(content.as_bytes().to_vec())
}

pub(super) fn symlink(target: &str) -> What {
    What::Symlink(target.as_bytes().to_vec())
}

pub(super) fn link(first: &str) -> What {
    What::Link(path(first))
}

impl Node {
    pub(super) fn meta(&self) -> Meta {
        let kind = match &self.what {
            What::Directory => FileKind::Directory,
            What::File(bytes) => FileKind::File { size: bytes.len() as u64, content: Content::Whole },
            What::Symlink(target) => FileKind::Symlink(target.clone().into()),
            What::Link(first) => FileKind::HardLink(first.clone()),
        };
        Meta { kind, mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime }
    }
}

/// Makes a model of a directory.
pub(super) fn read_back(directory: &Path) -> Model {
    let mut model = Model::new();
    read_into(&mut model, directory, FilePath::root());
    let mut firsts = HashMap::new();
    for (path, node) in &mut model {
        let stat = std::fs::symlink_metadata(directory.join(std::ffi::OsStr::from_bytes(path.as_bytes()))).unwrap();
        if matches!(node.what, What::File(_)) {
            match firsts.get(&stat.ino()) {
                Some(first) => node.what = What::Link(FilePath::clone(first)),
                None => drop(firsts.insert(stat.ino(), path.clone())),
            }
        }
    }
    model
}

fn read_into(model: &mut Model, root: &Path, path: FilePath) {
    let at = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let stat = std::fs::symlink_metadata(&at).unwrap();
    let what = if stat.is_dir() {
        What::Directory
    } else if stat.is_symlink() {
        What::Symlink(std::fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec())
    } else {
        What::File(std::fs::read(&at).unwrap())
    };
    let xattrs = xattrs_of(&at);
    let (mode, uid, gid) = (stat.permissions().mode() & 0o7777, stat.uid(), stat.gid());
    let mtime = Mtime { seconds: stat.mtime(), nanos: stat.mtime_nsec() as u32 };
    model.insert(path.clone(), Node { what, mode, uid, gid, mtime, xattrs });
    if stat.is_dir() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let name = entry.unwrap().file_name();
            if !(path.is_root() && name == CONTROL) {
                read_into(model, root, path.join(name.as_bytes()).unwrap());
            }
        }
    }
}

fn xattrs_of(at: &Path) -> Vec<(Bytes, Bytes)> {
    let parent = std::fs::File::open(at.parent().unwrap()).unwrap();
    let found = edge::xattrs(&parent, at.file_name().unwrap().as_bytes()).unwrap();
    found.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A directory to test in, on a file system that is quick to sync if there is one.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Stops the world after a number of steps.
pub(super) struct StopAfter {
    left: AtomicU64,
}

impl StopAfter {
    pub(super) fn steps(steps: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(steps) })
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

impl Faults for StopAfter {
    fn before(&self, _step: &'static str) -> io::Result<()> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("the world has stopped"))
    }
}

/// Lets every step happen and writes its name down.
#[derive(Default)]
pub(super) struct Steps {
    names: Mutex<Vec<&'static str>>,
}

impl Steps {
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.names.lock().unwrap().clone()
    }
}

impl Faults for Steps {
    fn before(&self, step: &'static str) -> io::Result<()> {
        self.names.lock().unwrap().push(step);
        Ok(())
    }
}

pub(super) fn open(destination: &Path) -> Placement {
    Placement::open(destination).unwrap()
}

pub(super) fn open_with(destination: &Path, faults: Arc<dyn Faults>) -> Result<Placement, PlaceError> {
    opening::open(destination, Edge::with_faults(faults))
}

pub(super) fn manifest(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

/// Pulls `new` as the engine does, into a destination that holds `old`.
pub(super) fn pull(
    placement: Placement,
    old: &Model,
    new: &Model,
    id: ChunkId,
    previous: Previous,
) -> Result<FinishReport, PlaceError> {
    prepare(&placement, old, new)?;
    placement.finish(id, previous)
}

/// Everything of a pull but its end.
pub(super) fn prepare(placement: &Placement, old: &Model, new: &Model) -> Result<(), PlaceError> {
    let nothing = Model::new();
    let old = if placement.kind() == Kind::Update { old } else { &nothing };
    let paths: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for path in paths {
        for operation in steps(path, old.get(path), new.get(path)) {
            let is_put = matches!(operation, Operation::Put { .. });
            placement.record(operation)?;
            if is_put {
                stage(placement, path, &new[path])?;
            }
        }
    }
    Ok(())
}

fn steps(path: &FilePath, old: Option<&Node>, new: Option<&Node>) -> Vec<Operation> {
    let path = path.clone();
    let Some(new) = new else { return vec![Operation::Remove { path }] };
    let mut steps = Vec::new();
    match old {
        Some(old) if old.meta() == new.meta() && old.what == new.what => {}
        Some(old) if old.what == new.what => {
            if !matches!(new.what, What::Link(_)) {
                steps.push(Operation::Alter { path: path.clone(), meta: new.meta() });
            }
        }
        _ => steps.push(Operation::Put { path: path.clone(), meta: new.meta() }),
    }
    let had = old.map_or(&[][..], |old| &old.xattrs);
    let is_staged_anew = matches!(steps.first(), Some(Operation::Put { .. })) && !matches!(new.what, What::Directory);
    if (is_staged_anew && !new.xattrs.is_empty()) || (!is_staged_anew && had != new.xattrs) {
        steps.push(Operation::Xattrs { path, xattrs: new.xattrs.clone() });
    }
    steps
}

fn stage(placement: &Placement, path: &FilePath, node: &Node) -> Result<(), PlaceError> {
    let What::File(bytes) = &node.what else { return Ok(()) };
    if bytes.len() < 32 {
        return placement.place_small(path, &node.meta(), bytes);
    }
    let staged = placement.begin_file(path, &node.meta())?;
    for (n, bytes) in bytes.chunks(CHUNK).enumerate() {
        let offset = (n * CHUNK) as u64;
        let chunk = Chunk::new(Domain::Data, Bytes::copy_from_slice(bytes));
        let mut buffer = vec![0; bytes.len()];
        if staged.origin() == Origin::Resumed {
            staged.read_range(offset, &mut buffer)?;
            if buffer == bytes {
                continue;
            }
        }
        staged.write_chunk(offset, chunk.as_proven())?;
    }
    staged.complete()
}

const CHUNK: usize = 40;

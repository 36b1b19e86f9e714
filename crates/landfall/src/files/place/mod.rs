//! Owns the file system's side of a pull: how a directory becomes what a snapshot says, at one instant, or stays what it was.
//!
//! It offers primitives that any thread may call; it never talks to a peer and never decides what to fetch.
//!
//! * **First pull**: the destination is absent or empty. Everything is built in `DEST.landfall-incoming`, under its final
//!   names, and becomes the destination by one rename. After a crash the next pull goes on there.
//! * **Update**: the destination holds `.landfall`. Changed files are built in `.landfall/staging`, under names made from their
//!   paths. When all are complete the journal is written, and from then on the plan is only carried forward, file by file.
//!
//! The life of a pull: [`Placement::open`] · [`Placement::local_changes`] · [`Placement::expect_bytes`] ·
//! [`Placement::record`] every changed path in key order · [`Placement::begin_file`] and [`Placement::place_small`] in any
//! order · [`Placement::open_elsewhere`] · [`Placement::finish`].

mod beneath;
mod changes;
mod discard;
mod edge;
mod error;
mod execute;
mod finish;
mod ground;
mod holders;
mod journal;
mod links;
mod open;
mod operation;
mod previous;
mod record;
mod staged;
mod sweep;
mod walk;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use landfall_core::files::{FileKind, FilePath, Meta};
use landfall_core::tree::ChunkRef;

pub use changes::{ChangesError, Difference, LOCAL_CHANGES_LISTED_MAX, LocalChange, LocalChanges};
pub use error::PlaceError;
pub use finish::{FinishReport, Previous, Shortfall};
pub use ground::CONTROL;
pub use holders::{Holder, Holders};
pub use operation::Operation;
pub use previous::WayBack;
pub use staged::{Copied, Origin, StagedFile};

use self::beneath::{Beneath, Missing};
use self::ground::Ground;
use self::record::Recorder;
use super::index::{IndexError, IndexReader};

/// A destination that this process alone changes, until it is dropped or finished.
pub struct Placement {
    kind: Kind,
    ground: Arc<Ground>,
    /// The destination, or the directory that will become it.
    tree: Beneath,
    /// Where `tree` is now.
    path: PathBuf,
    /// `.landfall`.
    control: OwnedFd,
    /// `.landfall/staging`.
    staging: OwnedFd,
    /// `.landfall/staging/files`.
    staged: Beneath,
    recorder: Mutex<Recorder>,
    recovered: Option<FinishReport>,
    _lock: open::Lock,
}

/// How a pull changes its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Built beside the destination from nothing.
    First,
    /// The same, going on with what a pull that was cut short left.
    ResumedFirst,
    /// File by file, under a journal.
    Update,
}

impl Placement {
    /// Opens `destination`, takes its lock, and carries a pull forward that was cut short after its point of no return.
    pub fn open(destination: &Path) -> Result<Self, PlaceError> {
        open::open(destination, edge::Edge::default())
    }

    /// How this pull will change the destination.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What [`Self::open`] carried forward, if there was anything.
    pub fn recovered(&self) -> Option<&FinishReport> {
        self.recovered.as_ref()
    }

    /// Where `.landfall` is now. A first pull moves it: close what is open below it before [`Self::finish`].
    pub fn control_directory(&self) -> PathBuf {
        self.path.join(CONTROL)
    }

    /// The stat index of the destination. Its header names the snapshot that the destination holds.
    pub fn index(&self) -> Result<IndexReader, IndexError> {
        if self.kind != Kind::Update {
            return Err(IndexError::Absent);
        }
        IndexReader::open(&self.control, Path::new(INDEX))
    }

    /// Refuses a pull that cannot fit: `bytes` are still to be written.
    pub fn expect_bytes(&self, bytes: u64) -> Result<(), PlaceError> {
        self.ground.expect_bytes(bytes)
    }

    /// Begins a file, or goes on with one that an earlier pull began. It is sparse and has its final size at once.
    pub fn begin_file(&self, path: &FilePath, meta: &Meta) -> Result<StagedFile, PlaceError> {
        self.check_path(path)?;
        let FileKind::File { size, .. } = meta.kind else {
            return Err(PlaceError::Refused { path: path.clone(), reason: "only a regular file has content" });
        };
        let refused = || self.ground.refused("stage", path);
        let (file, origin) =
            self.at_staged(path, |at, name| staged::open_or_create(&self.ground, at, name)).map_err(refused())?;
        self.ground.edge.set_length(&file, size).map_err(refused())?;
        let origin = staged::trusted_origin(&file, origin);
        let old = match self.kind {
            Kind::Update => self.open_old(path).map_err(refused())?,
            Kind::First | Kind::ResumedFirst => None,
        };
        Ok(StagedFile { ground: self.ground.clone(), path: path.clone(), meta: meta.clone(), size, file, old, origin })
    }

    /// Stages a file with all its content at once. `bytes` must be verified: they are the inline content of a node, or the
    /// bytes of a chunk.
    pub fn place_small(&self, path: &FilePath, meta: &Meta, bytes: &[u8]) -> Result<(), PlaceError> {
        self.check_path(path)?;
        let place = |at: &OwnedFd, name: &[u8]| staged::create_small(&self.ground, at, name, path, meta, bytes);
        self.at_staged(path, place).map_err(self.ground.refused("write", path))?;
        self.ground.count_written(bytes.len());
        Ok(())
    }

    /// Is a small file that is one chunk here already, from a pull that was cut short? Its bytes are hashed, and if they are right
    /// it gets its owner, mode and time again.
    pub fn small_is_placed(&self, path: &FilePath, meta: &Meta, chunk: ChunkRef) -> Result<bool, PlaceError> {
        self.check_path(path)?;
        if self.kind == Kind::First {
            return Ok(false);
        }
        let refused = || self.ground.refused("read", path);
        let (at, name) = match self.staged_place(path) {
            Err(error) if ground::is_absent(&error) => return Ok(false),
            result => result.map_err(refused())?,
        };
        match staged::open_whole(&at, &name, chunk).map_err(refused())? {
            Some(file) => self.ground.dress_file(&file, path, meta).map(|()| true).map_err(refused()),
            None => Ok(false),
        }
    }

    /// Says that nobody else reads the old files: what was copied from them gives its memory to the new ones.
    pub fn release_old_pages(&self) {
        self.ground.release_old_pages();
    }

    /// Reads the old content of a path at `offset` into all of `buffer`. Returns false if there is no such content. The bytes
    /// carry no proof.
    pub fn read_old(&self, path: &FilePath, offset: u64, buffer: &mut [u8]) -> Result<bool, PlaceError> {
        self.check_path(path)?;
        if self.kind != Kind::Update {
            return Ok(false);
        }
        let old = self.open_old(path).map_err(self.ground.refused("read", path))?;
        let Some(old) = old else { return Ok(false) };
        staged::read_at(&old, offset, buffer).map_err(self.ground.refused("read", path))
    }

    /// Calls `change` with where the staged file of `path` is.
    fn at_staged<T>(
        &self,
        path: &FilePath,
        change: impl Fn(&OwnedFd, &[u8]) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        match self.kind {
            Kind::First | Kind::ResumedFirst => self.tree.change(path, Missing::Make, change),
            Kind::Update => self.staged.change(&staged_name(path), Missing::Make, change),
        }
    }

    /// Where the staged file of `path` is, if its directory is there.
    fn staged_place(&self, path: &FilePath) -> std::io::Result<(Arc<OwnedFd>, Vec<u8>)> {
        match self.kind {
            Kind::First | Kind::ResumedFirst => Ok((self.tree.parent(path, Missing::Fail)?, path.name().to_vec())),
            Kind::Update => {
                let name = staged_name(path);
                Ok((self.staged.parent(&name, Missing::Fail)?, name.name().to_vec()))
            }
        }
    }

    fn open_old(&self, path: &FilePath) -> std::io::Result<Option<std::fs::File>> {
        match self.tree.parent(path, Missing::Fail) {
            Ok(parent) => staged::open_regular(&parent, path.name()),
            Err(error) if ground::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn check_path(&self, path: &FilePath) -> Result<(), PlaceError> {
        let first = path.as_bytes().split(|&byte| byte == b'/').next();
        if first == Some(CONTROL.as_bytes()) {
            return Err(PlaceError::Reserved(path.clone()));
        }
        if path.name().len() as u64 > self.ground.name_bytes_max {
            return Err(PlaceError::NameTooLong { path: path.clone(), bytes_max: self.ground.name_bytes_max });
        }
        Ok(())
    }
}

/// Where the file for `path` is staged: a name of fixed length, the same in every run, spread over 256 directories.
fn staged_name(path: &FilePath) -> FilePath {
    let hash = landfall_core::ChunkId::of(landfall_core::Domain::Data, path.as_bytes()).to_string();
    FilePath::new(format!("{}/{}", &hash[..2], &hash[2..34])).expect("hexadecimal digits are a path")
}

/// Names inside `.landfall`.
const INDEX: &str = "index";
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
const STAGING: &str = "staging";
const PREVIOUS: &str = "previous";
const DISPLACED: &str = "displaced";
const PREVIOUS_NEW: &str = "previous.new";
/// Names inside `.landfall/staging`.
const STAGED_FILES: &str = "files";
const DISCARDED: &str = "discarded";
const DRAFT: &str = "draft";
const PLAN: &str = "plan";

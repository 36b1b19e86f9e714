//! Owns the plan while it is recorded: what the caller wants, and what must be remembered of the directory before it changes.

use std::collections::BTreeSet;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use landfall_core::files::{FileKind, FilePath, Meta, Mtime};
use rustix::fs::Stat;

use super::beneath::Missing;
use super::edge;
use super::error::PlaceError;
use super::ground;
use super::operation::{Operation, PlanWriter};
use super::{Kind, Placement};

/// A plan that is being written.
pub(super) struct Recorder {
    /// Nothing once the plan is closed.
    plan: Option<PlanWriter>,
    last: Option<FilePath>,
    restored: Option<FilePath>,
    /// Files and symlinks that give way to a directory.
    cleared: BTreeSet<FilePath>,
    /// Inodes with more than one name, of which a name is about to go or to come.
    linked: BTreeSet<u64>,
}

impl Recorder {
    pub(super) fn new(plan: PlanWriter) -> Self {
        Self { plan: Some(plan), last: None, restored: None, cleared: BTreeSet::new(), linked: BTreeSet::new() }
    }

    /// Closes the plan. Doing it again changes nothing.
    pub(super) fn commit(&mut self) -> io::Result<BTreeSet<u64>> {
        if let Some(plan) = self.plan.take() {
            plan.commit()?;
        }
        Ok(self.linked.clone())
    }
}

impl Placement {
    /// Adds a step to the plan. Steps come in key order; one path has one step, and one for its extended attributes after it.
    ///
    /// A first pull needs a step for every path of the snapshot, an update for every path that changes, files that are staged
    /// included. Directories and symlinks of a first pull are made at once.
    pub fn record(&self, operation: Operation) -> Result<(), PlaceError> {
        let operation = &operation;
        let path = operation.path();
        self.check_path(path)?;
        if let Operation::Put { meta: Meta { kind: FileKind::HardLink(first), .. }, .. } = &operation {
            self.check_path(first)?;
        }
        let mut recorder = self.recorder();
        check_order(&recorder, operation)?;
        recorder.last = Some(path.clone());
        match self.kind {
            Kind::Update => self.record_change(&mut recorder, operation),
            Kind::First | Kind::ResumedFirst => self.record_new(&mut recorder, operation),
        }
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A recorder whose last step failed stays usable: the step is whole in the plan, or not there.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_new(&self, recorder: &mut Recorder, operation: &Operation) -> Result<(), PlaceError> {
        let path = operation.path();
        let is_deferred = match operation {
            Operation::Put { meta, .. } => match &meta.kind {
                FileKind::Directory => {
                    self.tree
                        .directory(path, Missing::Make)
                        .map_err(self.ground.refused("make the directory", path))?;
                    true
                }
                FileKind::Symlink(target) => {
                    self.make_symlink_now(path, target, meta)?;
                    self.kind == Kind::ResumedFirst
                }
                FileKind::HardLink(_) => true,
                // Only leftovers of an earlier pull make it necessary to know what belongs here.
                FileKind::File { .. } => self.kind == Kind::ResumedFirst,
            },
            Operation::Xattrs { .. } => true,
            _ => return Err(refuse(path, "a first pull has nothing to change or remove")),
        };
        if is_deferred { self.push(recorder, operation) } else { Ok(()) }
    }

    fn record_change(&self, recorder: &mut Recorder, operation: &Operation) -> Result<(), PlaceError> {
        let path = operation.path();
        if let Operation::Put { .. } | Operation::Remove { .. } = operation {
            self.restore_parent(recorder, path)?;
            self.check_way(recorder, operation)?;
            self.note_links(recorder, operation).map_err(self.ground.refused("look at", path))?;
        }
        if let Operation::Put { meta: Meta { kind: FileKind::Symlink(target), .. }, .. } = operation {
            self.try_symlink(target).map_err(self.ground.refused("make the symlink", path))?;
        }
        self.push(recorder, operation)
    }

    /// Refuses to put something behind a file or symlink that the plan leaves where it is: once the plan is begun, it could not be done.
    fn check_way(&self, recorder: &mut Recorder, operation: &Operation) -> Result<(), PlaceError> {
        let Operation::Put { path, meta } = operation else { return Ok(()) };
        let is_barred = matches!(self.tree.parent(path, Missing::Fail), Err(error) if ground::is_barred(&error));
        if is_barred && !std::iter::successors(path.parent(), FilePath::parent).any(|at| recorder.cleared.contains(&at))
        {
            return Err(PlaceError::Blocked(path.clone()));
        }
        if meta.kind == FileKind::Directory
            && let Some(stat) = self.stat(path).map_err(self.ground.refused("look at", path))?
            && !edge::is_directory(&stat)
        {
            recorder.cleared.insert(path.clone());
        }
        Ok(())
    }

    /// Adds a step that is already known to be right.
    pub(super) fn push(&self, recorder: &mut Recorder, operation: &Operation) -> Result<(), PlaceError> {
        let Some(plan) = &mut recorder.plan else { return Err(refuse(operation.path(), "the plan is closed")) };
        plan.push(operation).map_err(self.ground.refused_own("write", super::DRAFT.as_ref()))
    }

    /// Remembers the mode and time of the directory that holds `path`: they change with its entries, although the snapshot
    /// may not say a word about it.
    pub(super) fn restore_parent(&self, recorder: &mut Recorder, path: &FilePath) -> Result<(), PlaceError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if recorder.restored.as_ref() == Some(&parent) {
            return Ok(());
        }
        recorder.restored = Some(parent.clone());
        match self.stat_directory(&parent).map_err(self.ground.refused("look at", &parent))? {
            Some((stat, Home::Elsewhere)) if edge::is_directory(&stat) => Err(PlaceError::OtherFileSystem(parent)),
            Some((stat, _)) => {
                let meta = meta_of(&stat, FileKind::Directory);
                self.push(recorder, &Operation::RestoreDirectory { path: parent, meta })
            }
            None => Ok(()),
        }
    }

    fn stat_directory(&self, path: &FilePath) -> io::Result<Option<(Stat, Home)>> {
        match self.tree.directory(path, Missing::Fail) {
            Ok(directory) => {
                let stat = rustix::fs::fstat(&directory)?;
                let is_home = stat.st_dev == rustix::fs::fstat(self.tree.root())?.st_dev;
                Ok(Some((stat, if is_home { Home::Here } else { Home::Elsewhere })))
            }
            Err(error) if ground::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn note_links(&self, recorder: &mut Recorder, operation: &Operation) -> io::Result<()> {
        let path = match operation {
            Operation::Put { meta: Meta { kind: FileKind::Directory, .. }, .. } => return Ok(()),
            Operation::Put { meta: Meta { kind: FileKind::HardLink(first), .. }, .. } => {
                // The first name gets one more, whether it has more than one by now or not.
                if let Some(stat) = self.stat(first)?.filter(edge::is_regular) {
                    recorder.linked.insert(stat.st_ino);
                }
                operation.path()
            }
            _ => operation.path(),
        };
        if let Some(stat) = self.stat(path)?
            && edge::is_regular(&stat)
            && stat.st_nlink > 1
        {
            recorder.linked.insert(stat.st_ino);
        }
        Ok(())
    }

    /// What stands at `path`, if anything does.
    pub(super) fn stat(&self, path: &FilePath) -> io::Result<Option<Stat>> {
        match self.tree.parent(path, Missing::Fail) {
            Ok(parent) => edge::stat(&parent, path.name()),
            Err(error) if ground::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Is a directory on the file system of the destination?
enum Home {
    Here,
    Elsewhere,
}

fn check_order(recorder: &Recorder, operation: &Operation) -> Result<(), PlaceError> {
    let path = operation.path();
    let in_order = match (&recorder.last, operation) {
        (Some(last), Operation::Xattrs { .. }) => last <= path,
        (Some(last), _) => last < path,
        (None, _) => true,
    };
    if !in_order {
        return Err(refuse(path, "the steps of a plan come in key order"));
    }
    if operation.is_too_long() {
        return Err(refuse(path, "its extended attributes are longer than any file system keeps"));
    }
    if matches!(operation, Operation::RestoreDirectory { .. } | Operation::Refresh { .. }) {
        return Err(refuse(path, "plans hold this step without being told"));
    }
    if path.is_root() && !is_for_root(operation) {
        return Err(refuse(path, "the root of a snapshot is a directory"));
    }
    Ok(())
}

fn is_for_root(operation: &Operation) -> bool {
    match operation {
        Operation::Put { meta, .. } | Operation::Alter { meta, .. } => meta.kind == FileKind::Directory,
        Operation::Xattrs { .. } => true,
        _ => false,
    }
}

/// What a stat says, for a kind that is known.
pub(super) fn meta_of(stat: &Stat, kind: FileKind) -> Meta {
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
    }
}

fn refuse(path: &FilePath, reason: &'static str) -> PlaceError {
    PlaceError::Refused { path: path.clone(), reason }
}

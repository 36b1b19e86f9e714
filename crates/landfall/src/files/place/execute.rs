//! Owns the carrying out of a plan. Every step may be done twice with the effect of once, so a plan that was cut short is
//! simply carried out again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::files::{FileKind, FilePath, Meta};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, Missing};
use super::error::PlaceError;
use super::finish::Left;
use super::operation::{Operation, PlanReader, ReversePlanReader};
use super::{Kind, PLAN, Placement, STAGING, edge, ground, staged_name, sweep};
use crate::files::block::ReadError;

/// What became of a plan.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) steps: u64,
    pub(super) left: Left,
    pub(super) refused: Refused,
}

/// Steps that the file system will never allow, counted, and the first of them.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) paths: u64,
    pub(super) first: Option<(FilePath, io::Error)>,
}

impl Refused {
    fn add(&mut self, path: &FilePath, error: io::Error) {
        self.paths += 1;
        self.first.get_or_insert_with(|| (path.clone(), error));
    }
}

/// What became of a step.
pub(super) enum Outcome {
    Done,
    /// What it needs is not there any more, or something unknown is in the way; the next pull sees it as a local change.
    Left,
}

impl Placement {
    /// Carries out the plan: what comes, from its beginning; what goes, and what directories look like, from its end.
    pub(super) fn carry_out(&self) -> Result<Carried, PlaceError> {
        let mut carried = Carried::default();
        let mut forward = PlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        while let Some(step) = forward.next_step().map_err(|error| self.damaged_plan(error))? {
            carried.steps += 1;
            self.count(&mut carried, &step, Self::bring)?;
        }
        let mut backward = ReversePlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        while let Some(step) = backward.next_step().map_err(|error| self.damaged_plan(error))? {
            self.count(&mut carried, &step, Self::settle)?;
        }
        Ok(carried)
    }

    pub(super) fn damaged_plan(&self, source: ReadError) -> PlaceError {
        PlaceError::Damaged { file: self.control_directory().join(STAGING).join(PLAN), source }
    }

    fn count(
        &self,
        carried: &mut Carried,
        step: &Operation,
        act: impl Fn(&Self, &Operation) -> io::Result<Outcome>,
    ) -> Result<(), PlaceError> {
        let acted = match act(self, step) {
            Err(error) if ground::is_absent(&error) => {
                // A directory that was open is gone from where it was: what stands there now is what counts.
                self.tree.forget();
                act(self, step)
            }
            acted => acted,
        };
        match acted {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Left) => carried.left.add(step.path()),
            // Somebody put it there since the plan was made. Whatever it is, it is not ours to remove.
            Err(error) if self.kind == Kind::Update && ground::is_barred(&error) => carried.left.add(step.path()),
            // Before its one rename a first pull may still fail as a whole; an update is past that.
            Err(error) if self.kind == Kind::Update && ground::is_hopeless(&error) => {
                carried.refused.add(step.path(), error);
            }
            Err(error) => return Err(self.ground.refused("put in place", step.path())(error)),
        }
        Ok(())
    }

    /// The half of a step that makes things appear: parents before children.
    fn bring(&self, step: &Operation) -> io::Result<Outcome> {
        match (step, self.kind) {
            (Operation::Put { path, meta }, Kind::Update) => match &meta.kind {
                FileKind::Directory => self.put_directory(path),
                FileKind::File { .. } => self.put_file(path),
                FileKind::Symlink(target) => self.put_symlink(path, target, meta),
                FileKind::HardLink(first) => self.put_hard_link(path, first),
            },
            (Operation::Put { path, meta }, _) => match &meta.kind {
                FileKind::HardLink(first) => self.put_hard_link(path, first),
                _ => Ok(Outcome::Done),
            },
            (Operation::Alter { path, meta }, _) if meta.kind != FileKind::Directory => self.dress(path, meta),
            (Operation::Xattrs { path, xattrs }, _) => self.put_xattrs(path, xattrs),
            _ => Ok(Outcome::Done),
        }
    }

    /// The half of a step that makes things disappear and sets what children would change: children before parents.
    fn settle(&self, step: &Operation) -> io::Result<Outcome> {
        match step {
            Operation::Remove { path } => self.remove(path),
            Operation::Put { path, meta } | Operation::Alter { path, meta } if meta.kind == FileKind::Directory => {
                self.dress_directory(path, meta)
            }
            // A directory that is gone by now was to go.
            Operation::RestoreDirectory { path, meta } => {
                self.dress_directory(path, meta)?;
                Ok(Outcome::Done)
            }
            _ => Ok(Outcome::Done),
        }
    }

    fn put_directory(&self, path: &FilePath) -> io::Result<Outcome> {
        if path.is_root() {
            return Ok(Outcome::Done);
        }
        self.tree.change(path, Missing::Make, |at, name| {
            match edge::stat(at, name)? {
                Some(stat) if edge::is_directory(&stat) => return Ok(()),
                Some(_) => self.ground.edge.unlink(at, name)?,
                None => {}
            }
            self.ground.edge.make_directory(at, name)?;
            self.drop_inherited_lists(at, name)
        })?;
        Ok(Outcome::Done)
    }

    /// A directory may hand access lists to what is made in it; the snapshot says which ones there are.
    fn drop_inherited_lists(&self, at: &OwnedFd, name: &[u8]) -> io::Result<()> {
        for xattr in [&b"system.posix_acl_default"[..], b"system.posix_acl_access"] {
            match self.ground.edge.remove_xattr(at, name, xattr) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn put_file(&self, path: &FilePath) -> io::Result<Outcome> {
        let name = staged_name(path);
        if let Some(at) = self.staged_directory(&name)?
            && edge::stat(&at, name.name())?.is_some()
        {
            return self.put_over(&at, name.name(), path);
        }
        // It took its place before the plan was cut short.
        let is_there = self.stat(path)?.is_some_and(|stat| edge::is_regular(&stat));
        Ok(if is_there { Outcome::Done } else { Outcome::Left })
    }

    fn staged_directory(&self, name: &FilePath) -> io::Result<Option<Arc<OwnedFd>>> {
        match self.staged.parent(name, Missing::Fail) {
            Err(error) if ground::is_absent(&error) => Ok(None),
            result => result.map(Some),
        }
    }

    fn put_symlink(&self, path: &FilePath, target: &[u8], meta: &Meta) -> io::Result<Outcome> {
        self.try_symlink(target)?;
        self.ground.dress(&self.staging, PENDING, path, meta)?;
        self.put_over(&self.staging, PENDING, path)
    }

    /// Makes a symlink where nobody sees it, to learn now whether it can be made.
    pub(super) fn try_symlink(&self, target: &[u8]) -> io::Result<()> {
        sweep::remove(&self.ground.edge, &self.staging, PENDING)?;
        self.ground.edge.symlink(target, &self.staging, PENDING)
    }

    fn put_hard_link(&self, path: &FilePath, first: &FilePath) -> io::Result<Outcome> {
        sweep::remove(&self.ground.edge, &self.staging, PENDING)?;
        let from = match self.tree.parent(first, Missing::Fail) {
            Err(error) if ground::is_absent(&error) => return Ok(Outcome::Left),
            result => result?,
        };
        match self.ground.edge.link(&from, first.name(), &self.staging, PENDING) {
            Err(error) if ground::is_absent(&error) => return Ok(Outcome::Left),
            result => result?,
        }
        let outcome = self.put_over(&self.staging, PENDING, path)?;
        // Renaming one name of a file over another does nothing, and leaves both.
        sweep::remove(&self.ground.edge, &self.staging, PENDING)?;
        Ok(outcome)
    }

    /// Lets what was built take the place of whatever stands at `path`.
    fn put_over(&self, from_at: &OwnedFd, from: &[u8], path: &FilePath) -> io::Result<Outcome> {
        let rename = |at: &OwnedFd, name: &[u8]| self.ground.edge.rename(from_at, from, at, name);
        match self.tree.change(path, Missing::Make, rename) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => {
                self.discard(path)?;
                self.tree.change(path, Missing::Make, rename)?;
            }
            result => result?,
        }
        Ok(Outcome::Done)
    }

    fn put_xattrs(&self, path: &FilePath, xattrs: &[(Bytes, Bytes)]) -> io::Result<Outcome> {
        let set = |at: &OwnedFd, name: &[u8]| self.ground.set_xattrs(at, name, path, xattrs);
        self.at_existing(path, set)
    }

    fn dress(&self, path: &FilePath, meta: &Meta) -> io::Result<Outcome> {
        self.at_existing(path, |at, name| self.ground.dress(at, name, path, meta))
    }

    fn dress_directory(&self, path: &FilePath, meta: &Meta) -> io::Result<Outcome> {
        match self.stat(path)? {
            Some(stat) if edge::is_directory(&stat) => self.dress(path, meta),
            _ => Ok(Outcome::Left),
        }
    }

    fn at_existing(&self, path: &FilePath, act: impl Fn(&OwnedFd, &[u8]) -> io::Result<()>) -> io::Result<Outcome> {
        match self.tree.parent(path, Missing::Fail).and_then(|at| act(&at, edge::name_or_self(path.name()))) {
            Err(error) if ground::is_absent(&error) => Ok(Outcome::Left),
            result => result.map(|()| Outcome::Done),
        }
    }

    fn remove(&self, path: &FilePath) -> io::Result<Outcome> {
        match self.remove_beneath(&self.tree, path) {
            Err(error) if ground::is_absent(&error) => self.remove_discarded(path),
            result => result,
        }
    }

    pub(super) fn remove_beneath(&self, tree: &Beneath, path: &FilePath) -> io::Result<Outcome> {
        let unlinked = tree.change(path, Missing::Fail, |at, name| self.ground.edge.unlink(at, name));
        let removed = match unlinked {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => {
                tree.forget();
                tree.change(path, Missing::Fail, |at, name| self.ground.edge.remove_directory(at, name))
            }
            result => result,
        };
        match removed {
            // It holds something that appeared after the plan was made. That is not ours to remove.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTEMPTY) => Ok(Outcome::Left),
            result => result.map(|()| Outcome::Done),
        }
    }

    /// Makes a symlink of a first pull under its final name.
    pub(super) fn make_symlink_now(&self, path: &FilePath, target: &[u8], meta: &Meta) -> Result<(), PlaceError> {
        let make = |at: &OwnedFd, name: &[u8]| {
            match self.ground.edge.symlink(target, at, name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    sweep::remove(&self.ground.edge, at, name)?;
                    self.ground.edge.symlink(target, at, name)?;
                }
                result => result?,
            }
            self.ground.dress(at, name, path, meta)
        };
        self.tree.change(path, Missing::Make, make).map_err(self.ground.refused("make the symlink", path))
    }
}

pub(super) fn open_directory(at: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Where a symlink or hard link is made before it takes its place.
const PENDING: &[u8] = b"pending";

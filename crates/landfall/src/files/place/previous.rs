//! Owns the way back: what a pull replaces or removes is kept under a second name, with the plan that undoes the pull.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use landfall_core::ChunkId;
use landfall_core::files::{Content, FileKind, FilePath};
use rustix::fs::Stat;

use super::beneath::{Beneath, Missing, Obstacles};
use super::changes::ChangesError;
use super::error::PlaceError;
use super::execute::open_directory;
use super::finish::{FinishReport, Previous};
use super::journal::Journal;
use super::operation::{Operation, PlanReader, PlanWriter};
use super::record::meta_of;
use super::{INDEX, PLAN, PREVIOUS, PREVIOUS_NEW, Placement, STAGED_FILES, edge, ground, staged_name, sweep};
use crate::files::block::ReadError;
use crate::files::index::{FileStat, IndexReader};

/// A way back that is recorded and not yet gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WayBack {
    /// The snapshot that the destination held before the last pull. Nothing if it held none exactly: the pull discarded local
    /// changes, and they come back.
    pub manifest: Option<ChunkId>,
    /// Paths that the pull replaced or removed.
    pub put_back: u64,
    /// Paths whose owner, mode, time or attributes the pull changed.
    pub altered: u64,
    /// Paths that the pull brought.
    pub removed: u64,
    /// Paths that the pull altered and somebody changed afterwards: their old content is not kept, so they stay as they are.
    pub passed_over: u64,
}

impl WayBack {
    /// A way back that leads to `manifest` over no path yet.
    pub(crate) fn to(manifest: ChunkId) -> Self {
        Self { manifest: Some(manifest).filter(|manifest| *manifest != NO_SNAPSHOT), ..Self::default() }
    }
}

impl Placement {
    /// Records what makes the destination again what it was before the last pull, if that pull kept the way back.
    ///
    /// Nothing is fetched, and only what that pull changed is changed back. Local changes in its way are overwritten.
    pub fn record_way_back(&self) -> Result<WayBack, PlaceError> {
        let nothing = || PlaceError::NothingPrevious(self.ground.destination.clone());
        let (name, manifest) = self.find_previous()?.ok_or_else(nothing)?;
        let refused = || self.ground.refused_own("read", Path::new(PREVIOUS));
        let open = || open_directory(&open_directory(&self.control, PREVIOUS.as_bytes())?, name.as_bytes());
        let kept = open().map_err(refused())?;
        let files = open_directory(&kept, STAGED_FILES.as_bytes()).map_err(refused())?;
        let files = Beneath::new(files, self.ground.edge.clone(), Obstacles::Refuse);
        let damaged = |source: ReadError| PlaceError::Damaged {
            file: self.control_directory().join(PREVIOUS).join(&name).join(PLAN),
            source,
        };
        let mut plan = PlanReader::open(&kept, PLAN).map_err(damaged)?;
        let mut altered =
            AlteredPaths { index: self.index().map_err(|source| self.unusable_index(source))?, last: None };
        let mut way_back = WayBack::to(manifest);
        while let Some(step) = plan.next_step().map_err(damaged)? {
            if self.is_passed_over(&mut altered, &step)? {
                way_back.passed_over += u64::from(matches!(step, Operation::Alter { .. }));
                continue;
            }
            if let Operation::Put { path, meta } = &step
                && matches!(meta.kind, FileKind::File { .. })
            {
                self.stage_kept(&files, path).map_err(self.ground.refused("restore", path))?;
            }
            self.count_step(&mut way_back, &step).map_err(self.ground.refused("look at", step.path()))?;
            self.record(step)?;
        }
        Ok(way_back)
    }

    /// Goes the way back that was recorded.
    pub fn go_back(self, way_back: &WayBack) -> Result<FinishReport, PlaceError> {
        self.finish(way_back.manifest.unwrap_or(NO_SNAPSHOT), Previous::Drop)
    }

    /// Is the step only about what a file looks like, and the file another by now? Giving it back its old time would hide that.
    fn is_passed_over(&self, altered: &mut AlteredPaths, step: &Operation) -> Result<bool, PlaceError> {
        let (path, kind) = match step {
            Operation::Alter { path, meta } => (path, Some(&meta.kind)),
            Operation::Xattrs { path, .. } => (path, None),
            _ => return Ok(false),
        };
        if kind.is_none() {
            return Ok(altered.last.as_ref() == Some(path));
        }
        let known = altered.index.find(path).map_err(|source| self.unusable_index(source))?;
        let now = self.stat(path).map_err(self.ground.refused("look at", path))?;
        let is_as_pulled = known == now.as_ref().map(FileStat::of);
        if !is_as_pulled {
            altered.last = Some(path.clone());
        }
        Ok(!is_as_pulled)
    }

    fn count_step(&self, way_back: &mut WayBack, step: &Operation) -> io::Result<()> {
        match step {
            Operation::Put { path, meta } if meta.kind == FileKind::Directory => {
                let is_there = self.stat(path)?.is_some_and(|stat| edge::is_directory(&stat));
                *(if is_there { &mut way_back.altered } else { &mut way_back.put_back }) += 1;
            }
            Operation::Put { .. } => way_back.put_back += 1,
            Operation::Alter { .. } => way_back.altered += 1,
            Operation::Remove { .. } => way_back.removed += 1,
            Operation::Xattrs { .. } | Operation::RestoreDirectory { .. } | Operation::Refresh { .. } => {}
        }
        Ok(())
    }

    fn unusable_index(&self, source: ReadError) -> PlaceError {
        PlaceError::Damaged { file: self.control_directory().join(INDEX), source }
    }

    /// The snapshot that the destination holds, if it holds it exactly.
    pub(super) fn snapshot_held(&self) -> Result<ChunkId, PlaceError> {
        let Ok(index) = self.index() else { return Ok(NO_SNAPSHOT) };
        let mut is_changed = false;
        let found = self.for_each_local_change(|_| {
            is_changed = true;
            Ok(())
        });
        match found {
            Ok(()) if !is_changed => Ok(index.header().manifest),
            Ok(()) | Err(ChangesError::NoIndex(_)) => Ok(NO_SNAPSHOT),
            Err(ChangesError::Place(error)) => Err(error),
        }
    }

    /// Writes the plan that undoes the plan. Nothing in the destination is touched, and it may be thrown away again.
    pub(super) fn plan_way_back(&self, journal: &Journal) -> Result<(), PlaceError> {
        let refused = || self.ground.refused_own("keep", Path::new(PREVIOUS_NEW));
        let begin = || -> io::Result<_> {
            sweep::remove(&self.ground.edge, &self.control, PREVIOUS_NEW.as_bytes())?;
            self.ground.edge.make_directory(&self.control, PREVIOUS_NEW.as_bytes())?;
            let kept = open_directory(&self.control, PREVIOUS_NEW.as_bytes())?;
            self.ground.edge.make_directory(&kept, STAGED_FILES.as_bytes())?;
            PlanWriter::create_after(&kept, PLAN, journal.manifest)
        };
        let mut keeper = Keeper { undo: begin().map_err(refused())?, last: None };
        let mut plan = PlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        while let Some(step) = plan.next_step().map_err(|error| self.damaged_plan(error))? {
            self.keep(&mut keeper, &step).map_err(self.ground.refused("keep", step.path()))?;
        }
        keeper.undo.commit().map_err(refused())
    }

    /// Gives every file that the plan will replace or remove a second name. It is done before the first step of the plan, so
    /// a second name that is there already was given to the old file.
    pub(super) fn keep_previous(&self) -> Result<(), PlaceError> {
        let refused = || self.ground.refused_own("keep", Path::new(PREVIOUS_NEW));
        let kept = match open_directory(&self.control, PREVIOUS_NEW.as_bytes()) {
            // All of it was done before the plan was cut short.
            Err(error) if ground::is_absent(&error) => return Ok(()),
            result => result.map_err(refused())?,
        };
        let files = open_directory(&kept, STAGED_FILES.as_bytes()).map_err(refused())?;
        let files = Beneath::new(files, self.ground.edge.clone(), Obstacles::Refuse);
        let damaged = |source: ReadError| PlaceError::Damaged {
            file: self.control_directory().join(PREVIOUS_NEW).join(PLAN),
            source,
        };
        let mut undo = PlanReader::open(&kept, PLAN).map_err(damaged)?;
        while let Some(step) = undo.next_step().map_err(damaged)? {
            if let Operation::Put { path, meta } = &step
                && matches!(meta.kind, FileKind::File { .. })
            {
                self.keep_content(&files, path).map_err(self.ground.refused("keep", path))?;
            }
        }
        Ok(())
    }

    fn keep(&self, keeper: &mut Keeper, step: &Operation) -> io::Result<()> {
        let path = step.path();
        let keeps_content = matches!(step, Operation::Alter { .. } | Operation::Xattrs { .. });
        match step {
            Operation::RestoreDirectory { .. } | Operation::Refresh { .. } => return Ok(()),
            Operation::Xattrs { .. } if keeper.last.as_ref() == Some(path) => return self.keep_xattrs(keeper, path),
            _ => keeper.last = Some(path.clone()),
        }
        let Some(stat) = self.stat(path)? else {
            return keeper.undo.push(&Operation::Remove { path: path.clone() });
        };
        let undo = match self.kind_of(path, &stat)? {
            Some(kind @ FileKind::File { .. }) if keeps_content => {
                Operation::Alter { path: path.clone(), meta: meta_of(&stat, kind) }
            }
            Some(kind) => Operation::Put { path: path.clone(), meta: meta_of(&stat, kind) },
            // A socket, a pipe or a device: nothing that a snapshot could hold.
            None => return Ok(()),
        };
        keeper.undo.push(&undo)?;
        if matches!(step, Operation::Xattrs { .. } | Operation::Remove { .. }) && !edge::is_regular(&stat)
            || keeps_content
        {
            self.keep_xattrs(keeper, path)?;
        }
        Ok(())
    }

    fn kind_of(&self, path: &FilePath, stat: &Stat) -> io::Result<Option<FileKind>> {
        if edge::is_directory(stat) {
            return Ok(Some(FileKind::Directory));
        }
        if edge::is_symlink(stat) {
            let parent = self.tree.parent(path, Missing::Fail)?;
            let target = rustix::fs::readlinkat(&parent, path.name(), Vec::new())?;
            return Ok(Some(FileKind::Symlink(Bytes::from(target.into_bytes()))));
        }
        let file = FileKind::File { size: stat.st_size as u64, content: Content::Whole };
        Ok(edge::is_regular(stat).then_some(file))
    }

    fn keep_content(&self, files: &Beneath, path: &FilePath) -> io::Result<()> {
        let from = match self.tree.parent(path, Missing::Fail) {
            Err(error) if ground::is_absent(&error) => return Ok(()),
            result => result?,
        };
        let link = |at: &OwnedFd, name: &[u8]| match edge::stat(at, name)? {
            Some(_) => Ok(()),
            None => self.ground.edge.link(&from, path.name(), at, name),
        };
        match files.change(&staged_name(path), Missing::Make, link) {
            // Somebody removed it since the way back was planned.
            Err(error) if ground::is_absent(&error) => Ok(()),
            result => result,
        }
    }

    fn keep_xattrs(&self, keeper: &mut Keeper, path: &FilePath) -> io::Result<()> {
        let parent = self.tree.parent(path, Missing::Fail)?;
        let found = match edge::xattrs(&parent, path.name()) {
            Err(error) if ground::is_absent(&error) => return Ok(()),
            result => result?,
        };
        let xattrs = found.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        keeper.undo.push(&Operation::Xattrs { path: path.clone(), xattrs })
    }

    fn stage_kept(&self, files: &Beneath, path: &FilePath) -> io::Result<()> {
        let staged = staged_name(path);
        let from: std::sync::Arc<OwnedFd> = files.parent(&staged, Missing::Fail)?;
        self.staged.change(&staged, Missing::Make, |at, name| {
            sweep::remove(&self.ground.edge, at, name)?;
            self.ground.edge.link(&from, name, at, name)
        })
    }

    /// The name below `previous`, and the snapshot it stands for, if it leads back from what the destination holds.
    fn find_previous(&self) -> Result<Option<(String, ChunkId)>, PlaceError> {
        let index = match self.index() {
            Err(ReadError::Absent) => return Ok(None),
            result => result.map_err(|source| self.unusable_index(source))?,
        };
        let list = || -> io::Result<Vec<Vec<u8>>> { sweep::names(open_directory(&self.control, PREVIOUS.as_bytes())?) };
        let names = match list() {
            Err(error) if ground::is_absent(&error) => return Ok(None),
            result => result.map_err(self.ground.refused_own("read", Path::new(PREVIOUS)))?,
        };
        let ids = names.iter().filter_map(|name| std::str::from_utf8(name).ok());
        let found = ids.filter_map(|name| Some((name.to_owned(), name.parse::<ChunkId>().ok()?))).next();
        Ok(found.filter(|(name, _)| self.leads_back_from(name, index.header().manifest)))
    }

    fn leads_back_from(&self, name: &str, manifest: ChunkId) -> bool {
        let plan = || -> Result<PlanReader, ReadError> {
            let kept = open_directory(&self.control, format!("{PREVIOUS}/{name}").as_bytes())
                .map_err(ReadError::Unreadable)?;
            PlanReader::open(&kept, PLAN)
        };
        plan().is_ok_and(|plan| plan.after() == Some(manifest))
    }
}

/// The way back while it is made.
struct Keeper {
    undo: PlanWriter,
    last: Option<FilePath>,
}

/// Which paths, of those that a way back only alters, were changed since.
struct AlteredPaths {
    index: IndexReader,
    /// The last that was.
    last: Option<FilePath>,
}

/// Stands for a state of the destination that is no snapshot.
pub(super) const NO_SNAPSHOT: ChunkId = ChunkId::from_bytes([0; ChunkId::BYTES]);

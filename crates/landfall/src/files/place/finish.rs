//! Owns the end of a pull: the instant from which the destination is what the snapshot says, and what is tidied after it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use landfall_core::ChunkId;
use landfall_core::files::{FileKind, FilePath, Meta};

use super::error::PlaceError;
use super::execute::Refused;
use super::journal::Journal;
use super::operation::{Operation, PlanReader};
use super::previous::NO_SNAPSHOT;
use super::walk::{Walk, WalkError};
use super::{DRAFT, INDEX, JOURNAL, Kind, PLAN, PREVIOUS, PREVIOUS_NEW, Placement, edge, open, sweep};
use crate::files::index::{FileStat, IndexHeader, IndexReader, IndexRecord, IndexWriter, wall_clock};

/// Is the way back kept?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// The old content is given up.
    Drop,
    /// Files that are replaced or removed are kept, until the next pull, with a plan to go back.
    Keep,
}

/// What a pull did at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishReport {
    /// The snapshot that the destination holds now.
    pub manifest: ChunkId,
    /// How long it took to make the staged files durable.
    pub sync: Duration,
    /// How long it took to put everything in its place.
    pub place: Duration,
    /// How long it took to write the index, as far as it was not done meanwhile.
    pub index: Duration,
    /// Steps of the plan.
    pub steps: u64,
    /// What is not as the snapshot says. Nothing is dropped silently.
    pub left: Vec<Shortfall>,
}

/// Something that a pull could not make what the snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// Paths changed while the pull ended. Nothing of them was removed; the next pull lists them as local changes.
    Changed {
        /// How many.
        paths: u64,
        /// The first of them.
        examples: Vec<FilePath>,
    },
    /// Directories became files, and held something that the plan did not know.
    Displaced {
        /// How many.
        directories: u64,
        /// Where they are, with what was unknown in them.
        kept_in: PathBuf,
    },
    /// Paths belong to another user or group than in the snapshot, because this process may not give files away. Their
    /// set-id bits are cleared.
    Owners {
        /// How many.
        paths: u64,
        /// One of them.
        example: FilePath,
    },
    /// The file system refuses for good what should stand at some paths. They are what they were; the next pull lists them as
    /// local changes.
    Refused {
        /// How many.
        paths: u64,
        /// One of them.
        example: FilePath,
        /// What the file system said of it.
        reason: String,
    },
    /// Extended attributes could not be set, because this process may not, or the file system has none or no room for them.
    Xattrs {
        /// How many.
        attributes: u64,
        /// A path that lacks one.
        example: FilePath,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { paths, examples } => {
                write!(f, "{paths} paths changed while the pull ended and are not as in the snapshot; pull again:")?;
                examples.iter().try_for_each(|path| write!(f, " '{path}'"))
            }
            Self::Displaced { directories, kept_in } => write!(
                f,
                "{directories} directories became files while something new was in them: it is kept in '{}'",
                kept_in.display()
            ),
            Self::Owners { paths, example } => write!(
                f,
                "{paths} paths, such as '{example}', keep this user or group instead of their own; only root may give files away"
            ),
            Self::Refused { paths, example, reason } => write!(
                f,
                "{paths} paths, such as '{example}', are not as in the snapshot, because the file system refuses: {reason}"
            ),
            Self::Xattrs { attributes, example } => {
                write!(f, "{attributes} extended attributes, such as one of '{example}', could not be set here")
            }
        }
    }
}

/// Paths that could not be made what the snapshot says.
#[derive(Default)]
pub(super) struct Left {
    count: u64,
    examples: Vec<FilePath>,
}

impl Left {
    pub(super) fn add(&mut self, path: &FilePath) {
        self.count += 1;
        if self.examples.len() < LEFT_EXAMPLES_MAX {
            self.examples.push(path.clone());
        }
    }
}

impl Placement {
    /// Makes the destination what `manifest` says. Every staged file must be complete, and verified by the caller.
    ///
    /// An error before the journal is written leaves the old state, and one after it is mended by the next [`Self::open`]; in
    /// both cases all that was staged is kept.
    pub fn finish(self, manifest: ChunkId, previous: Previous) -> Result<FinishReport, PlaceError> {
        match self.kind {
            Kind::Update => self.finish_update(manifest, previous),
            Kind::First | Kind::ResumedFirst => self.finish_first(manifest),
        }
    }

    fn finish_first(self, manifest: ChunkId) -> Result<FinishReport, PlaceError> {
        self.commit_draft()?;
        self.rename_own(DRAFT, PLAN)?;
        let start = Instant::now();
        if self.kind == Kind::ResumedFirst {
            self.remove_leftovers()?;
        }
        let carried = self.carry_out()?;
        let place = start.elapsed();
        let start = Instant::now();
        let (synced, indexed) = std::thread::scope(|scope| {
            let sync = std::thread::Builder::new().name("place-sync".into()).spawn_scoped(scope, || self.sync());
            let indexed = self.index_everything(manifest);
            // Without a thread, one after the other.
            let synced = sync.map_or_else(|_| self.sync(), |sync| sync.join().expect("a sync does not panic"));
            (synced, indexed)
        });
        let (sync, ()) = (synced?, indexed?);
        let index = start.elapsed().saturating_sub(sync);
        self.empty_staging()?;
        self.sync_control()?;
        open::replace_destination(&self.ground, &self.path)?;
        let left = self.shortfalls(carried.left, carried.refused);
        Ok(FinishReport { manifest, sync, place, index, steps: carried.steps, left })
    }

    fn finish_update(self, manifest: ChunkId, previous: Previous) -> Result<FinishReport, PlaceError> {
        let linked = self.commit_draft()?;
        self.close_plan(&linked)?;
        self.check_names()?;
        let before = self.snapshot_before(previous)?;
        let journal = Journal { manifest, before, previous };
        if previous == Previous::Keep {
            self.plan_way_back(&journal)?;
        }
        let sync = self.sync()?;
        self.ground
            .edge
            .step("write the journal")
            .and_then(|()| journal.write(&self.control))
            .map_err(self.ground.refused_own("write", JOURNAL.as_ref()))?;
        self.sync_control()?;
        Ok(FinishReport { sync, ..self.roll_forward(&journal)? })
    }

    /// What a way back will lead to. Local changes that are about to be overwritten are kept, too, and no snapshot has them.
    fn snapshot_before(&self, previous: Previous) -> Result<ChunkId, PlaceError> {
        match previous {
            Previous::Keep => self.snapshot_held(),
            Previous::Drop => Ok(self.index().map_or(NO_SNAPSHOT, |index| index.header().manifest)),
        }
    }

    /// Carries out a plan whose journal is written. It may have been begun before.
    pub(super) fn roll_forward(&self, journal: &Journal) -> Result<FinishReport, PlaceError> {
        let start = Instant::now();
        if journal.previous == Previous::Keep {
            self.keep_previous()?;
        }
        let carried = self.carry_out()?;
        let displaced = self.settle_discarded()?;
        // The names must be durable before the journal that would repeat them goes.
        self.sync()?;
        self.settle_previous(journal)?;
        let place = start.elapsed();
        let start = Instant::now();
        self.index_changes(journal.manifest)?;
        let index = start.elapsed();
        self.ground
            .edge
            .unlink(&self.control, JOURNAL.as_bytes())
            .map_err(self.ground.refused_own("remove", JOURNAL.as_ref()))?;
        self.sync_control()?;
        self.empty_staging()?;
        let mut left = self.shortfalls(carried.left, carried.refused);
        left.extend(displaced);
        Ok(FinishReport { manifest: journal.manifest, sync: Duration::ZERO, place, index, steps: carried.steps, left })
    }

    fn shortfalls(&self, left: Left, refused: Refused) -> Vec<Shortfall> {
        let changed = Shortfall::Changed { paths: left.count, examples: left.examples };
        let changed = Some(changed).filter(|_| left.count > 0);
        let refused = refused.first.map(|(example, error)| Shortfall::Refused {
            paths: refused.paths,
            example,
            reason: error.to_string(),
        });
        changed.into_iter().chain(refused).chain(self.ground.shortfalls()).collect()
    }

    /// Removes what an earlier pull left and this snapshot does not hold.
    fn remove_leftovers(&self) -> Result<(), PlaceError> {
        let mut plan = PlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        let mut walk = Walk::new(self.tree.root()).map_err(self.ground.refused("list", &FilePath::root()))?;
        let mut next = None;
        while let Some((path, _)) = walk.next_path().map_err(|error| self.unwalkable(error))? {
            while next.as_ref().is_none_or(|step: &Operation| *step.path() < path) {
                next = plan.next_step().map_err(|error| self.damaged_plan(error))?;
                if next.is_none() {
                    break;
                }
            }
            if path.is_root() || next.as_ref().is_some_and(|step| *step.path() == path) {
                continue;
            }
            let remove = |at: &OwnedFd, name: &[u8]| sweep::remove(&self.ground.edge, at, name);
            match self.tree.change(&path, super::beneath::Missing::Fail, remove) {
                Err(error) if super::ground::is_absent(&error) => {}
                result => result.map_err(self.ground.refused("remove", &path))?,
            }
        }
        self.tree.forget();
        Ok(())
    }

    fn index_everything(&self, manifest: ChunkId) -> Result<(), PlaceError> {
        let refused = || self.ground.refused_own("write", INDEX.as_ref());
        let mut writer = self.begin_index(manifest)?;
        let mut walk = Walk::new(self.tree.root()).map_err(self.ground.refused("list", &FilePath::root()))?;
        while let Some((path, stat)) = walk.next_path().map_err(|error| self.unwalkable(error))? {
            writer.push(&path, &FileStat::of(&stat)).map_err(refused())?;
        }
        self.commit_index(writer)
    }

    /// Writes the index anew: looked at again are the paths of the plan, the others are taken over. So a local change that
    /// nobody has seen yet is still one for the next pull.
    fn index_changes(&self, manifest: ChunkId) -> Result<(), PlaceError> {
        if let Ok(old) = self.index()
            && self.index_merged(manifest, Merge { old, failed: false })?
        {
            return Ok(());
        }
        // Without it, the caller had to read every file: what is there is what the plan was made for.
        self.index_everything(manifest)
    }

    /// Returns false if the old index turned out to be damaged.
    fn index_merged(&self, manifest: ChunkId, mut merge: Merge) -> Result<bool, PlaceError> {
        let refused = || self.ground.refused_own("write", INDEX.as_ref());
        let mut writer = self.begin_index(manifest)?;
        let mut plan = PlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        let mut last = None;
        while let Some(step) = plan.next_step().map_err(|error| self.damaged_plan(error))? {
            if matches!(step, Operation::RestoreDirectory { .. }) || last.as_ref() == Some(step.path()) {
                continue;
            }
            while let Some(record) = merge.before(step.path()) {
                writer.push(&record.path, &record.stat).map_err(refused())?;
            }
            let known = merge.at(step.path());
            if let Some(stat) = self.look_again(&step, known)? {
                writer.push(step.path(), &stat).map_err(refused())?;
            }
            last = Some(step.path().clone());
        }
        while let Some(record) = merge.next() {
            writer.push(&record.path, &record.stat).map_err(refused())?;
        }
        if merge.failed {
            return Ok(false);
        }
        self.commit_index(writer).map(|()| true)
    }

    fn look_again(&self, step: &Operation, known: Option<FileStat>) -> Result<Option<FileStat>, PlaceError> {
        let now = self.stat(step.path()).map_err(self.ground.refused("look at", step.path()))?;
        let now = now.as_ref().map(FileStat::of);
        Ok(match (step, now) {
            (Operation::Remove { .. }, _) => None,
            (Operation::Refresh { .. }, Some(now)) => {
                known.map(|known| if (FileStat { ctime: now.ctime, ..known }) == now { now } else { known })
            }
            (Operation::Refresh { .. }, None) => known,
            (Operation::Put { meta, .. } | Operation::Alter { meta, .. }, Some(now)) if !is_as_put(meta, &now) => {
                Some(FileStat::UNKNOWN)
            }
            (_, Some(now)) => Some(now),
            // It belongs here and is not: the next pull must find it changed.
            (_, None) => Some(FileStat::UNKNOWN),
        })
    }

    fn begin_index(&self, manifest: ChunkId) -> Result<IndexWriter, PlaceError> {
        let header = IndexHeader { manifest, taken: wall_clock() };
        IndexWriter::create(&self.control, Path::new(INDEX), &header)
            .map_err(self.ground.refused_own("write", INDEX.as_ref()))
    }

    fn commit_index(&self, writer: IndexWriter) -> Result<(), PlaceError> {
        let commit = self.ground.edge.step("write the index").and_then(|()| writer.commit());
        commit.map_err(self.ground.refused_own("write", INDEX.as_ref()))
    }

    /// Ends the recording of the plan. Returns the inodes whose other names must be looked for.
    pub(super) fn commit_draft(&self) -> Result<BTreeSet<u64>, PlaceError> {
        self.recorder().commit().map_err(self.ground.refused_own("write", DRAFT.as_ref()))
    }

    fn rename_own(&self, from: &str, to: &str) -> Result<(), PlaceError> {
        let renamed = self.ground.edge.rename(&self.staging, from.as_bytes(), &self.staging, to.as_bytes());
        renamed.map_err(self.ground.refused_own("write", to.as_ref()))
    }

    fn settle_previous(&self, journal: &Journal) -> Result<(), PlaceError> {
        let settle = || -> io::Result<()> {
            let edge = &self.ground.edge;
            if journal.previous == Previous::Drop {
                return sweep::remove(edge, &self.control, PREVIOUS.as_bytes());
            }
            if edge::stat(&self.control, PREVIOUS_NEW.as_bytes())?.is_none() {
                return Ok(());
            }
            sweep::remove(edge, &self.control, PREVIOUS.as_bytes())?;
            edge.make_directory(&self.control, PREVIOUS.as_bytes())?;
            let name = format!("{PREVIOUS}/{}", journal.before);
            edge.rename(&self.control, PREVIOUS_NEW.as_bytes(), &self.control, name.as_bytes())
        };
        settle().map_err(self.ground.refused_own("keep", PREVIOUS.as_ref()))
    }

    fn sync(&self) -> Result<Duration, PlaceError> {
        let start = Instant::now();
        self.ground.edge.sync_file_system(&self.control).map_err(self.ground.refused("sync", &FilePath::root()))?;
        Ok(start.elapsed())
    }

    fn sync_control(&self) -> Result<(), PlaceError> {
        self.ground.edge.sync_directory(&self.control).map_err(self.ground.refused_own("sync", "".as_ref()))
    }

    fn empty_staging(&self) -> Result<(), PlaceError> {
        sweep::empty(&self.ground.edge, &self.staging).map_err(self.ground.refused_own("tidy", super::STAGING.as_ref()))
    }

    pub(super) fn unwalkable(&self, error: WalkError) -> PlaceError {
        self.ground.refused("list", &error.path)(error.source)
    }
}

/// The old index on its way into the new one.
struct Merge {
    old: IndexReader,
    failed: bool,
}

impl Merge {
    /// The next record, if it comes before `path`.
    fn before(&mut self, path: &FilePath) -> Option<IndexRecord> {
        let record = self.next()?;
        if record.path < *path {
            return Some(record);
        }
        self.old.put_back(record);
        None
    }

    /// The record of `path`, if there is one.
    fn at(&mut self, path: &FilePath) -> Option<FileStat> {
        self.old.find(path).unwrap_or_else(|_| {
            self.failed = true;
            None
        })
    }

    fn next(&mut self) -> Option<IndexRecord> {
        self.old.next_record().unwrap_or_else(|_| {
            self.failed = true;
            None
        })
    }
}

/// Is what stands there still what was put there? Whoever writes to a file changes its time.
fn is_as_put(meta: &Meta, stat: &FileStat) -> bool {
    let kind = stat.mode & 0o170_000;
    match &meta.kind {
        FileKind::File { size, .. } => (*size, meta.mtime) == (stat.size, stat.mtime),
        FileKind::HardLink(_) => kind == 0o100_000,
        FileKind::Directory => kind == 0o040_000,
        FileKind::Symlink(target) => kind == 0o120_000 && stat.size == target.len() as u64,
    }
}

/// Paths that a report names.
const LEFT_EXAMPLES_MAX: usize = 16;

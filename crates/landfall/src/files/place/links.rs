//! Owns what a snapshot does not say about hard links: when the first name of a file gets new content, so do the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use landfall_core::files::{FileKind, FilePath, Meta};
use rustix::fs::Stat;

use super::error::PlaceError;
use super::execute::open_directory;
use super::operation::{Operation, PlanReader, PlanWriter};
use super::record::Recorder;
use super::{DRAFT, PLAN, Placement, STAGING, edge, ground, sweep};
use crate::files::block::ReadError;
use crate::files::index::IndexRecord;

impl Placement {
    /// Makes the plan of what was recorded: the same steps, and one for every other name of an inode that they touch.
    ///
    /// `linked` are those inodes. Their names come from the index, in one pass with flat memory.
    pub(super) fn close_plan(&self, linked: &BTreeSet<u64>) -> Result<(), PlaceError> {
        let refused = || self.ground.refused_own("write", PLAN.as_ref());
        if linked.is_empty() {
            return self
                .ground
                .edge
                .rename(&self.staging, DRAFT.as_bytes(), &self.staging, PLAN.as_bytes())
                .map_err(refused());
        }
        let mut recorder = Recorder::new(PlanWriter::create(&self.staging, PLAN).map_err(refused())?);
        let mut steps = Steps::open(self)?;
        let mut firsts = BTreeMap::new();
        // Without an index nothing is known of other names: every file is read again by the next pull.
        if let Ok(mut index) = self.index() {
            while let Ok(Some(record)) = index.next_record() {
                let planned = steps.copy_through(&record.path, &mut recorder)?;
                if linked.contains(&record.stat.inode) {
                    self.add_name(&mut recorder, &mut firsts, record, planned)?;
                }
            }
        }
        steps.copy_rest(&mut recorder)?;
        recorder.commit().map(drop).map_err(refused())
    }

    /// Learns whether the file system allows as many names of one file as the plan will make, before anything is changed.
    pub(super) fn check_names(&self) -> Result<(), PlaceError> {
        let Some((path, names)) = self.most_names()? else { return Ok(()) };
        let tried = self.try_names(names);
        sweep::remove(&self.ground.edge, &self.staging, TRIAL)
            .map_err(self.ground.refused_own("tidy", STAGING.as_ref()))?;
        match tried {
            Err(error) if ground::is_hopeless(&error) => Err(PlaceError::TooManyNames { path, names, source: error }),
            result => result.map_err(self.ground.refused("link", &path)),
        }
    }

    /// The file that gets the most names, and how many it will have.
    fn most_names(&self) -> Result<Option<(FilePath, u64)>, PlaceError> {
        let mut names: BTreeMap<FilePath, u64> = BTreeMap::new();
        let mut plan = PlanReader::open(&self.staging, PLAN).map_err(|error| self.damaged_plan(error))?;
        while let Some(step) = plan.next_step().map_err(|error| self.damaged_plan(error))? {
            let Operation::Put { path, meta: Meta { kind: FileKind::HardLink(first), .. } } = &step else { continue };
            let look = |path| self.stat(path).map_err(self.ground.refused("look at", path));
            let (first_now, now) = (look(first)?, look(path)?);
            let same = |now: &Stat| {
                first_now.as_ref().is_some_and(|first| (first.st_dev, first.st_ino) == (now.st_dev, now.st_ino))
            };
            let held = first_now.as_ref().filter(|first| edge::is_regular(first)).map_or(1, |first| first.st_nlink);
            let count = names.entry(first.clone()).or_insert(held);
            *count += u64::from(!now.as_ref().is_some_and(same));
        }
        Ok(names.into_iter().max_by_key(|(_, count)| *count))
    }

    fn try_names(&self, names: u64) -> io::Result<()> {
        sweep::remove(&self.ground.edge, &self.staging, TRIAL)?;
        self.ground.edge.make_directory(&self.staging, TRIAL)?;
        let trial = open_directory(&self.staging, TRIAL)?;
        drop(self.ground.edge.create(&trial, b"0", 0o600)?);
        // The one that is made before it takes its place counts, too.
        (1..=names).try_for_each(|name| self.ground.edge.link(&trial, b"0", &trial, name.to_string().as_bytes()))
    }

    fn add_name(
        &self,
        recorder: &mut Recorder,
        firsts: &mut BTreeMap<u64, First>,
        record: IndexRecord,
        planned: Planned,
    ) -> Result<(), PlaceError> {
        let Some(first) = firsts.get(&record.stat.inode) else {
            let is_unplanned = matches!(planned, Planned::No);
            firsts.insert(record.stat.inode, First { path: record.path.clone(), planned });
            return if is_unplanned { self.push(recorder, &Operation::Refresh { path: record.path }) } else { Ok(()) };
        };
        match (&planned, &first.planned) {
            (Planned::No, Planned::File(meta)) => {
                self.restore_parent(recorder, &record.path)?;
                let meta = Meta { kind: FileKind::HardLink(first.path.clone()), ..meta.clone() };
                self.push(recorder, &Operation::Put { path: record.path, meta })
            }
            (Planned::No, _) => self.push(recorder, &Operation::Refresh { path: record.path }),
            _ => Ok(()),
        }
    }
}

/// The first of an inode's names, in key order.
struct First {
    path: FilePath,
    planned: Planned,
}

/// Has a path a step of its own?
enum Planned {
    No,
    /// It gets new content, and this metadata.
    File(Meta),
    Otherwise,
}

/// The steps that were recorded, on their way into the plan.
struct Steps<'a> {
    placement: &'a Placement,
    draft: PlanReader,
    next: Option<Operation>,
}

impl<'a> Steps<'a> {
    fn open(placement: &'a Placement) -> Result<Self, PlaceError> {
        let damaged = |error: ReadError| placement.damaged_plan(error);
        let mut draft = PlanReader::open(&placement.staging, DRAFT).map_err(damaged)?;
        let next = draft.next_step().map_err(damaged)?;
        Ok(Self { placement, draft, next })
    }

    /// Copies the steps up to those of `path`, and says what they do with it.
    fn copy_through(&mut self, path: &FilePath, plan: &mut Recorder) -> Result<Planned, PlaceError> {
        let mut planned = Planned::No;
        while let Some(step) = self.next.take_if(|step| step.path() <= path) {
            match &step {
                Operation::RestoreDirectory { .. } => {}
                Operation::Put { path: at, meta } if at == path && matches!(meta.kind, FileKind::File { .. }) => {
                    planned = Planned::File(meta.clone());
                }
                Operation::Xattrs { path: at, .. } if at == path && !matches!(planned, Planned::No) => {}
                step if step.path() == path => planned = Planned::Otherwise,
                _ => {}
            }
            self.copy(&step, plan)?;
        }
        Ok(planned)
    }

    fn copy_rest(mut self, plan: &mut Recorder) -> Result<(), PlaceError> {
        while let Some(step) = self.next.take() {
            self.copy(&step, plan)?;
        }
        Ok(())
    }

    fn copy(&mut self, step: &Operation, plan: &mut Recorder) -> Result<(), PlaceError> {
        self.placement.push(plan, step)?;
        self.next = self.draft.next_step().map_err(|error| self.placement.damaged_plan(error))?;
        Ok(())
    }
}

/// Where as many names are made as a file will have.
const TRIAL: &[u8] = b"trial";

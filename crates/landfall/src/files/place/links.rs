//! Owns what a snapshot does not say about hard links: when the first name of a file gets new content, so do the others.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::files::{FileKind, FilePath, Meta};

use super::error::PlaceError;
use super::operation::{Operation, PlanReader, PlanWriter};
use super::record::Recorder;
use super::{DRAFT, PLAN, Placement};
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

//! Owns marking: what roots need, and the bases of every patch that stays.

use landfall_core::ChunkId;

use crate::bitmap::Inserted;
use crate::error::StoreError;
use crate::index::{Location, PackStage};
use crate::lock::{lock, read};
use crate::lookup::Purpose;
use crate::pack::PackNumber;
use crate::sessions::{FrameSet, PackFrames};
use crate::store::Shared;

use super::{Below, Collection, Reference, list};

/// What roots need.
#[derive(Default)]
pub(super) struct Marks {
    /// Frames that were reached from roots, and what is below them.
    pub(super) reached: FrameSet,
    /// Frames that only serve as bases: nothing below them is needed.
    pub(super) bases: FrameSet,
    chunks: u64,
}

impl Marks {
    pub(super) fn of(&self, number: PackNumber) -> impl Iterator<Item = &PackFrames> {
        [&self.reached, &self.bases].into_iter().filter_map(move |frames| frames.of(number))
    }
}

impl Collection<'_> {
    pub(super) fn mark(&mut self, marks: &mut Marks) -> Result<(), StoreError> {
        self.mark_reachable(marks)?;
        self.mark_bases(marks)?;
        self.report.chunks_live = marks.chunks;
        Ok(())
    }

    /// Walks from the roots downwards, depth first: the stack holds one node's references per level.
    fn mark_reachable(&mut self, marks: &mut Marks) -> Result<(), StoreError> {
        let mut stack = self.all_roots()?;
        let mut found = Vec::new();
        while let Some(id) = stack.pop() {
            if self.mark_reached(id, marks)? != Inserted::New {
                continue;
            }
            self.references_of(id, &mut found)?;
            // The last one is popped first: reversed, nodes are visited in key order.
            for reference in found.drain(..).rev() {
                match reference.below {
                    Below::References => stack.push(reference.id),
                    Below::Nothing => drop(self.mark_reached(reference.id, marks)?),
                }
            }
        }
        Ok(())
    }

    fn all_roots(&self) -> Result<Vec<ChunkId>, StoreError> {
        let mut roots = self.roots.to_vec();
        roots.extend(self.shared.control.pins()?.into_iter().map(|pin| pin.manifest));
        let leases = self.shared.control.leases()?;
        roots.extend(leases.into_iter().filter(|lease| lease.expires > self.now).map(|lease| lease.manifest));
        Ok(roots)
    }

    /// Marks one chunk; one that is not here is counted and has nothing below it.
    fn mark_reached(&mut self, id: ChunkId, marks: &mut Marks) -> Result<Inserted, StoreError> {
        let Some(location) = self.find(id)? else { return Ok(Inserted::Again) };
        let inserted = marks.reached.insert(location);
        marks.chunks += u64::from(inserted == Inserted::New && !marks.bases.contains(location));
        Ok(inserted)
    }

    fn mark_base(&mut self, id: ChunkId, marks: &mut Marks) -> Result<(), StoreError> {
        let Some(location) = self.find(id)? else { return Ok(()) };
        if !marks.reached.contains(location) {
            marks.chunks += u64::from(marks.bases.insert(location) == Inserted::New);
        }
        Ok(())
    }

    fn find(&mut self, id: ChunkId) -> Result<Option<Location>, StoreError> {
        let found = self.shared.locate(id, Purpose::Look)?;
        self.report.references_missing += u64::from(found.is_none());
        Ok(found)
    }

    fn references_of(&mut self, id: ChunkId, found: &mut Vec<Reference>) -> Result<(), StoreError> {
        let frame = match self.shared.get(id, Purpose::Look) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(frame)) => {
                list(&mut self.report.damaged, frame);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.reach.references(id, &frame, found).is_err() {
            found.clear();
            list(&mut self.report.undecodable, id);
        }
        Ok(())
    }

    /// Marks the bases of every patch that stays, until nothing changes: a base may be a patch in an earlier pack.
    fn mark_bases(&mut self, marks: &mut Marks) -> Result<(), StoreError> {
        loop {
            let before = marks.chunks;
            let packs: Vec<_> = {
                let index = read(&self.shared.index);
                let may_hold_patches = |stage, bases| stage == PackStage::Open || bases > 0;
                let packs = index.packs.iter().filter(|(_, pack)| may_hold_patches(pack.stage, pack.bases));
                packs.map(|(number, pack)| (*number, pack.stage)).collect()
            };
            for (number, stage) in packs {
                for (ordinal, base) in self.shared.bases_of(number)? {
                    if self.stays(number, stage, ordinal, marks) {
                        self.mark_base(base, marks)?;
                    }
                }
            }
            if marks.chunks == before {
                return Ok(());
            }
        }
    }

    fn stays(&self, number: PackNumber, stage: PackStage, ordinal: u32, marks: &Marks) -> bool {
        let is_marked = marks.of(number).any(|frames| frames.ordinals.contains(ordinal));
        is_marked
            || !self.is_candidate(stage)
            || lock(&self.shared.sessions).asked_of(number).any(|frames| frames.ordinals.contains(ordinal))
    }
}

impl Shared {
    /// Ordinal and base of every patch in a pack, be it open, on its way or sealed.
    fn bases_of(&self, number: PackNumber) -> Result<Vec<(u32, ChunkId)>, StoreError> {
        let class = read(&self.index).packs.get(&number).map(|pack| pack.class);
        let Some(class) = class else { return Ok(Vec::new()) };
        if let Some(pack) = lock(self.writer(class)).as_ref().filter(|pack| pack.number() == number) {
            return Ok(pack.bases().to_vec());
        }
        Ok(self.contents(number)?.footer(number).bases)
    }
}

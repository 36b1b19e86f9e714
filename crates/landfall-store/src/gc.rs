//! Owns garbage collection: marking what pins, leases and sessions need, and emptying packs that hold little of it.
//!
//! It never takes a pack that is open or that was sealed after the oldest open session began. A pack goes in two steps:
//! what is alive in it is copied and made durable, then the file is removed. What chunks refer to is the caller's
//! knowledge ([`Reach`]); bases of patches are the store's.

use std::sync::atomic::Ordering;

use landfall_core::ChunkId;

use crate::bitmap::{Bitmap, Inserted};
use crate::control::UnixMillis;
use crate::error::{DamagedFrame, StoreError};
use crate::frame::{StoredFrame, read_frame};
use crate::index::{Location, PackStage, PackState};
use crate::index_work::Contents;
use crate::lock::{lock, read, write};
use crate::lookup::{Purpose, place_of};
use crate::pack::{FooterEntry, NewFrame, PackNumber};
use crate::recovery::{DAMAGED_LISTED_MAX, Recovery};
use crate::sessions::{FrameSet, PackFrames, Session, Sessions};
use crate::store::{IfYoung, Shared, Store};

/// Knows what chunks refer to.
pub trait Reach {
    /// Adds every chunk that the decoded `frame` refers to. The callee may read from the store.
    ///
    /// # Errors
    /// [`Undecodable`] if the frame makes no sense. Nothing is swept then, because what hangs below it is unknown:
    /// [`Store::forget`] the chunk, fetch it again, or unpin what needs it.
    fn references(&self, id: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable>;
}

/// A frame that cannot be decoded to what its id promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame cannot be decoded")]
pub struct Undecodable;

/// A chunk that another chunk refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The chunk.
    pub id: ChunkId,
    /// Whether it refers to others in turn.
    pub below: Below,
}

/// Whether a chunk must be read to know what it keeps alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// It refers to nothing: data, or a leaf without chunk references.
    Nothing,
    /// It may refer to other chunks.
    References,
}

/// How much one collection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectBudget {
    /// Live bytes that may be copied out of emptied packs. Packs without any live byte go in any case.
    pub copy_bytes_max: u64,
}

impl Default for CollectBudget {
    fn default() -> Self {
        Self { copy_bytes_max: u64::MAX }
    }
}

/// What a collection found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectReport {
    /// How it ended.
    pub outcome: CollectOutcome,
    /// Chunks that roots need, as far as they are here.
    pub chunks_live: u64,
    /// References to chunks that are not here (yet).
    pub references_missing: u64,
    /// Damaged frames that were met, up to 1024 of them.
    pub damaged: Vec<DamagedFrame>,
    /// Chunks that [`Reach`] could not decode, up to 1024 of them.
    pub undecodable: Vec<ChunkId>,
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Bytes of those packs.
    pub bytes_removed: u64,
    /// Bytes that were copied out of them.
    pub bytes_copied: u64,
    /// Packs that would be worth emptying but did not fit the budget.
    pub packs_left: u64,
}

/// How a collection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CollectOutcome {
    /// Everything worth removing was removed, as far as the budget went.
    #[default]
    Done,
    /// Damage among what roots need hides what else they need: nothing was removed. The damaged chunks count as absent
    /// from now on; fetch them again before the next collection.
    DamageFound,
    /// New pins came faster than they could be followed: nothing was removed. Collect again.
    Overtaken,
}

impl Store {
    /// Removes what no pin, lease, session or root of `roots` needs.
    ///
    /// Leases that have expired at `now` keep nothing. The store works on meanwhile; one collection runs at a time.
    pub fn collect(
        &self,
        roots: &[ChunkId],
        reach: &dyn Reach,
        now: UnixMillis,
        budget: CollectBudget,
    ) -> Result<CollectReport, StoreError> {
        let shared = self.shared();
        shared.check_sync()?;
        let _alone = lock(&shared.collecting);
        lock(&shared.sessions).rotate();
        // Its own session marks the time: packs that are sealed from now on are left alone.
        let _session = Session::begin(&shared.sessions);
        let horizon = lock(&shared.sessions).oldest().unwrap_or_default();
        let mut collection = Collection { shared, reach, roots, now, horizon, report: CollectReport::default() };
        collection.run(budget)?;
        Ok(collection.report)
    }
}

struct Collection<'a> {
    shared: &'a Shared,
    reach: &'a dyn Reach,
    roots: &'a [ChunkId],
    now: UnixMillis,
    /// Packs that were sealed from this tick on are not touched.
    horizon: u64,
    report: CollectReport,
}

/// What roots need.
#[derive(Default)]
struct Marks {
    /// Frames that were reached from roots, and what is below them.
    reached: FrameSet,
    /// Frames that only serve as bases: nothing below them is needed.
    bases: FrameSet,
    chunks: u64,
}

impl Marks {
    fn of(&self, number: PackNumber) -> impl Iterator<Item = &PackFrames> {
        [&self.reached, &self.bases].into_iter().filter_map(move |frames| frames.of(number))
    }
}

impl Collection<'_> {
    fn run(&mut self, budget: CollectBudget) -> Result<(), StoreError> {
        let mut marks = Marks::default();
        for _ in 0..ATTEMPTS_MAX {
            let pins_made = self.shared.pins_made.load(Ordering::SeqCst);
            // What is marked stays marked, so that starting over costs only what the new pins need.
            self.mark(&mut marks)?;
            if !self.report.damaged.is_empty() || !self.report.undecodable.is_empty() {
                self.report.outcome = CollectOutcome::DamageFound;
                return Ok(());
            }
            let victims = self.choose(&marks, budget);
            if self.freeze(&victims, &marks, pins_made) == Freeze::Done {
                return self.sweep(&victims);
            }
        }
        self.report.outcome = CollectOutcome::Overtaken;
        Ok(())
    }

    fn mark(&mut self, marks: &mut Marks) -> Result<(), StoreError> {
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

    fn is_candidate(&self, stage: PackStage) -> bool {
        matches!(stage, PackStage::Sealed { at } if at < self.horizon)
    }

    /// Chooses the packs to empty: those with the least live bytes first, as far as the budget goes.
    fn choose(&mut self, marks: &Marks, budget: CollectBudget) -> Vec<PackNumber> {
        let index = read(&self.shared.index);
        let sessions = lock(&self.shared.sessions);
        let candidates = index.packs.iter().filter(|(_, pack)| self.is_candidate(pack.stage));
        let small_bytes = self.shared.options.pack_bytes_target / SMALL_PACK_SHARE;
        let small_count = candidates.clone().filter(|(_, pack)| pack.file_bytes < small_bytes).count();
        let mut victims = Vec::new();
        for (number, pack) in candidates {
            let live_bytes = live_bytes(*number, pack, marks, &sessions);
            let is_small = small_count >= SMALL_PACKS_MAX && pack.file_bytes < small_bytes;
            if is_small || live_bytes * 2 < u64::from(pack.file_bytes) {
                victims.push((live_bytes, *number));
            }
        }
        drop(sessions);
        drop(index);
        victims.sort_unstable();
        let mut copied = 0_u64;
        let worth = victims.len();
        let fits = |(live_bytes, number): (u64, PackNumber)| {
            copied = copied.saturating_add(live_bytes);
            (copied <= budget.copy_bytes_max || live_bytes == 0).then_some(number)
        };
        let chosen: Vec<_> = victims.into_iter().map_while(fits).collect();
        self.report.packs_left = (worth - chosen.len()) as u64;
        chosen
    }

    /// From this instant on the victims hold only what is marked or asked for; all else is gone for everybody.
    fn freeze(&self, victims: &[PackNumber], marks: &Marks, pins_made: u64) -> Freeze {
        let mut index = write(&self.shared.index);
        if self.shared.pins_made.load(Ordering::SeqCst) != pins_made {
            return Freeze::Overtaken;
        }
        let sessions = lock(&self.shared.sessions);
        for number in victims {
            let live = live_frames(*number, marks, &sessions);
            if let Some(pack) = index.packs.get_mut(number) {
                pack.leaving = Some(live);
            }
        }
        index.generation += 1;
        Freeze::Done
    }

    fn sweep(&mut self, victims: &[PackNumber]) -> Result<(), StoreError> {
        let bytes_before = self.bytes_of(victims);
        let copied = victims.iter().try_for_each(|number| self.copy_live(*number)).and_then(|()| self.shared.sync());
        if let Err(error) = copied {
            self.unfreeze(victims);
            return Err(error);
        }
        self.report.packs_removed = victims.len() as u64;
        self.report.bytes_removed = bytes_before;
        if victims.is_empty() { Ok(()) } else { self.shared.remove_packs(victims) }
    }

    fn bytes_of(&self, packs: &[PackNumber]) -> u64 {
        let index = read(&self.shared.index);
        packs.iter().filter_map(|number| index.packs.get(number)).map(|pack| u64::from(pack.file_bytes)).sum()
    }

    fn unfreeze(&self, victims: &[PackNumber]) {
        let mut index = write(&self.shared.index);
        for number in victims {
            if let Some(pack) = index.packs.get_mut(number) {
                pack.leaving = None;
            }
        }
        index.generation += 1;
    }

    fn copy_live(&mut self, number: PackNumber) -> Result<(), StoreError> {
        if self.leaving_frames(number).is_empty() {
            return Ok(());
        }
        let Contents::Footer(footer) = self.shared.contents(number)? else {
            return self.copy_all(number);
        };
        for (ordinal, entry) in footer.entries.iter().enumerate() {
            let location = Location::new(number, ordinal as u32, entry);
            if self.must_copy(entry.id, location) {
                self.copy(entry, location)?;
            }
        }
        Ok(())
    }

    fn leaving_frames(&self, number: PackNumber) -> Bitmap {
        let index = read(&self.shared.index);
        index.packs.get(&number).and_then(|pack| pack.leaving.clone()).unwrap_or_default()
    }

    /// A put may have written the chunk again since the victims were frozen.
    fn must_copy(&self, id: ChunkId, location: Location) -> bool {
        let index = read(&self.shared.index);
        let Some(pack) = index.packs.get(&location.pack) else { return false };
        let is_live = pack.leaving.as_ref().is_some_and(|live| live.contains(location.ordinal));
        let is_broken = pack.broken.as_ref().is_some_and(|broken| broken.contains(location.ordinal));
        let young = index.young(id).and_then(|young| index.packs.get(&young.pack));
        let is_written_again = young.is_some_and(|pack| pack.stage == PackStage::Open);
        is_live && !is_broken && !is_written_again
    }

    fn copy(&mut self, entry: &FooterEntry, location: Location) -> Result<(), StoreError> {
        let bytes = match self.shared.read(entry.id, location, location.frame_bytes) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(frame)) => {
                list(&mut self.report.damaged, frame);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some((header, frame)) = read_frame(bytes, place_of(location)).filter(|(header, _)| header.id == entry.id)
        else {
            if let StoreError::Damaged(frame) = self.shared.damaged(entry.id, location) {
                list(&mut self.report.damaged, frame);
            }
            return Ok(());
        };
        self.shared.append(&NewFrame { header, payload: &frame.bytes }, IfYoung::Write)?;
        self.report.bytes_copied += u64::from(location.frame_bytes);
        Ok(())
    }

    /// The footer is damaged, so ordinals say nothing: everything that can still be read moves.
    fn copy_all(&mut self, number: PackNumber) -> Result<(), StoreError> {
        let mut recovery = Recovery::default();
        self.shared.copy_whole_frames(number, &mut recovery)?;
        recovery.damaged.into_iter().for_each(|frame| list(&mut self.report.damaged, frame));
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freeze {
    Done,
    /// There are new pins: mark again.
    Overtaken,
}

impl Shared {
    /// Ordinal and base of every patch in a pack, be it open, on its way or sealed.
    fn bases_of(&self, number: PackNumber) -> Result<Vec<(u32, ChunkId)>, StoreError> {
        let class = read(&self.index).packs.get(&number).map(|pack| pack.class);
        let Some(class) = class else { return Ok(Vec::new()) };
        if let Some(pack) = lock(self.writer(class)).pack.as_ref().filter(|pack| pack.number() == number) {
            return Ok(pack.bases().to_vec());
        }
        Ok(self.contents(number)?.footer(number).bases)
    }
}

fn live_frames(number: PackNumber, marks: &Marks, sessions: &Sessions) -> Bitmap {
    let mut live = Bitmap::default();
    for frames in marks.of(number).chain(sessions.asked_of(number)) {
        live.add_all(&frames.ordinals);
    }
    live
}

/// Live bytes of a pack: exact for what was reached from roots, by the mean for the rest.
fn live_bytes(number: PackNumber, pack: &PackState, marks: &Marks, sessions: &Sessions) -> u64 {
    let (reached, reached_bytes) =
        marks.reached.of(number).map_or((0, 0), |frames| (frames.ordinals.count(), frames.bytes));
    let others = live_frames(number, marks, sessions).count() - reached;
    reached_bytes + others * u64::from(pack.file_bytes) / u64::from(pack.frames.max(1))
}

fn list<T>(listed: &mut Vec<T>, item: T) {
    if listed.len() < DAMAGED_LISTED_MAX {
        listed.push(item);
    }
}

/// Packs below this share of the target are merged, once there are this many.
const SMALL_PACK_SHARE: u32 = 4;
const SMALL_PACKS_MAX: usize = 8;
/// How often marking goes on because of new pins.
const ATTEMPTS_MAX: u32 = 8;

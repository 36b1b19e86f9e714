//! Owns garbage collection: marking what pins, leases and sessions need, and emptying packs that hold little of it.
//!
//! It never takes a pack that is open or that was sealed after the oldest open session began. A pack goes in two steps:
//! what is alive in it is copied and made durable, then the file is removed. What chunks refer to is the caller's
//! knowledge ([`Reach`]); bases of patches are the store's.

mod mark;
mod sweep;

use std::sync::atomic::Ordering;

use landfall_core::ChunkId;

use crate::control::UnixMillis;
use crate::error::{DamagedFrame, StoreError};
use crate::frame::StoredFrame;
use crate::index::PackStage;
use crate::lock::lock;
use crate::recovery::DAMAGED_LISTED_MAX;
use crate::sessions::Session;
use crate::store::{Shared, Store};

use mark::Marks;
use sweep::Freeze;

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
    /// Live bytes that may be copied out of emptied packs. Packs without any live byte go in any case. What only sessions
    /// asked for is counted by the mean length of its pack's frames.
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

    fn is_candidate(&self, stage: PackStage) -> bool {
        matches!(stage, PackStage::Sealed { at } if at < self.horizon)
    }
}

fn list<T>(listed: &mut Vec<T>, item: T) {
    if listed.len() < DAMAGED_LISTED_MAX {
        listed.push(item);
    }
}

/// How often marking goes on because of new pins.
const ATTEMPTS_MAX: u32 = 8;

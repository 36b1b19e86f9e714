//! Owns carrying over: what is here of a snapshot that is still being fetched is brought to a later position by the changes in memory, so that
//! a state which then moves on to the snapshot of that position has those leaves already.
//!
//! It makes no snapshot. What it makes has the ids that the others' leaves have, or nobody asks for it.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use landfall_core::keyed::Sealing;
use landfall_core::snapshot::Position;

use super::frozen::{Frozen, Pending, thread_named};
use super::merging::{Carried, merge_held};
use super::{CarryRefused, Keyed, SealError};

/// Carrying over, under way. It goes on whether or not anybody waits.
#[derive(Debug)]
pub struct CarryTicket(Pending<Result<u64, SealError>>);

impl CarryTicket {
    /// The position to which leaves are brought.
    pub fn position(&self) -> Position {
        self.0.position
    }

    /// Waits until it has ended, and says how many leaves were made.
    ///
    /// # Errors
    /// [`SealError`]: what was not made is fetched.
    pub fn wait(self) -> Result<u64, SealError> {
        self.0.wait()
    }
}

impl Keyed {
    /// Brings what is here of the snapshot below the state to the state's present position, on a thread: for a state that cannot seal, and
    /// moves on to the snapshot that others seal at this position. What was made is kept until all of a snapshot is here.
    ///
    /// # Errors
    /// [`CarryRefused`]; nothing changed.
    pub fn carry_over(self: &Arc<Self>) -> Result<CarryTicket, CarryRefused> {
        let base = self.lock_base();
        if !self.is_filling() {
            return Err(CarryRefused::NotFilling);
        }
        Ok(CarryTicket(self.freeze(base, thread_named("carry"), carry_frozen)?))
    }

    fn merge_what_is_here(&self, sealing: &mut Sealing, rebased_before: u64) -> Result<u64, SealError> {
        let writing = self.here.store.begin_session();
        let Carried { parts, merged, leaves } = merge_held(&self.here, &writing, sealing)?;
        tracing::info!(position = %sealing.position(), parts, merged, leaves, "carried over what is here");
        // Who completes or replaces the snapshot below the state holds the lock, and forgets what was carried over.
        let base = self.lock_base();
        if *base == rebased_before && self.is_filling() {
            *self.carried.lock().expect("no panic under the lock") = Some(writing);
        }
        Ok(leaves)
    }

    /// Nothing that was carried over is of use any more, or a snapshot keeps it.
    pub(super) fn forget_carried(&self) {
        self.carried.lock().expect("no panic under the lock").take();
    }
}

/// It does not give way as a seal does: changes pile up in memory, and what is not carried over is fetched again.
fn carry_frozen(frozen: Frozen, says: &SyncSender<Result<u64, SealError>>) {
    let Frozen { keyed, mut sealing, rebased_before } = frozen;
    let carried = keyed.merge_what_is_here(&mut sealing, rebased_before);
    // The changes are merged by a seal once all is here, unless the state has moved on already.
    let _ = keyed.write_state().abandon_seal(sealing);
    drop(keyed);
    // Nobody may be waiting.
    drop(says.send(carried));
}

//! Owns carrying over: what is here of a snapshot that is still being fetched is brought to a later position by the changes in memory, so that
//! a state which then moves on to the snapshot of that position has those leaves already.
//!
//! It makes no snapshot. What it makes has the ids that the others' leaves have, or nobody asks for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use landfall_core::keyed::Sealing;
use landfall_core::snapshot::Position;

use super::merging::{Carried, merge_held};
use super::{Extent, Keyed, SealError, SealRefused};

/// Carrying over, under way. It goes on whether or not anybody waits.
#[derive(Debug)]
pub struct CarryTicket {
    position: Position,
    ends: Receiver<Result<u64, SealError>>,
}

impl CarryTicket {
    /// The position to which leaves are brought.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits until it has ended, and says how many leaves and other nodes were made.
    ///
    /// # Errors
    /// [`SealError`]: what was not made is fetched.
    pub fn wait(self) -> Result<u64, SealError> {
        self.ends.recv().expect("the thread that carries over says how it ended")
    }
}

impl Keyed {
    /// Brings what is here of the snapshot below the state to the state's present position, on a thread: for a state that cannot seal, and
    /// moves on to the snapshot that others seal at this position. What was made is kept until all of a snapshot is here.
    ///
    /// # Errors
    /// [`SealRefused`] if the state could seal, a seal runs, some sections only are held here, or there is no thread to be had.
    pub fn carry_over(self: &Arc<Self>) -> Result<CarryTicket, SealRefused> {
        let rebased = self.lock_base();
        if self.sealed().is_none_or(|sealed| sealed.extent != Extent::Filling) {
            return Err(SealRefused::Whole);
        }
        let sealing = self.write_state().freeze()?;
        drop(rebased);
        let position = sealing.position();
        let (says, ends) = sync_channel(1);
        let (gives, takes) = sync_channel::<Sealing>(1);
        let keyed = self.clone();
        // It does not give way as a seal does: changes pile up in memory, and what is not carried over is fetched again.
        let run = move || {
            let Ok(mut sealing) = takes.recv() else { return };
            let carried = keyed.carry(&mut sealing);
            // The changes are merged by a seal once all is here, unless the state has moved on already.
            let _ = keyed.write_state().abandon_seal(sealing);
            drop(keyed);
            // Nobody may be waiting.
            drop(says.send(carried));
        };
        if let Err(error) = std::thread::Builder::new().name("carry".into()).spawn(run) {
            tracing::warn!(%error, "no thread for carrying over");
            let _ = self.write_state().abandon_seal(sealing);
            return Err(SealRefused::NoThread);
        }
        gives.send(sealing).expect("the thread waits for it");
        Ok(CarryTicket { position, ends })
    }

    fn carry(&self, sealing: &mut Sealing) -> Result<u64, SealError> {
        let writing = self.here.store.begin_session();
        let Carried { parts, merged, nodes } = merge_held(&self.here, &writing, sealing)?;
        tracing::info!(position = %sealing.position(), parts, merged, nodes, "carried over what is here");
        // The snapshot that has these nodes is not held yet.
        *self.carried.lock().expect("no panic under the lock") = Some(writing);
        Ok(nodes)
    }

    /// Nothing that was carried over is of use any more, or its snapshot keeps it.
    pub(super) fn forget_carried(&self) {
        self.carried.lock().expect("no panic under the lock").take();
    }
}

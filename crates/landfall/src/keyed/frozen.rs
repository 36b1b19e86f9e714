//! Owns that a frozen state is dealt with on a thread of its own, while writers go on, and that its changes wait for the next seal where
//! there is no thread.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, MutexGuard};

use landfall_core::keyed::{SealRefused, Sealing};
use landfall_core::snapshot::Position;

use super::Keyed;

/// A state as it was when it was frozen, on the thread that deals with it.
pub(super) struct Frozen {
    pub(super) keyed: Arc<Keyed>,
    pub(super) sealing: Sealing,
    /// How often the state had been re-based by then.
    pub(super) rebased_before: u64,
}

/// What the thread of a frozen state will say. It goes on whether or not anybody waits.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) position: Position,
    ends: Receiver<T>,
}

impl<T> Pending<T> {
    pub(super) fn wait(self) -> T {
        self.ends.recv().expect("the thread of a frozen state says how it ended")
    }
}

/// Why the state is not frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFrozen {
    Refused(SealRefused),
    NoThread,
}

/// What a thread runs.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread of this name.
pub(super) fn thread_named(name: &str) -> impl FnOnce(Work) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    |run| thread.spawn(run).map(drop)
}

impl Keyed {
    /// Freezes the state at its present position and has `deal` run with it on the thread that `spawn` starts. `base` is the lock under
    /// which the caller saw that this is the time for it.
    pub(super) fn freeze<T: Send + 'static>(
        self: &Arc<Self>,
        base: MutexGuard<'_, u64>,
        spawn: impl FnOnce(Work) -> io::Result<()>,
        deal: impl FnOnce(Frozen, &SyncSender<T>) + Send + 'static,
    ) -> Result<Pending<T>, NotFrozen> {
        let sealing = self.write_state().freeze().map_err(NotFrozen::Refused)?;
        let rebased_before = *base;
        drop(base);
        let position = sealing.position();
        let (says, ends) = sync_channel(1);
        // The thread gets the state once it runs: where there is none, the state is still here to be thawed.
        let (gives, takes) = sync_channel(1);
        let run = move || {
            if let Ok(frozen) = takes.recv() {
                deal(frozen, &says);
            }
        };
        if let Err(error) = spawn(Box::new(run)) {
            tracing::warn!(state = %self.name(), %error, "no thread for a frozen state");
            // A re-base meanwhile has put the changes where they belong already.
            let _ = self.write_state().abandon_seal(sealing);
            return Err(NotFrozen::NoThread);
        }
        let frozen = Frozen { keyed: self.clone(), sealing, rebased_before };
        assert!(gives.send(frozen).is_ok(), "the thread waits for the state");
        Ok(Pending { position, ends })
    }
}

//! Owns when a keyed state makes room in its store: once the store grew by a part of what it held after the last time. What is removed is
//! the store's to decide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use landfall_store::{CollectBudget, Store, StoreError};

use super::Keyed;
use crate::background::give_way;
use crate::member::collect;
use crate::source::LetGo;

/// Makes room on a thread of its own: nobody who waits for a seal or a join waits for that. The thread has ended when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes of the store's packs after the last collection; 0 before the first.
    pack_bytes_kept: Arc<AtomicU64>,
    collecting: Mutex<Option<JoinHandle<()>>>,
}

impl Room {
    /// Begins to make room if the store grew enough since the last time. What fails is only told, and what could not be removed now is removed
    /// another time: what nobody needs is still there then.
    fn make_if_worth(&self, store: &Arc<Store>) -> Made {
        let mut collecting = self.collecting.lock().expect("no panic under the lock");
        if collecting.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Made::AlreadyBegun;
        }
        if !self.is_worth(store) {
            return Made::NotWorth;
        }
        let (store, kept) = (store.clone(), self.pack_bytes_kept.clone());
        let work = move || {
            give_way();
            match collect_garbage(&store) {
                Ok(pack_bytes) => kept.store(pack_bytes, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "cannot make room; a later seal tries again"),
            }
        };
        match Builder::new().name("make-room".into()).spawn(work) {
            Ok(thread) => *collecting = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread to make room; a later seal tries again"),
        }
        Made::Begun
    }

    /// Whether it is worth looking for what nobody needs. To look is to walk all that is needed, so it costs as much as the state is large:
    /// done at every seal it would make the cost of a seal follow the state and not its changes.
    fn is_worth(&self, store: &Store) -> bool {
        store.stats().pack_bytes >= due_at(self.pack_bytes_kept.load(Ordering::Relaxed))
    }

    /// Waits for what began.
    fn wait(&self) {
        let begun = self.collecting.lock().expect("no panic under the lock").take();
        if begun.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("making room panicked; nothing that is needed was removed");
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.wait();
    }
}

/// Removes what nobody needs, and says how many bytes of packs there are then.
fn collect_garbage(store: &Store) -> Result<u64, StoreError> {
    collect(store, CollectBudget { copy_bytes_max: COLLECT_COPY_BYTES_MAX })?;
    Ok(store.stats().pack_bytes)
}

impl Keyed {
    /// Waits until nothing goes on behind: the making of room that a seal or a join began. For those who measure; nobody else need wait.
    pub fn wait_until_quiet(&self) {
        self.room.wait();
    }

    /// Begins to make room if something was let go and it is worth it.
    pub(super) fn make_room(&self, let_go: LetGo) {
        if let_go == LetGo::Some {
            self.room.make_if_worth(&self.here.store);
        }
    }
}

/// What became of the wish for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Begun,
    AlreadyBegun,
    NotWorth,
}

/// The bytes of packs at which a collection is worth its walk, if the last one left `kept`.
fn due_at(kept: u64) -> u64 {
    kept.saturating_add(kept / GROWTH_SHARE)
}

/// A store that grew by one part in so many of what it held is looked through: no more than about that much of its disk is held for nothing,
/// and what the walk costs is spread over that many bytes written.
const GROWTH_SHARE: u64 = 8;

/// What one collection may copy out of packs that hold little of use.
const COLLECT_COPY_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::super::alone::{keys, open, put};
    use super::*;

    #[test]
    fn a_store_that_did_not_grow_is_not_looked_through_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = open(directory.path());
        put(&state, 1, &keys(2000), "value");
        state.seal().unwrap().wait().unwrap();
        drop(state);
        // Only finished packs count; opening again finishes them.
        let state = open(directory.path());
        assert_eq!(state.room.make_if_worth(&state.here.store), Made::Begun);
        state.room.wait();
        assert_eq!(state.room.make_if_worth(&state.here.store), Made::NotWorth);
    }

    #[test]
    fn a_collection_is_due_after_growth_by_a_part() {
        assert_eq!([0, 80, 8 << 30].map(due_at), [0, 90, 9 << 30]);
        assert_eq!(due_at(u64::MAX), u64::MAX);
    }
}

//! Owns when a keyed state makes room in its store: once the store grew by a part of what it held after the last time. What is removed is
//! the store's to decide.

use std::sync::atomic::{AtomicU64, Ordering};

use landfall_store::{CollectBudget, Store, StoreError};

use super::Keyed;
use crate::member::collect;
use crate::source::LetGo;

/// Decides whether it is worth looking for what nobody needs. To look is to walk all that is needed, so it costs as much as the state is
/// large: done at every seal it would make the cost of a seal follow the state and not its changes.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes of the store's packs after the last collection; 0 before the first.
    pack_bytes_kept: AtomicU64,
}

impl Room {
    /// Makes room if the store grew enough since the last time.
    ///
    /// # Errors
    /// Those of [`Store::collect`]. What could not be removed now is removed another time.
    fn make_if_worth(&self, store: &Store) -> Result<Made, StoreError> {
        let kept = self.pack_bytes_kept.load(Ordering::Relaxed);
        if store.stats().pack_bytes < due_at(kept) {
            return Ok(Made::NotWorth);
        }
        collect(store, CollectBudget { copy_bytes_max: COLLECT_COPY_BYTES_MAX })?;
        self.pack_bytes_kept.store(store.stats().pack_bytes, Ordering::Relaxed);
        Ok(Made::Room)
    }
}

impl Keyed {
    /// Makes room if something was let go and it is worth it. What fails is only told: what nobody needs is still there the next time.
    pub(super) fn make_room(&self, let_go: LetGo) {
        if let_go == LetGo::Some
            && let Err(error) = self.room.make_if_worth(&self.here.store)
        {
            tracing::warn!(%error, "cannot make room; the next seal tries again");
        }
    }
}

/// Whether a collection ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Room,
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
    use bytes::Bytes;

    use super::super::alone::{open, put};
    use super::*;

    #[test]
    fn a_store_that_did_not_grow_is_not_looked_through_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = open(directory.path());
        let keys: Vec<_> = (0..2000_u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
        put(&state, 1, &keys, "value");
        state.seal().unwrap().wait().unwrap();
        drop(state);
        // Only finished packs count; opening again finishes them.
        let state = open(directory.path());
        assert_eq!(state.room.make_if_worth(&state.here.store).unwrap(), Made::Room);
        assert_eq!(state.room.make_if_worth(&state.here.store).unwrap(), Made::NotWorth);
    }

    #[test]
    fn a_collection_is_due_after_growth_by_a_part() {
        assert_eq!([0, 80, 8 << 30].map(due_at), [0, 90, 9 << 30]);
        assert_eq!(due_at(u64::MAX), u64::MAX);
    }
}

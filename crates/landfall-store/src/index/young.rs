//! Owns entries that no run holds yet. They stand in parts, each behind a lock of its own, so that a new entry keeps nobody from the rest.

use std::collections::HashMap;
use std::sync::Mutex;

use landfall_core::ChunkId;

use crate::lock::lock;

use super::Location;

/// Young entries: where chunks are that were put lately.
#[derive(Debug, Default)]
pub(crate) struct Young([Mutex<HashMap<ChunkId, Location>>; PARTS]);

impl Young {
    pub(crate) fn with_capacity(entries: usize) -> Self {
        // Ids are hashes, so parts differ little in size.
        let part = entries.div_ceil(PARTS) + entries / (8 * PARTS);
        Self(std::array::from_fn(|_| Mutex::new(HashMap::with_capacity(part))))
    }

    pub(super) fn get(&self, id: ChunkId) -> Option<Location> {
        lock(self.part(id)).get(&id).copied()
    }

    pub(super) fn insert(&self, id: ChunkId, location: Location) {
        lock(self.part(id)).insert(id, location);
    }

    /// Adds an entry, unless there is one that `stays` beside it.
    pub(super) fn insert_unless(&self, id: ChunkId, location: Location, stays: impl FnOnce(Location) -> bool) {
        let mut part = lock(self.part(id));
        if !part.get(&id).is_some_and(|known| stays(*known)) {
            part.insert(id, location);
        }
    }

    pub(super) fn retain(&self, is_kept: impl Fn(Location) -> bool) {
        self.0.iter().for_each(|part| lock(part).retain(|_, location| is_kept(*location)));
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| lock(part).len()).sum()
    }

    /// All entries that are wanted, in no order.
    pub(super) fn list(&self, is_wanted: impl Fn(Location) -> bool) -> Vec<(ChunkId, Location)> {
        let mut listed = Vec::new();
        for part in &self.0 {
            let part = lock(part);
            listed.extend(part.iter().filter(|(_, location)| is_wanted(**location)).map(|(id, at)| (*id, *at)));
        }
        listed
    }

    fn part(&self, id: ChunkId) -> &Mutex<HashMap<ChunkId, Location>> {
        &self.0[usize::from(id.as_bytes()[0]) % PARTS]
    }
}

/// Far more than threads that look something up at a time.
const PARTS: usize = 16;

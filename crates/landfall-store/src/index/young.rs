//! Owns entries that no run holds yet, in parts. Where entries are added each part has a lock of its own, so that a new one keeps nobody from
//! the rest; those on their way into a run do not change, and have none.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use landfall_core::ChunkId;

use crate::lock::lock;

use super::Location;

type Part = HashMap<ChunkId, Location>;

/// Young entries: where chunks are that were put lately.
#[derive(Debug, Default)]
pub(crate) struct Young([Mutex<Part>; PARTS]);

impl Young {
    pub(crate) fn with_capacity(entries: usize) -> Self {
        // Ids are hashes, so parts differ little in size.
        let part = entries.div_ceil(PARTS) + entries / (8 * PARTS);
        Self(std::array::from_fn(|_| Mutex::new(Part::with_capacity(part))))
    }

    pub(super) fn get(&self, id: ChunkId) -> Option<Location> {
        lock(self.part(id)).get(&id).copied()
    }

    pub(super) fn insert(&self, id: ChunkId, location: Location) {
        lock(self.part(id)).insert(id, location);
    }

    pub(super) fn insert_if_absent(&self, id: ChunkId, location: Location) {
        lock(self.part(id)).entry(id).or_insert(location);
    }

    pub(super) fn retain(&self, is_kept: impl Fn(Location) -> bool) {
        self.0.iter().for_each(|part| lock(part).retain(|_, location| is_kept(*location)));
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| lock(part).len()).sum()
    }

    /// No entry is added from now on.
    pub(super) fn ripen(self) -> Ripening {
        Ripening(self.0.map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    fn part(&self, id: ChunkId) -> &Mutex<Part> {
        &self.0[place(id)]
    }
}

/// Young entries that are on their way into a run. Nobody changes them, so nobody waits for who reads them.
#[derive(Debug)]
pub(super) struct Ripening([Part; PARTS]);

impl Ripening {
    pub(super) fn get(&self, id: ChunkId) -> Option<Location> {
        self.0[place(id)].get(&id).copied()
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChunkId, Location)> {
        self.0.iter().flatten().map(|(id, location)| (*id, *location))
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Part::len).sum()
    }
}

/// The part in which a chunk's entry stands.
fn place(id: ChunkId) -> usize {
    usize::from(id.as_bytes()[0]) % PARTS
}

/// Far more than threads that look something up at a time.
const PARTS: usize = 16;

//! Owns the account of what a joiner fetched: nothing that was durable here is fetched again after a crash.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::ChunkId;

use crate::checks::{Violation, check};

/// What came, over all lives of a member.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Was durable before the last crash, and is here.
    of_earlier_lives: BTreeSet<ChunkId>,
    /// Came in this life, and would survive a power cut.
    durable: BTreeSet<ChunkId>,
    /// Came since the last sync.
    unsynced: BTreeMap<ChunkId, u64>,
    /// Bytes that came for the first time, or again after a power cut took what was not synced.
    pub(super) bytes: u64,
    /// Bytes that came twice in one life: a read that cannot wait fetches what the bulk is about to bring, and late requests are asked
    /// twice.
    pub(super) bytes_again: u64,
    /// Bytes that power cuts may have taken.
    pub(super) bytes_lost: u64,
}

/// How a chunk was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedBy {
    /// By its id, or its place in a leaf.
    Name,
    /// As a part of the way to a key, of which all comes that lies below the first node which is missing.
    Way,
}

impl Fetched {
    /// A chunk came.
    pub(super) fn came(&mut self, id: ChunkId, bytes: u64, asked: AskedBy) -> Result<(), Violation> {
        let was_here = self.of_earlier_lives.contains(&id);
        check(asked == AskedBy::Way || !was_here, || format!("{id} was durable here, and is fetched again"))?;
        if was_here || self.durable.contains(&id) || self.unsynced.contains_key(&id) {
            self.bytes_again += bytes;
        } else {
            self.bytes += bytes;
            self.unsynced.insert(id, bytes);
        }
        Ok(())
    }

    /// How many chunks the next power cut may take.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Everything that came is durable.
    pub(super) fn synced(&mut self) {
        self.durable.extend(std::mem::take(&mut self.unsynced).into_keys());
    }

    /// The power went, or the process died.
    pub(super) fn crashed(&mut self) {
        self.bytes_lost += self.unsynced.values().sum::<u64>();
        self.unsynced.clear();
        self.of_earlier_lives.append(&mut self.durable);
    }

    /// After garbage collection: what no snapshot needs that is kept may be gone, and be needed again.
    pub(super) fn keep(&mut self, mut is_here: impl FnMut(ChunkId) -> bool) {
        self.durable.retain(|&id| is_here(id));
        self.of_earlier_lives.retain(|&id| is_here(id));
    }
}

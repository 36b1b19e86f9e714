//! Owns what garbage collection must leave alone because somebody is at work: sessions, and the chunks they asked for.
//!
//! A session protects two things: packs that were sealed after it began (what it wrote), and every chunk of an older
//! pack that anybody put, asked for or read while it was open (what it found here and will refer to).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::bitmap::{Bitmap, Inserted};
use crate::index::Location;
use crate::lock::lock;
use crate::pack::PackNumber;

/// Work in progress: a transfer, a seal, a snapshot. It ends when this is dropped.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Mutex<Sessions>>,
    began: u64,
}

impl Session {
    pub(crate) fn begin(sessions: &Arc<Mutex<Sessions>>) -> Self {
        let began = lock(sessions).begin();
        Self { sessions: Arc::clone(sessions), began }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.sessions).end(self.began);
    }
}

/// The frames of some packs, with their bytes.
#[derive(Debug, Default)]
pub(crate) struct FrameSet {
    packs: BTreeMap<PackNumber, PackFrames>,
}

#[derive(Debug, Default)]
pub(crate) struct PackFrames {
    pub(crate) ordinals: Bitmap,
    pub(crate) bytes: u64,
}

impl FrameSet {
    pub(crate) fn insert(&mut self, location: Location) -> Inserted {
        let pack = self.packs.entry(location.pack).or_default();
        let inserted = pack.ordinals.insert(location.ordinal);
        if inserted == Inserted::New {
            pack.bytes += u64::from(location.frame_bytes);
        }
        inserted
    }

    pub(crate) fn of(&self, pack: PackNumber) -> Option<&PackFrames> {
        self.packs.get(&pack)
    }

    fn memory_bytes(&self) -> u64 {
        self.packs.values().map(|pack| pack.ordinals.memory_bytes() + size_of::<PackFrames>() as u64).sum()
    }
}

/// All open sessions of a store, and its clock, which ticks when something begins or is sealed.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    tick: u64,
    /// The ticks at which the open sessions began; no two are equal.
    open: BTreeSet<u64>,
    /// Frames asked for since the last rotation, and in the time between the last two.
    asked: FrameSet,
    asked_before: FrameSet,
    rotated: u64,
}

impl Sessions {
    pub(crate) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn begin(&mut self) -> u64 {
        let began = self.tick();
        self.open.insert(began);
        began
    }

    fn end(&mut self, began: u64) {
        self.open.remove(&began);
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// When the oldest open session began.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.open.first().copied()
    }

    pub(crate) fn ask(&mut self, location: Location) {
        self.asked.insert(location);
    }

    /// Forgets frames that were asked for only by sessions that have ended.
    pub(crate) fn rotate(&mut self) {
        let Some(oldest) = self.oldest() else {
            self.asked = FrameSet::default();
            self.asked_before = FrameSet::default();
            return;
        };
        if oldest > self.rotated {
            self.asked_before = std::mem::take(&mut self.asked);
            self.rotated = self.tick();
        }
    }

    /// The frames of `pack` that open sessions asked for.
    pub(crate) fn asked_of(&self, pack: PackNumber) -> impl Iterator<Item = &PackFrames> {
        [&self.asked, &self.asked_before].into_iter().filter_map(move |frames| frames.of(pack))
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.asked.memory_bytes() + self.asked_before.memory_bytes()
    }
}

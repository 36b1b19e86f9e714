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

    pub(crate) fn is_of(&self, sessions: &Arc<Mutex<Sessions>>) -> bool {
        Arc::ptr_eq(&self.sessions, sessions)
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

    pub(crate) fn contains(&self, location: Location) -> bool {
        self.of(location.pack).is_some_and(|frames| frames.ordinals.contains(location.ordinal))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ordinal: u32) -> Location {
        Location { pack: PackNumber(1), offset: 0, frame_bytes: 10, ordinal, has_base: false }
    }

    fn is_asked(sessions: &Arc<Mutex<Sessions>>, ordinal: u32) -> bool {
        lock(sessions).asked_of(PackNumber(1)).any(|frames| frames.ordinals.contains(ordinal))
    }

    #[test]
    fn what_a_session_asked_for_is_kept_as_long_as_it_is_open() {
        let sessions = Arc::default();
        let session = Session::begin(&sessions);
        lock(&sessions).ask(frame(3));
        for _ in 0..4 {
            lock(&sessions).rotate();
            assert!(is_asked(&sessions, 3));
        }
        drop(session);
        lock(&sessions).rotate();
        assert!(!is_asked(&sessions, 3));
    }

    #[test]
    fn sessions_that_overlap_for_ever_do_not_keep_what_the_ended_ones_asked_for() {
        let sessions = Arc::default();
        let mut open = Session::begin(&sessions);
        for ordinal in 0..20 {
            lock(&sessions).ask(frame(ordinal));
            open = {
                let next = Session::begin(&sessions);
                lock(&sessions).rotate();
                drop(open);
                next
            };
            lock(&sessions).rotate();
        }
        assert!(!is_asked(&sessions, 0) && !is_asked(&sessions, 15));
        assert!(is_asked(&sessions, 19));
        drop(open);
    }

    #[test]
    fn counts_the_bytes_of_a_frame_once() {
        let mut frames = FrameSet::default();
        assert_eq!(frames.insert(frame(1)), Inserted::New);
        assert_eq!(frames.insert(frame(1)), Inserted::Again);
        assert_eq!(frames.of(PackNumber(1)).map(|frames| frames.bytes), Some(10));
    }
}

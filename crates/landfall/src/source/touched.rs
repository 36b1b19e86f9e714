//! Owns the sampling of what readers of a state touch here, so that a joiner can fetch that first. It never slows a reader down: most
//! reads are not looked at.

use std::cell::Cell;
use std::sync::Mutex;

use landfall_core::join::{Touch, Touches};

/// One read of so many on each thread is looked at.
const SAMPLED_EVERY: u32 = 64;

thread_local! {
    static READS: Cell<u32> = const { Cell::new(0) };
}

/// What was touched here lately.
#[derive(Default)]
pub(crate) struct Touched {
    sampled: Mutex<Touches>,
}

impl Touched {
    /// Somebody reads at `key`.
    pub(crate) fn note(&self, section: u16, key: &[u8]) {
        let reads = READS.get().wrapping_add(1);
        READS.set(reads);
        if reads.is_multiple_of(SAMPLED_EVERY) {
            self.sampled.lock().expect("no panic under the lock").note(section.into(), key);
        }
    }

    /// What was touched last, the newest first.
    pub(super) fn newest(&self, count_max: usize) -> Vec<Touch> {
        self.sampled.lock().expect("no panic under the lock").newest(count_max)
    }
}

//! Owns the member's clock: the one place that turns the machine's time into the core's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use landfall_core::Time;

/// Counts from the moment it was made; never goes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// A clock that was made so long ago.
    #[cfg(test)]
    pub(crate) fn started_before(ago: std::time::Duration) -> Self {
        Self { began: Instant::now().checked_sub(ago).expect("the machine runs for longer") }
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Seconds since 1970 by the machine's wall clock, which may jump: for people and for leases that outlive a process.
pub(crate) fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

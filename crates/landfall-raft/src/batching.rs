//! Owns the batches in which a joiner that is filling up takes the log.
//!
//! A leader sends what has come meanwhile as soon as a follower has answered. For each such turn both wake half a dozen threads, and the follower
//! syncs its log: with every write, a joiner is as busy with that as with its snapshot. Nobody waits for it, for it counts for no quorum. So it
//! answers at intervals, and what came meanwhile is one batch.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use landfall::keyed::Extent;
use tokio::time::Instant;

use crate::cluster::Cluster;

/// So far apart are the answers of a joiner that is filling up: that much later than others its readers see a write, at most.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// When a joiner's next answer is due. Nothing was answered yet.
#[derive(Debug, Default)]
pub(crate) struct Batching(Mutex<Option<Instant>>);

impl Batching {
    /// The moment from which entries that were taken at `now` are answered.
    fn answer_at(&self, now: Instant) -> Instant {
        // Nothing that runs under the lock can panic half way.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.map_or(now, |last| now.max(last + BATCH_INTERVAL));
        *last = Some(due);
        due
    }
}

/// Returns when entries that were taken just now may be answered: at once, unless this member is filling up and does not count.
pub(crate) async fn pause(cluster: &Cluster) {
    // A member that votes is waited for, whatever it lacks.
    if !cluster.is_voter() && cluster.keyed.sealed().is_some_and(|standing| standing.extent == Extent::Filling) {
        tokio::time::sleep_until(cluster.batching.answer_at(Instant::now())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_an_interval_apart_and_the_first_after_a_silence_goes_out_at_once() {
        let (batching, began) = (Batching::default(), Instant::now());
        let answered_after = |taken_after: u32| {
            let interval = BATCH_INTERVAL / 10;
            (batching.answer_at(began + interval * taken_after) - began).as_nanos() / interval.as_nanos()
        };
        assert_eq!([1, 2, 12].map(answered_after), [1, 11, 21]);
        assert_eq!([31, 95, 96].map(answered_after), [31, 95, 105]);
    }
}

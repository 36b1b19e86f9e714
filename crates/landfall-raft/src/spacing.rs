//! Owns how far apart a joiner that is filling up answers appends.
//!
//! A leader sends what has come meanwhile as soon as a follower has answered. For each such turn both wake half a dozen threads, and the follower
//! syncs its log: with every write, a joiner is as busy with that as with its snapshot. Nobody waits for it, for it counts for no quorum. So it
//! answers at intervals, and what came meanwhile is one append. One that is far behind is sent full appends: it answers those immediately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::AppendEntriesRequest;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::consensus::Consensus;
use crate::message::{ENTRIES_BYTES_MAX, ENTRIES_MAX};

/// So far apart are the answers: that much later than others the readers of a joiner see a write, at most.
const INTERVAL: Duration = Duration::from_millis(10);

/// When a joiner answered an append last, or will.
#[derive(Debug, Default)]
pub(crate) struct Spacing(Mutex<Option<Instant>>);

impl Spacing {
    /// The moment from which an append that was taken at `now` is answered.
    fn answer_at(&self, now: Instant) -> Instant {
        // Nothing that runs under the lock can panic half way.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.map_or(now, |last| now.max(last + INTERVAL));
        *last = Some(due);
        due
    }
}

/// Whether the next append could hold more if it came later: this one, whose frame is so long, has entries and is not half full.
pub(crate) fn can_grow(append: &AppendEntriesRequest<Consensus>, frame_bytes: usize) -> bool {
    (1..ENTRIES_MAX as usize / 2).contains(&append.entries.len()) && frame_bytes < ENTRIES_BYTES_MAX / 2
}

/// Returns when an append that was taken just now may be answered: immediately, unless this member is filling up and does not count.
pub(crate) async fn pause(cluster: &Cluster) {
    if is_spaced(cluster.is_voter(), || cluster.keyed.is_filling()) {
        tokio::time::sleep_until(cluster.spacing.answer_at(Instant::now())).await;
    }
}

/// A member that votes is waited for, whatever it lacks.
fn is_spaced(votes: bool, is_filling: impl FnOnce() -> bool) -> bool {
    !votes && is_filling()
}

#[cfg(test)]
mod tests {
    use landfall::core::snapshot::Position;
    use openraft::{EntryPayload, Vote};

    use super::*;
    use crate::consensus::{RaftEntry, log_id_of};

    #[test]
    fn answers_are_an_interval_apart_and_the_first_after_a_silence_goes_out_immediately() {
        let (spacing, began) = (Spacing::default(), Instant::now());
        let answered_after = |taken_after: u32| {
            let tenth = INTERVAL / 10;
            (spacing.answer_at(began + tenth * taken_after) - began).as_nanos() / tenth.as_nanos()
        };
        assert_eq!([1, 2, 12].map(answered_after), [1, 11, 21]);
        assert_eq!([31, 95, 96].map(answered_after), [31, 95, 105]);
    }

    #[test]
    fn only_who_fills_up_and_does_not_vote_makes_others_wait() {
        assert!(is_spaced(false, || true));
        assert!(!is_spaced(true, || true));
        assert!(!is_spaced(false, || false));
        assert!(!is_spaced(true, || false));
    }

    #[test]
    fn heartbeats_and_full_appends_are_answered_immediately() {
        let append = |entries: u64| {
            let at = |index| log_id_of(Position { epoch: 2, index });
            let entry = |index| RaftEntry { log_id: at(index).unwrap(), payload: EntryPayload::Blank };
            AppendEntriesRequest {
                vote: Vote::new_committed(2, 1),
                prev_log_id: at(4),
                leader_commit: at(4),
                entries: (5..5 + entries).map(entry).collect(),
            }
        };
        assert!(!can_grow(&append(0), 100));
        assert!(can_grow(&append(1), 100));
        assert!(can_grow(&append(2_047), 500_000));
        assert!(!can_grow(&append(2_048), 100_000));
        assert!(!can_grow(&append(1), ENTRIES_BYTES_MAX / 2));
    }
}

//! Owns how far the leader's log is known to reach: what it sent, and what it says to be committed.
//!
//! It is news, not truth: what a former leader sent may never be committed.

use std::sync::Arc;

use landfall::core::snapshot::Position;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use crate::consensus::{Consensus, position_of};

/// The newest position that the leader is known to have; nothing before it said anything. Cheap to share.
#[derive(Clone, Default)]
pub(crate) struct Head(Arc<watch::Sender<Option<Position>>>);

impl Head {
    /// The leader sent this.
    pub(crate) fn note(&self, append: &AppendEntriesRequest<Consensus>) {
        let last = append.entries.last().map(|entry| entry.log_id);
        let newest = [last, append.prev_log_id, append.leader_commit].into_iter().flatten().map(position_of).max();
        self.0.send_if_modified(|known| {
            let is_newer = newest > *known;
            if is_newer {
                *known = newest;
            }
            is_newer
        });
    }

    pub(crate) fn known(&self) -> Option<Position> {
        *self.0.borrow()
    }

    /// Something to wait on: it changes when the leader is known to have more.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Position>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, Vote};

    use super::*;
    use crate::consensus::{RaftEntry, log_id_of};

    fn append(previous: u64, entries: &[u64], commit: u64) -> AppendEntriesRequest<Consensus> {
        let at = |index| log_id_of(Position { epoch: 2, index });
        let entry = |index: &u64| RaftEntry { log_id: at(*index).unwrap(), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: at(previous),
            leader_commit: at(commit),
            entries: entries.iter().map(entry).collect(),
        }
    }

    #[test]
    fn the_head_is_the_newest_of_all_that_was_sent_or_committed_and_never_goes_back() {
        let head = Head::default();
        assert_eq!(head.known(), None);
        let check = |append, index| {
            head.note(&append);
            assert_eq!(head.known(), Some(Position { epoch: 2, index }));
        };
        check(append(4, &[], 9), 9);
        check(append(4, &[5, 6], 9), 9);
        check(append(9, &[10, 11], 9), 11);
        check(append(12, &[], 9), 12);
    }
}

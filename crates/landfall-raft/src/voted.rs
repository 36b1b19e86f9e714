//! Owns a copy of this member's vote for those who ask at every read: it is the durable one, known here before anybody is told of it.
//!
//! It never votes.

use std::sync::{Arc, Mutex, PoisonError};

use crate::consensus::{MemberId, RaftVote};

/// The newest durable vote of this member. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Voted(Arc<Mutex<Option<RaftVote>>>);

impl Voted {
    /// The vote is durable. Whoever it was given to hears of it later.
    pub(crate) fn note(&self, vote: Option<RaftVote>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = vote;
    }

    fn get(&self) -> Option<RaftVote> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vote that this member gave itself, if it is its newest: it leads, or did until others elected another one.
    pub(crate) fn for_itself(&self, member: MemberId) -> Option<RaftVote> {
        self.get().filter(|vote| vote.leader_id().voted_for() == Some(member))
    }

    /// Whether this member has voted for nobody since it voted for the leader of `vote`. As long as a majority has not, nobody else leads.
    pub(crate) fn is_for(&self, vote: &RaftVote) -> bool {
        self.get().is_some_and(|own| own.leader_id() == vote.leader_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_for_one_leader_of_one_term_whether_elected_yet_or_not() {
        let voted = Voted::default();
        assert!(!voted.is_for(&RaftVote::new(3, 1)));
        voted.note(Some(RaftVote::new(3, 1)));
        assert!(voted.is_for(&RaftVote::new_committed(3, 1)));
        assert!(!voted.is_for(&RaftVote::new(3, 2)));
        assert!(!voted.is_for(&RaftVote::new(2, 1)));
        assert_eq!(voted.for_itself(1), Some(RaftVote::new(3, 1)));
        assert_eq!(voted.for_itself(2), None);
    }
}

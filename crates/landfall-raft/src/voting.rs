//! Owns what configurations decide, of which there are two while one takes the place of another: who votes, and how many are enough.

use std::collections::BTreeSet;

use crate::consensus::MemberId;

/// Whether `members` are a majority of every configuration.
pub(crate) fn has_majorities(configurations: &[BTreeSet<MemberId>], members: &BTreeSet<MemberId>) -> bool {
    configurations.iter().all(|voters| voters.intersection(members).count() > voters.len() / 2)
}

/// Whether a member votes in every configuration.
pub(crate) fn votes_in_all(configurations: &[BTreeSet<MemberId>], member: MemberId) -> bool {
    configurations.iter().all(|voters| voters.contains(&member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_every_configuration_is_needed() {
        let set = |members: &[MemberId]| BTreeSet::from_iter(members.iter().copied());
        assert!(has_majorities(&[set(&[1])], &set(&[1])));
        assert!(!has_majorities(&[set(&[1, 2])], &set(&[1])));
        assert!(has_majorities(&[set(&[1, 2, 3])], &set(&[1, 3])));
        assert!(!has_majorities(&[set(&[1, 2, 3, 4])], &set(&[1, 3])));
        // On the way from one to another.
        assert!(!has_majorities(&[set(&[1, 2, 3]), set(&[3, 4, 5])], &set(&[1, 2, 3])));
        assert!(has_majorities(&[set(&[1, 2, 3]), set(&[3, 4, 5])], &set(&[1, 3, 4])));
        // Who does not vote does not count.
        assert!(!has_majorities(&[set(&[1, 2, 3])], &set(&[1, 7, 8])));
    }

    #[test]
    fn a_member_votes_for_good_once_the_change_that_lets_it_vote_is_done() {
        let [before, after] = [BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])];
        assert!(!votes_in_all(&[before.clone(), after.clone()], 3));
        assert!(votes_in_all(&[before.clone(), after.clone()], 2));
        assert!(votes_in_all(&[after], 3));
        assert!(!votes_in_all(&[before], 3));
    }
}

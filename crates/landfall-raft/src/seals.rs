//! Owns what is sealed: the newest durable snapshot here, and who else sealed what at which mark.
//!
//! From these reports come the members that hold a snapshot, and the audit: equal positions must have equal roots and log hashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, OnceLock, PoisonError};

use landfall::core::ChunkId;
use landfall::core::join::Snapshot;
use landfall::core::snapshot::{LogHash, Manifest, Position};
use tokio::sync::watch;

use crate::consensus::{MemberAddress, MemberId, RaftSnapshotMeta, StoredMembership, log_id_of};
use crate::healing::DifferentKeys;
use crate::message::SealedAt;
use crate::reference::{Holder, Reference};

/// Positions of which reports are kept.
const POSITIONS_MAX: usize = 64;

/// Divergences that are kept, the newest; a member that stays wrong adds one at each mark.
const DIVERGENCES_MAX: usize = 64;

/// Reports of keys that are kept, the newest; a member makes two, and one more for each try to heal it that fails.
const DIFFERENT_KEYS_MAX: usize = 8;

/// What is sealed, here and elsewhere.
pub(crate) struct Seals {
    member: MemberId,
    /// Where this member serves what it sealed; known once it listens.
    address: OnceLock<String>,
    ledger: Mutex<Ledger>,
    /// Counts changes, so that whoever waits looks again.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Ledger {
    newest: Option<Sealed>,
    reports: BTreeMap<Position, BTreeMap<MemberId, SealedAt>>,
    divergences: VecDeque<Divergence>,
    /// Older ones, which are no longer among them.
    divergences_forgotten: u64,
    different_keys: Vec<DifferentKeys>,
}

/// A durable snapshot of this member.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sealed {
    pub(crate) snapshot: ChunkId,
    pub(crate) position: Position,
    pub(crate) log_hash: LogHash,
    pub(crate) membership: StoredMembership,
}

/// Two members that do not agree on what the log led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The mark at which both sealed.
    pub position: Position,
    /// The other member.
    pub member: MemberId,
    /// What differs.
    pub what: Difference,
}

/// What two members do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// They applied other records.
    Log,
    /// They applied the same records and came to another state: an `apply` is not deterministic, or a disk lied.
    State,
}

/// How what one member sealed compares with what a majority did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Agrees,
    /// So many sealed this instead.
    Differs {
        theirs: Snapshot,
        members: u32,
    },
}

impl Sealed {
    /// The snapshot of a manifest, with the membership that stands in it.
    pub(crate) fn of(manifest: &Manifest, membership: StoredMembership) -> Self {
        Self { snapshot: manifest.id(), position: manifest.position, log_hash: manifest.log_hash, membership }
    }

    pub(crate) fn meta(&self) -> RaftSnapshotMeta {
        RaftSnapshotMeta {
            last_log_id: log_id_of(self.position),
            last_membership: self.membership.clone(),
            snapshot_id: self.snapshot.to_string(),
        }
    }
}

impl Ledger {
    fn note_divergence(&mut self, divergence: Divergence) {
        if self.divergences.len() == DIVERGENCES_MAX {
            self.divergences.pop_front();
            self.divergences_forgotten += 1;
        }
        self.divergences.push_back(divergence);
    }
}

impl Seals {
    pub(crate) fn new(member: MemberId) -> Self {
        Self { member, address: OnceLock::new(), ledger: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Where this member serves.
    pub(crate) fn set_address(&self, address: String) {
        // A member listens once.
        let _ = self.address.set(address);
    }

    /// The newest durable snapshot here.
    pub(crate) fn newest(&self) -> Option<Sealed> {
        self.ledger().newest.clone()
    }

    /// A snapshot became durable here, or was adopted.
    pub(crate) fn handle_sealed(&self, sealed: Sealed) {
        let mut ledger = self.ledger();
        if ledger.newest.as_ref().is_none_or(|newest| newest.position <= sealed.position) {
            ledger.newest = Some(sealed);
        }
        drop(ledger);
        self.note_change();
    }

    /// A snapshot that others sealed took the place of everything that this member sealed, which was wrong.
    pub(crate) fn handle_healed(&self, sealed: Sealed) {
        let mut ledger = self.ledger();
        for (_, reports) in ledger.reports.range_mut(sealed.position..) {
            reports.remove(&self.member);
        }
        ledger.newest = Some(sealed);
        drop(ledger);
        self.note_change();
    }

    /// Keys were found on which this member does not agree with others.
    pub(crate) fn handle_different_keys(&self, found: DifferentKeys) {
        let mut ledger = self.ledger();
        if ledger.different_keys.len() == DIFFERENT_KEYS_MAX {
            ledger.different_keys.remove(0);
        }
        ledger.different_keys.push(found);
        drop(ledger);
        self.note_change();
    }

    /// Keys on which this member did not agree with others, oldest first.
    pub(crate) fn different_keys(&self) -> Vec<DifferentKeys> {
        self.ledger().different_keys.clone()
    }

    /// A member, this one or another, says what it sealed at a mark.
    pub(crate) fn handle_report(&self, report: SealedAt) {
        let mut ledger = self.ledger();
        let member = self.member;
        let at = ledger.reports.entry(report.position()).or_default();
        at.insert(report.member, report.clone());
        let found: Vec<_> = at.get(&member).map(|own| differences(own, at)).unwrap_or_default();
        for divergence in found {
            if !ledger.divergences.contains(&divergence) {
                tracing::error!(?divergence, "members do not agree");
                ledger.note_divergence(divergence);
            }
        }
        while ledger.reports.len() > POSITIONS_MAX {
            ledger.reports.pop_first();
        }
        drop(ledger);
        self.note_change();
    }

    /// What members said about a position.
    pub(crate) fn reports_at(&self, position: Position) -> BTreeMap<MemberId, SealedAt> {
        self.ledger().reports.get(&position).cloned().unwrap_or_default()
    }

    /// The newest position at which each member says that it sealed.
    pub(crate) fn newest_by_member(&self) -> BTreeMap<MemberId, Position> {
        let ledger = self.ledger();
        let reports = ledger.reports.iter().flat_map(|(position, at)| at.keys().map(|member| (*member, *position)));
        // In order: the last one stays.
        reports.collect()
    }

    /// The newest report of a member that this member can compare with its own, both together.
    pub(crate) fn newest_common(&self, member: MemberId) -> Option<(SealedAt, SealedAt)> {
        let ledger = self.ledger();
        let common =
            |at: &BTreeMap<MemberId, SealedAt>| Some((at.get(&self.member)?.clone(), at.get(&member)?.clone()));
        ledger.reports.values().rev().find_map(common)
    }

    /// Where members did not agree last, oldest first.
    pub(crate) fn divergences(&self) -> Vec<Divergence> {
        self.ledger().divergences.iter().cloned().collect()
    }

    /// How many there were before.
    pub(crate) fn divergences_forgotten(&self) -> u64 {
        self.ledger().divergences_forgotten
    }

    /// The reference to a snapshot: who holds it, this member last.
    pub(crate) fn reference(&self, sealed: &Sealed) -> Reference {
        let reports = self.reports_at(sealed.position);
        let holds = |member: &MemberId| {
            *member != self.member && reports.get(member).is_some_and(|at| at.snapshot == *sealed.snapshot.as_bytes())
        };
        let others = sealed.membership.nodes().filter(|(member, _)| holds(member));
        let others = others.map(|(member, address)| Holder { member: *member, address: address.peers.clone() });
        let own = self.address.get().map(|address| Holder { member: self.member, address: address.clone() });
        let holders = others.chain(own);
        Reference::new(sealed.snapshot, sealed.position, sealed.log_hash, holders.collect())
    }

    /// The newest snapshot beyond a position that others say they sealed, what most of them did, and those of `members` that hold it; nothing
    /// where as many sealed something else.
    pub(crate) fn newest_elsewhere(
        &self,
        beyond: Position,
        members: &BTreeMap<MemberId, MemberAddress>,
    ) -> Option<Reference> {
        let ledger = self.ledger();
        let (position, reports) = ledger.reports.range(beyond..).rfind(|(position, _)| **position > beyond)?;
        let known = || reports.values().filter(|report| members.contains_key(&report.member));
        let first = sealed_by_most(known())?;
        let same = reports.values().filter(|report| report.snapshot == first.snapshot);
        let holders = same.filter_map(|report| {
            let address = members.get(&report.member)?.peers.clone();
            Some(Holder { member: report.member, address })
        });
        let snapshot = ChunkId::from_bytes(first.snapshot);
        Some(Reference::new(snapshot, *position, LogHash(first.log_hash), holders.collect()))
    }

    /// How what this member sealed compares with what a majority did, at the newest position where both are known.
    pub(crate) fn compare_with_most(&self, is_majority: impl Fn(&BTreeSet<MemberId>) -> bool) -> Option<Comparison> {
        let ledger = self.ledger();
        ledger.reports.iter().rev().find_map(|(position, reports)| {
            let own = reports.get(&self.member)?;
            let mut by_snapshot: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for report in reports.values() {
                by_snapshot.entry(report.snapshot).or_default().insert(report.member);
            }
            let (snapshot, members) = by_snapshot.into_iter().find(|(_, members)| is_majority(members))?;
            if own.snapshot == snapshot {
                return Some(Comparison::Agrees);
            }
            let theirs = Snapshot { id: ChunkId::from_bytes(snapshot), position: *position };
            Some(Comparison::Differs { theirs, members: members.len() as u32 })
        })
    }

    /// Something to wait on: it changes whenever something is sealed or reported.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // Nothing that runs under the lock can panic half way.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What more members sealed than anything else. As many for one as for another prove nothing, as in an audit.
pub(crate) fn sealed_by_most<'a>(reports: impl Iterator<Item = &'a SealedAt> + Clone) -> Option<&'a SealedAt> {
    let alike = |one: &SealedAt| reports.clone().filter(|other| other.snapshot == one.snapshot).count();
    let most = reports.clone().max_by_key(|report| alike(report))?;
    let rivals = |other: &SealedAt| other.snapshot != most.snapshot && alike(other) == alike(most);
    (!reports.clone().any(rivals)).then_some(most)
}

fn differences(own: &SealedAt, reports: &BTreeMap<MemberId, SealedAt>) -> Vec<Divergence> {
    let difference = |other: &SealedAt| match () {
        () if other.log_hash != own.log_hash => Some(Difference::Log),
        () if other.state_root != own.state_root => Some(Difference::State),
        () => None,
    };
    let found = reports.values().filter_map(|other| Some((other.member, difference(other)?)));
    found.map(|(member, what)| Divergence { position: own.position(), member, what }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 1, index: 5 };

    fn report(member: MemberId, state_root: u8, log_hash: u8) -> SealedAt {
        SealedAt {
            member,
            epoch: AT.epoch,
            index: AT.index,
            snapshot: [state_root; 32],
            state_root: [state_root; 32],
            log_hash: [log_hash; 32],
        }
    }

    #[test]
    fn members_that_sealed_the_same_do_not_diverge() {
        let seals = Seals::new(1);
        (1..=3).for_each(|member| seals.handle_report(report(member, 7, 8)));
        assert_eq!(seals.divergences(), []);
        assert_eq!(seals.newest_common(3), Some((report(1, 7, 8), report(3, 7, 8))));
    }

    #[test]
    fn another_root_or_another_log_is_told_once_whoever_reports_first() {
        let seals = Seals::new(1);
        seals.handle_report(report(2, 9, 8));
        seals.handle_report(report(1, 7, 8));
        seals.handle_report(report(3, 7, 9));
        seals.handle_report(report(3, 7, 9));
        let found: Vec<_> = seals.divergences().into_iter().map(|found| (found.member, found.what)).collect();
        assert_eq!(found, [(2, Difference::State), (3, Difference::Log)]);
    }

    #[test]
    fn a_member_that_was_healed_counts_for_nothing_that_it_sealed_before() {
        let seals = Seals::new(1);
        let sealed = |index, content| Sealed {
            snapshot: ChunkId::from_bytes([content; 32]),
            position: Position { index, ..AT },
            log_hash: LogHash::default(),
            membership: StoredMembership::default(),
        };
        for index in [4, 5, 6] {
            seals.handle_report(SealedAt { index, ..report(1, 9, 8) });
            seals.handle_report(SealedAt { index, ..report(2, 7, 8) });
            seals.handle_sealed(sealed(index, 9));
        }
        seals.handle_healed(sealed(5, 7));
        assert_eq!(seals.newest(), Some(sealed(5, 7)));
        assert_eq!(seals.newest_common(2).unwrap().0.index, 4, "what it sealed later is forgotten");
        seals.handle_report(report(1, 7, 8));
        assert_eq!(seals.newest_common(2), Some((report(1, 7, 8), report(2, 7, 8))));
        assert_eq!(seals.divergences().len(), 3, "what was found stays known");
    }

    #[test]
    fn a_snapshot_to_move_on_to_is_what_most_of_the_others_sealed() {
        let seals = Seals::new(1);
        for (member, root) in [(2, 9), (3, 7), (4, 7), (5, 9), (6, 9)] {
            seals.handle_report(report(member, root, 8));
        }
        let members = |members: &[MemberId]| {
            members.iter().map(|member| (*member, MemberAddress::default())).collect::<BTreeMap<_, _>>()
        };
        let holders = |found: Option<Reference>| {
            let holders = found.map(|found| found.holders).unwrap_or_default();
            holders.into_iter().map(|holder| holder.member).collect::<Vec<_>>()
        };
        let newest = |known: &[MemberId]| holders(seals.newest_elsewhere(Position::default(), &members(known)));
        assert_eq!(newest(&[2, 3, 4]), [3, 4]);
        assert_eq!(newest(&[2, 3, 5]), [2, 5]);
        assert_eq!(newest(&[3]), [3]);
        assert!(newest(&[7]).is_empty());
        assert!(newest(&[2, 3]).is_empty(), "as many for one as for the other prove nothing");
        assert!(newest(&[2, 3, 4, 5]).is_empty(), "as many for one as for the other prove nothing");
    }

    #[test]
    fn a_member_is_compared_with_a_majority_at_the_newest_position_where_there_is_one() {
        let seals = Seals::new(1);
        let voters = BTreeSet::from([1, 2, 3]);
        let compare = || seals.compare_with_most(|members| members.intersection(&voters).count() * 2 > voters.len());
        let says = |member, index, root| seals.handle_report(SealedAt { index, ..report(member, root, 8) });
        let differs = |index, root| {
            let theirs = Snapshot { id: ChunkId::from_bytes([root; 32]), position: Position { epoch: 1, index } };
            Some(Comparison::Differs { theirs, members: 2 })
        };
        says(1, 4, 7);
        says(2, 4, 9);
        assert_eq!(compare(), None, "one against one is no majority");
        // Who does not vote does not count, on either side.
        says(4, 4, 7);
        says(3, 4, 9);
        assert_eq!(compare(), differs(4, 9));
        // What it did not seal itself says nothing yet.
        says(2, 5, 6);
        says(3, 5, 6);
        assert_eq!(compare(), differs(4, 9));
        says(1, 5, 6);
        assert_eq!(compare(), Some(Comparison::Agrees));
        says(1, 6, 5);
        says(2, 6, 4);
        assert_eq!(compare(), Some(Comparison::Agrees), "a later difference is not proven");
        says(3, 6, 4);
        assert_eq!(compare(), differs(6, 4));
    }

    #[test]
    fn of_a_member_that_stays_wrong_the_newest_differences_are_told_and_the_older_ones_counted() {
        let seals = Seals::new(1);
        let marks = DIVERGENCES_MAX as u64 + 5;
        for index in 1..=marks {
            seals.handle_report(SealedAt { index, ..report(1, 7, 8) });
            seals.handle_report(SealedAt { index, ..report(2, 9, 8) });
        }
        let told: Vec<_> = seals.divergences().into_iter().map(|found| found.position.index).collect();
        assert_eq!(told, (6..=marks).collect::<Vec<_>>());
        assert_eq!(seals.divergences_forgotten(), 5);
    }

    #[test]
    fn old_reports_are_forgotten() {
        let seals = Seals::new(1);
        for index in 0..200 {
            seals.handle_report(SealedAt { index, ..report(1, 7, 8) });
        }
        assert!(seals.reports_at(Position { epoch: 1, index: 0 }).is_empty());
        assert!(!seals.reports_at(Position { epoch: 1, index: 199 }).is_empty());
    }
}

//! Owns who belongs to the cluster: where a newcomer begins, when it is sent the log, when it may vote.
//!
//! raft itself would let anybody vote; here a member votes only after its state was compared with the others' at a common mark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall::core::snapshot::Position;
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;

use crate::barrier::ReadBarrierError;
use crate::cluster::{Cluster, Role};
use crate::consensus::{MemberAddress, MemberId, RaftMembership};
use crate::entry::{self, Lease, LogTime, Payload};
use crate::gather::write;
use crate::message::{Beginning, Newcomer, Renewal, Reply, SealedAt};
use crate::seals::{Difference, Sealed};
use crate::service::{Leader, ProposeError, leader_in};
use crate::voting::votes_in_all;

/// The log is kept for a joiner this long after it last said that it lives.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(60);
/// Time for a seal to be made and reported, before somebody is told to ask again.
pub(crate) const SEAL_PATIENCE: Duration = Duration::from_secs(120);

/// A mark that a member has not sealed at after this long may have been skipped.
const SEAL_ROUND: Duration = Duration::from_secs(5);
/// Time for another change of the membership to end.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Why the cluster did not change, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Ask the leader.
    #[error("this member does not lead")]
    NotLeader(Option<Leader>),
    /// Try again later.
    #[error("not now: {0}")]
    NotYet(String),
    /// The member's state is not that of the others: it must not vote. It re-joins, or somebody looks into it.
    #[error("member {member} does not agree with this one at {position}: {what:?}")]
    Diverged {
        /// Who.
        member: MemberId,
        /// The common mark.
        position: Position,
        /// What differs.
        what: Difference,
    },
    /// It can never work: change what was asked.
    #[error("{0}")]
    Refused(String),
    /// The change may have happened or may still: look.
    #[error("the leader changed before this was confirmed")]
    Unknown,
    /// Nothing happened: too few members answer.
    #[error("too few members answer")]
    NoQuorum,
    /// No majority confirmed it in time. It may have happened or may still: look.
    #[error("no majority confirmed this in time")]
    Unconfirmed,
    /// This member has stopped.
    #[error("this member has stopped")]
    Stopped,
}

impl From<ReadBarrierError> for RosterError {
    fn from(error: ReadBarrierError) -> Self {
        match error {
            ReadBarrierError::NotLeader(leader) => Self::NotLeader(leader),
            ReadBarrierError::NoQuorum => Self::NoQuorum,
            ReadBarrierError::Stopped => Self::Stopped,
        }
    }
}

impl From<ProposeError> for RosterError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(leader) => Self::NotLeader(leader),
            ProposeError::Stopped => Self::Stopped,
            ProposeError::Busy => Self::NotYet("too many commands wait for the log".into()),
            _ => Self::Unknown,
        }
    }
}

impl From<RaftError<MemberId, ClientWriteError<MemberId, MemberAddress>>> for RosterError {
    fn from(error: RaftError<MemberId, ClientWriteError<MemberId, MemberAddress>>) -> Self {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere)) => Self::NotLeader(leader_in(elsewhere)),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => Self::NotYet(error.to_string()),
            RaftError::Fatal(_) => Self::Stopped,
        }
    }
}

impl From<Result<(), RosterError>> for Reply {
    fn from(done: Result<(), RosterError>) -> Self {
        match done {
            Ok(()) => Self::Done,
            Err(error) => error.into(),
        }
    }
}

impl From<RosterError> for Reply {
    fn from(error: RosterError) -> Self {
        match error {
            RosterError::NotLeader(leader) => Self::AskLeader(leader.map(|leader| (leader.member, leader.address))),
            RosterError::Refused(reason) => Self::Refused(reason),
            diverged @ RosterError::Diverged { .. } => Self::Refused(diverged.to_string()),
            other => Self::NotYet(other.to_string()),
        }
    }
}

/// Tells a newcomer where to begin, and keeps the log from there on.
pub(crate) async fn begin(cluster: &Arc<Cluster>, newcomer: &Newcomer) -> Reply {
    match try_begin(cluster, newcomer).await {
        Ok(beginning) => Reply::Begin(Box::new(beginning)),
        Err(error) => error.into(),
    }
}

async fn try_begin(cluster: &Arc<Cluster>, newcomer: &Newcomer) -> Result<Beginning, RosterError> {
    check_leads(cluster)?;
    check_identity(cluster, newcomer)?;
    let sealed = newest_seal(cluster).await?;
    // Until a lease stands in the log, the next one would get the same version.
    let _one_at_a_time = cluster.granting.lock().await;
    let lease = Lease {
        holder: newcomer.member,
        version: next_version(cluster),
        keep_from: sealed.position.index + 1,
        until: later(cluster.time(), LEASE_DURATION),
        time: cluster.time(),
    };
    write(&cluster.raft, Payload::lease(lease)).await?;
    let stands = cluster.applied.borrow().leases.get(&newcomer.member).map(|held| held.version);
    if stands != Some(lease.version) {
        return Err(RosterError::NotYet("too many members join at once".into()));
    }
    // Until the lease stood in the log, a purge may have passed it by.
    if cluster.log.first_index() > lease.keep_from {
        return Err(RosterError::NotYet("the log moved on while the lease was taken".into()));
    }
    Ok(Beginning { cluster: cluster.identity.own(), start: cluster.seals.reference(&sealed), lease })
}

/// A version greater than that of any lease before, ended ones too. A leader's log holds them all, and each has at most the index at which it stands.
fn next_version(cluster: &Cluster) -> u64 {
    cluster.log.last_position().map_or(0, |last| last.index) + 1
}

/// The newest seal here. A cluster that never saw a mark gets its first one.
async fn newest_seal(cluster: &Cluster) -> Result<Sealed, RosterError> {
    let mut changes = cluster.seals.changes();
    if cluster.seals.newest().is_none() {
        cluster.mark().await?;
    }
    let sealed = changes.wait_for(|_| cluster.seals.newest().is_some());
    let patience = tokio::time::timeout(SEAL_PATIENCE, sealed).await;
    patience.map_err(|_| RosterError::NotYet("the first seal takes long".into()))?.map_err(|_| RosterError::Stopped)?;
    cluster.seals.newest().ok_or(RosterError::Stopped)
}

/// Has the log sent to a newcomer that took its reference.
pub(crate) async fn admit(cluster: &Arc<Cluster>, newcomer: Newcomer) -> Reply {
    try_admit(cluster, newcomer).await.into()
}

pub(crate) async fn try_admit(cluster: &Arc<Cluster>, newcomer: Newcomer) -> Result<(), RosterError> {
    check_leads(cluster)?;
    check_identity(cluster, &newcomer)?;
    if cluster.membership().membership().get_node(&newcomer.member).is_some() {
        return Ok(());
    }
    let nodes = BTreeMap::from([(newcomer.member, newcomer.address.clone())]);
    let membership = change(cluster, ChangeMembers::AddNodes(nodes)).await?;
    // Of two that came at the same time, the first one stands there.
    check_address(&membership, &newcomer)
}

/// Whoever lags sees an older membership and older leases: only the leader refuses anybody for good.
pub(crate) fn check_leads(cluster: &Cluster) -> Result<(), RosterError> {
    if cluster.leads() { Ok(()) } else { Err(RosterError::NotLeader(cluster.leader())) }
}

/// Two machines that claim the same identity: the second must not take the first one's place.
fn check_identity(cluster: &Cluster, newcomer: &Newcomer) -> Result<(), RosterError> {
    if !entry::is_legal(&newcomer.address) {
        return Err(RosterError::Refused("an address that is too long".into()));
    }
    check_address(cluster.membership().membership(), newcomer)
}

fn check_address(membership: &RaftMembership, newcomer: &Newcomer) -> Result<(), RosterError> {
    let known = membership.get_node(&newcomer.member);
    match known.filter(|known| known.peers != newcomer.address.peers) {
        Some(known) => {
            let reason =
                format!("member {} is known at {}: take another id, or remove it first", newcomer.member, known);
            Err(RosterError::Refused(reason))
        }
        None => Ok(()),
    }
}

/// Keeps a lease alive, or takes it back. A holder with an older version hears that it was fenced.
pub(crate) async fn renew(cluster: &Arc<Cluster>, renewal: &Renewal) -> Reply {
    try_renew(cluster, renewal).await.into()
}

async fn try_renew(cluster: &Cluster, renewal: &Renewal) -> Result<(), RosterError> {
    check_leads(cluster)?;
    let held = cluster.applied.borrow().leases.get(&renewal.holder).copied();
    // A version is where in the log it was granted, about: this leader may not have come that far.
    if held.is_none() && cluster.applied.borrow().position.index < renewal.version {
        return Err(RosterError::NotYet(format!("lease {} is not applied here yet", renewal.version)));
    }
    let Some(held) = held.filter(|held| held.version <= renewal.version) else {
        return Err(RosterError::Refused(format!("lease {} of member {} is over", renewal.version, renewal.holder)));
    };
    let time = cluster.time();
    let until = match renewal.keep_from {
        Some(_) => later(time, LEASE_DURATION),
        None => LogTime(0),
    };
    let keep_from = renewal.keep_from.unwrap_or(held.keep_from).max(held.keep_from);
    write(&cluster.raft, Payload::lease(Lease { version: renewal.version, keep_from, until, time, ..held })).await?;
    Ok(())
}

/// Lets a learner vote, after its state was compared with this member's at a mark that both sealed.
pub(crate) async fn promote(cluster: &Arc<Cluster>, member: MemberId) -> Result<(), RosterError> {
    check_leads(cluster)?;
    let membership = cluster.membership();
    if votes_in_all(membership.membership().get_joint_config(), member) {
        return Ok(());
    }
    check_known(cluster, member)?;
    let (own, theirs) = common_seal(cluster, member).await?;
    let position = own.position();
    if let Some(what) = difference(&own, &theirs) {
        return Err(RosterError::Diverged { member, position, what });
    }
    tracing::info!(member, %position, "sealed the same as this member: it may vote");
    change(cluster, ChangeMembers::AddVoterIds(BTreeSet::from([member]))).await.map(|_| ())
}

pub(crate) fn check_known(cluster: &Cluster, member: MemberId) -> Result<(), RosterError> {
    match cluster.membership().membership().get_node(&member) {
        Some(_) => Ok(()),
        None => Err(RosterError::Refused(format!("member {member} is not known: add it first"))),
    }
}

/// Has everybody seal, until this member and another hold something of the same position.
///
/// A member skips a mark that finds a seal under way there, one that took a snapshot passed over it, and a report may be lost: then another
/// mark is made.
pub(crate) async fn common_seal(cluster: &Cluster, member: MemberId) -> Result<(SealedAt, SealedAt), RosterError> {
    let deadline = Instant::now() + SEAL_PATIENCE;
    let mut changes = cluster.seals.changes();
    let first = seal_here(cluster).await?;
    loop {
        let common = || cluster.seals.newest_common(member).filter(|(own, _)| own.position() >= first);
        // Whoever waits looks once more in any case.
        let _ = tokio::time::timeout(SEAL_ROUND, changes.wait_for(|_| common().is_some())).await;
        if let Some(found) = common() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(RosterError::NotYet(format!("member {member} has not sealed at {first}: it is not whole yet")));
        }
        seal_here(cluster).await?;
    }
}

/// Makes marks until one is not skipped here: a seal that is under way passes over it.
pub(crate) async fn seal_here(cluster: &Cluster) -> Result<Position, RosterError> {
    loop {
        cluster.sealing.wait_until_idle().await;
        let position = cluster.mark().await?;
        if cluster.sealing.has_begun(position) {
            return Ok(position);
        }
        if cluster.keyed.is_filling() {
            return Err(RosterError::NotYet("not all of this member's own state is here".into()));
        }
    }
}

fn difference(own: &SealedAt, theirs: &SealedAt) -> Option<Difference> {
    match () {
        () if own.log_hash != theirs.log_hash => Some(Difference::Log),
        () if own.state_root != theirs.state_root => Some(Difference::State),
        () => None,
    }
}

/// Takes a member out of the cluster, whether or not it votes.
pub(crate) async fn remove(cluster: &Arc<Cluster>, member: MemberId) -> Result<(), RosterError> {
    check_removable(cluster, member)?;
    let one = BTreeSet::from([member]);
    if cluster.membership().voter_ids().any(|voter| voter == member) {
        change(cluster, ChangeMembers::RemoveVoters(one.clone())).await?;
    }
    change(cluster, ChangeMembers::RemoveNodes(one)).await.map(|_| ())
}

fn check_removable(cluster: &Cluster, member: MemberId) -> Result<(), RosterError> {
    // What another member knows may be old: the leader says it.
    if cluster.role() != Role::Leader {
        return Ok(());
    }
    // The first of the two changes would end its lead before the second.
    if member == cluster.member {
        let reason = format!("member {member} leads: stop it, and ask who leads then to remove it");
        return Err(RosterError::Refused(reason));
    }
    match cluster.membership().membership().get_node(&member) {
        Some(_) => Ok(()),
        None => Err(RosterError::Refused(format!("member {member} is none of this cluster"))),
    }
}

/// Changes the membership, after a change that is under way has ended; returns what it led to.
async fn change(
    cluster: &Cluster,
    change: ChangeMembers<MemberId, MemberAddress>,
) -> Result<RaftMembership, RosterError> {
    let _one_at_a_time = cluster.changing.lock().await;
    change_alone(cluster, change).await
}

/// The same for whoever sees to it that nobody else changes anything.
async fn change_alone(
    cluster: &Cluster,
    change: ChangeMembers<MemberId, MemberAddress>,
) -> Result<RaftMembership, RosterError> {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    let mut metrics = cluster.raft.metrics();
    loop {
        metrics.mark_unchanged();
        let changed = tokio::time::timeout_at(deadline, cluster.raft.change_membership(change.clone(), true)).await;
        // openraft waits for as long as it takes; whoever asked must hear something.
        let Ok(changed) = changed else { return Err(RosterError::Unconfirmed) };
        let busy = match changed {
            Ok(done) => return Ok(done.membership().clone().unwrap_or_default()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(
                busy,
            )))) => busy,
            Err(error) => return Err(error.into()),
        };
        if !matches!(tokio::time::timeout_at(deadline, metrics.changed()).await, Ok(Ok(()))) {
            return Err(RosterError::NotYet(busy.to_string()));
        }
    }
}

/// Takes the second step of a change that a former leader left half done.
pub(crate) async fn finish_change(cluster: &Cluster) -> Result<(), RosterError> {
    let _one_at_a_time = cluster.changing.lock().await;
    if !cluster.changes_membership() {
        return Ok(());
    }
    tracing::info!("finishes a change of the membership");
    // openraft takes any change for the second step, and this one asks for nothing more.
    let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
    change_alone(cluster, nothing).await.map(|_| ())
}

fn later(time: LogTime, by: Duration) -> LogTime {
    LogTime(time.0.saturating_add(by.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use landfall::keyed::AdoptError;
    use tokio::sync::oneshot;

    use super::*;
    use crate::cluster::Role;
    use crate::entry::Mark;
    use crate::node::Node;
    use crate::suite::{self, Silent};

    const JOINER: MemberId = 2;

    async fn leader(directory: &std::path::Path) -> Node<Silent> {
        let node = Node::open(Silent, suite::config(directory)).await.unwrap();
        node.bootstrap().await.unwrap();
        node.wait_for(SEAL_PATIENCE, |status| status.role == Role::Leader).await.unwrap();
        node
    }

    fn newcomer() -> Newcomer {
        Newcomer { member: JOINER, address: MemberAddress::default() }
    }

    async fn begin(leader: &Node<Silent>) -> Lease {
        try_begin(&leader.cluster, &newcomer()).await.unwrap().lease
    }

    fn renewal(lease: &Lease, keep_from: Option<u64>) -> Renewal {
        Renewal { holder: JOINER, version: lease.version, keep_from }
    }

    fn version_held(leader: &Node<Silent>) -> Option<u64> {
        leader.cluster.applied.borrow().leases.get(&JOINER).map(|held| held.version)
    }

    /// Lets the log's time pass until a lease has ended.
    async fn end(leader: &Node<Silent>, lease: &Lease) {
        let mark = Mark { time: lease.until, keep_from: u64::MAX };
        write(&leader.cluster.raft, Payload::mark(mark)).await.unwrap();
        assert_eq!(version_held(leader), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_slept_while_its_lease_ended_cannot_touch_the_one_that_another_took_since() {
        let directory = tempfile::tempdir().unwrap();
        let leader = leader(directory.path()).await;
        let old = begin(&leader).await;
        end(&leader, &old).await;
        let new = begin(&leader).await;
        for keep_from in [Some(new.keep_from), None] {
            let renewed = try_renew(&leader.cluster, &renewal(&old, keep_from)).await;
            assert!(matches!(renewed, Err(RosterError::Refused(_))), "{renewed:?}");
            assert_eq!(version_held(&leader), Some(new.version));
        }
        // What an older leader let pass is refused where it is applied.
        let passed = Lease { until: LogTime(0), ..old };
        write(&leader.cluster.raft, Payload::lease(passed)).await.unwrap();
        assert_eq!(version_held(&leader), Some(new.version));
        try_renew(&leader.cluster, &renewal(&new, None)).await.unwrap();
        assert!(begin(&leader).await.version > new.version, "one that was given back fences like one that ended");
        leader.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_that_begin_at_once_under_one_name_only_the_later_one_holds_the_lease() {
        let directory = tempfile::tempdir().unwrap();
        let leader = leader(directory.path()).await;
        let (one, other) = tokio::join!(begin(&leader), begin(&leader));
        assert_ne!(one.version, other.version);
        assert_eq!(version_held(&leader), Some(one.version.max(other.version)));
        leader.close().await;
    }

    /// Nothing that is sealed at a member is told before this is dropped: a heal is under way, which then comes to nothing. It is a task that
    /// blocks, so a clock that was stopped moves only when it is told to.
    async fn hold_seals_back(leader: &Node<Silent>) -> oneshot::Sender<()> {
        let (begin, begun) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let sealing = leader.cluster.sealing.clone();
        tokio::task::spawn_blocking(move || {
            let heal = || {
                begin.send(()).unwrap();
                let _ = released.blocking_recv();
                Err(AdoptError::TooEarly)
            };
            sealing.heal(heal, || unreachable!("nothing is healed"))
        });
        begun.await.unwrap();
        release
    }

    /// Moves a clock that was stopped on while something is tried, and has done after each step what it brings; says after how long it ended.
    async fn try_for<R>(tried: impl Future<Output = R>, step: impl AsyncFn()) -> (R, Duration) {
        const STEP: Duration = Duration::from_secs(1);
        let (start, mut tried) = (Instant::now(), pin!(tried));
        while start.elapsed() < 2 * SEAL_PATIENCE {
            tokio::select! {
                biased;
                ended = &mut tried => return (ended, start.elapsed()),
                () = step() => tokio::time::advance(STEP).await,
            }
        }
        panic!("it waits for ever");
    }

    #[track_caller]
    fn check_lost_patience<R: std::fmt::Debug>((tried, took): (Result<R, RosterError>, Duration)) {
        assert!(matches!(tried, Err(RosterError::NotYet(_))), "{tried:?}");
        assert!(took >= SEAL_PATIENCE, "after {took:?}");
    }

    #[tokio::test]
    async fn a_newcomer_is_told_to_ask_again_when_the_first_seal_takes_long() {
        let directory = tempfile::tempdir().unwrap();
        let leader = leader(directory.path()).await;
        let held_back = hold_seals_back(&leader).await;
        tokio::time::pause();
        // What was asked of raft before is done by then.
        let step = async || leader.propose(&()).await.unwrap();
        check_lost_patience(try_for(try_begin(&leader.cluster, &newcomer()), step).await);
        assert_eq!(version_held(&leader), None);
        tokio::time::resume();
        drop(held_back);
        begin(&leader).await;
        leader.close().await;
    }

    #[tokio::test]
    async fn a_member_that_does_not_seal_is_waited_for_in_vain_and_compared_once_it_did() {
        let directory = tempfile::tempdir().unwrap();
        let leader = leader(directory.path()).await;
        // Only another member's seal is awaited: nothing is held back here.
        let (clock, stopped) = oneshot::channel::<()>();
        tokio::task::spawn_blocking(move || stopped.blocking_recv());
        tokio::time::pause();
        let step = async || {
            leader.propose(&()).await.unwrap();
            leader.cluster.sealing.wait_until_idle().await;
        };
        check_lost_patience(try_for(common_seal(&leader.cluster, JOINER), step).await);
        tokio::time::resume();
        drop(clock);
        let seals = &leader.cluster.seals;
        let (mut changes, before) = (seals.changes(), seals.newest_by_member()[&leader.member()]);
        let seal_there = async {
            changes.wait_for(|_| seals.newest_by_member()[&leader.member()] > before).await.unwrap();
            let (_, own) = seals.reports_at(seals.newest().unwrap().position).pop_first().unwrap();
            seals.handle_report(SealedAt { member: JOINER, ..own.clone() });
            own
        };
        let (common, own) = tokio::join!(common_seal(&leader.cluster, JOINER), seal_there);
        assert_eq!(common, Ok((own.clone(), SealedAt { member: JOINER, ..own })));
        leader.close().await;
    }
}

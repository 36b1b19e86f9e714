//! Owns what a member says of itself, and waiting until it says something else.

use std::time::Duration;

use landfall::core::snapshot::{LogHash, Position};
use landfall::keyed::JoinStatus;

use crate::candidacy::{Soundness, VoteRefused};
use crate::cluster::{Cluster, Role};
use crate::consensus::{MemberAddress, MemberId};
use crate::entry::LogTime;
use crate::healing::DifferentKeys;
use crate::identity::ClusterId;
use crate::pace::Pace;
use crate::reference::Reference;
use crate::seals::Divergence;
use crate::service::Leader;

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Who it is.
    pub member: MemberId,
    /// Its cluster; nothing before it belongs to one.
    pub cluster: Option<ClusterId>,
    /// What it is to its cluster.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<Leader>,
    /// The leader's term.
    pub term: u64,
    /// Whether it still runs; a member whose disk failed stops.
    pub health: Health,
    /// Everybody who belongs to the cluster, and whether they vote.
    pub members: Vec<(MemberId, MemberAddress, Vote)>,
    /// How far its state is.
    pub applied: Position,
    /// The log's time there.
    pub time: LogTime,
    /// The hash of the log that led there.
    pub log_hash: LogHash,
    /// Index of the last entry in its log.
    pub log_last: Option<u64>,
    /// Index of the first entry that is still in its log.
    pub log_first: u64,
    /// Bytes of its log on the disk.
    pub log_bytes: u64,
    /// Bytes of changes that no seal holds yet.
    pub unsealed_bytes: u64,
    /// The newest durable snapshot here, and who holds it.
    pub sealed: Option<Reference>,
    /// How far it is with a snapshot that it took from others.
    pub joined: Option<JoinStatus>,
    /// How fast it gets on as a joiner, as the leader said last; nothing before the leader knows, and once it has joined.
    pub pace: Option<Pace>,
    /// Of the leader: joiners that receive less than they need, by their ids.
    pub slow_joiners: Vec<Pace>,
    /// Whether its state is what most others have.
    pub soundness: Soundness,
    /// What the leader says against its vote, where it refused it last; nothing once it votes.
    pub vote_refused: Option<VoteRefused>,
    /// Where members did not agree last, oldest first.
    pub divergences: Vec<Divergence>,
    /// How many times they did not agree before that.
    pub divergences_forgotten: u64,
    /// Keys on which it did not agree with others before it was healed, or stepped out.
    pub different_keys: Vec<DifferentKeys>,
}

/// Whether a member of the cluster votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    /// It votes and counts for durability.
    Counts,
    /// It only follows.
    DoesNotCount,
}

/// Whether a member runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Running,
    /// It stopped: why.
    Stopped(String),
}

pub(crate) fn of(cluster: &Cluster) -> NodeStatus {
    let metrics = cluster.raft.metrics().borrow().clone();
    let voters: Vec<_> = metrics.membership_config.voter_ids().collect();
    let vote = |member| if voters.contains(&member) { Vote::Counts } else { Vote::DoesNotCount };
    let members = metrics.membership_config.nodes();
    let applied = cluster.applied.borrow().clone();
    NodeStatus {
        member: cluster.member,
        cluster: cluster.identity.own(),
        role: cluster.role(),
        leader: cluster.leader(),
        term: metrics.current_term,
        health: metrics.running_state.as_ref().err().map_or(Health::Running, |e| Health::Stopped(e.to_string())),
        members: members.map(|(member, address)| (*member, address.clone(), vote(*member))).collect(),
        applied: applied.position,
        time: applied.time,
        log_hash: cluster.keyed.log_hash(),
        log_last: cluster.log.last_index(),
        log_first: cluster.log.first_index(),
        log_bytes: cluster.log.size_bytes(),
        unsealed_bytes: cluster.keyed.overlay_bytes(),
        sealed: cluster.seals.newest().map(|sealed| cluster.seals.reference(&sealed)),
        joined: cluster.arrivals.status(),
        pace: cluster.pacing.own(),
        slow_joiners: cluster.pacing.slow_joiners(),
        soundness: cluster.candidacy.soundness(),
        vote_refused: cluster.candidacy.refused(),
        divergences: cluster.seals.divergences(),
        divergences_forgotten: cluster.seals.divergences_forgotten(),
        different_keys: cluster.seals.different_keys(),
    }
}

/// Returns once the member has stopped by itself, and says why.
pub(crate) async fn wait_for_failure(cluster: &Cluster) -> String {
    let mut metrics = cluster.raft.metrics();
    loop {
        if let Err(reason) = &metrics.borrow_and_update().running_state {
            return reason.to_string();
        }
        if metrics.changed().await.is_err() {
            return "it was closed".into();
        }
    }
}

pub(crate) async fn wait_for(
    cluster: &Cluster,
    patience: Duration,
    is_met: impl Fn(&NodeStatus) -> bool,
) -> Result<NodeStatus, Box<NodeStatus>> {
    let deadline = tokio::time::Instant::now() + patience;
    let (mut applied, mut sealed, mut metrics) =
        (cluster.applied.clone(), cluster.seals.changes(), cluster.raft.metrics());
    let (mut arrival, mut candidacy) = (cluster.arrivals.changes(), cluster.candidacy.changes());
    let mut pacing = cluster.pacing.changes();
    loop {
        let status = of(cluster);
        if is_met(&status) {
            return Ok(status);
        }
        let changed = async {
            tokio::select! {
                changed = applied.changed() => changed.is_ok(),
                changed = sealed.changed() => changed.is_ok(),
                changed = metrics.changed() => changed.is_ok(),
                changed = arrival.changed() => changed.is_ok(),
                changed = candidacy.changed() => changed.is_ok(),
                changed = pacing.changed() => changed.is_ok(),
            }
        };
        // A member that stopped changes no more, but for saying so; what it ran on may go first.
        if !matches!(tokio::time::timeout_at(deadline, changed).await, Ok(true)) {
            let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err());
            let _ = tokio::time::timeout_at(deadline, stopped).await.map(drop);
            let status = of(cluster);
            return if is_met(&status) { Ok(status) } else { Err(Box::new(status)) };
        }
    }
}

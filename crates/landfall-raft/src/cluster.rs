//! Owns a member's view of its cluster: what raft, the log and the seals say, and what the leader can have written into the log.
//!
//! It knows nothing of the service whose state is replicated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;

use landfall::core::snapshot::Position;
use landfall::keyed::Keyed;
use landfall_store::log::Log;
use tokio::sync::watch;

use crate::apply::{Applied, Patience};
use crate::arrival::Arrivals;
use crate::ballot::Ballot;
use crate::candidacy::{Candidacy, Soundness};
use crate::consensus::{Fatal, MemberAddress, MemberId, Raft, StoredMembership, position_of};
use crate::entry::{LogTime, Mark, Payload};
use crate::gather::{now_ms, write};
use crate::head::Head;
use crate::healing::Heal;
use crate::identity::{ClusterId, Identity, Stranger};
use crate::message::{Control, Newcomer, Request};
use crate::network::Network;
use crate::open::is_pristine;
use crate::owner::Owner;
use crate::pacing::Pacing;
use crate::sealing::Sealing;
use crate::seals::Seals;
use crate::service::{Leader, ProposeError};
use crate::spacing::Spacing;
use crate::voted::Voted;
use crate::voting::votes_in_all;

/// Everything of a member but its service.
pub(crate) struct Cluster {
    pub(crate) member: MemberId,
    /// Known once the member listens.
    pub(crate) address: OnceLock<MemberAddress>,
    pub(crate) raft: Raft,
    pub(crate) voted: Voted,
    pub(crate) network: Network,
    pub(crate) identity: Arc<Identity>,
    pub(crate) keyed: Arc<Keyed>,
    pub(crate) log: Arc<Log>,
    pub(crate) disk: Arc<Owner<Ballot>>,
    pub(crate) seals: Arc<Seals>,
    pub(crate) sealing: Sealing,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) healer: Box<dyn Heal>,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) head: Head,
    pub(crate) spacing: Spacing,
    pub(crate) patience: Patience,
    pub(crate) candidacy: Candidacy,
    pub(crate) pacing: Pacing,
    /// Held while this member is compared with others or healed, and while a purge of its log is asked for.
    pub(crate) healing: tokio::sync::Mutex<()>,
    /// Held while the membership changes: openraft does it in two steps, and takes a second change for the second step of the first.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while a lease on the log is granted.
    pub(crate) granting: tokio::sync::Mutex<()>,
    /// Bytes of log that are kept for whoever lags.
    pub(crate) log_kept_bytes_max: u64,
}

/// What a member is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Leader,
    /// It votes, and follows.
    Voter,
    /// It follows, and neither votes nor counts for durability.
    Learner,
}

/// Whether a request comes from a member that counts this one in.
fn is_of_raft(request: &Request) -> bool {
    matches!(request, Request::Append(_) | Request::Control(Control::Vote(_) | Control::Install(_)))
}

impl Cluster {
    /// Who belongs to the cluster, as far as this member's log says.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        self.raft.metrics().borrow().membership_config.clone()
    }

    /// All other members and where they are.
    pub(crate) fn others(&self) -> BTreeMap<MemberId, MemberAddress> {
        let membership = self.membership();
        let others = membership.nodes().filter(|(member, _)| **member != self.member);
        others.map(|(member, address)| (*member, address.clone())).collect()
    }

    /// Whether somebody of `asker`, or of no cluster, may ask this. Who belongs to no cluster yet belongs to the one that sends it a log or
    /// asks it for a vote.
    pub(crate) async fn check_asker(&self, asker: Option<ClusterId>, request: &Request) -> Result<(), Stranger> {
        let own = self.identity.own();
        match (own, asker) {
            (own, asker) if own == asker => Ok(()),
            (_, None) if matches!(request, Request::Control(Control::Begin(_))) => Ok(()),
            (None, Some(asker)) if is_of_raft(request) && self.is_pristine() => {
                self.identity.set(asker).await.map_err(|error| {
                    tracing::error!(%error, "not taken in");
                    Stranger { own: self.identity.own() }
                })
            }
            _ => Err(Stranger { own }),
        }
    }

    /// Whether this member never belonged to a cluster.
    pub(crate) fn is_pristine(&self) -> bool {
        is_pristine(&self.log, &self.keyed)
    }

    /// Whether the membership, as far as it is known here, has a member at that very address.
    pub(crate) fn knows(&self, member: &Newcomer) -> bool {
        self.membership().membership().get_node(&member.member) == Some(&member.address)
    }

    /// Whether the membership is on its way from one to another.
    pub(crate) fn changes_membership(&self) -> bool {
        self.membership().membership().get_joint_config().len() > 1
    }

    pub(crate) fn role(&self) -> Role {
        if self.leads() {
            return Role::Leader;
        }
        match self.votes_for_good() {
            true => Role::Voter,
            false => Role::Learner,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft.metrics().borrow().current_leader == Some(self.member)
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership().voter_ids().any(|voter| voter == self.member)
    }

    /// Whether this member votes however a change of the membership that is under way ends. Until then those who voted before have to
    /// agree without it, and none of them can be spared.
    pub(crate) fn votes_for_good(&self) -> bool {
        votes_in_all(self.membership().membership().get_joint_config(), self.member)
    }

    /// Who leads, as far as it is known here.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let member = self.raft.metrics().borrow().current_leader?;
        let address = self.membership().membership().get_node(&member)?.clone();
        Some(Leader { member, address })
    }

    /// Whether the state may be relied on; else who is to be asked instead, if that is known.
    pub(crate) fn check_soundness(&self) -> Result<(), Option<Leader>> {
        match self.candidacy.soundness() {
            Soundness::Sound => Ok(()),
            Soundness::Healing | Soundness::SteppedOut { .. } => {
                Err(self.leader().filter(|leader| leader.member != self.member))
            }
        }
    }

    /// Returns once this member neither leads nor stands for election, and will not: whoever calls this has forbidden it to stand.
    pub(crate) async fn wait_until_it_follows(&self) -> Result<(), Fatal> {
        let mut metrics = self.raft.metrics();
        loop {
            metrics.mark_unchanged();
            // Asked on raft's own thread: an election that it began before it was forbidden is in its vote by then.
            let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await?;
            if vote.leader_id().voted_for() != Some(self.member) {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| Fatal::Stopped)?;
        }
    }

    /// The newest position that the leader is known to have.
    pub(crate) fn head(&self) -> Option<Position> {
        if self.leads() { self.log.last_position() } else { self.head.known() }
    }

    /// The log's time for something that is written now.
    pub(crate) fn time(&self) -> LogTime {
        self.applied.borrow().time.max(LogTime(now_ms()))
    }

    /// Asks every member to seal; returns where, once the mark is applied here.
    pub(crate) async fn mark(&self) -> Result<Position, ProposeError> {
        let mark = Mark { time: self.time(), keep_from: self.keep_from() };
        Ok(position_of(write(&self.raft, Payload::mark(mark)).await?))
    }

    /// Whether the log is longer than what is kept for members that lag and joiners: they will pull a newer snapshot instead.
    pub(crate) fn log_is_too_long(&self) -> bool {
        is_too_long(self.log.size_bytes(), self.log_kept_bytes_max)
    }

    /// The first index that a member which follows has not confirmed yet. One that lags too far, or died long ago, is not waited for.
    fn keep_from(&self) -> u64 {
        if self.log_is_too_long() {
            return u64::MAX;
        }
        let metrics = self.raft.metrics();
        let replication = metrics.borrow().replication.clone().unwrap_or_default();
        let confirmed = replication.values().map(|id| id.map_or(0, |id| position_of(id).index));
        confirmed.min().map_or(u64::MAX, |index| index + 1)
    }
}

/// Whether a log of so many bytes is longer than what is kept for members that lag and joiners.
pub(crate) fn is_too_long(log_bytes: u64, log_kept_bytes_max: u64) -> bool {
    log_bytes > log_kept_bytes_max
}

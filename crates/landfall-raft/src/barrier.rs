//! Owns linearizable reads: proof that this member still leads, and that what was acknowledged before is applied here.
//!
//! Many readers share one round: who comes during a round waits for the next. A round asks as few members as make a majority whether they
//! still follow; only their votes are looked at, on both sides, so raft itself is not disturbed. What is not proven so is asked of raft.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::consensus::{MemberAddress, MemberId, RaftVote, position_of};
use crate::link::Link;
use crate::message::{Control, Reply, Request};
use crate::service::{Leader, leader_in};
use crate::voting::has_majorities;

/// Readers that wait for a round.
pub(crate) const READERS_WAITING_MAX: usize = 64 * 1024;
/// How long members are waited for before the others are asked as well, and those before raft is.
const PATIENCE: Duration = Duration::from_millis(20);

/// Why a read would not be linearizable, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadBarrierError {
    /// Ask the leader; this member does not lead, or its state is wrong.
    #[error("this member does not lead")]
    NotLeader(Option<Leader>),
    /// Too few members answer: try again, here or elsewhere.
    #[error("too few members answer to be sure that this one still leads")]
    NoQuorum,
    /// This member has stopped.
    #[error("this member has stopped")]
    Stopped,
}

pub(crate) type Reader = oneshot::Sender<Result<(), ReadBarrierError>>;

/// Serves readers, round by round, until none can come any more.
pub(crate) async fn serve(cluster: Arc<Cluster>, mut readers: mpsc::Receiver<Reader>) {
    let mut round = Vec::new();
    let mut reign = Reign::default();
    while readers.recv_many(&mut round, READERS_WAITING_MAX).await > 0 {
        let confirmed = reign.confirm(&cluster).await;
        // Asked last: what is found wrong meanwhile is not to be read either.
        let outcome = cluster.check_soundness().map_err(ReadBarrierError::NotLeader).and(confirmed);
        for reader in round.drain(..) {
            // Who waited may have gone.
            let _ = reader.send(outcome.clone());
        }
    }
}

/// What is known of the time in which this member leads.
#[derive(Default)]
struct Reign {
    /// The vote by which it leads, once raft has shown it, and everything was applied that had been committed until then.
    shown: Option<RaftVote>,
    /// Who did not answer last time is asked last.
    silent: BTreeSet<MemberId>,
}

impl Reign {
    async fn confirm(&mut self, cluster: &Cluster) -> Result<(), ReadBarrierError> {
        let vote = cluster.voted.for_itself(cluster.member);
        if let Some(vote) = self.shown.filter(|shown| vote.as_ref().is_some_and(|vote| is_same(shown, vote)))
            && self.is_followed(cluster, vote).await
            && cluster.voted.is_for(&vote)
        {
            // What was acknowledged since was applied here first: see `Waiters::take`.
            return Ok(());
        }
        confirm_by_raft(cluster).await?;
        self.shown = vote.filter(|vote| cluster.voted.is_for(vote));
        Ok(())
    }

    /// Asks whether a majority still follows: first as few as are needed, those that answered lately, then all.
    ///
    /// Votes never go back, and whoever is elected next needs a majority of every membership that this member has led with until then. So a
    /// membership that is already changing is as good as the newest.
    async fn is_followed(&mut self, cluster: &Cluster, vote: RaftVote) -> bool {
        let membership = cluster.membership();
        let configurations = membership.membership().get_joint_config();
        let mut following = BTreeSet::from([cluster.member]);
        if has_majorities(configurations, &following) {
            return true;
        }
        let mut others: Vec<_> = membership.voter_ids().filter(|member| *member != cluster.member).collect();
        others.sort_by_key(|member| self.silent.contains(member));
        let first = match &configurations[..] {
            [voters] => (voters.len() / 2).min(others.len()),
            _ => others.len(),
        };
        let mut asked = JoinSet::new();
        for wave in [&others[..first], &others[first..]] {
            for member in wave {
                let Some(node) = membership.membership().get_node(member) else { continue };
                asked.spawn(follows(cluster.network.link(&node.peers), *member, vote));
            }
            let end = Instant::now() + PATIENCE;
            while let Ok(Some(answer)) = timeout_at(end, asked.join_next()).await {
                following.extend(answer.ok().flatten());
                if has_majorities(configurations, &following) {
                    self.silent.retain(|member| !following.contains(member));
                    return true;
                }
            }
            self.silent.extend(wave.iter().filter(|member| !following.contains(member)));
        }
        false
    }
}

/// Whether two votes are for the same leader of the same term.
fn is_same(left: &RaftVote, right: &RaftVote) -> bool {
    left.leader_id() == right.leader_id()
}

/// Names the member if it still follows.
async fn follows(link: Arc<Link>, member: MemberId, vote: RaftVote) -> Option<MemberId> {
    let answer = link.ask(&Request::Control(Control::Confirm(vote))).await;
    matches!(answer, Ok(Reply::Done)).then_some(member)
}

/// Has raft show that this member leads, and waits for what it says was committed until then.
async fn confirm_by_raft(cluster: &Cluster) -> Result<(), ReadBarrierError> {
    let (needed, _) = cluster.raft.get_read_log_id().await.map_err(barrier_error)?;
    let Some(needed) = needed.map(position_of) else { return Ok(()) };
    let mut applied = cluster.applied.clone();
    let reached = applied.wait_for(|applied| applied.position >= needed).await;
    reached.map(|_| ()).map_err(|_| ReadBarrierError::Stopped)
}

fn barrier_error(error: RaftError<MemberId, CheckIsLeaderError<MemberId, MemberAddress>>) -> ReadBarrierError {
    match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(elsewhere)) => {
            ReadBarrierError::NotLeader(leader_in(elsewhere))
        }
        RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)) => ReadBarrierError::NoQuorum,
        RaftError::Fatal(_) => ReadBarrierError::Stopped,
    }
}

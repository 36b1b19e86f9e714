//! Owns becoming a member: from the first contact with anybody of the cluster to a vote.
//!
//! The reference comes before raft starts, so raft begins at its position; the log that follows is kept by a lease until it has been sent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use landfall::core::Pauses;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::consensus::MemberAddress;
use crate::entry::Lease;
use crate::hook::CommitHook;
use crate::identity::IdentityError;
use crate::link::LinkError;
use crate::message::{Beginning, Control, Newcomer, Renewal, Reply, Request};
use crate::network::Network;
use crate::node::{Node, NodeConfig};
use crate::open::{OpenError, address_before_listening, open_parts, resume_fetching};
use crate::pacing;
use crate::promotion::{Outcome, Promotion};
use crate::roster::LEASE_DURATION;
use crate::service::Service;

/// Pause before the same members are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The first pause before a leader that refused a vote is asked for it again; it doubles up to the longest.
const REFUSED_PAUSE_FIRST: Duration = Duration::from_secs(1);
const REFUSED_PAUSE_LONGEST: Duration = Duration::from_secs(60);
/// A member is told of another leader at most so often before the next one is asked.
const HOPS_MAX: usize = 4;

/// How to join.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// Where some members of the cluster are; one that answers is enough.
    pub seeds: Vec<String>,
    /// How long to look for one that answers.
    pub patience: Duration,
    /// What to become.
    pub aim: Aim,
    /// What is to be done once its state is proven equal to the others', before it votes.
    pub commit_hook: Option<CommitHook>,
}

/// What a joiner becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// A member that votes, as soon as its state was compared with the others'.
    Voter,
    /// A member that only follows and serves stale reads.
    Learner,
}

/// Why a member did not join, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answered in time: check the addresses, try again.
    #[error("no member of the cluster lets this one in: {0}")]
    Nobody(String),
    /// The cluster refuses this member for good: change what it says of itself.
    #[error("the cluster refuses this member: {0}")]
    Refused(String),
    /// The snapshot could not be pulled: try again, what came is kept.
    #[error("the first snapshot could not be pulled: {0}")]
    Pull(String),
    /// This member does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl<S: Service> Node<S> {
    /// Joins a cluster: returns as soon as the state serves reads; the rest streams in, and the vote comes by itself.
    ///
    /// A directory that belongs to a cluster already is opened as by [`Node::open`].
    pub async fn join(service: S, config: NodeConfig, join: JoinConfig) -> Result<Self, JoinError> {
        let service = Arc::new(service);
        let parts = open_parts(&service, &config).await?;
        let network = Network::new(config.transport.clone(), parts.identity.clone());
        let newcomer = Newcomer { member: config.member, address: address_before_listening(&config) };
        let asking = Asking { network, seeds: join.seeds.clone(), deadline: Instant::now() + join.patience };
        let mut lease = None;
        if parts.is_pristine() {
            let beginning = asking.begin(&newcomer).await?;
            if let Some(cluster) = beginning.cluster {
                parts.identity.set(cluster).await.map_err(not_noted)?;
            }
            let arrivals = parts.arrivals.clone();
            let adopted = tokio::task::spawn_blocking(move || arrivals.adopt(&beginning.start)).await;
            if let Err(reason) = adopted.unwrap_or_else(|error| Err(error.to_string())) {
                parts.let_go().await;
                return Err(JoinError::Pull(reason));
            }
            lease = Some(beginning.lease);
        } else {
            resume_fetching(&parts, config.member)?;
        }
        let mut node = Self::start(service, config, parts).await?;
        let newcomer = Newcomer { address: node.address(), ..newcomer };
        // Who comes back as what it was needs nobody's leave; its seeds may be gone meanwhile.
        if !node.cluster.knows(&newcomer)
            && let Err(error) = asking.admit(&newcomer).await
        {
            node.close().await;
            return Err(error);
        }
        node.tasks.spawn(settle(node.cluster.clone(), join, lease));
        Ok(node)
    }
}

fn not_noted(error: IdentityError) -> JoinError {
    match error {
        IdentityError::Other { .. } => JoinError::Refused(error.to_string()),
        IdentityError::Io(error) => JoinError::Open(error.into()),
    }
}

/// Asks the cluster from outside, until it answers or patience ends.
struct Asking {
    network: Network,
    seeds: Vec<String>,
    deadline: Instant,
}

impl Asking {
    async fn begin(&self, newcomer: &Newcomer) -> Result<Beginning, JoinError> {
        match self.ask(|| Control::Begin(newcomer.clone())).await? {
            Reply::Begin(beginning) => Ok(*beginning),
            other => Err(JoinError::Nobody(format!("an unexpected answer: {other:?}"))),
        }
    }

    async fn admit(&self, newcomer: &Newcomer) -> Result<(), JoinError> {
        self.ask(|| Control::Admit(newcomer.clone())).await.map(|_| ())
    }

    /// Asks one seed after the other, and the leader that they name.
    async fn ask(&self, question: impl Fn() -> Control) -> Result<Reply, JoinError> {
        let mut last = "no address was given".to_owned();
        loop {
            let mut strangers = 0;
            for seed in &self.seeds {
                match ask_leader(&self.network, seed, &question).await {
                    Asked::Answered(reply) => return Ok(reply),
                    Asked::Refused(reason) => return Err(JoinError::Refused(reason)),
                    Asked::NotNow(reason) => last = reason,
                    Asked::Stranger(reason) => (last, strangers) = (reason, strangers + 1),
                }
            }
            if strangers > 0 && strangers == self.seeds.len() {
                return Err(JoinError::Refused(last));
            }
            if Instant::now() + RETRY_PAUSE > self.deadline {
                return Err(JoinError::Nobody(last));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// What came of asking.
pub(crate) enum Asked {
    Answered(Reply),
    Refused(String),
    NotNow(String),
    /// Who was asked is of another cluster, which says nothing of this one's answer.
    Stranger(String),
}

/// Asks a member, and the leader that it names.
async fn ask_leader(network: &Network, first: &str, question: &impl Fn() -> Control) -> Asked {
    let mut address = first.to_owned();
    for _ in 0..HOPS_MAX {
        match network.link(&address).ask(&Request::Control(question())).await {
            Ok(Reply::AskLeader(Some((_, leader)))) => address = leader.peers,
            Ok(Reply::AskLeader(None)) => return Asked::NotNow(format!("{address} knows no leader")),
            Ok(Reply::NotYet(reason)) => return Asked::NotNow(reason),
            Ok(Reply::Refused(reason)) => return Asked::Refused(reason),
            Ok(reply) => return Asked::Answered(reply),
            Err(error @ LinkError::OtherCluster { .. }) => return Asked::Stranger(error.to_string()),
            Err(error) => return Asked::NotNow(error.to_string()),
        }
    }
    Asked::NotNow("the leader changes".into())
}

/// Keeps the lease while the log comes in, reports how that goes, sees the join through to its end, and asks for a vote if that is a good one.
async fn settle(cluster: Arc<Cluster>, join: JoinConfig, lease: Option<Lease>) {
    let renewing = async {
        if let Some(lease) = lease {
            keep_lease(&cluster, &join.seeds, lease).await;
            // It goes on all the same: what the log no longer holds comes with a newer snapshot.
            tracing::warn!("the lease on the log is over before this member was promoted");
        }
        std::future::pending::<Infallible>().await
    };
    let settling = async {
        match promote(&cluster, &join, lease).await {
            Outcome::Promoted if join.aim == Aim::Voter => become_voter(&cluster, &join.seeds).await,
            Outcome::Promoted => {}
            Outcome::RolledBack(reason) => {
                tracing::error!(%reason, "this member does not become one; it follows, and never votes");
            }
        }
    };
    tokio::select! {
        () = settling => {}
        never = renewing => match never {},
        never = pacing::report(&cluster) => match never {},
    }
    cluster.pacing.handle_joined();
    if let Some(lease) = lease {
        let renewal = Renewal { holder: cluster.member, version: lease.version, keep_from: None };
        ask_cluster(&cluster, &join.seeds, || Control::Renew(renewal.clone())).await;
    }
}

/// Returns once the join has ended. A voter that comes back whole has nothing to prove.
async fn promote(cluster: &Arc<Cluster>, join: &JoinConfig, lease: Option<Lease>) -> Outcome {
    if cluster.arrivals.adopted().is_none() {
        if cluster.votes_for_good() {
            return Outcome::Promoted;
        }
        cluster.arrivals.take_up();
    }
    let (seeds, hook) = (&join.seeds[..], join.commit_hook.as_ref());
    Promotion { cluster, seeds, hook, lease: lease.map(|lease| lease.version) }.follow().await
}

/// Returns when the lease is lost: a newer one fenced it, or it ran out.
async fn keep_lease(cluster: &Cluster, seeds: &[String], lease: Lease) {
    loop {
        tokio::time::sleep(LEASE_DURATION / 4).await;
        let keep_from = Some(cluster.applied.borrow().position.index + 1);
        let renewal = Renewal { holder: cluster.member, version: lease.version, keep_from };
        if let Some(Asked::Refused(_)) = ask_cluster(cluster, seeds, || Control::Renew(renewal.clone())).await {
            return;
        }
    }
}

/// Asks for a vote until it has one. A refusal is what one leader says, and the next one may say something else, or the reason may go: it asks
/// again, less and less often, for each comparison has every member seal.
async fn become_voter(cluster: &Cluster, seeds: &[String]) {
    let mut refused = Pauses::new(REFUSED_PAUSE_FIRST, REFUSED_PAUSE_LONGEST);
    while !cluster.votes_for_good() {
        let pause = match ask_cluster(cluster, seeds, || Control::Promote(cluster.member)).await {
            Some(Asked::Answered(_)) => break,
            Some(Asked::Refused(reason)) => {
                tracing::error!(reason, "the leader does not let this member vote");
                cluster.candidacy.handle_refused(reason);
                refused.lengthen()
            }
            Some(Asked::NotNow(reason) | Asked::Stranger(reason)) => {
                tracing::info!(reason, "no vote yet");
                RETRY_PAUSE
            }
            None => RETRY_PAUSE,
        };
        tokio::time::sleep(pause).await;
    }
    cluster.candidacy.handle_vote();
}

/// Asks whoever leads; the seeds where this member knows nobody.
pub(crate) async fn ask_cluster(cluster: &Cluster, seeds: &[String], question: impl Fn() -> Control) -> Option<Asked> {
    let leader = cluster.leader().map(|leader| leader.address.peers);
    let known = cluster.others().into_values().map(|address: MemberAddress| address.peers);
    let mut last = None;
    for address in leader.into_iter().chain(known).chain(seeds.iter().cloned()) {
        match ask_leader(&cluster.network, &address, &question).await {
            later @ (Asked::NotNow(_) | Asked::Stranger(_)) => last = Some(later),
            asked => return Some(asked),
        }
    }
    last
}

//! Owns a member of a replicated service from the outside: opening and closing it, proposing, reading, and what it says of itself.
//!
//! It only puts parts together; each says itself what it does.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use landfall::core::snapshot::StateName;
use landfall::keyed::Keyed;
use landfall::member::Member;
use landfall::net::Transport;
use landfall_store::log::Log;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::audit::{self, AuditReport};
use crate::barrier::{ReadBarrierError, Reader};
use crate::cluster::{Cluster, Role};
use crate::consensus::{MemberAddress, MemberId};
use crate::entry::{COMMAND_BYTES_MAX, LogTime};
use crate::gather::Proposal;
use crate::hook::BackPressure;
use crate::message::Newcomer;
use crate::roster::{self, RosterError};
use crate::service::{Leader, ProposeError, Service};
use crate::status::{self, NodeStatus};

/// Time for everything that a closed member had under way to let go of its directory.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before looking again whether it did.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// A good value of [`NodeConfig::log_kept_bytes_max`].
pub const LOG_KEPT_BYTES_DEFAULT: u64 = 4 * 1024 * 1024 * 1024;

/// How a member is set up.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its name in the cluster, for ever.
    pub member: MemberId,
    /// The name of the replicated state, the same on every member.
    pub state: StateName,
    /// Where it keeps everything. One process owns it at a time.
    pub directory: PathBuf,
    /// Where it listens for other members; port 0 takes any.
    pub listen: String,
    /// Where others reach it, if that is another address than it listens at.
    pub advertise: Option<String>,
    /// Where clients reach it; other members tell it to clients.
    pub clients: String,
    /// How members reach each other.
    pub transport: Arc<dyn Transport>,
    /// Memory for parts of the state that were read.
    pub cache_bytes: u64,
    /// Bytes of log that are kept for members that lag, and for joiners; who needs more than that pulls a newer snapshot instead.
    pub log_kept_bytes_max: u64,
    /// How soon a dead leader is noticed.
    pub timing: Timing,
    /// What is called while a joiner receives less than it needs for its join to end.
    pub back_pressure: Option<BackPressure>,
}

/// How soon a dead leader is noticed. All members use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader shows that it lives; never below 250 ms. A link should carry a megabyte well within `election_min`: while entries
    /// are on their way, nothing overtakes them.
    pub heartbeat: Duration,
    /// A member that heard nothing for at least this long stands for election ...
    pub election_min: Duration,
    /// ... and for at most this long. Nobody votes for another leader before the last one has been silent for as long, so a cluster whose
    /// leader died takes no writes for up to twice this.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election_min: Duration::from_millis(900),
            election_max: Duration::from_millis(1500),
        }
    }
}

/// A member of a replicated service.
///
/// Dropping it stops it without care; [`Node::close`] waits for what is under way.
pub struct Node<S: Service> {
    pub(crate) service: Arc<S>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proposals: mpsc::Sender<Proposal<S::Reply>>,
    pub(crate) readers: mpsc::Sender<Reader>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) serving: Option<Member>,
}

/// A command on its way; await it for the reply.
#[derive(Debug)]
pub struct Proposed<R>(oneshot::Receiver<Result<R, ProposeError>>);

impl<R> Future for Proposed<R> {
    type Output = Result<R, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|reply| reply.unwrap_or(Err(ProposeError::Stopped)))
    }
}

impl<S: Service> Node<S> {
    /// Proposes a command; returns its reply once it has taken effect here and is durable on a majority.
    ///
    /// Waits where too many commands wait already.
    pub async fn propose(&self, command: &S::Command) -> Result<S::Reply, ProposeError> {
        // A member whose state is wrong replies what is wrong: somebody else is to lead.
        self.check_soundness().map_err(ProposeError::NotLeader)?;
        let (proposal, proposed) = encode::<S>(command)?;
        self.proposals.send(proposal).await.map_err(|_| ProposeError::Stopped)?;
        proposed.await
    }

    /// Proposes a command at once, in the order of the calls; the reply is awaited later.
    ///
    /// # Errors
    /// [`ProposeError::Busy`] where [`Node::propose`] would wait.
    pub fn submit(&self, command: &S::Command) -> Result<Proposed<S::Reply>, ProposeError> {
        self.check_soundness().map_err(ProposeError::NotLeader)?;
        let (proposal, proposed) = encode::<S>(command)?;
        self.proposals.try_send(proposal).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        Ok(proposed)
    }

    /// Returns once everything that was acknowledged before the call can be read in [`Node::state`] here. Only the leader can say so.
    ///
    /// Readers share rounds: many at once cost hardly more than one.
    pub async fn read_linearizable(&self) -> Result<(), ReadBarrierError> {
        let (reader, served) = oneshot::channel();
        self.readers.send(reader).await.map_err(|_| ReadBarrierError::Stopped)?;
        served.await.unwrap_or(Err(ReadBarrierError::Stopped))
    }

    /// The state as it is applied here. Without [`Node::read_linearizable`] a read may be stale, but does not go back, except while a member is
    /// healed that did not agree with the others; while [`Node::check_soundness`] says that it does not, what is read is wrong.
    pub fn state(&self) -> &Arc<Keyed> {
        &self.cluster.keyed
    }

    /// Whether the state is what most others have, as far as is known: see [`Soundness`](crate::Soundness) in [`Node::status`].
    ///
    /// # Errors
    /// Who is to be asked instead, if that is known.
    pub fn check_soundness(&self) -> Result<(), Option<Leader>> {
        self.cluster.check_soundness()
    }

    /// The service.
    pub fn service(&self) -> &Arc<S> {
        &self.service
    }

    /// The log's time as far as it is applied here.
    pub fn time(&self) -> LogTime {
        self.cluster.applied.borrow().time
    }

    /// This member's name.
    pub fn member(&self) -> MemberId {
        self.cluster.member
    }

    /// Where this member is reached.
    pub fn address(&self) -> MemberAddress {
        self.cluster.address.get().cloned().unwrap_or_default()
    }

    /// What this member is to its cluster.
    pub fn role(&self) -> Role {
        self.cluster.role()
    }

    /// Who leads, as far as it is known here.
    pub fn leader(&self) -> Option<Leader> {
        self.cluster.leader()
    }

    /// What this member says of itself.
    pub fn status(&self) -> NodeStatus {
        status::of(&self.cluster)
    }

    /// Waits until the status satisfies a condition. It looks again whenever something was applied, sealed, or decided.
    ///
    /// # Errors
    /// The last status, if `patience` ends first.
    pub async fn wait_for(
        &self,
        patience: Duration,
        is_met: impl Fn(&NodeStatus) -> bool,
    ) -> Result<NodeStatus, Box<NodeStatus>> {
        status::wait_for(&self.cluster, patience, is_met).await
    }

    /// Waits until the member has stopped by itself, its disk having failed for example; says why. Until it is opened again, it takes part in
    /// nothing.
    pub async fn wait_for_failure(&self) -> String {
        status::wait_for_failure(&self.cluster).await
    }

    /// Has every member seal at one position and compares what they sealed. Only the leader can.
    pub async fn audit(&self, patience: Duration) -> Result<AuditReport, RosterError> {
        audit::audit(&self.cluster, patience).await
    }

    /// Adds a member that does not vote. It is expected to join by itself; see [`Node::join`]. Only the leader can.
    pub async fn add_member(&self, member: MemberId, address: MemberAddress) -> Result<(), RosterError> {
        roster::try_admit(&self.cluster, Newcomer { member, address }).await
    }

    /// Lets a member vote, once it has sealed the same as this one at a common mark. Only the leader can.
    pub async fn promote(&self, member: MemberId) -> Result<(), RosterError> {
        roster::promote(&self.cluster, member).await
    }

    /// Takes a member out of the cluster: one that has stopped, for one that runs goes on asking for votes. Only the leader can, and not itself.
    pub async fn remove(&self, member: MemberId) -> Result<(), RosterError> {
        // Without a majority it would be begun and not end.
        self.read_linearizable().await?;
        roster::remove(&self.cluster, member).await
    }

    /// Stops. What was acknowledged is durable, here or on a majority; what was not may have happened.
    ///
    /// When it returns the directory can be opened again, unless somebody still holds [`Node::state`].
    pub async fn close(mut self) {
        self.cluster.patience.end();
        let (serving, cluster) = (self.serving.take(), self.cluster.clone());
        // It waits for its connections, which wait for answers of this runtime.
        let closed = tokio::task::spawn_blocking(move || {
            cluster.arrivals.stop();
            drop(serving);
        });
        // A member that failed has nothing left to stop.
        let _ = self.cluster.raft.shutdown().await;
        let _ = closed.await;
        self.tasks.shutdown().await;
        let (keyed, log) = (self.cluster.keyed.clone(), self.cluster.log.clone());
        drop(self);
        release(keyed, log).await;
    }
}

/// Waits until the caller is the last to hold a state and its log, and closes them.
///
/// Threads and tasks that were answering, sealing or pulling let go by themselves, one after the other.
pub(crate) async fn release(keyed: Arc<Keyed>, log: Arc<Log>) {
    let deadline = tokio::time::Instant::now() + RELEASE_PATIENCE;
    while Arc::strong_count(&keyed) + Arc::strong_count(&log) > 2 {
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!("somebody still holds the state of a member that was closed");
            return;
        }
        tokio::time::sleep(RELEASE_PAUSE).await;
    }
    let _ = tokio::task::spawn_blocking(move || drop((keyed, log))).await;
}

impl<S: Service> Drop for Node<S> {
    fn drop(&mut self) {
        self.cluster.patience.end();
        // raft's own task and the threads of pulls hold what they run on, and would go on for ever.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (raft, arrivals) = (self.cluster.raft.clone(), self.cluster.arrivals.clone());
            runtime.spawn(async move { raft.shutdown().await });
            runtime.spawn_blocking(move || arrivals.stop());
        }
    }
}

/// A command on its way in, and what its proposer awaits.
type Offered<R> = (Proposal<R>, Proposed<R>);

fn encode<S: Service>(command: &S::Command) -> Result<Offered<S::Reply>, ProposeError> {
    let command = rmp_serde::to_vec(command).map_err(|error| ProposeError::NotEncodable(error.to_string()))?;
    if command.len() > COMMAND_BYTES_MAX {
        return Err(ProposeError::TooLong { bytes: command.len() });
    }
    let (reply, replied) = oneshot::channel();
    Ok((Proposal { command, reply }, Proposed(replied)))
}

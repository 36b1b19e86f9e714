//! Owns a raft member as the server sees it: proposals, barriers and looks go to it, and what it says is put into
//! clients' words. It also looks after the member while clients are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use landfall_raft::landfall::keyed::{Extent, KeyedError};
use landfall_raft::{Leader, Node, ProposeError, ReadBarrierError, Role as RaftRole, RosterError};
use serde_json::Value;
use tokio::sync::watch;

use crate::keyspace::{Clock, Lookup, Section, Step, is_sweep_due};
use crate::limits::SWEPT_KEYS_MAX;
use crate::replica::{Replica, Role, Standing, Unavailable, Waiting};
use crate::reply::Reply;
use crate::server::Running;
use crate::service::{self, KeyValues};
use crate::status;

/// A member of the cluster.
pub struct ClusterMember {
    node: Node<KeyValues>,
    /// Everything that the state stands on is here, as far as was seen lately: asking is dear, and reads ask often.
    is_whole: AtomicBool,
}

impl std::fmt::Debug for ClusterMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterMember").field("member", &self.node.member()).finish_non_exhaustive()
    }
}

impl ClusterMember {
    /// Puts a raft member behind the server.
    pub fn new(node: Node<KeyValues>) -> Self {
        let is_whole = AtomicBool::new(is_whole(&node));
        Self { node, is_whole }
    }

    /// Stops. What was acknowledged is durable.
    pub async fn close(self) {
        self.node.close().await;
    }

    /// Looks after the member until the server stops: sees whether all of the state is here, and while the member leads,
    /// watches the deadlines and proposes a sweep when one has come.
    pub async fn look_after(self: Arc<Self>, mut stop: watch::Receiver<Running>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_PAUSE) => {}
                _ = stop.changed() => return,
            }
            self.is_whole.store(is_whole(&self.node), Ordering::Relaxed);
            if self.node.role() == RaftRole::Leader {
                self.sweep_what_is_due().await;
            }
        }
    }

    /// Waits until the member has stopped by itself; says why.
    pub async fn wait_for_failure(&self) -> String {
        self.node.wait_for_failure().await
    }

    async fn sweep_what_is_due(self: &Arc<Self>) {
        loop {
            let (member, now_ms) = (self.clone(), self.clock().now_ms);
            let due = tokio::task::spawn_blocking(move || is_sweep_due(now_ms, &*member)).await;
            if !matches!(due, Ok(Ok(true))) {
                return;
            }
            match self.propose(vec![Step::Sweep]).await.as_deref() {
                Ok([Reply::Integer(swept)]) if usize::try_from(*swept) == Ok(SWEPT_KEYS_MAX) => {}
                Ok(_) => return,
                Err(error) => return tracing::debug!(%error, "a sweep was not carried out"),
            }
        }
    }
}

fn is_whole(node: &Node<KeyValues>) -> bool {
    node.state().sealed().is_none_or(|sealed| sealed.extent == Extent::Whole)
}

/// How long a key can outlive its deadline while nobody writes, about.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long an audit waits for members that do not report.
const AUDIT_PATIENCE: Duration = Duration::from_secs(60);

impl Lookup for ClusterMember {
    type Error = Unavailable;

    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, Unavailable> {
        self.node.state().get(service::id(section), key).map_err(unreadable)
    }

    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, Unavailable> {
        self.node.state().scan(service::id(section), from, entries_max).map_err(unreadable)
    }
}

impl Replica for ClusterMember {
    async fn propose(&self, steps: Vec<Step>) -> Result<Vec<Reply>, Unavailable> {
        self.node.propose(&steps).await.map_err(not_proposed)
    }

    async fn barrier(&self) -> Result<(), Unavailable> {
        self.node.read_linearizable().await.map_err(|error| match error {
            ReadBarrierError::NotLeader(leader) => not_leader(leader),
            ReadBarrierError::NoQuorum => Unavailable::NoQuorum,
            ReadBarrierError::Stopped => Unavailable::Stopping,
        })
    }

    fn check_soundness(&self) -> Result<(), Unavailable> {
        self.node.check_soundness().map_err(not_leader)
    }

    fn log_time_ms(&self) -> u64 {
        self.node.time().0
    }

    fn clock(&self) -> Clock {
        let log_ms = self.log_time_ms();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let own_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Clock { log_ms, now_ms: log_ms.max(own_ms) }
    }

    fn may_wait(&self) -> Waiting {
        // What is seen too late costs other connections a wait, nothing more.
        if self.is_whole.load(Ordering::Relaxed) { Waiting::Never } else { Waiting::Sometimes }
    }

    fn standing(&self) -> Standing {
        let role = if self.node.role() == RaftRole::Leader { Role::Leader } else { Role::Follower };
        Standing { role, leader: self.node.leader().map(|leader| leader.address.clients) }
    }

    async fn status(&self) -> Value {
        status::status(&self.node.status(), &self.node.address(), self.node.state().sealed().as_deref())
    }

    async fn audit(&self) -> Result<Value, Unavailable> {
        let report = self.node.audit(AUDIT_PATIENCE).await.map_err(not_changed)?;
        Ok(status::audit(&report))
    }

    async fn remove(&self, member: u64) -> Result<(), Unavailable> {
        self.node.remove(member).await.map_err(not_changed)
    }
}

fn not_changed(error: RosterError) -> Unavailable {
    match error {
        RosterError::NotLeader(leader) => not_leader(leader),
        RosterError::Unknown => Unavailable::Unknown,
        RosterError::NoQuorum => Unavailable::NoQuorum,
        RosterError::Unconfirmed => Unavailable::Unconfirmed,
        RosterError::Stopped => Unavailable::Stopping,
        other => Unavailable::Refused(other.to_string()),
    }
}

fn not_leader(leader: Option<Leader>) -> Unavailable {
    Unavailable::NotLeader { clients: leader.map(|leader| leader.address.clients) }
}

fn unreadable(error: KeyedError) -> Unavailable {
    Unavailable::State(error.to_string())
}

fn not_proposed(error: ProposeError) -> Unavailable {
    match error {
        ProposeError::NotLeader(leader) => not_leader(leader),
        ProposeError::TooLong { .. } => Unavailable::TooLong,
        ProposeError::ReplyDropped => Unavailable::ReplyDropped,
        ProposeError::NoQuorum => Unavailable::NoQuorum,
        ProposeError::Stopped => Unavailable::Stopping,
        ProposeError::Unknown => Unavailable::Unknown,
        ProposeError::Unconfirmed => Unavailable::Unconfirmed,
        other => Unavailable::State(other.to_string()),
    }
}

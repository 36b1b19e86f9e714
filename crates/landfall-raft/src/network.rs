//! Owns how openraft reaches other members: its calls become requests on links.
//!
//! Its own deadlines stand here: openraft cuts appends off by itself and never a snapshot, which may take hours and is cut only when
//! the follower makes no progress.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall::net::Transport;
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use tokio::time::Instant;

use crate::consensus::{Consensus, MemberAddress, MemberId, RaftLogId, RaftVote};
use crate::identity::Identity;
use crate::link::{Call, Link, LinkError};
use crate::message::{Answer, Control, Install, Reply, Request};

/// A follower that pulls a snapshot gets on with it at least this often, or its pull has failed.
pub(crate) const INSTALL_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause before an unreachable member is tried again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);

type RpcError = RPCError<MemberId, MemberAddress, RaftError<MemberId>>;
type Snapshot = openraft::Snapshot<Consensus>;
type InstallError = StreamingError<Consensus, Fatal<MemberId>>;

/// The links of one member to all others, by address. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    identity: Arc<Identity>,
    links: Arc<Mutex<HashMap<String, Arc<Link>>>>,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn Transport>, identity: Arc<Identity>) -> Self {
        Self { transport, identity, links: Arc::default() }
    }

    /// The same members by links of their own, none of which is made yet.
    pub(crate) fn apart(&self) -> Self {
        Self::new(self.transport.clone(), self.identity.clone())
    }

    /// The link to a member at an address: one for everything that is said to it.
    pub(crate) fn link(&self, address: &str) -> Arc<Link> {
        // Nothing that runs under the lock can panic half way.
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(address.to_owned());
        let new = || Link::new(self.transport.clone(), self.identity.clone(), address.to_owned());
        link.or_insert_with(|| Arc::new(new())).clone()
    }

    /// Lets go of the links to all other addresses. Whoever still talks on one keeps it for that long; a link that is wanted again is made anew.
    pub(crate) fn keep_only(&self, addresses: &[String]) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|address, _| addresses.contains(address));
    }
}

impl RaftNetworkFactory<Consensus> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, address: &MemberAddress) -> Peer {
        Peer { target, link: self.link(&address.peers), under_way: None }
    }
}

/// One other member, as openraft talks to it.
pub(crate) struct Peer {
    target: MemberId,
    link: Arc<Link>,
    under_way: Option<UnderWay>,
}

/// Entries that were sent and not answered. openraft gives an append up after one heartbeat and has it sent again; on a link that takes
/// longer for it, that would go on for ever.
struct UnderWay {
    vote: RaftVote,
    previous: Option<RaftLogId>,
    last: RaftLogId,
    call: Call,
}

impl RaftNetwork<Consensus> for Peer {
    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Consensus>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        let Some(last) = append.entries.last().map(|entry| entry.log_id) else {
            return self.heartbeat(append).await;
        };
        let (vote, previous) = (append.vote, append.prev_log_id);
        let is_sent = |sent: &UnderWay| sent.vote == vote && sent.previous == previous && sent.last <= last;
        if !self.under_way.as_ref().is_some_and(is_sent) {
            let call = self.link.call(&Request::Append(append)).map_err(rpc_error)?;
            self.under_way = Some(UnderWay { vote, previous, last, call });
        }
        self.answer_to_entries(last).await
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<MemberId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, RpcError> {
        let request = Request::Control(Control::Vote(vote));
        let asking = tokio::time::timeout(option.hard_ttl(), self.link.ask(&request));
        let silent = |_| RPCError::Unreachable(Unreachable::new(&std::io::Error::from(std::io::ErrorKind::TimedOut)));
        match asking.await.map_err(silent)?.map_err(rpc_error)? {
            Reply::Vote(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, InstallError> {
        let install = Install { vote, meta: snapshot.meta, reference: *snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            installed = self.install(install) => installed,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

impl Peer {
    async fn heartbeat(
        &self,
        append: AppendEntriesRequest<Consensus>,
    ) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        match self.link.ask(&Request::Append(append)).await.map_err(rpc_error)? {
            Reply::Append(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits for what the member says to the entries that are under way; they reach to `wanted`, or not as far. If it is not awaited to the
    /// end, the next call goes on.
    async fn answer_to_entries(&mut self, wanted: RaftLogId) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        let closed =
            || RPCError::Unreachable(Unreachable::new(&std::io::Error::from(std::io::ErrorKind::NotConnected)));
        let sent = self.under_way.as_mut().ok_or_else(closed)?;
        let answer = loop {
            match sent.call.next().await {
                Ok(Answer::Progress(_)) => {}
                other => break other,
            }
        };
        let last = sent.last;
        self.under_way = None;
        match answer.map_err(rpc_error)? {
            Answer::Reply(Reply::Append(AppendEntriesResponse::Success)) if last < wanted => {
                Ok(AppendEntriesResponse::PartialSuccess(Some(last)))
            }
            Answer::Reply(Reply::Append(response)) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits as long as the follower makes progress.
    async fn install(&self, install: Install) -> Result<SnapshotResponse<MemberId>, InstallError> {
        let lost = |error: &LinkError| StreamingError::Unreachable(Unreachable::new(error));
        let mut call = self.link.call(&Request::Control(Control::Install(install))).map_err(|error| lost(&error))?;
        let mut progress = Progress::new(Instant::now());
        loop {
            let silent = |_| {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                StreamingError::Unreachable(Unreachable::new(&error))
            };
            let next = tokio::time::timeout_at(progress.deadline(), call.next()).await.map_err(silent)?;
            match next.map_err(|error| lost(&error))? {
                Answer::Reply(Reply::Installed(vote)) => return Ok(SnapshotResponse::new(vote)),
                Answer::Progress(bytes) => {
                    tracing::debug!(member = self.target, bytes, "pulls a snapshot");
                    progress.handle_bytes(bytes, Instant::now());
                }
                other => {
                    let error = std::io::Error::other(format!("an unexpected answer: {other:?}"));
                    return Err(StreamingError::Unreachable(Unreachable::new(&error)));
                }
            }
        }
    }

    fn unexpected(&self, reply: &impl Debug) -> RpcError {
        let error = std::io::Error::other(format!("member {} answers with something else: {reply:?}", self.target));
        RPCError::Unreachable(Unreachable::new(&error))
    }
}

/// How far a follower is with a snapshot, by what it says. That it says something means only that it lives.
struct Progress {
    bytes: u64,
    since: Instant,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { bytes: 0, since: now }
    }

    /// So many bytes are here. It got on if that is another number: a pull that is begun anew counts from 0.
    fn handle_bytes(&mut self, bytes: u64, now: Instant) {
        if bytes != self.bytes {
            *self = Self { bytes, since: now };
        }
    }

    /// When it must have got on.
    fn deadline(&self) -> Instant {
        self.since + INSTALL_SILENCE_MAX
    }
}

/// Whatever went wrong, openraft pauses before it tries again: it repeats other failures at once, for ever.
fn rpc_error(error: LinkError) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&error))
}

#[cfg(test)]
mod tests {
    use landfall::net::PlainTransport;

    use super::*;
    use crate::ballot::Ballot;
    use crate::owner::Owner;

    #[test]
    fn a_link_to_whoever_left_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let ballot = Ballot::open(directory.path(), 1, [1; 32]).unwrap();
        let identity = Identity::new(None, Arc::new(Owner::start("ballot", ballot).unwrap()));
        let network = Network::new(Arc::new(PlainTransport), Arc::new(identity));
        let [stays, leaves] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| Arc::downgrade(&network.link(address)));
        network.keep_only(&["127.0.0.1:1".to_owned()]);
        assert!(stays.upgrade().is_some());
        assert!(leaves.upgrade().is_none());
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_a_follower_that_gets_on_with_a_snapshot_is_given_more_time() {
        let began = Instant::now();
        let mut progress = Progress::new(began);
        let mut says = |bytes, after: u32| {
            progress.handle_bytes(bytes, began + SECOND * after);
            progress.deadline() - began
        };
        assert_eq!(says(0, 1), INSTALL_SILENCE_MAX, "it lives, and has nothing");
        assert_eq!(says(70, 2), SECOND * 2 + INSTALL_SILENCE_MAX);
        assert_eq!(says(70, 29), SECOND * 2 + INSTALL_SILENCE_MAX);
        assert_eq!(says(0, 30), SECOND * 30 + INSTALL_SILENCE_MAX, "it begins anew");
        assert_eq!(says(1, 31), SECOND * 31 + INSTALL_SILENCE_MAX);
    }
}

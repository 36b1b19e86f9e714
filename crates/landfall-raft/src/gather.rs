//! Owns how commands become log entries: those that wait are gathered into one, so that they share one append and one sync.
//!
//! A lone command leaves at once. What comes while an entry is on its way waits for its end, or until it is as long: the fewer entries there
//! are, the fewer syncs every member pays, and clients that wait for their answers would else be split into many small ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::consensus::{MemberId, Raft};
use crate::entry::{CommandsBuilder, LogTime, Origin, Payload};
use crate::service::ProposeError;
use crate::voted::Voted;

/// Commands that wait to be gathered.
pub(crate) const PROPOSALS_WAITING_MAX: usize = 16 * 1024;
/// Entries that are on their way at once: while a long one is replicated, the next is written.
const ENTRIES_UNDER_WAY_MAX: usize = 2;

/// A command, encoded, and who waits for its reply.
pub(crate) struct Proposal<R> {
    pub(crate) command: Vec<u8>,
    pub(crate) reply: ReplySender<R>,
}

pub(crate) type ReplySender<R> = oneshot::Sender<Result<R, ProposeError>>;

/// Who waits for replies, by the entry's ticket.
pub(crate) struct Waiters<R> {
    member: MemberId,
    by_ticket: Mutex<HashMap<u64, Vec<ReplySender<R>>>>,
    appended: Appended,
    voted: Voted,
}

/// Tickets whose entry went into the log here: from then on it may take effect, whoever leads.
#[derive(Clone, Default)]
pub(crate) struct Appended(Arc<Mutex<HashMap<u64, EntryState>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    Proposed,
    Appended,
}

impl Appended {
    /// An entry goes into the log. Entries of other members, and of this one's earlier lives, are not known here.
    pub(crate) fn note(&self, origin: Origin) {
        if let Some(state) = lock(&self.0).get_mut(&origin.ticket) {
            *state = EntryState::Appended;
        }
    }
}

impl<R> Waiters<R> {
    pub(crate) fn new(member: MemberId, appended: Appended, voted: Voted) -> Self {
        Self { member, by_ticket: Mutex::default(), appended, voted }
    }

    fn enter(&self, ticket: u64, replies: Vec<ReplySender<R>>) {
        lock(&self.appended.0).insert(ticket, EntryState::Proposed);
        lock(&self.by_ticket).insert(ticket, replies);
    }

    /// Whoever waits for the replies of an entry that was just applied; empty for entries of others.
    ///
    /// Nobody hears of success once another member was voted for: that one may answer reads already, and may have applied less.
    pub(crate) fn take(&self, origin: Origin) -> Vec<ReplySender<R>> {
        if origin.member != self.member {
            return Vec::new();
        }
        let waiting = lock(&self.by_ticket).remove(&origin.ticket).unwrap_or_default();
        if self.voted.for_itself(self.member).is_some() {
            return waiting;
        }
        for reply in waiting {
            // Who waited may have gone.
            let _ = reply.send(Err(ProposeError::Unknown));
        }
        Vec::new()
    }

    /// The entry's fate is known to openraft: who still waits hears why there was no reply.
    fn settle(&self, ticket: u64, error: Option<ProposeError>) {
        let state = lock(&self.appended.0).remove(&ticket);
        let waiting = lock(&self.by_ticket).remove(&ticket).unwrap_or_default();
        let error = match (state, error) {
            // Nothing was written, so nothing can happen any more.
            (Some(EntryState::Proposed), Some(error)) => error,
            _ => ProposeError::Unknown,
        };
        for reply in waiting {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Gathers until nobody can propose any more.
pub(crate) async fn gather<R: Send + 'static>(
    raft: Raft,
    waiters: Arc<Waiters<R>>,
    last_time: impl Fn() -> LogTime + Send + 'static,
    proposals: mpsc::Receiver<Proposal<R>>,
) {
    let under_way = Arc::new(UnderWay::default());
    let mut gathering = Gathering { proposals, left_over: None };
    // Tickets of an earlier life of this member stand in the log: they must not be taken for ours.
    let mut ticket = now_ms() << 20;
    while let Some(Gathered { builder, replies }) = gathering.next(&under_way).await {
        ticket += 1;
        waiters.enter(ticket, replies);
        let origin = Origin { member: waiters.member, ticket };
        let time = last_time().max(LogTime(now_ms()));
        under_way.begin(ticket, builder.bytes());
        propose(&raft, &waiters, ticket, builder.finish(time, origin), under_way.clone()).await;
    }
}

/// Commands that go into one entry, and who waits for their replies.
struct Gathered<R> {
    builder: CommandsBuilder,
    replies: Vec<ReplySender<R>>,
}

/// Commands that wait, in order.
struct Gathering<R> {
    proposals: mpsc::Receiver<Proposal<R>>,
    /// One that the last entry had no room for.
    left_over: Option<Proposal<R>>,
}

impl<R> Gathering<R> {
    /// What goes into the next entry, once it may leave; nothing once nobody can propose any more.
    async fn next(&mut self, under_way: &UnderWay) -> Option<Gathered<R>> {
        let mut gathered = Gathered { builder: CommandsBuilder::new(), replies: Vec::new() };
        let first = match self.left_over.take() {
            Some(proposal) => proposal,
            None => self.proposals.recv().await?,
        };
        gathered.add(first);
        loop {
            while self.left_over.is_none()
                && let Ok(proposal) = self.proposals.try_recv()
            {
                self.left_over = gathered.take(proposal);
            }
            let length = if self.left_over.is_some() { usize::MAX } else { gathered.builder.bytes() };
            let ended = under_way.ended.notified();
            if under_way.lets_go(length) {
                return Some(gathered);
            }
            tokio::select! {
                () = ended => {}
                Some(proposal) = self.proposals.recv(), if self.left_over.is_none() => {
                    self.left_over = gathered.take(proposal);
                }
            }
        }
    }
}

impl<R> Gathered<R> {
    /// Gives a proposal back for which there is no room.
    fn take(&mut self, proposal: Proposal<R>) -> Option<Proposal<R>> {
        if !self.builder.has_room(proposal.command.len()) {
            return Some(proposal);
        }
        self.add(proposal);
        None
    }

    fn add(&mut self, proposal: Proposal<R>) {
        self.builder.add(&proposal.command);
        self.replies.push(proposal.reply);
    }
}

/// Entries that were handed to openraft and whose fate is not known.
#[derive(Default)]
struct UnderWay {
    /// Their lengths, by ticket.
    entries: Mutex<BTreeMap<u64, usize>>,
    ended: Notify,
}

impl UnderWay {
    fn begin(&self, ticket: u64, bytes: usize) {
        lock(&self.entries).insert(ticket, bytes);
    }

    fn end(&self, ticket: u64) {
        lock(&self.entries).remove(&ticket);
        // One gatherer waits; if it does not yet, it finds this when it does.
        self.ended.notify_one();
    }

    /// Whether an entry of `bytes` may go as well.
    fn lets_go(&self, bytes: usize) -> bool {
        let entries = lock(&self.entries);
        entries.len() < ENTRIES_UNDER_WAY_MAX && entries.last_key_value().is_none_or(|(_, newest)| bytes >= *newest)
    }
}

/// Hands the entry to openraft; its fate is awaited elsewhere, so that the next entry can be gathered.
async fn propose<R: Send + 'static>(
    raft: &Raft,
    waiters: &Arc<Waiters<R>>,
    ticket: u64,
    payload: Payload,
    under_way: Arc<UnderWay>,
) {
    let Ok(fate) = raft.client_write_ff(payload).await else {
        under_way.end(ticket);
        return waiters.settle(ticket, Some(ProposeError::Stopped));
    };
    let waiters = waiters.clone();
    tokio::spawn(async move {
        let error = match fate.await {
            Ok(Ok(_applied)) => None,
            Ok(Err(ClientWriteError::ForwardToLeader(elsewhere))) => Some(ProposeError::not_leader(elsewhere)),
            Ok(Err(ClientWriteError::ChangeMembershipError(_))) => Some(ProposeError::Unknown),
            Err(_) => Some(ProposeError::Stopped),
        };
        waiters.settle(ticket, error);
        under_way.end(ticket);
    });
}

/// This machine's clock. It enters the state only through the log.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What a write of one entry came to, for callers that have no replies to wait for.
pub(crate) async fn write(raft: &Raft, payload: Payload) -> Result<crate::consensus::RaftLogId, ProposeError> {
    match raft.client_write(payload).await {
        Ok(written) => Ok(written.log_id),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere))) => {
            Err(ProposeError::not_leader(elsewhere))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => Err(ProposeError::Unknown),
        Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::ENTRY_BYTES_MAX;

    fn gathering() -> (mpsc::Sender<Proposal<()>>, Gathering<()>) {
        let (sender, proposals) = mpsc::channel(64);
        (sender, Gathering { proposals, left_over: None })
    }

    fn proposal(bytes: usize) -> Proposal<()> {
        Proposal { command: vec![7; bytes], reply: oneshot::channel().0 }
    }

    /// What may leave now.
    async fn next(gathering: &mut Gathering<()>, under_way: &UnderWay) -> Option<Gathered<()>> {
        tokio::select! {
            biased;
            gathered = gathering.next(under_way) => gathered,
            () = tokio::task::yield_now() => None,
        }
    }

    #[tokio::test]
    async fn a_lone_command_leaves_at_once() {
        let (sender, mut gathering) = gathering();
        sender.send(proposal(10)).await.unwrap();
        assert_eq!(next(&mut gathering, &UnderWay::default()).await.unwrap().replies.len(), 1);
    }

    #[tokio::test]
    async fn what_comes_while_an_entry_is_under_way_leaves_together() {
        let (sender, mut gathering) = gathering();
        let under_way = Arc::new(UnderWay::default());
        under_way.begin(1, 10_000);
        let shared = under_way.clone();
        let gathered = tokio::spawn(async move { gathering.next(&shared).await.unwrap().replies.len() });
        for _ in 0..5 {
            sender.send(proposal(100)).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(!gathered.is_finished());
        under_way.end(1);
        assert_eq!(gathered.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn an_entry_as_long_as_the_one_under_way_goes_beside_it_and_a_third_waits() {
        let (sender, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, 1_000);
        sender.send(proposal(1_000)).await.unwrap();
        assert!(next(&mut gathering, &under_way).await.is_some());
        under_way.begin(2, 1_000);
        assert!(!under_way.lets_go(usize::MAX));
        under_way.end(1);
        assert!(under_way.lets_go(1_000));
    }

    #[tokio::test]
    async fn an_entry_that_is_full_does_not_wait_and_loses_nothing() {
        let (sender, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, ENTRY_BYTES_MAX);
        for _ in 0..3 {
            sender.send(proposal(ENTRY_BYTES_MAX * 2 / 5)).await.unwrap();
        }
        assert_eq!(next(&mut gathering, &under_way).await.unwrap().replies.len(), 2);
        drop(sender);
        under_way.end(1);
        assert_eq!(next(&mut gathering, &under_way).await.unwrap().replies.len(), 1);
        assert!(gathering.next(&under_way).await.is_none());
    }
}

//! Owns how commands become log entries: those that wait are gathered into one, so that they share one append and one sync.
//!
//! A lone command leaves at once. What comes while an entry is on its way waits for its end, or until it is as long: the fewer entries there
//! are, the fewer syncs every member pays, and clients that wait for their answers would else be split into many small ones. While too few
//! members answer, none is taken.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::consensus::{MemberId, Raft};
use crate::entry::{CommandsBuilder, LogTime, Origin, Payload};
use crate::quorum::Quorum;
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

    /// Whether anybody waits for the replies of an entry.
    pub(crate) fn awaits(&self, origin: Origin) -> bool {
        origin.member == self.member && lock(&self.by_ticket).contains_key(&origin.ticket)
    }

    /// Too few members answer to say what becomes of any entry: nobody waits any longer.
    pub(crate) fn give_up(&self) {
        let waiting: Vec<_> = lock(&self.by_ticket).drain().collect();
        for reply in waiting.into_iter().flat_map(|(_, replies)| replies) {
            let _ = reply.send(Err(ProposeError::Unconfirmed));
        }
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
    quorum: watch::Receiver<Quorum>,
) {
    let under_way = Arc::new(UnderWay::default());
    let mut gathering = Gathering { proposals, left_over: None, quorum };
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
    quorum: watch::Receiver<Quorum>,
}

impl<R> Gathering<R> {
    /// What goes into the next entry, once it may leave; nothing once nobody can propose any more, or raft stopped. While too few members
    /// answer, what waits is refused.
    async fn next(&mut self, under_way: &UnderWay) -> Option<Gathered<R>> {
        let mut gathered = Gathered::default();
        loop {
            // Asked first: what was sent before the last sender went is found below.
            let is_closed = self.proposals.is_closed();
            self.fill(&mut gathered);
            while *self.quorum.borrow_and_update() == Quorum::Silent && !gathered.is_empty() {
                std::mem::take(&mut gathered).refuse(&ProposeError::NoQuorum);
                self.fill(&mut gathered);
            }
            let length = if self.left_over.is_some() { usize::MAX } else { gathered.builder.bytes() };
            let ended = under_way.ended.notified();
            match gathered.is_empty() {
                false if under_way.lets_go(length) => return Some(gathered),
                true if is_closed => return None,
                _ => {}
            }
            tokio::select! {
                () = ended => {}
                changed = self.quorum.changed() => if changed.is_err() {
                    gathered.refuse(&ProposeError::Stopped);
                    return None;
                },
                received = self.proposals.recv(), if self.left_over.is_none() && !is_closed => {
                    self.left_over = received.and_then(|proposal| gathered.take(proposal));
                }
            }
        }
    }

    /// Takes what waits, as far as there is room.
    fn fill(&mut self, gathered: &mut Gathered<R>) {
        self.left_over = self.left_over.take().and_then(|proposal| gathered.take(proposal));
        while self.left_over.is_none()
            && let Ok(proposal) = self.proposals.try_recv()
        {
            self.left_over = gathered.take(proposal);
        }
    }
}

impl<R> Default for Gathered<R> {
    fn default() -> Self {
        Self { builder: CommandsBuilder::new(), replies: Vec::new() }
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

    fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Nothing becomes of any of them.
    fn refuse(self, error: &ProposeError) {
        for reply in self.replies {
            // Whoever asked may have gone.
            let _ = reply.send(Err(error.clone()));
        }
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

    /// What tells a gatherer what to do.
    struct Levers {
        proposals: mpsc::Sender<Proposal<()>>,
        quorum: watch::Sender<Quorum>,
    }

    impl Levers {
        /// Proposes a command of so many bytes.
        async fn propose(&self, bytes: usize) -> oneshot::Receiver<Result<(), ProposeError>> {
            let (reply, heard) = oneshot::channel();
            self.proposals.send(Proposal { command: vec![7; bytes], reply }).await.unwrap();
            heard
        }
    }

    fn gathering() -> (Levers, Gathering<()>) {
        let (proposals, to_gather) = mpsc::channel(64);
        let (quorum, answers) = watch::channel(Quorum::Answers);
        (Levers { proposals, quorum }, Gathering { proposals: to_gather, left_over: None, quorum: answers })
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
        let (levers, mut gathering) = gathering();
        levers.propose(10).await;
        assert_eq!(next(&mut gathering, &UnderWay::default()).await.unwrap().replies.len(), 1);
    }

    #[tokio::test]
    async fn what_comes_while_an_entry_is_under_way_leaves_together() {
        let (levers, mut gathering) = gathering();
        let under_way = Arc::new(UnderWay::default());
        under_way.begin(1, 10_000);
        let shared = under_way.clone();
        let gathered = tokio::spawn(async move { gathering.next(&shared).await.unwrap().replies.len() });
        for _ in 0..5 {
            levers.propose(100).await;
            tokio::task::yield_now().await;
        }
        assert!(!gathered.is_finished());
        under_way.end(1);
        assert_eq!(gathered.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn an_entry_as_long_as_the_one_under_way_goes_beside_it_and_a_third_waits() {
        let (levers, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, 1_000);
        levers.propose(1_000).await;
        assert!(next(&mut gathering, &under_way).await.is_some());
        under_way.begin(2, 1_000);
        assert!(!under_way.lets_go(usize::MAX));
        under_way.end(1);
        assert!(under_way.lets_go(1_000));
    }

    #[tokio::test]
    async fn an_entry_that_is_full_does_not_wait_and_loses_nothing() {
        let (levers, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, ENTRY_BYTES_MAX);
        for _ in 0..3 {
            levers.propose(ENTRY_BYTES_MAX * 2 / 5).await;
        }
        assert_eq!(next(&mut gathering, &under_way).await.unwrap().replies.len(), 2);
        drop(levers.proposals);
        under_way.end(1);
        assert_eq!(next(&mut gathering, &under_way).await.unwrap().replies.len(), 1);
        assert!(gathering.next(&under_way).await.is_none());
    }
    #[tokio::test]
    async fn while_too_few_members_answer_everything_that_waits_is_refused_and_later_commands_are_taken_again() {
        let (levers, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, ENTRY_BYTES_MAX);
        // More than one entry holds.
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(levers.propose(ENTRY_BYTES_MAX * 2 / 5).await);
        }
        levers.quorum.send_replace(Quorum::Silent);
        assert!(next(&mut gathering, &under_way).await.is_none());
        for heard in heard {
            assert!(matches!(heard.await.unwrap(), Err(ProposeError::NoQuorum)));
        }
        levers.quorum.send_replace(Quorum::Answers);
        under_way.end(1);
        levers.propose(10).await;
        assert_eq!(next(&mut gathering, &under_way).await.unwrap().replies.len(), 1);
    }

    #[tokio::test]
    async fn a_gatherer_that_waits_ends_with_the_last_who_could_propose() {
        let (levers, mut gathering) = gathering();
        let gathered = tokio::spawn(async move { gathering.next(&UnderWay::default()).await.is_none() });
        tokio::task::yield_now().await;
        drop(levers.proposals);
        assert!(gathered.await.unwrap());
    }

    #[tokio::test]
    async fn when_raft_stops_whoever_waits_hears_so() {
        let (levers, mut gathering) = gathering();
        let under_way = UnderWay::default();
        under_way.begin(1, 1_000);
        let heard = levers.propose(10).await;
        drop(levers.quorum);
        assert!(gathering.next(&under_way).await.is_none());
        assert!(matches!(heard.await.unwrap(), Err(ProposeError::Stopped)));
    }
}

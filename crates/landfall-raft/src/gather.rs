//! Owns how commands become log entries: those that wait are gathered into one, so that they share one append and one sync.
//!
//! It never waits for more commands: a lone one leaves at once, and what comes while entries are on their way makes up the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::consensus::{MemberId, Raft};
use crate::entry::{CommandsBuilder, LogTime, Origin, Payload};
use crate::service::ProposeError;

/// Commands that wait to be gathered.
pub(crate) const PROPOSALS_WAITING_MAX: usize = 16 * 1024;
/// Entries that are on their way at once: while one is replicated, the next is written.
const ENTRIES_IN_FLIGHT_MAX: usize = 2;

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
    pub(crate) fn new(member: MemberId, appended: Appended) -> Self {
        Self { member, by_ticket: Mutex::default(), appended }
    }

    fn enter(&self, ticket: u64, replies: Vec<ReplySender<R>>) {
        lock(&self.appended.0).insert(ticket, EntryState::Proposed);
        lock(&self.by_ticket).insert(ticket, replies);
    }

    /// Whoever waits for the replies of an entry that was just applied; empty for entries of others.
    pub(crate) fn take(&self, origin: Origin) -> Vec<ReplySender<R>> {
        if origin.member != self.member {
            return Vec::new();
        }
        lock(&self.by_ticket).remove(&origin.ticket).unwrap_or_default()
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
    mut proposals: mpsc::Receiver<Proposal<R>>,
) {
    let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
    // Tickets of an earlier life of this member stand in the log: they must not be taken for ours.
    let mut ticket = now_ms() << 20;
    let mut left_over = None;
    loop {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let first = match left_over.take() {
            Some(proposal) => proposal,
            None => match proposals.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        ticket += 1;
        let origin = Origin { member: waiters.member, ticket };
        let mut builder = CommandsBuilder::new();
        let mut replies = Vec::new();
        let mut next = Some(first);
        while let Some(proposal) = next.take() {
            if !builder.has_room(proposal.command.len()) {
                left_over = Some(proposal);
                break;
            }
            builder.add(&proposal.command);
            replies.push(proposal.reply);
            next = proposals.try_recv().ok();
        }
        waiters.enter(ticket, replies);
        let time = last_time().max(LogTime(now_ms()));
        propose(&raft, &waiters, ticket, builder.finish(time, origin), permit).await;
    }
}

/// Hands the entry to openraft; its fate is awaited elsewhere, so that the next entry can be gathered.
async fn propose<R: Send + 'static>(
    raft: &Raft,
    waiters: &Arc<Waiters<R>>,
    ticket: u64,
    payload: Payload,
    permit: OwnedSemaphorePermit,
) {
    let Ok(fate) = raft.client_write_ff(payload).await else {
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
        drop(permit);
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

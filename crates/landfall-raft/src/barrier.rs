//! Owns linearizable reads: proof that this member still leads, and that what was acknowledged before is applied here.
//!
//! Many readers share one round of heartbeats: who comes during a round waits for the next.

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::Applied;
use crate::consensus::{MemberAddress, MemberId, Raft, position_of};
use crate::service::{Leader, leader_in};

/// Readers that wait for a round.
pub(crate) const READERS_WAITING_MAX: usize = 64 * 1024;

/// Why a read would not be linearizable, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadBarrierError {
    /// Ask the leader.
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
pub(crate) async fn serve(raft: Raft, applied: watch::Receiver<Applied>, mut readers: mpsc::Receiver<Reader>) {
    let mut round = Vec::new();
    while readers.recv_many(&mut round, READERS_WAITING_MAX).await > 0 {
        let outcome = confirm(&raft, applied.clone()).await;
        for reader in round.drain(..) {
            // Who waited may have gone.
            let _ = reader.send(outcome.clone());
        }
    }
}

async fn confirm(raft: &Raft, mut applied: watch::Receiver<Applied>) -> Result<(), ReadBarrierError> {
    let (needed, _) = raft.get_read_log_id().await.map_err(barrier_error)?;
    let Some(needed) = needed.map(position_of) else { return Ok(()) };
    let reached = applied.wait_for(|applied| applied.position >= needed);
    reached.await.map(|_| ()).map_err(|_| ReadBarrierError::Stopped)
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

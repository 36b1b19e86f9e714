//! Owns what the server needs of the member that holds the state, and what a client hears when that fails.

use std::future::Future;

use redis_protocol::redis_keyslot;
use serde_json::Value;
use thiserror::Error;

use crate::command::texts;
use crate::keyspace::{Clock, Lookup, Step};
use crate::reply::Reply;

/// A member of the cluster, as the server sees it. Looking at it answers from what was applied here.
pub trait Replica: Lookup<Error = Unavailable> + Send + Sync + 'static {
    /// Puts steps into the log together. Returns once they have taken effect on a majority, with their replies.
    fn propose(&self, steps: Vec<Step>) -> impl Future<Output = Result<Vec<Reply>, Unavailable>> + Send;

    /// Returns once everything that was acknowledged anywhere before the call has been applied here.
    fn barrier(&self) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Whether the state is what most others have, so that it may be looked at without a barrier.
    fn check_soundness(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// The log's time as far as it was applied here, in milliseconds since 1970.
    fn log_time_ms(&self) -> u64;

    /// The same, and what time it is by this member's own clock where that is ahead.
    fn clock(&self) -> Clock;

    /// May a look wait for bytes from another member? Then it must not hold up other connections.
    fn may_wait(&self) -> Waiting;

    /// Who this member is, for clients that ask about replication.
    fn standing(&self) -> Standing;

    /// The member's place in the cluster, as one JSON object.
    fn status(&self) -> impl Future<Output = Value> + Send;

    /// All members' roots at one position, side by side.
    fn audit(&self) -> impl Future<Output = Result<Value, Unavailable>> + Send;

    /// Takes a member out of the cluster, which is to have been stopped before.
    fn remove(&self, member: u64) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Whether a look at the state may wait for another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Everything is here.
    Never,
    /// Something may still be elsewhere.
    Sometimes,
}

/// A member's part in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Does it lead?
    pub role: Role,
    /// Where clients find the leader, if it is known.
    pub leader: Option<String>,
}

/// What a member does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Follows.
    Follower,
}

/// Why nothing could be done, by what the client does next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// Nothing happened: ask the leader.
    #[error("this member does not lead")]
    NotLeader {
        /// Where clients find it, if that is known.
        clients: Option<String>,
    },
    /// Nothing happened: make the command shorter.
    #[error("the command is longer than a log entry")]
    TooLong,
    /// It may have happened: look before trying again.
    #[error("the leader changed before the command was confirmed")]
    Unknown,
    /// It may have happened or may still: look before trying again.
    #[error("no majority confirmed the command in time")]
    Unconfirmed,
    /// It was done; the reply was too long beside those to other clients.
    #[error("the reply was dropped")]
    ReplyDropped,
    /// Nothing happened: try again, here or elsewhere.
    #[error("too few members answer to be sure that this one still leads")]
    NoQuorum,
    /// The member is going down.
    #[error("this member is stopping")]
    Stopping,
    /// The state cannot be read.
    #[error("{0}")]
    State(String),
    /// Nothing happened: do what it says, or ask for something else.
    #[error("{0}")]
    Refused(String),
}

impl Unavailable {
    /// What the client hears who wanted something of `key`.
    pub fn refusal(&self, key: Option<&[u8]>) -> Reply {
        match self {
            // The slot is what clients of a Redis cluster expect after the word.
            Self::NotLeader { clients: Some(clients) } => {
                Reply::error(format!("MOVED {} {clients}", redis_keyslot(key.unwrap_or_default())))
            }
            Self::NotLeader { clients: None } => Reply::refused("CLUSTERDOWN no leader is known; try again"),
            Self::TooLong => Reply::refused(texts::WRITE_TOO_LARGE),
            Self::Unknown => Reply::refused(UNKNOWN),
            Self::Unconfirmed => Reply::refused(UNCONFIRMED),
            Self::ReplyDropped => Reply::error(texts::reply_dropped()),
            Self::NoQuorum => Reply::refused("CLUSTERDOWN too few members answer; try again"),
            Self::Stopping => Reply::refused("LOADING this member is stopping; ask another one"),
            Self::State(problem) => Reply::error(format!("ERR cannot read the state: {problem}")),
            Self::Refused(reason) => Reply::error(format!("ERR {reason}")),
        }
    }
}

const UNKNOWN: &str = "UNKNOWN the leader changed before the write was confirmed: it may have taken effect, so look before \
you write again, or use LANDFALL ONCE";
const UNCONFIRMED: &str = "UNKNOWN no majority confirmed the write in time: it may have taken effect or may still, so look before \
you write again, or use LANDFALL ONCE";

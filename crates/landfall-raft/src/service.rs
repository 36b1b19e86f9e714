//! Owns what a user writes, and what is said to whoever proposes.
//!
//! It never looks into commands or replies.

use landfall::core::keyed::{ReadError, Refused, SectionSchema, Transaction};
use openraft::error::ForwardToLeader;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::consensus::{MemberAddress, MemberId};
use crate::entry::{COMMAND_BYTES_MAX, LogTime};
use crate::replies::REPLIES_BYTES_MAX;

/// A service whose state is replicated: its commands, its replies, and what a command does.
pub trait Service: Send + Sync + 'static {
    /// What clients ask for. It stands in the log, encoded as MessagePack.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What they hear. It never leaves the member that proposed.
    type Reply: Send + 'static;

    /// The sections of the state. One of them must be named `config` and be vital: the cluster keeps its membership there, under keys
    /// that begin with [`RESERVED_KEY_PREFIX`](crate::RESERVED_KEY_PREFIX). Ids follow the order of the names.
    fn sections(&self) -> Vec<SectionSchema>;

    /// Carries out one command.
    ///
    /// Deterministic: the same command on the same state gives the same changes and reply on every member. `time` is the log's time,
    /// never the local clock. It may be called again for the same command, on the same state, when something that it reads was not here:
    /// it must not have effects but those on `state`, and must pass a [`ReadError`] on.
    ///
    /// # Errors
    /// Only what a call of `state` returned. A command that makes no sense is answered with a reply that says so. After a
    /// [`Refused`] change, whoever proposed hears of it; what the command changed before stands.
    fn apply(
        &self,
        time: LogTime,
        command: &Self::Command,
        state: &mut Transaction<'_>,
    ) -> Result<Self::Reply, ReadError>;

    /// Bytes of memory that a reply holds, about. Of the replies to commands that came at the same time, [`REPLIES_BYTES_MAX`] are kept until
    /// they are handed out; who proposed one beyond that hears [`ProposeError::ReplyDropped`].
    fn reply_bytes(&self, reply: &Self::Reply) -> usize {
        std::mem::size_of_val(reply)
    }
}

/// The member that leads, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Who.
    pub member: MemberId,
    /// Where it is.
    pub address: MemberAddress,
}

/// Why there is no reply, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened: propose it to the leader.
    #[error("this member does not lead; {}", leader_sentence(.0))]
    NotLeader(Option<Leader>),
    /// Nothing happened: make the command shorter.
    #[error("a command of {bytes} bytes; at most {COMMAND_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length, encoded.
        bytes: usize,
    },
    /// Nothing happened: the command's type cannot be written as MessagePack.
    #[error("the command cannot be encoded: {0}")]
    NotEncodable(String),
    /// Nothing happened: too many commands wait; slow down and try again.
    #[error("too many commands wait for the log")]
    Busy,
    /// Nothing happened: this member leads, and too few others answer it; try again, here or elsewhere.
    #[error("too few members answer to take a command")]
    NoQuorum,
    /// The command may have taken effect or may still: look before you try again.
    #[error("the leader changed before the command was confirmed; it may have taken effect")]
    Unknown,
    /// The command may have taken effect or may still, when enough members answer again: look before you try again.
    #[error("no majority confirmed the command in time; it may have taken effect or may still")]
    Unconfirmed,
    /// The state takes no such change; what the command changed before stands.
    #[error("the state takes no such change: {0}")]
    Refused(#[source] Refused),
    /// The command took effect; what it replied was dropped: look at what it did. Alone, or among others with shorter replies, it is answered.
    #[error(
        "the command took effect, and its reply was dropped: with those to the commands that came at the same time it is longer than \
         {REPLIES_BYTES_MAX} bytes"
    )]
    ReplyDropped,
    /// This member has stopped; what was under way may have taken effect.
    #[error("this member has stopped")]
    Stopped,
}

impl ProposeError {
    pub(crate) fn not_leader(elsewhere: ForwardToLeader<MemberId, MemberAddress>) -> Self {
        Self::NotLeader(leader_in(elsewhere))
    }
}

pub(crate) fn leader_in(elsewhere: ForwardToLeader<MemberId, MemberAddress>) -> Option<Leader> {
    Some(Leader { member: elsewhere.leader_id?, address: elsewhere.leader_node? })
}

fn leader_sentence(leader: &Option<Leader>) -> String {
    match leader {
        Some(leader) => format!("member {} at {} does", leader.member, leader.address.clients),
        None => "no leader is known yet".into(),
    }
}

//! Owns how openraft's types look here: who a member is, and how a log id and a position are the same thing.
//!
//! It never decides anything.

use std::fmt;

use landfall::core::snapshot::Position;
use openraft::{CommittedLeaderId, LogId};
use serde::{Deserialize, Serialize};

use crate::entry::Payload;
use crate::reference::Reference;

/// Names a member within its cluster, for ever: a member that lost its disk comes back under another one.
pub type MemberId = u64;

/// Where a member is to be found. It stands in the log, so every member knows it of every other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddress {
    /// Where members connect.
    pub peers: String,
    /// Where clients connect; what a member tells clients who should talk to another one.
    pub clients: String,
}

impl fmt::Display for MemberAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peers)
    }
}

/// openraft with this crate's log entries and snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Consensus;

impl openraft::RaftTypeConfig for Consensus {
    type D = Payload;
    /// Replies do not pass through openraft: whoever proposed hears from the thread that applies.
    type R = ();
    type NodeId = MemberId;
    type Node = MemberAddress;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = Reference;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder = openraft::impls::OneshotResponder<Self>;
}

pub(crate) type Raft = openraft::Raft<Consensus>;
pub(crate) type RaftEntry = openraft::Entry<Consensus>;
pub(crate) type RaftLogId = LogId<MemberId>;
pub(crate) type RaftVote = openraft::Vote<MemberId>;
pub(crate) type RaftMembership = openraft::Membership<MemberId, MemberAddress>;
pub(crate) type StoredMembership = openraft::StoredMembership<MemberId, MemberAddress>;
pub(crate) type Fatal = openraft::error::Fatal<MemberId>;
pub(crate) type StorageError = openraft::StorageError<MemberId>;
pub(crate) type RaftSnapshotMeta = openraft::SnapshotMeta<MemberId, MemberAddress>;

/// The place in the order of changes that a log id names: there is one leader per term, so nothing is lost.
///
/// openraft counts from 0; positions from 1, because `0.0` is where a state stands before its first change.
pub(crate) fn position_of(id: RaftLogId) -> Position {
    Position { epoch: id.leader_id.term, index: id.index + 1 }
}

/// The log id at a position; nothing before the first change.
pub(crate) fn log_id_of(position: Position) -> Option<RaftLogId> {
    let index = position.index.checked_sub(1)?;
    Some(LogId::new(CommittedLeaderId::new(position.epoch, MemberId::default()), index))
}

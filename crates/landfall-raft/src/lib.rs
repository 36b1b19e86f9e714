//! Raft members whose snapshots are pulled from everybody: openraft on Landfall.
//!
//! What a user writes is a [`Service`]: commands, replies, and a deterministic `apply`. A [`Node`] is one member of the cluster that
//! replicates it. Its log, its state and its vote are on its own disk; its snapshot, as raft sees it, is a small reference, and whoever
//! needs it pulls it from all members that hold it, serving reads meanwhile.
//!
//! The first member calls [`Node::open`] and [`Node::bootstrap`]; every other one [`Node::join`]. After a restart each calls
//! [`Node::open`].

mod aftercare;
mod answer;
mod apply;
mod arrival;
mod audit;
mod ballot;
mod barrier;
#[cfg(test)]
#[path = "../../landfall/tests/between/mod.rs"]
mod between;
mod cadence;
mod candidacy;
mod cluster;
mod consensus;
mod entry;
mod gather;
mod head;
mod healing;
mod hook;
mod identity;
#[cfg(test)]
mod interrupted;
mod joining;
mod link;
mod log_store;
mod message;
mod network;
mod node;
mod open;
mod owner;
mod pace;
mod pacing;
mod promotion;
mod quorum;
mod reference;
mod remedy;
mod replies;
mod reserved;
mod roster;
mod sealing;
mod seals;
mod service;
mod spacing;
mod state_machine;
mod status;
#[cfg(test)]
mod suite;
mod upkeep;
mod voted;
mod voting;

pub use landfall;
pub use landfall::core::keyed::{ReadError, Refused, SectionId, SectionSchema, Transaction};

pub use audit::{AuditReport, AuditedMember, Verdict};
pub use ballot::BallotError;
pub use barrier::ReadBarrierError;
pub use candidacy::{Soundness, VoteRefused};
pub use cluster::Role;
pub use consensus::{MemberAddress, MemberId};
pub use entry::{COMMAND_BYTES_MAX, Lease, LogTime};
pub use healing::DifferentKeys;
pub use hook::{BackPressure, CommitHook, HookError};
pub use identity::ClusterId;
pub use joining::{Aim, JoinConfig, JoinError};
pub use node::{LOG_KEPT_BYTES_DEFAULT, Node, NodeConfig, Proposed, Timing};
pub use open::{BootstrapError, OpenError};
pub use pace::Pace;
pub use reference::{Holder, Reference};
pub use replies::REPLIES_BYTES_MAX;
pub use reserved::{CONFIG_SECTION, RESERVED_KEY_PREFIX};
pub use roster::RosterError;
pub use seals::{Difference, Divergence};
pub use service::{Leader, ProposeError, Service};
pub use status::{Health, NodeStatus, Vote};

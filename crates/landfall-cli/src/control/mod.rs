//! Owns the conversation between a process that has a data directory open and the verbs that want something of it.
//!
//! Over a unix socket in the data directory go JSON lines: one [`Request`], then any number of items, then the report or
//! the failure. It knows nothing of states; whoever implements [`Answer`] does.

pub(crate) mod client;
pub(crate) mod server;
mod socket;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::reports::{Item, Report};

/// What a verb wants of the state in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Take a new snapshot.
    Snapshot,
    /// Tell which snapshots are held.
    Log,
    /// Tell what is in a snapshot: the one named, or the newest.
    List { snapshot: Option<String> },
    /// Compare two snapshots: those named, or the newest with the one before it.
    Diff { old: Option<String>, new: Option<String> },
    /// Read everything again and name what is damaged.
    Verify,
    /// Drop what nothing needs.
    Collect,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Item(Item),
    Done(Report),
    Failed(Failure),
}

/// Whoever can answer requests about one state: the process that has its data directory open.
pub(crate) trait Answer: Send + Sync {
    /// Does what `request` asks; items go out as they become known.
    fn answer(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure>;
}

/// Longest line of a request.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// Longest line of an answer: a path of 4 KiB, escaped and in hex, and something around it.
const REPLY_BYTES_MAX: u64 = 256 * 1024;

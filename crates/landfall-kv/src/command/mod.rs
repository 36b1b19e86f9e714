//! Owns what a client can ask for, as types, and how its arguments become one of them. It never touches the state.

mod number;
mod parse;
mod specification;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use number::{format_integer, integer};
pub use parse::parse;
pub use specification::{COMMANDS, Flag, Specification, specification};

use crate::reply::{Reply, Version};

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Looks at keys that it names.
    Read(Read),
    /// Changes keys: goes through the log.
    Write(Write),
    /// Does a write once, however often the client asks.
    Once(Once),
    /// Walks the keys; too long a way for a transaction.
    Survey(Survey),
    /// Concerns the connection alone.
    Connection(Connection),
    /// Asks about the server.
    Server(Server),
}

/// Looks at keys by name. The short names are what the log keeps of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// A value.
    #[serde(rename = "g")]
    Get(Bytes),
    /// Several values.
    #[serde(rename = "m")]
    GetMany(Vec<Bytes>),
    /// How many of the keys there are; one that is named twice counts twice.
    #[serde(rename = "x")]
    Exists(Vec<Bytes>),
    /// The length of a value.
    #[serde(rename = "l")]
    Length(Bytes),
    /// A part of a value: from and to, both included, negative from the end.
    #[serde(rename = "r")]
    Range(Bytes, i64, i64),
    /// The time that is left.
    #[serde(rename = "t")]
    TimeLeft(Bytes, Unit),
    /// What kind of value it is.
    #[serde(rename = "k")]
    Kind(Bytes),
}

/// A unit of time that a client counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Seconds, rounded to the nearest in answers.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "m")]
    Milliseconds,
}

/// Changes keys. The short names are what the log keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// A value under a key.
    #[serde(rename = "s")]
    Set(Set),
    /// Several values at one instant.
    #[serde(rename = "m")]
    SetMany(Vec<(Bytes, Bytes)>, Condition),
    /// Removes keys; answers how many there were.
    #[serde(rename = "d")]
    Delete(Vec<Bytes>),
    /// Removes a key and answers its value.
    #[serde(rename = "t")]
    Take(Bytes),
    /// Adds to the number that is the value.
    #[serde(rename = "i")]
    Increment(Bytes, i64),
    /// Adds to the end of the value.
    #[serde(rename = "a")]
    Append(Bytes, Bytes),
    /// Gives a key another deadline.
    #[serde(rename = "e")]
    Expire(Bytes, Moment, ExpireCondition),
    /// Takes a key's deadline away.
    #[serde(rename = "p")]
    Persist(Bytes),
    /// Removes everything.
    #[serde(rename = "f")]
    Flush,
}

/// The command `SET` with its options, and its older relatives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The key.
    pub key: Bytes,
    /// Its new value.
    pub value: Bytes,
    /// What becomes of its deadline.
    pub deadline: Deadline,
    /// When it is done at all.
    pub condition: Condition,
    /// What is answered.
    pub answer: SetAnswer,
}

/// What a write does with the deadline of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deadline {
    /// The key stays until it is removed.
    #[serde(rename = "n")]
    Never,
    /// Whatever it was before.
    #[serde(rename = "k")]
    Keep,
    /// This one.
    #[serde(rename = "a")]
    At(Moment),
}

/// A moment in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// After the log's time at which the command takes effect.
    #[serde(rename = "f")]
    FromNow(i64),
    /// Since 1970.
    #[serde(rename = "u")]
    Unix(i64),
}

/// When a value is set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// In any case.
    #[serde(rename = "a")]
    Always,
    /// If there is none.
    #[serde(rename = "n")]
    IfAbsent,
    /// If there is one.
    #[serde(rename = "x")]
    IfPresent,
}

/// What a `Set` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetAnswer {
    /// The word of success, or nothing.
    #[serde(rename = "w")]
    Word,
    /// One or zero.
    #[serde(rename = "c")]
    Count,
    /// The value before.
    #[serde(rename = "p")]
    Previous,
}

/// When a deadline is changed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExpireCondition {
    /// About whether there is one.
    pub present: Option<Present>,
    /// About which is later. A key without a deadline has the latest of all.
    pub order: Option<Order>,
}

/// Whether a key has a deadline already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Present {
    /// It must not.
    #[serde(rename = "n")]
    No,
    /// It must.
    #[serde(rename = "y")]
    Yes,
}

/// How the new deadline must stand to the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Later.
    #[serde(rename = "g")]
    Later,
    /// Earlier.
    #[serde(rename = "l")]
    Earlier,
}

/// A write that a client may ask for again, not knowing whether it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// The client's name for its session.
    pub session: Bytes,
    /// The number of the command in the session.
    pub sequence: u64,
    /// What to do.
    pub write: Write,
}

/// Walks the keys in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    /// One stretch of the way.
    Scan {
        /// Where the stretch before ended; zero at the start.
        cursor: u64,
        /// Which keys are wanted.
        pattern: Option<Bytes>,
        /// About how many keys to look at.
        count: usize,
        /// Which kind of value is wanted.
        kind: Option<Bytes>,
    },
    /// All keys that look like this.
    Keys(Bytes),
    /// How many keys there are.
    Count,
}

/// Concerns the connection alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Says that somebody is here.
    Ping(Option<Bytes>),
    /// Says it again.
    Echo(Bytes),
    /// Opens the conversation, perhaps in another version of the protocol, perhaps with a name.
    Hello(Option<Version>, Option<Bytes>),
    /// Databases: there is one, number zero.
    Select,
    /// What the connection is called.
    Name,
    /// Calls the connection something.
    SetName(Bytes),
    /// The number of the connection.
    Id,
    /// One line about this connection.
    Describe,
    /// Something that clients set and that makes no difference here.
    Accept,
    /// Reads may be answered from this member alone, however old its state is.
    AllowStaleReads,
    /// Reads are linearizable again.
    ForbidStaleReads,
    /// Begins a transaction.
    Begin,
    /// Carries the transaction out.
    Execute,
    /// Drops the transaction.
    Discard,
    /// Says good-bye.
    Quit,
}

/// Asks about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// What operators look at, by section.
    Describe(Vec<Bytes>),
    /// Settings that look like one of these.
    Settings(Vec<Bytes>),
    /// The commands that there are: those named, or all.
    Commands(Option<Vec<Bytes>>),
    /// How many commands there are.
    CommandCount,
    /// What the commands are for: those named, or all.
    CommandDocumentation(Vec<Bytes>),
    /// The member's place in the cluster, as one JSON object.
    Status,
    /// All members' roots side by side.
    Audit,
    /// Takes a member out of the cluster.
    Remove(u64),
}

/// What a command is refused with: a code, a space, and a sentence, as Redis words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Cow<'static, str>);

impl Refusal {
    /// A sentence that never changes.
    pub const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal.0 {
            Cow::Borrowed(text) => Self::refused(text),
            Cow::Owned(text) => Self::error(text),
        }
    }
}

/// What Redis says, word for word; clients look for some of these.
pub mod texts {
    use landfall_raft::REPLIES_BYTES_MAX;

    use crate::limits::{LISTED_KEYS_MAX, REPLY_BYTES_MAX};

    /// A number was expected.
    pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
    /// Arguments that do not fit together.
    pub const SYNTAX: &str = "ERR syntax error";
    /// The sum does not fit.
    pub const OVERFLOW: &str = "ERR increment or decrement would overflow";
    /// The number cannot be negated.
    pub const DECREMENT_OVERFLOW: &str = "ERR decrement would overflow";
    /// A value beyond the limit.
    pub const VALUE_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    /// A key beyond the limit.
    pub const KEY_TOO_LONG: &str = "ERR key is longer than 4088 bytes";
    /// One command changes more than one log entry holds.
    pub const WRITE_TOO_LARGE: &str = "ERR the command writes more than the 1046528 bytes that one log entry holds";

    /// The reply would be longer than one may be.
    pub fn reply_too_long() -> String {
        format!("ERR the reply would be longer than {REPLY_BYTES_MAX} bytes: nothing was done; ask for less at a time")
    }

    /// The reply was dropped, after the command was carried out.
    pub fn reply_dropped() -> String {
        format!(
            "DROPPED the command was carried out, and its reply was dropped: with those to other clients that came at the same time it is \
             longer than {REPLIES_BYTES_MAX} bytes; read what it did, or ask a LANDFALL ONCE again"
        )
    }

    /// `KEYS` finds more than it may answer.
    pub fn too_many_keys() -> String {
        format!(
            "ERR more keys look like this than one reply holds, {LISTED_KEYS_MAX} keys or {REPLY_BYTES_MAX} bytes; use SCAN"
        )
    }
}

#[cfg(test)]
mod tests;

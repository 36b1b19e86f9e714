//! Owns what commands do to the state. Everything here is a pure function of the state, the command and the log's time:
//! no clock, no randomness, no network, so that every member comes to the same state and the same reply.
//!
//! `data` holds every value with its deadline; `cache` the deadlines in order, which could be rebuilt from `data`;
//! `inflight` the sessions of clients. A plain `SET` looks at nothing and so never waits for state that is not here; it
//! may leave an entry in the deadline index that no longer holds, which the sweep finds out.

mod entry;
mod read;
mod replies;
mod sessions;
mod sweep;
mod tentative;
mod transaction;
mod weight;
mod write;

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use entry::{Entry, deadline_key, split_deadline_key};
pub use read::{Clock, read};
pub use sweep::is_sweep_due;

use crate::command::{Once, Read, Write};
use crate::reply::Reply;

/// A part of the state with a tree of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Deadlines in order.
    Cache,
    /// Values.
    Data,
    /// Client sessions.
    Inflight,
}

/// A state that can be looked at.
pub trait Lookup {
    /// Why it could not be looked at.
    type Error;
    /// The value under a key.
    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    /// Entries in order, the first at `from` or after it.
    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, Self::Error>;
}

/// A state that can be changed. What was changed is seen by later looks.
pub trait Change: Lookup {
    /// Sets a value.
    fn put(&mut self, section: Section, key: Bytes, value: Bytes) -> Result<(), Self::Error>;
    /// Removes a key, whether it is there or not.
    fn delete(&mut self, section: Section, key: Bytes) -> Result<(), Self::Error>;
    /// Removes everything.
    fn clear(&mut self, section: Section) -> Result<(), Self::Error>;
}

/// What one record of the log asks for: steps that take effect one after the other, at one instant. The short names are
/// what the log keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A command that writes.
    #[serde(rename = "w")]
    Write(Write),
    /// A command that reads, within a transaction.
    #[serde(rename = "r")]
    Read(Read),
    /// A transaction; its replies are one array.
    #[serde(rename = "t")]
    Transaction(Vec<Step>),
    /// An answer that needs no state, in its place within a transaction.
    #[serde(rename = "s")]
    Say(Reply),
    /// A write that the client may ask for again.
    #[serde(rename = "o")]
    Once(Once),
    /// Removes what has expired, a limited number at a time. Answers how much it removed.
    #[serde(rename = "x")]
    Sweep,
}

/// Carries one step out at the log's time, in milliseconds since 1970. One whose reply would be too long is refused, and changes nothing.
pub fn apply<S: Change>(time_ms: u64, step: &Step, state: &mut S) -> Result<Reply, S::Error> {
    match step {
        Step::Transaction(steps) => transaction::carry_out(time_ms, steps, state),
        one => apply_one(time_ms, one, state),
    }
}

/// The same for a step of a transaction. Clients cannot put transactions into each other; steps of one that stands in another are its steps.
fn apply_one<S: Change>(time_ms: u64, step: &Step, state: &mut S) -> Result<Reply, S::Error> {
    match step {
        Step::Write(command) => write::write(time_ms, command, state),
        Step::Read(command) => read(Clock::log(time_ms), command, state),
        Step::Transaction(steps) => transaction::carry_out_directly(time_ms, steps, state),
        Step::Say(reply) => Ok(reply.clone()),
        Step::Once(once) => sessions::once(time_ms, once, state),
        Step::Sweep => sweep::sweep(time_ms, state),
    }
}

/// A state in memory: the reference that tests compare with, and what tools without a cluster can use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryState {
    entries: BTreeMap<(Section, Bytes), Bytes>,
}

impl MemoryState {
    /// Everything in one section, in order.
    pub fn section(&self, section: Section) -> Vec<(Bytes, Bytes)> {
        let inside = self.entries.iter().filter(|((of, _), _)| *of == section);
        inside.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }
}

impl Lookup for MemoryState {
    type Error = Infallible;

    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.entries.get(&(section, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, Infallible> {
        let range = self.entries.range((section, Bytes::copy_from_slice(from))..);
        let inside = range.take_while(|((of, _), _)| *of == section).take(entries_max);
        Ok(inside.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl Change for MemoryState {
    fn put(&mut self, section: Section, key: Bytes, value: Bytes) -> Result<(), Infallible> {
        self.entries.insert((section, key), value);
        Ok(())
    }

    fn delete(&mut self, section: Section, key: Bytes) -> Result<(), Infallible> {
        self.entries.remove(&(section, key));
        Ok(())
    }

    fn clear(&mut self, section: Section) -> Result<(), Infallible> {
        self.entries.retain(|(of, _), _| *of != section);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

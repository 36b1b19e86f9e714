//! Owns what is written down of a run: a hash over every event, and the last of them for people.

use std::collections::VecDeque;
use std::fmt;

use landfall_core::Time;

/// Every event of a run, as a hash. Two runs of one seed have the same.
#[derive(Debug)]
pub struct EventLog {
    hasher: blake3::Hasher,
    line: String,
    events: u64,
    tail: VecDeque<String>,
    trace: Trace,
}

/// Whether events are printed while they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Each, on standard error.
    Print,
    /// None.
    Silent,
}

impl EventLog {
    /// An empty log.
    pub fn new(trace: Trace) -> Self {
        Self { hasher: blake3::Hasher::new(), line: String::new(), events: 0, tail: VecDeque::new(), trace }
    }

    /// Writes down one event.
    pub fn note(&mut self, now: Time, event: fmt::Arguments<'_>) {
        self.line.clear();
        fmt::write(&mut self.line, format_args!("{now} {event}\n")).expect("a string grows");
        self.hasher.update(self.line.as_bytes());
        self.events += 1;
        if self.trace == Trace::Print {
            eprint!("{}", self.line);
        }
        let slot =
            if self.tail.len() < TAIL_EVENTS { String::new() } else { self.tail.pop_front().unwrap_or_default() };
        self.tail.push_back(slot);
        if let Some(last) = self.tail.back_mut() {
            last.clone_from(&self.line);
        }
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash over all events.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The last events.
    pub fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect()
    }
}

/// Events that a failure shows.
const TAIL_EVENTS: usize = 60;

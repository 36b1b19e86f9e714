//! Owns the proof that no acknowledged write is lost: every record is read and held against what clients were told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::caller::{Caller, Directory};
use super::records::{self, Ledger, Wrong};
use super::resp::{Answer, AskError};
use super::{Story, shown, wrong};
use crate::failure::Failure;
use crate::output;

impl Story<'_> {
    /// Ends the clients and reads everything at the leader.
    pub(super) fn read_back(&mut self) -> Result<(), Failure> {
        self.narrator.begin("The clients end; every key is read back");
        let load = self.load.take().expect("the clients were started");
        let told = load.stop().map_err(|error| wrong(&error))?;
        let began = Instant::now();
        let keys = read_all(&self.directory, &self.ledger).map_err(|error| match &error {
            ReadBackError::Wrong(error) => wrong(error),
            other => Failure::of(other),
        })?;
        self.narrator.tell(format!(
            "{} writes were acknowledged; {} are of unknown fate",
            output::count(told.acknowledged),
            output::count(told.uncertain)
        ));
        self.narrator.tell(format!(
            "{} keys read in {}: each holds a value that was written,\nnone older than the last write that was acknowledged",
            output::count(keys.into()),
            shown(began.elapsed())
        ));
        let label = "acknowledged writes";
        self.narrator.measured("acknowledged_writes", label, told.acknowledged, output::count(told.acknowledged));
        self.narrator.measured("lost_writes", "  lost", 0, "0".to_owned());
        Ok(())
    }
}

/// Why not everything was read.
#[derive(Debug, thiserror::Error)]
enum ReadBackError {
    /// The service broke its promise.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// Nobody answered for long.
    #[error("the members do not answer")]
    Unanswered(#[from] AskError),
}

/// Reads every record at the leader; returns how many there are.
fn read_all(directory: &Directory, ledger: &Ledger) -> Result<u32, ReadBackError> {
    let next = AtomicU32::new(0);
    let read = || -> Result<(), ReadBackError> {
        let mut caller = Caller::new(directory.clone(), LIMIT);
        loop {
            let first = next.fetch_add(KEYS_PER_COMMAND, Ordering::Relaxed);
            if first >= ledger.keys() {
                return Ok(());
            }
            read_some(&mut caller, ledger, first, ledger.keys().min(first.saturating_add(KEYS_PER_COMMAND)))?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(read)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("reading does not panic"))
    })?;
    Ok(ledger.keys())
}

fn read_some(caller: &mut Caller, ledger: &Ledger, first: u32, end: u32) -> Result<(), ReadBackError> {
    let keys: Vec<_> = (first..end).map(records::key).collect();
    let words: Vec<_> = [&b"MGET"[..]].into_iter().chain(keys.iter().map(String::as_bytes)).collect();
    let values = match caller.ask_until(LIMIT, || true, &words)? {
        Answer::Many(values) => values,
        _ => Vec::new(),
    };
    let mut values = values.into_iter();
    for index in first..end {
        let stored = match values.next() {
            Some(Answer::Bytes(stored)) => Some(stored),
            _ => None,
        };
        ledger.check(index, stored.as_deref(), ledger.acknowledged(index))?;
    }
    Ok(())
}

const CLIENTS: usize = 2;
const KEYS_PER_COMMAND: u32 = 1_000;
const LIMIT: Duration = Duration::from_secs(30);

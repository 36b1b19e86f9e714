//! Owns the first version of every record: written as fast as the members take it, by some clients at once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::caller::{Caller, Directory};
use super::records;
use super::resp::{Answer, Refusal};

/// Writes the first version of `keys` records. `look` is called again and again with how many are there, and says whether to go on.
pub(super) fn fill(directory: &Directory, keys: u32, mut look: impl FnMut(u32) -> bool) -> Result<(), FillError> {
    let filling = Filling { keys, next: AtomicU32::new(0), done: AtomicU32::new(0), stopped: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| filling.run(&mut Caller::new(directory.clone(), PATIENCE)));
        let threads: Vec<_> = (0..CLIENTS).map(spawn).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            if !look(filling.done.load(Ordering::Relaxed)) {
                filling.stopped.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("filling does not panic"))
    })?;
    look(filling.done.load(Ordering::Relaxed));
    Ok(())
}

/// Why not every record is there.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    /// The members did not take the records, again and again.
    #[error("the members take no records: {0}")]
    Refused(Refusal),
    /// The members did not answer, again and again.
    #[error("the members do not answer")]
    Lost(#[source] io::Error),
    /// Nobody wanted them any more.
    #[error("the filling was stopped")]
    Stopped,
}

struct Filling {
    keys: u32,
    next: AtomicU32,
    done: AtomicU32,
    stopped: AtomicBool,
}

impl Filling {
    fn run(&self, caller: &mut Caller) -> Result<(), FillError> {
        loop {
            let first = self.next.fetch_add(PIPELINE * KEYS_PER_COMMAND, Ordering::Relaxed);
            if first >= self.keys {
                return Ok(());
            }
            let end = first.saturating_add(PIPELINE * KEYS_PER_COMMAND).min(self.keys);
            self.write(caller, first, end)?;
            self.done.fetch_add(end - first, Ordering::Relaxed);
        }
    }

    /// Tries until all are acknowledged: writing the same again changes nothing.
    fn write(&self, caller: &mut Caller, first: u32, end: u32) -> Result<(), FillError> {
        for _ in 1..TRIES {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(FillError::Stopped);
            }
            if write_once(caller, first, end).is_ok() {
                return Ok(());
            }
        }
        write_once(caller, first, end)
    }
}

fn write_once(caller: &mut Caller, first: u32, end: u32) -> Result<(), FillError> {
    match send(caller, first, end) {
        Ok(None) => Ok(()),
        Ok(Some(refusal)) => {
            caller.handle_refusal(&refusal);
            Err(FillError::Refused(refusal))
        }
        Err(error) => {
            caller.handle_lost();
            Err(FillError::Lost(error))
        }
    }
}

fn send(caller: &mut Caller, first: u32, end: u32) -> io::Result<Option<Refusal>> {
    let client = caller.client()?;
    let mut commands = 0;
    for from in (first..end).step_by(KEYS_PER_COMMAND as usize) {
        let indexes = from..end.min(from + KEYS_PER_COMMAND);
        let words: Vec<_> = indexes.flat_map(|index| [records::key(index), records::value(index, 0)]).collect();
        let words: Vec<_> = [&b"MSET"[..]].into_iter().chain(words.iter().map(String::as_bytes)).collect();
        client.push(&words);
        commands += 1;
    }
    client.send()?;
    let mut refused = None;
    for _ in 0..commands {
        if let Answer::Refused(refusal) = client.answer()? {
            refused = Some(refusal);
        }
    }
    Ok(refused)
}

const CLIENTS: usize = 4;
/// About a hundred kilobytes.
const KEYS_PER_COMMAND: u32 = 1_000;
/// Commands that are sent before the first answer is awaited.
const PIPELINE: u32 = 8;
const TRIES: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

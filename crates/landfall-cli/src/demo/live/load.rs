//! Owns the clients of the story: some that write at a steady rate, one that reads at a steady rate, and what they were told.
//!
//! Requests are due at fixed moments, whether or not earlier ones were answered: a service that stalls is seen to stall.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::random::Random;
use super::caller::{Caller, Directory};
use super::records::{self, Ledger, Wrong};
use super::resp::{Answer, Refusal};
use super::samples::Samples;

/// Writes per second, of all writers.
pub(super) const WRITES_PER_SECOND: u32 = 2_000;
/// Reads per second.
pub(super) const READS_PER_SECOND: u32 = 500;
const WRITERS: u32 = 2;
/// Reads that are overdue go out together, up to so many.
const READS_AT_ONCE_MAX: usize = 128;
/// Writes that are due at the same moment go out together.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Writes that are overdue by more are never sent.
const BACKLOG_MAX: Duration = Duration::from_millis(200);
/// A member that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients, until it is dropped.
pub(super) struct Load {
    pub(super) writes: Arc<Samples>,
    pub(super) reads: Arc<Samples>,
    figures: Arc<Figures>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), Wrong>>>,
}

/// What else clients counted.
#[derive(Default)]
struct Figures {
    acknowledged: AtomicU64,
    uncertain: AtomicU64,
}

/// What clients were told in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Writes that were acknowledged.
    pub(super) acknowledged: u64,
    /// Writes that may have taken effect: the connection broke, or the leader did not know.
    pub(super) uncertain: u64,
}

impl Load {
    /// Starts the clients.
    pub(super) fn start(directory: &Directory, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let mut load = Self {
            writes: Arc::default(),
            reads: Arc::default(),
            figures: Arc::default(),
            ended: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..WRITERS {
            let mut writer = Writer {
                number,
                random: Random::new(u64::from(number) + 100),
                caller: Caller::new(directory.clone(), PATIENCE),
                ledger: ledger.clone(),
                samples: load.writes.clone(),
                figures: load.figures.clone(),
            };
            load.spawn("writer", move |ended| {
                writer.run(ended);
                Ok(())
            })?;
        }
        let mut reader = Reader {
            random: Random::new(99),
            caller: Caller::new(directory.clone(), PATIENCE),
            ledger: ledger.clone(),
            samples: load.reads.clone(),
        };
        load.spawn("reader", move |ended| reader.run(ended))?;
        Ok(load)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(&AtomicBool) -> Result<(), Wrong> + Send + 'static,
    ) -> io::Result<()> {
        let ended = self.ended.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&ended))?;
        self.threads.push(thread);
        Ok(())
    }

    /// What clients were told so far.
    pub(super) fn told(&self) -> Told {
        let get = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Told { acknowledged: get(&self.figures.acknowledged), uncertain: get(&self.figures.uncertain) }
    }

    /// Ends the clients; says what a read proved wrong, if one did.
    pub(super) fn stop(mut self) -> Result<Told, Wrong> {
        self.end()?;
        Ok(self.told())
    }

    fn end(&mut self) -> Result<(), Wrong> {
        self.ended.store(true, Ordering::Release);
        let ends: Vec<_> =
            self.threads.drain(..).map(|thread| thread.join().expect("a client does not panic")).collect();
        ends.into_iter().collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // What it found is told by `stop`.
        let _ = self.end();
    }
}

struct Writer {
    number: u32,
    random: Random,
    caller: Caller,
    ledger: Arc<Ledger>,
    samples: Arc<Samples>,
    figures: Arc<Figures>,
}

impl Writer {
    fn run(&mut self, ended: &AtomicBool) {
        let batch = WRITES_PER_SECOND as usize * WRITE_INTERVAL.as_millis() as usize / 1000 / WRITERS as usize;
        let mut due = Instant::now() + WRITE_INTERVAL * self.number / WRITERS;
        while !ended.load(Ordering::Acquire) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.write(due, batch);
            due += WRITE_INTERVAL;
            // What could not be sent for long is not made up for: the load is steady, not more after a pause.
            if due + BACKLOG_MAX < Instant::now() {
                due = Instant::now();
            }
        }
    }

    /// Some writes at once, to keys that only this writer writes.
    fn write(&mut self, due: Instant, batch: usize) {
        let keys = u64::from(self.ledger.keys() / WRITERS);
        let writes: Vec<_> = (0..batch)
            .map(|_| {
                let index = self.random.below(keys) as u32 * WRITERS + self.number;
                (index, self.ledger.send(index))
            })
            .collect();
        let answered = self.send(&writes);
        self.figures.uncertain.fetch_add(answered.uncertain as u64, Ordering::Relaxed);
        self.figures.acknowledged.fetch_add(answered.acknowledged as u64, Ordering::Relaxed);
        if answered.acknowledged > 0 {
            self.samples.add(due, answered.acknowledged as u32);
        }
    }

    fn send(&mut self, writes: &[(u32, u32)]) -> Answered {
        let mut answered = Answered::default();
        let Ok(client) = self.caller.client() else { return answered };
        // Until an answer says otherwise, what is sent may take effect.
        answered.uncertain = writes.len();
        let mut refusal = None;
        let mut take_answers = || -> io::Result<()> {
            for (index, version) in writes {
                client.push(&[b"SET", records::key(*index).as_bytes(), records::value(*index, *version).as_bytes()]);
            }
            client.send()?;
            for (index, version) in writes {
                match client.answer()? {
                    Answer::Refused(refused) => {
                        answered.uncertain -= usize::from(!refused.is_uncertain());
                        refusal = Some(refused);
                    }
                    _ => {
                        self.ledger.acknowledge(*index, *version);
                        answered.uncertain -= 1;
                        answered.acknowledged += 1;
                    }
                }
            }
            Ok(())
        };
        match (take_answers(), refusal) {
            (Err(_), _) => self.caller.handle_lost(),
            (Ok(()), Some(refusal)) => self.caller.handle_refusal(&refusal),
            (Ok(()), None) => {}
        }
        answered
    }
}

/// What came of some writes.
#[derive(Default)]
struct Answered {
    acknowledged: usize,
    uncertain: usize,
}

struct Reader {
    random: Random,
    caller: Caller,
    ledger: Arc<Ledger>,
    samples: Arc<Samples>,
}

impl Reader {
    fn run(&mut self, ended: &AtomicBool) -> Result<(), Wrong> {
        let interval = Duration::from_secs(1) / READS_PER_SECOND;
        let mut next = Instant::now();
        while !ended.load(Ordering::Acquire) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let mut reads = Vec::new();
            // As of many clients: a read that is due does not wait for the answer to an earlier one.
            while reads.len() < READS_AT_ONCE_MAX && next <= Instant::now() {
                reads.push(self.choose(next));
                next += interval;
            }
            while !self.read(&reads)? && !ended.load(Ordering::Acquire) {}
        }
        Ok(())
    }

    fn choose(&mut self, due: Instant) -> DueRead {
        let index = self.random.below(u64::from(self.ledger.keys())) as u32;
        DueRead { due, index, acknowledged: self.ledger.acknowledged(index) }
    }

    /// Asks for some records; false if somebody else is to be asked for them again.
    fn read(&mut self, reads: &[DueRead]) -> Result<bool, Wrong> {
        match self.answers(reads) {
            Ok(Ok(answers)) => {
                for (read, stored) in reads.iter().zip(answers) {
                    self.ledger.check(read.index, stored.as_deref(), read.acknowledged)?;
                    self.samples.add(read.due, 1);
                }
                Ok(true)
            }
            Ok(Err(refusal)) => {
                self.caller.handle_refusal(&refusal);
                Ok(false)
            }
            Err(_) => {
                self.caller.handle_lost();
                Ok(false)
            }
        }
    }

    fn answers(&mut self, reads: &[DueRead]) -> io::Result<Result<Vec<Option<Bytes>>, Refusal>> {
        let client = self.caller.client()?;
        for read in reads {
            client.push(&[b"GET", records::key(read.index).as_bytes()]);
        }
        client.send()?;
        let mut answers = Vec::with_capacity(reads.len());
        let mut refusal = None;
        for _ in reads {
            match client.answer()? {
                Answer::Refused(refused) => refusal = Some(refused),
                Answer::Bytes(stored) => answers.push(Some(stored)),
                _ => answers.push(None),
            }
        }
        Ok(refusal.map_or(Ok(answers), Err))
    }
}

/// A read, and what it must see at least.
#[derive(Clone, Copy)]
struct DueRead {
    due: Instant,
    index: u32,
    acknowledged: u32,
}

//! Owns the client that reads at a joiner from the first moment on, from whatever the joiner has applied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::random::Random;
use super::records::{self, Ledger, Wrong};
use super::resp::{Answer, AskError, Client};
use super::samples::Samples;

/// Reads at one member until it is dropped, or the member is gone.
pub(super) struct Visitor {
    ended: Arc<AtomicBool>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<Result<(), Wrong>>>,
}

#[derive(Default)]
struct Seen {
    samples: Samples,
    first: std::sync::OnceLock<Instant>,
}

impl Visitor {
    /// Begins to read at `address`.
    pub(super) fn start(address: SocketAddr, ledger: Arc<Ledger>) -> std::io::Result<Self> {
        let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let (until, note) = (ended.clone(), seen.clone());
        let visit = move || match visit(address, &ledger, &note, &until) {
            Err(VisitError::Wrong(wrong)) => Err(wrong),
            // Its member was killed, which is part of the story.
            Ok(()) | Err(VisitError::Gone) => Ok(()),
        };
        let thread = std::thread::Builder::new().name("visitor".to_owned()).spawn(visit)?;
        Ok(Self { ended, seen, thread: Some(thread) })
    }

    /// When the first read was answered, and rightly.
    pub(super) fn first(&self) -> Option<Instant> {
        self.seen.first.get().copied()
    }

    /// Its reads.
    pub(super) fn reads(&self) -> &Samples {
        &self.seen.samples
    }

    /// Ends it; says what a read proved wrong, if one did.
    pub(super) fn stop(mut self) -> Result<(), Wrong> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Wrong> {
        self.ended.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("visiting does not panic"))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // What it found is told by `stop`.
        let _ = self.end();
    }
}

enum VisitError {
    Gone,
    Wrong(Wrong),
}

impl From<AskError> for VisitError {
    fn from(_: AskError) -> Self {
        Self::Gone
    }
}

fn visit(address: SocketAddr, ledger: &Ledger, seen: &Seen, ended: &AtomicBool) -> Result<(), VisitError> {
    let mut client = Client::connect(address, PATIENCE).map_err(AskError::from)?;
    client.ask(&[b"READONLY"])?;
    let mut random = Random::new(7);
    let mut due = Instant::now();
    while !ended.load(Ordering::Acquire) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let index = random.below(u64::from(ledger.keys())) as u32;
        let asked_at = due;
        due += INTERVAL;
        // It may be behind, even behind the first write of the key, so it promises no version; but every value is one that was
        // written. That no key is lost shows when all of them are read back, once it has caught up.
        let Answer::Bytes(stored) = client.ask(&[b"GET", records::key(index).as_bytes()])? else { continue };
        ledger.check(index, Some(&stored[..]), 0).map_err(VisitError::Wrong)?;
        seen.first.get_or_init(Instant::now);
        seen.samples.add(asked_at, 1);
    }
    Ok(())
}

/// Time between two reads.
const INTERVAL: Duration = Duration::from_millis(5);
/// A member that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

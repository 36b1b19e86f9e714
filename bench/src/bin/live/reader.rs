//! Owns the client that reads at a joiner from the moment it is told to join: when the first answer was right, when the
//! first was fresh, and that none was wrong after that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use landfall_bench::measure::wait_until;
use landfall_bench::random::Random;
use redis_protocol::resp2::types::BytesFrame;

use crate::client::Client;
use crate::turn::Turn;
use landfall_bench::contents::Contents;
use landfall_bench::latency::Timeline;

/// Reads one key after the other until it is told to stop.
pub(crate) struct Reader {
    stopping: Arc<AtomicBool>,
    is_fresh: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Seen>>,
}

/// What the reader saw.
pub(crate) struct Seen {
    /// A key that nobody wrote since had its value.
    pub(crate) first_at: Instant,
    /// A key that was written after the joiner was told had its value.
    pub(crate) fresh_at: Instant,
    /// All reads after the first right one.
    pub(crate) timeline: Timeline,
}

/// What is known so far.
#[derive(Default)]
struct Progress {
    is_fresh: Arc<AtomicBool>,
    first_at: Option<Instant>,
    fresh_at: Option<Instant>,
    timeline: Timeline,
}

impl Reader {
    /// Begins at once; `marker` is the value of [`MARKER`] that is written after the joiner was told.
    pub(crate) fn start(turn: &Turn<'_>, marker: &str) -> anyhow::Result<Self> {
        let (stopping, is_fresh) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stop, contents) = (Arc::clone(&stopping), Arc::clone(&turn.stage.contents));
        let (marker, cores) = (Bytes::from(marker.to_owned()), turn.joiner.cores);
        let address = turn.joiner.place.client_address;
        let fresh = Arc::clone(&is_fresh);
        let hello = turn.server.hello_for_stale_reads();
        // A thread stays in the namespace in which it was born.
        let thread = turn.stage.network.clients().inside(move || {
            Ok(thread::spawn(move || {
                cores.bind()?;
                let mut progress = Progress { is_fresh: fresh, ..Progress::default() };
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(client) = connect(address, hello) {
                        progress.read(client, &contents, &marker, &stop)?;
                    }
                    thread::sleep(PAUSE);
                }
                progress.finish()
            }))
        })?;
        Ok(Self { stopping, is_fresh, thread })
    }

    /// Ends the reading once an answer was fresh. An error if any was wrong after the first right one.
    pub(crate) fn stop(self) -> anyhow::Result<Seen> {
        // What went wrong is said by the thread itself.
        let _ = wait_until(FRESH_LIMIT, || Ok(self.is_fresh.load(Ordering::Relaxed) || self.thread.is_finished()));
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.thread.join().map_err(|_| anyhow!("the reading thread panicked"))?;
        ended.context("a reader at the joiner")
    }
}

fn connect(address: SocketAddr, hello: &[&str]) -> anyhow::Result<Client> {
    let mut client = Client::connect_here(address)?;
    if !hello.is_empty() {
        client.call(hello)?;
    }
    Ok(client)
}

impl Progress {
    /// Reads until the connection is lost, which ends the turn once an answer was right.
    fn read(
        &mut self,
        mut client: Client,
        contents: &Contents,
        marker: &Bytes,
        stopping: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut random = Random::stream(READER_STREAM);
        while !stopping.load(Ordering::Relaxed) {
            let asked = self.read_still(&mut client, contents, contents.draw_still(&mut random));
            if self.first_at.is_none() && asked.is_err() {
                return Ok(());
            }
            asked?;
            if self.first_at.is_some() && self.fresh_at.is_none() {
                let answer = client.try_call(&["GET", MARKER])?;
                if answer == BytesFrame::BulkString(marker.clone()) {
                    self.fresh_at = Some(Instant::now());
                    self.is_fresh.store(true, Ordering::Relaxed);
                }
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn read_still(&mut self, client: &mut Client, contents: &Contents, number: u32) -> anyhow::Result<()> {
        let asked_at = Instant::now();
        let answer = client.try_call(&["GET", &Contents::key(number)])?;
        let is_right = answer == BytesFrame::BulkString(contents.value(number, 0).into());
        match self.first_at {
            None if is_right => self.first_at = Some(Instant::now()),
            None => {}
            Some(_) if is_right => self.timeline.note(asked_at, asked_at.elapsed()),
            Some(_) => bail!("an answer was wrong after one was right: {answer:?} for key {number}"),
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Seen> {
        Ok(Seen {
            first_at: self.first_at.context("no answer was right")?,
            fresh_at: self.fresh_at.context("no answer was fresh")?,
            timeline: self.timeline,
        })
    }
}

pub(crate) const MARKER: &str = "marker";
/// How long a joiner that is whole may take to answer freshly.
const FRESH_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);
const READER_STREAM: u64 = 202;

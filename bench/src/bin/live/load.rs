//! Owns the clients that load a server: one that fills it, one that writes at a steady rate whatever the server does.
//! Neither waits for one answer before the next question, and every answer is looked at.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use landfall_bench::random::Random;
use redis_protocol::resp2::types::BytesFrame;

use crate::client::{Client, Replies, append_command};
use landfall_bench::contents::{Contents, Versions};

/// Writes every key at version 0.
pub(crate) fn fill(client: Client, contents: &Contents) -> anyhow::Result<()> {
    let numbers: Vec<u32> = (0..contents.keys()).collect();
    let requests = numbers.chunks(FILL_KEYS).map(|numbers| set_many(contents, numbers.iter().map(|n| (*n, 0))));
    ask_all(client, requests, is_ok)
}

/// Reads so many keys, drawn from all: a server that has been running has in memory what it keeps there.
pub(crate) fn read_many(client: Client, contents: &Contents, reads: u32) -> anyhow::Result<()> {
    let mut random = Random::stream(WARMING_STREAM);
    let mut key = || Contents::key(random.below(u64::from(contents.keys())) as u32).into_bytes();
    let request = |_| {
        let mut request = Vec::new();
        append_command(&mut request, &[b"GET".to_vec(), key()]);
        request
    };
    ask_all(client, (0..reads).map(request), |answer| matches!(answer, BytesFrame::BulkString(_)))
}

/// Writes these keys at these versions, as fast as the server takes it, one `SET` for each.
pub(crate) fn rewrite(client: Client, contents: &Contents, changes: &[(u32, u32)]) -> anyhow::Result<()> {
    ask_all(client, changes.iter().map(|(number, version)| set_one(contents, *number, *version)), is_ok)
}

fn is_ok(answer: &BytesFrame) -> bool {
    matches!(answer, BytesFrame::SimpleString(_))
}

fn set_many(contents: &Contents, changes: impl Iterator<Item = (u32, u32)>) -> Vec<u8> {
    let mut words = vec![b"MSET".to_vec()];
    for (number, version) in changes {
        words.extend([Contents::key(number).into_bytes(), contents.value(number, version)]);
    }
    let mut request = Vec::new();
    append_command(&mut request, &words);
    request
}

fn set_one(contents: &Contents, number: u32, version: u32) -> Vec<u8> {
    let mut request = Vec::new();
    append_command(&mut request, &[b"SET", Contents::key(number).as_bytes(), &contents.value(number, version)]);
    request
}

/// Sends requests, with a bounded number on their way, and looks at each answer.
fn ask_all(
    client: Client,
    requests: impl Iterator<Item = Vec<u8>>,
    is_right: impl Fn(&BytesFrame) -> bool + Sync,
) -> anyhow::Result<()> {
    let (mut stream, mut replies) = client.split(PATIENCE)?;
    let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let heard = AtomicU64::new(0);
    thread::scope(|scope| {
        let hearing = scope.spawn(|| -> anyhow::Result<()> {
            let mut since = Instant::now();
            while !done.load(Ordering::Acquire) || heard.load(Ordering::Relaxed) < sent.load(Ordering::Acquire) {
                match replies.next()? {
                    Some(answer) if is_right(&answer) => {
                        heard.fetch_add(1, Ordering::Release);
                        since = Instant::now();
                    }
                    Some(other) => bail!("a request was answered {other:?}"),
                    None => ensure!(since.elapsed() < SILENCE_LIMIT, "the server is silent"),
                }
            }
            Ok(())
        });
        let asking = || -> anyhow::Result<()> {
            for request in requests {
                while sent.load(Ordering::Relaxed) - heard.load(Ordering::Acquire) >= ON_THEIR_WAY_MAX {
                    ensure!(!hearing.is_finished(), "nobody hears the answers");
                    thread::sleep(TICK);
                }
                stream.write_all(&request)?;
                sent.fetch_add(1, Ordering::Release);
            }
            Ok(())
        };
        let asked = asking();
        done.store(true, Ordering::Release);
        let heard = hearing.join().map_err(|_| anyhow!("the hearing thread panicked"))?;
        heard.and(asked)
    })
}

/// A client that sends so many `SET` a second, uniformly over the keys that change.
pub(crate) struct Writer {
    state: Arc<State>,
    asking: JoinHandle<anyhow::Result<()>>,
    hearing: JoinHandle<anyhow::Result<Versions>>,
}

#[derive(Default)]
struct State {
    stopping: AtomicBool,
    sent: AtomicU64,
    all_sent: AtomicBool,
    acknowledged: AtomicU64,
}

impl Writer {
    pub(crate) fn start(
        client: Client,
        contents: &Arc<Contents>,
        versions: Versions,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        let (stream, replies) = client.split(PATIENCE)?;
        let state = Arc::new(State::default());
        let (shared, known) = (Arc::clone(&state), Arc::clone(contents));
        let asking = thread::spawn(move || {
            let asked = ask_steadily(stream, &known, &shared, per_second);
            shared.all_sent.store(true, Ordering::Release);
            asked
        });
        let (shared, known) = (Arc::clone(&state), Arc::clone(contents));
        let hearing = thread::spawn(move || hear(replies, &known, &shared, versions));
        Ok(Self { state, asking, hearing })
    }

    /// Writes that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends the writing and waits for the last answer; what each key holds then.
    pub(crate) fn stop(self) -> anyhow::Result<Versions> {
        self.state.stopping.store(true, Ordering::Relaxed);
        self.asking.join().map_err(|_| anyhow!("the writing thread panicked"))??;
        self.hearing.join().map_err(|_| anyhow!("the hearing thread panicked"))?
    }
}

/// Every millisecond sends what is due, so that a slow server is not spared.
fn ask_steadily(mut stream: TcpStream, contents: &Contents, state: &State, per_second: u32) -> anyhow::Result<()> {
    let mut random = Random::stream(WRITER_STREAM);
    let started = Instant::now();
    let (mut sent, mut batch) = (0_u64, Vec::new());
    while !state.stopping.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        batch.clear();
        let until = due.min(sent + BATCH_WRITES_MAX);
        for version in sent + 1..=until {
            let number = contents.draw_changing(&mut random);
            let value = contents.value(number, version as u32);
            append_command(&mut batch, &[b"SET", Contents::key(number).as_bytes(), &value]);
        }
        stream.write_all(&batch)?;
        sent = until;
        state.sent.store(sent, Ordering::Release);
        if sent == due {
            thread::sleep(TICK);
        }
    }
    Ok(())
}

/// Draws the same keys again to know which one an answer is about.
fn hear(mut replies: Replies, contents: &Contents, state: &State, mut versions: Versions) -> anyhow::Result<Versions> {
    let mut random = Random::stream(WRITER_STREAM);
    let mut heard = 0;
    let mut since = Instant::now();
    loop {
        if state.all_sent.load(Ordering::Acquire) && heard == state.sent.load(Ordering::Acquire) {
            return Ok(versions);
        }
        match replies.next()? {
            Some(BytesFrame::SimpleString(_)) => {
                heard += 1;
                versions.set(contents.draw_changing(&mut random), heard as u32);
                state.acknowledged.store(heard, Ordering::Relaxed);
                since = Instant::now();
            }
            Some(other) => bail!("write {heard} was answered {other:?}"),
            None => {
                let waiting = heard < state.sent.load(Ordering::Acquire);
                ensure!(!waiting || since.elapsed() < SILENCE_LIMIT, "the server is silent");
            }
        }
    }
}

/// Keys that one request writes while a server is filled.
const FILL_KEYS: usize = 100;
const ON_THEIR_WAY_MAX: u64 = 2000;
const BATCH_WRITES_MAX: u64 = 1000;
const TICK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(20);
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const WRITER_STREAM: u64 = 200;
const WARMING_STREAM: u64 = 201;

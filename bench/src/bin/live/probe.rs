//! Owns the open-loop probes: requests that fall due at fixed times, whether or not earlier ones were answered, with
//! each latency counted from the time that its request was due. A wrong answer ends a probe.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use landfall_bench::random::Random;
use redis_protocol::resp2::types::BytesFrame;

use crate::client::{Client, Replies, append_command};
use landfall_bench::contents::Contents;
use landfall_bench::latency::Timeline;

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// `GET` of a key that nobody writes.
    Read,
    /// `SET` of a key that only the probe writes.
    Write,
}

/// One probe, on a connection of its own.
pub(crate) struct Probe {
    stopping: Arc<AtomicBool>,
    asking: JoinHandle<anyhow::Result<()>>,
    hearing: JoinHandle<anyhow::Result<Timeline>>,
}

/// A request on its way.
struct Asked {
    due: Instant,
    expected: BytesFrame,
}

impl Probe {
    pub(crate) fn start(client: Client, contents: &Arc<Contents>, question: Question) -> anyhow::Result<Self> {
        let (stream, replies) = client.split(ANSWER_LIMIT)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (asks, asked) = sync_channel(ON_THEIR_WAY_MAX);
        let (stop, known) = (Arc::clone(&stopping), Arc::clone(contents));
        let asking = thread::spawn(move || ask(stream, &known, question, &stop, &asks));
        let hearing = thread::spawn(move || hear(replies, &asked));
        Ok(Self { stopping, asking, hearing })
    }

    /// Ends it and waits for the last answer.
    pub(crate) fn stop(self) -> anyhow::Result<Timeline> {
        self.stopping.store(true, Ordering::Relaxed);
        let asked = self.asking.join().map_err(|_| anyhow!("the asking thread panicked"))?;
        let heard = self.hearing.join().map_err(|_| anyhow!("the hearing thread panicked"))?;
        // What was heard says more than that the other half could not go on.
        heard.and_then(|timeline| asked.map(|()| timeline)).context("a probe of the source")
    }
}

fn ask(
    mut stream: TcpStream,
    contents: &Contents,
    question: Question,
    stopping: &AtomicBool,
    asks: &SyncSender<Asked>,
) -> anyhow::Result<()> {
    let mut random = Random::stream(PROBE_STREAM);
    let (mut due, mut request) = (Instant::now(), Vec::new());
    while !stopping.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        request.clear();
        let expected = question.write(&mut request, contents, &mut random);
        asks.send(Asked { due, expected }).context("nobody hears the answers")?;
        stream.write_all(&request)?;
        due += question.interval();
    }
    Ok(())
}

fn hear(mut replies: Replies, asked: &Receiver<Asked>) -> anyhow::Result<Timeline> {
    let mut timeline = Timeline::default();
    while let Ok(Asked { due, expected }) = asked.recv() {
        let answer = replies.next()?.context("no answer in time")?;
        if let BytesFrame::Error(refusal) = &answer {
            bail!("refused: {refusal}");
        }
        ensure!(answer == expected, "{answer:?} instead of {expected:?}");
        timeline.note(due, due.elapsed());
    }
    Ok(timeline)
}

impl Question {
    fn interval(self) -> Duration {
        match self {
            Self::Read => Duration::from_millis(1),
            Self::Write => Duration::from_millis(5),
        }
    }

    /// Writes the next request and says what its answer is.
    fn write(self, request: &mut Vec<u8>, contents: &Contents, random: &mut Random) -> BytesFrame {
        match self {
            Self::Read => {
                let number = contents.draw_still(random);
                append_command(request, &["GET", &Contents::key(number)]);
                BytesFrame::BulkString(contents.value(number, 0).into())
            }
            Self::Write => {
                let number = random.below(PROBE_KEYS) as u32;
                append_command(request, &[b"SET", probe_key(number).as_bytes(), &contents.value(number, u32::MAX)]);
                BytesFrame::SimpleString("OK".into())
            }
        }
    }
}

fn probe_key(number: u32) -> String {
    format!("probe:{number:04}")
}

const PROBE_KEYS: u64 = 1000;
const PROBE_STREAM: u64 = 201;
const ON_THEIR_WAY_MAX: usize = 1 << 16;
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

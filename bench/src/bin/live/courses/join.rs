//! Owns the course of a join under the eyes of the source's clients.

use std::thread;
use std::time::{Duration, Instant};

use landfall_bench::cores::Cores;
use landfall_bench::netns::Traffic;

use crate::cases::{Case, Load, LoadBegan, Pinning};
use crate::equality;
use crate::figure::{Figure, Sample};
use crate::load::{self, Writer};
use crate::memory::Watch;
use crate::probe::{Probe, Question};
use crate::reader::{MARKER, Reader, Seen};
use crate::servers::Server;
use crate::turn::{Stage, Turn};
use landfall_bench::contents::{Contents, Versions};

/// The clients of the source.
struct Clients {
    reads: Probe,
    writes: Probe,
    writer: Option<Writer>,
}

/// The moments between which is measured.
struct Moments {
    before: Instant,
    told: Instant,
    whole: Instant,
}

pub(super) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<Sample> {
    // The clients run where the source does.
    let cores = if case.pinning == Pinning::Apart { Cores::One(0) } else { Cores::Any };
    cores.bind()?;
    let sample = run_bound(stage, case, server);
    Cores::Any.bind()?;
    sample
}

fn run_bound(stage: &Stage<'_>, case: &Case, server: &dyn Server) -> anyhow::Result<Sample> {
    let turn = Turn::prepare(stage, case, server)?;
    let waiting = turn.start_waiting()?;
    turn.settle()?;
    let mut source = turn.source_client()?;
    load::read_many(turn.source_client()?, &stage.contents, WARMING_READS)?;
    let clients = Clients::start(&turn)?;
    let watch_before = Watch::start(turn.source_id()?);
    thread::sleep(WARM_UP + under_load_for(case.load_began, &stage.contents));
    let before = Instant::now();
    thread::sleep(BEFORE);

    let mut sample = Sample::default();
    let held_before = watch_before.peak_bytes()?;
    let watch = Watch::start(turn.source_id()?);
    let (traffic_before, written_before) = (turn.joiner.place.traffic()?, clients.written());
    let told = Instant::now();
    let process = server.tell(&turn.joiner, &turn.source)?.or(waiting);
    let reader = Reader::start(&turn, MARKER_VALUE)?;
    source.call(&["SET", MARKER, MARKER_VALUE])?;
    let mut joiner = turn.joiner_client()?;
    turn.wait_whole(&mut source, &mut joiner)?;
    let whole = Instant::now();
    let moments = Moments { before, told, whole };
    note_traffic(&mut sample, turn.joiner.place.traffic()?.since(traffic_before));
    let written = clients.written() - written_before;
    sample.note(Figure::WrittenPerSecond, written as f64 / (whole - told).as_secs_f64());
    note_memory(&mut sample, held_before, watch.peak_bytes()?);

    thread::sleep(DURING_MIN.saturating_sub(whole - told));
    note_seen(&mut sample, &reader.stop()?, &moments);
    let versions = clients.stop(&mut sample, &moments, stage)?;
    turn.wait_whole(&mut source, &mut joiner)?;
    server.read_here(&mut joiner)?;
    equality::check(&mut joiner, &stage.contents, &versions)?;
    server.prove_equal(&mut source, &mut joiner)?;
    sample.own_reports = vec![server.own_report(&mut source)?, server.own_report(&mut joiner)?];
    drop(process);
    Ok(sample)
}

/// How long the source has been under its load when it is watched.
fn under_load_for(began: LoadBegan, contents: &Contents) -> Duration {
    match began {
        LoadBegan::Lately => Duration::ZERO,
        LoadBegan::LongAgo => Duration::from_millis(u64::from(contents.keys()) / 80),
    }
}

impl Clients {
    fn start(turn: &Turn<'_>) -> anyhow::Result<Self> {
        let contents = &turn.stage.contents;
        let writer = match turn.case.load {
            Load::Idle => None,
            Load::WritesPerSecond(per_second) => {
                Some(Writer::start(turn.source_client()?, contents, Versions::new(contents), per_second)?)
            }
        };
        Ok(Self {
            reads: Probe::start(turn.source_client()?, contents, Question::Read)?,
            writes: Probe::start(turn.source_client()?, contents, Question::Write)?,
            writer,
        })
    }

    fn written(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::acknowledged)
    }

    fn stop(self, sample: &mut Sample, moments: &Moments, stage: &Stage<'_>) -> anyhow::Result<Versions> {
        let (reads, writes) = (self.reads.stop()?, self.writes.stop()?);
        let during = moments.told..moments.whole.max(moments.told + DURING_MIN);
        let before = moments.before..moments.told;
        if let (Some(before), Some(during)) = (reads.within(&before), reads.within(&during)) {
            sample.note_reads(before, during);
        }
        if let (Some(before), Some(during)) = (writes.within(&before), writes.within(&during)) {
            sample.note_writes(before, during);
        }
        match self.writer {
            Some(writer) => writer.stop(),
            None => Ok(Versions::new(&stage.contents)),
        }
    }
}

/// What the joiner's reader saw.
fn note_seen(sample: &mut Sample, seen: &Seen, moments: &Moments) {
    sample.note(Figure::FirstReadSeconds, (seen.first_at - moments.told).as_secs_f64());
    sample.note(Figure::FreshReadSeconds, (seen.fresh_at - moments.told).as_secs_f64());
    sample.note(Figure::WholeSeconds, (moments.whole - moments.told).as_secs_f64());
    if let Some(reads) = seen.timeline.within(&(seen.first_at..moments.whole)) {
        sample.note(Figure::JoinerReadsP50, reads.p50_ms);
        sample.note(Figure::JoinerReadsP99, reads.p99_ms);
    }
}

fn note_traffic(sample: &mut Sample, traffic: Traffic) {
    sample.note(Figure::ReceivedMegabytes, traffic.received_bytes as f64 / 1e6);
    sample.note(Figure::SentMegabytes, traffic.sent_bytes as f64 / 1e6);
}

fn note_memory(sample: &mut Sample, before_bytes: u64, peak_bytes: u64) {
    let growth_bytes = peak_bytes.saturating_sub(before_bytes) as f64;
    sample.note(Figure::HeldBeforeMegabytes, before_bytes as f64 / 1e6);
    sample.note(Figure::HeldGrowthMegabytes, growth_bytes / 1e6);
    sample.note(Figure::HeldGrowthShare, growth_bytes / before_bytes as f64);
}

/// More than enough to fill a cache of 256 MiB with leaves.
const WARMING_READS: u32 = 50_000;
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the clients are watched while nobody joins.
const BEFORE: Duration = Duration::from_secs(5);
/// Latencies during a join are those of at least this long, so that a quick one has percentiles too.
const DURING_MIN: Duration = Duration::from_secs(2);
const MARKER_VALUE: &str = "written after the joiner was told";

//! Measures sealing a keyed state in one process, without a server: how long it takes after a hundredth of the keys
//! changed, what that does to writers, and how many bytes go to the disk for each byte that is written.
//!
//! A seal ends when it is durable. Latencies are counted from the time a write was due. Every run ends with a check of
//! keys drawn at random.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use landfall::keyed::{Keyed, KeyedConfig, Schema, SectionId, SectionSchema};
use landfall_bench::contents::{Contents, KEY_BYTES, VALUE_BYTES, Versions};
use landfall_bench::files::{Scratch, sync};
use landfall_bench::latency::{Latencies, Timeline};
use landfall_bench::random::Random;
use landfall_core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use serde::Serialize;
use tikv_jemallocator::Jemalloc;

/// That of the servers.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Measures sealing a keyed state, without a server.
#[derive(Debug, Parser)]
struct Args {
    /// Keys of about 100 bytes that the state holds.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    keys: u32,
    /// Writes a second that go on beside the measured seal.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seconds for which writers are watched without a seal.
    #[arg(long, default_value_t = 5)]
    idle_seconds: u64,
    /// Seals over which bytes written are counted while keys are written uniformly.
    #[arg(long, default_value_t = 3)]
    seals: u32,
    /// Megabytes of unsealed changes at which those seals are begun: as many as a cluster lets wait at most.
    #[arg(long, default_value_t = 134)]
    unsealed_mb: u64,
    /// Memory for tree nodes, in megabytes.
    #[arg(long, default_value_t = 256)]
    cache_mb: u64,
    /// The state is kept in a directory below this one while this runs.
    #[arg(long, default_value = "bench/work")]
    work: PathBuf,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    keys: u32,
    fill_s: f64,
    store_after_fill_mb: f64,
    changed: u32,
    seal: SealFigures,
    writes_idle: Latencies,
    writes_during_seal: Latencies,
    p99_during_per_idle: f64,
    uniform: Amplification,
    peak_memory_mb: f64,
}

/// One seal.
#[derive(Debug, Serialize)]
struct SealFigures {
    seconds: f64,
    entries: u64,
    nodes: u64,
    written_mb: f64,
}

/// Uniform writes and the seals that they caused.
#[derive(Debug, Serialize)]
struct Amplification {
    seals: u32,
    writes: u64,
    /// Keys and values, as a log would hold them at least.
    log_mb: f64,
    written_mb: f64,
    written_per_log: f64,
    seal_s_mean: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = Scratch::create(&args.work, "seal")?;
    let report = measure(&args, work.path())?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report) {
    println!("{} keys, filled in {:.1} s, {:.0} MB on disk", report.keys, report.fill_s, report.store_after_fill_mb);
    let seal = &report.seal;
    println!(
        "seal after {} keys changed: {:.3} s, {} entries, {} nodes, {:.1} MB written",
        report.changed, seal.seconds, seal.entries, seal.nodes, seal.written_mb
    );
    for (when, writes) in [("idle", report.writes_idle), ("during the seal", report.writes_during_seal)] {
        println!("writes, {when}: p50 {:.3} ms, p99 {:.3} ms, of {}", writes.p50_ms, writes.p99_ms, writes.requests);
    }
    println!("p99 during / idle: {:.2}", report.p99_during_per_idle);
    let uniform = &report.uniform;
    println!(
        "{} uniform writes, {} seals of {:.2} s: {:.1} MB of log, {:.1} MB written, {:.2} for each byte",
        uniform.writes, uniform.seals, uniform.seal_s_mean, uniform.log_mb, uniform.written_mb, uniform.written_per_log
    );
    println!("peak memory {:.0} MB", report.peak_memory_mb);
}

fn measure(args: &Args, work: &Path) -> Result<Report> {
    let contents = Contents::new(args.keys);
    let state = State::open(args, work)?;
    let filling = Instant::now();
    state.fill(&contents)?;
    let fill_s = filling.elapsed().as_secs_f64();
    let store_after_fill_mb = directory_bytes(work)? as f64 / 1e6;
    sync(work)?;

    let writes_idle = state.write_idle(&contents, args)?;
    let changed = state.change_hundredth(&contents)?;
    let (seal, writes_during_seal) = state.seal_beside_writers(&contents, args)?;
    let uniform = state.write_uniformly(&contents, args)?;
    state.check(&contents)?;
    Ok(Report {
        keys: args.keys,
        fill_s,
        store_after_fill_mb,
        changed,
        seal,
        writes_idle,
        writes_during_seal,
        p99_during_per_idle: writes_during_seal.p99_ms / writes_idle.p99_ms,
        uniform,
        peak_memory_mb: peak_memory_bytes()? as f64 / 1e6,
    })
}

/// The state under measurement, and what each key should hold.
struct State {
    keyed: Arc<Keyed>,
    section: SectionId,
    log: Mutex<Log>,
}

/// One writer at a time takes the next position.
struct Log {
    index: u64,
    random: Random,
    versions: Option<Versions>,
}

impl State {
    fn open(args: &Args, work: &Path) -> Result<Self> {
        let section = SectionSchema {
            name: StateName::new("data")?,
            priority: SectionPriority::Bulk,
            range: KeyRange::default(),
        };
        let keyed = Keyed::open(KeyedConfig {
            name: StateName::new("bench")?,
            directory: work.to_owned(),
            schema: Schema::new(vec![section])?,
            cache_bytes: args.cache_mb * 1_000_000,
            salt_seed: [7; 32],
        })?;
        let section = keyed.schema().id("data").context("the section that was just made")?;
        let log = Log { index: 0, random: Random::stream(CHANGES_STREAM), versions: None };
        Ok(Self { keyed, section, log: Mutex::new(log) })
    }

    /// Writes some keys as one record.
    fn write(&self, log: &mut Log, contents: &Contents, changes: &[(u32, u32)]) -> Result<()> {
        log.index += 1;
        let pairs: Vec<(Bytes, Bytes)> = changes
            .iter()
            .map(|(number, version)| (Contents::key(*number).into(), contents.value(*number, *version).into()))
            .collect();
        let record: Vec<u8> = pairs.iter().flat_map(|(key, value)| [&key[..], &value[..]].concat()).collect();
        let done = self.keyed.transact(Position { epoch: 1, index: log.index }, &record, |transaction| {
            for (key, value) in &pairs {
                transaction.put(self.section, key.clone(), value.clone()).expect("short keys and values");
            }
            Ok(())
        })?;
        ensure!(done.is_some(), "a position was used twice");
        if let Some(versions) = &mut log.versions {
            changes.iter().for_each(|(number, version)| versions.set(*number, *version));
        }
        Ok(())
    }

    fn fill(&self, contents: &Contents) -> Result<()> {
        let mut log = self.log();
        let numbers: Vec<u32> = (0..contents.keys()).collect();
        for part in numbers.chunks(FILL_KEYS_PER_SEAL) {
            for some in part.chunks(KEYS_PER_RECORD) {
                let changes: Vec<_> = some.iter().map(|number| (*number, 0)).collect();
                self.write(&mut log, contents, &changes)?;
            }
            self.keyed.seal()?.wait()?;
        }
        log.versions = Some(Versions::new(contents));
        Ok(())
    }

    /// Changes one key of a hundred, drawn at random.
    fn change_hundredth(&self, contents: &Contents) -> Result<u32> {
        let mut log = self.log();
        let count = contents.keys() / 100;
        for _ in 0..count {
            let number = contents.draw_changing(&mut log.random);
            self.write(&mut log, contents, &[(number, FIRST_CHANGE)])?;
        }
        Ok(count)
    }

    /// Writes at a fixed rate while nothing else happens; then seals what that left.
    fn write_idle(&self, contents: &Contents, args: &Args) -> Result<Latencies> {
        let (window, timeline) = self.beside_writers(contents, args.rate, || {
            thread::sleep(WARM_UP);
            let began = Instant::now();
            thread::sleep(Duration::from_secs(args.idle_seconds));
            Ok(began..Instant::now())
        })?;
        self.keyed.seal()?.wait()?;
        self.keyed.wait_until_quiet();
        timeline.within(&window).context("no write")
    }

    /// Seals while writes go on at a fixed rate.
    fn seal_beside_writers(&self, contents: &Contents, args: &Args) -> Result<(SealFigures, Latencies)> {
        let ((figures, window), timeline) = self.beside_writers(contents, args.rate, || {
            thread::sleep(HEAD_START);
            let (began, written_before) = (Instant::now(), written_bytes()?);
            let sealed = self.keyed.seal()?.wait()?;
            let ended = Instant::now();
            let figures = SealFigures {
                seconds: (ended - began).as_secs_f64(),
                entries: sealed.entries,
                nodes: sealed.nodes,
                written_mb: (written_bytes()? - written_before) as f64 / 1e6,
            };
            Ok((figures, began..ended))
        })?;
        Ok((figures, timeline.within(&window).context("no write during the seal")?))
    }

    /// Does something while another thread writes, and says how long each write took.
    fn beside_writers<T>(
        &self,
        contents: &Contents,
        rate: u32,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Timeline)> {
        let stopping = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| self.write_steadily(contents, rate, &stopping));
            let done = work();
            stopping.store(true, Ordering::Relaxed);
            let timeline = writer.join().expect("the writer does not panic")?;
            Ok((done?, timeline))
        })
    }

    fn write_steadily(&self, contents: &Contents, rate: u32, stopping: &AtomicBool) -> Result<Timeline> {
        let (mut log, mut timeline) = (self.log(), Timeline::default());
        let (started, mut version) = (Instant::now(), SECOND_CHANGE);
        while !stopping.load(Ordering::Relaxed) {
            let due = started + Duration::from_secs_f64(f64::from(version - SECOND_CHANGE) / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let number = contents.draw_changing(&mut log.random);
            self.write(&mut log, contents, &[(number, version)])?;
            timeline.note(due, due.elapsed());
            version += 1;
        }
        Ok(timeline)
    }

    /// Writes as fast as it goes, and seals whenever enough changes wait.
    fn write_uniformly(&self, contents: &Contents, args: &Args) -> Result<Amplification> {
        let mut log = self.log();
        self.keyed.seal()?.wait()?;
        self.keyed.wait_until_quiet();
        let (written_before, mut writes, mut seal_s) = (written_bytes()?, 0_u64, 0.0);
        for _ in 0..args.seals {
            while self.keyed.overlay_bytes() < args.unsealed_mb * 1_000_000 {
                let changes: Vec<_> = (0..KEYS_PER_RECORD as u64)
                    .map(|more| (contents.draw_changing(&mut log.random), UNIFORM_CHANGE + (writes + more) as u32))
                    .collect();
                self.write(&mut log, contents, &changes)?;
                writes += changes.len() as u64;
            }
            let sealing = Instant::now();
            self.keyed.seal()?.wait()?;
            seal_s += sealing.elapsed().as_secs_f64();
        }
        // What these seals left to do belongs to them.
        self.keyed.wait_until_quiet();
        let log_mb = (writes * (KEY_BYTES + VALUE_BYTES) as u64) as f64 / 1e6;
        let written_mb = (written_bytes()? - written_before) as f64 / 1e6;
        Ok(Amplification {
            seals: args.seals,
            writes,
            log_mb,
            written_mb,
            written_per_log: written_mb / log_mb,
            seal_s_mean: seal_s / f64::from(args.seals),
        })
    }

    /// Reads keys back, those that changed and those that did not.
    fn check(&self, contents: &Contents) -> Result<()> {
        let mut log = self.log();
        for _ in 0..CHECKED_KEYS.min(contents.keys()) {
            let number = log.random.below(u64::from(contents.keys())) as u32;
            let version = log.versions.as_ref().context("a state that was filled")?.of(number);
            let value = self.keyed.get(self.section, Contents::key(number).as_bytes())?;
            ensure!(value.as_deref() == Some(&contents.value(number, version)[..]), "key {number} holds {value:?}");
        }
        Ok(())
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().expect("no panic under the lock")
    }
}

/// Bytes that this process has caused to be written to disks, as the kernel counts them.
fn written_bytes() -> Result<u64> {
    field("/proc/self/io", "write_bytes:")
}

fn peak_memory_bytes() -> Result<u64> {
    Ok(field("/proc/self/status", "VmHWM:")? * 1024)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {file}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

const CHANGES_STREAM: u64 = 210;
const WARM_UP: Duration = Duration::from_secs(1);
/// How long writers run before a seal begins.
const HEAD_START: Duration = Duration::from_millis(200);
const KEYS_PER_RECORD: usize = 100;
/// A fill holds no more than this many entries in memory.
const FILL_KEYS_PER_SEAL: usize = 1_000_000;
const CHECKED_KEYS: u32 = 10_000;
/// Versions are told apart by who wrote them.
const FIRST_CHANGE: u32 = 1;
const SECOND_CHANGE: u32 = 1 << 20;
const UNIFORM_CHANGE: u32 = 1 << 28;

//! Measures the log beside the disk it stands on, in the same run: small batches, each made durable before the next.
//!
//! Raw is one `write` at the end of a file and one `fdatasync` for each batch. All ways take turns, batch by batch,
//! so that the disk's moods fall on all alike.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use landfall_core::snapshot::Position;
use landfall_store::log::{Log, LogOptions, LogRecord};
use landfall_store::vfs::RealVfs;

#[derive(Parser)]
#[command(about = "Measures the log beside the disk it stands on")]
struct Arguments {
    /// An empty place on the disk to measure; a directory is made and removed in it.
    #[arg(long, default_value = ".")]
    place: PathBuf,
    /// Batches that are made durable, one after the other.
    #[arg(long, default_value_t = 4_000)]
    batches: u64,
    /// Records in a batch.
    #[arg(long, default_value_t = 1)]
    records: u64,
    /// Length of a record's payload.
    #[arg(long, default_value_t = 4096)]
    payload_bytes: usize,
    /// Threads that append and sync at once, for group commit.
    #[arg(long, default_value_t = 16)]
    writers: u64,
    /// How often to measure.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = arguments.place.join(format!("landfall-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let outcome = (1..=arguments.rounds).try_for_each(|round| measure(&arguments, round, &directory));
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn measure(arguments: &Arguments, round: u32, directory: &Path) -> Result<()> {
    let Arguments { batches, records, payload_bytes, .. } = arguments;
    println!("round {round}: {batches} batches of {records} records of {payload_bytes} bytes");
    append_in_turns(arguments, directory)?;
    let place = directory.join("log");
    let log = Log::open(Arc::new(RealVfs), &place, LogOptions::default())?;
    read_back(arguments, &log)?;
    drop(log);
    let began = Instant::now();
    let log = Log::open(Arc::new(RealVfs), &place, LogOptions::default())?;
    println!("  open                      {:>9.1} ms", began.elapsed().as_secs_f64() * 1e3);
    commit_in_group(arguments, &log)?;
    drop(log);
    std::fs::remove_dir_all(directory)?;
    std::fs::create_dir(directory)?;
    Ok(())
}

/// One batch each: a file that grows, a file of zeros that is overwritten, the log.
fn append_in_turns(arguments: &Arguments, directory: &Path) -> Result<()> {
    let log = Log::open(Arc::new(RealVfs), &directory.join("log"), LogOptions::default())?;
    let batch_bytes = arguments.payload_bytes * arguments.records as usize;
    let content = noise(batch_bytes);
    let mut growing = File::create(directory.join("growing"))?;
    let prepared = File::create(directory.join("prepared"))?;
    for batch in 0..arguments.batches {
        prepared.write_all_at(&vec![0; batch_bytes], batch * batch_bytes as u64)?;
    }
    prepared.sync_all()?;
    let mut took: [Vec<Duration>; 3] = Default::default();
    for batch in 0..arguments.batches {
        let began = Instant::now();
        growing.write_all(&content)?;
        growing.sync_data()?;
        took[0].push(began.elapsed());

        let began = Instant::now();
        prepared.write_all_at(&content, batch * batch_bytes as u64)?;
        prepared.sync_data()?;
        took[1].push(began.elapsed());

        let records = make_records(arguments, batch * arguments.records, &content);
        let began = Instant::now();
        log.append(&records)?;
        log.sync()?;
        took[2].push(began.elapsed());
    }
    let raw = Figures::of(&mut took[0]);
    print_figures("raw write + fdatasync", &raw, &raw);
    print_figures("raw, into written zeros", &Figures::of(&mut took[1]), &raw);
    print_figures("log append + sync", &Figures::of(&mut took[2]), &raw);
    Ok(())
}

fn read_back(arguments: &Arguments, log: &Log) -> Result<()> {
    let began = Instant::now();
    let (mut next, mut bytes, mut count) = (0, 0, 0);
    loop {
        let records = log.read(next, READ_BYTES)?;
        let Some(last) = records.last() else { break };
        next = last.position.index + 1;
        count += records.len() as u64;
        bytes += records.iter().map(|record| record.payload.len() as u64).sum::<u64>();
    }
    ensure!(count == arguments.batches * arguments.records, "records are lost");
    let seconds = began.elapsed().as_secs_f64();
    println!("  read all, cached by the kernel {:>6.0} MB/s", bytes as f64 / seconds / 1e6);
    Ok(())
}

/// Many threads, each of which waits until its own batch is durable.
fn commit_in_group(arguments: &Arguments, log: &Log) -> Result<()> {
    let content = noise(arguments.payload_bytes * arguments.records as usize);
    let next = std::sync::Mutex::new(log.last_index().map_or(0, |last| last + 1));
    let each = arguments.batches / arguments.writers.max(1);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let write = || -> Result<()> {
            for _ in 0..each {
                let mut first = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                log.append(&make_records(arguments, *first, &content))?;
                *first += arguments.records;
                drop(first);
                log.sync()?;
            }
            Ok(())
        };
        let writers: Vec<_> = (0..arguments.writers).map(|_| scope.spawn(write)).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer"))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let count = each * arguments.writers;
    println!("  {} writers at once        {:>9.0} durable batches/s", arguments.writers, count as f64 / seconds);
    Ok(())
}

fn make_records(arguments: &Arguments, first: u64, content: &Bytes) -> Vec<LogRecord> {
    let payload = |place: usize| content.slice(place * arguments.payload_bytes..(place + 1) * arguments.payload_bytes);
    let position = |place: u64| Position { epoch: 1, index: first + place };
    (0..arguments.records)
        .map(|place| LogRecord { position: position(place), kind: 0, payload: payload(place as usize) })
        .collect()
}

fn noise(bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content.into()
}

struct Figures {
    median: Duration,
    ninety_ninth: Duration,
    mean: Duration,
}

impl Figures {
    fn of(took: &mut [Duration]) -> Self {
        took.sort_unstable();
        let at = |hundredth: usize| took[(took.len() - 1) * hundredth / 100];
        let mean = took.iter().sum::<Duration>() / took.len() as u32;
        Self { median: at(50), ninety_ninth: at(99), mean }
    }
}

fn print_figures(what: &str, figures: &Figures, raw: &Figures) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let ratio = |time: Duration, raw: Duration| time.as_secs_f64() / raw.as_secs_f64();
    println!(
        "  {what:<24} median {:>7.1} us {:>5.2} x raw   99 % {:>8.1} us   mean {:>7.1} us {:>5.2} x raw",
        micros(figures.median),
        ratio(figures.median, raw.median),
        micros(figures.ninety_ninth),
        micros(figures.mean),
        ratio(figures.mean, raw.mean),
    );
}

const READ_BYTES: u64 = 1024 * 1024;

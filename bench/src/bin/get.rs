//! Measures reading a keyed state in one process, without a server: single keys drawn at random, from memory, by one
//! thread and by several. It never measures a read that needs a disk or a peer, unless the cache is made too small.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use landfall::keyed::{Keyed, KeyedConfig, Schema, SectionId, SectionSchema};
use landfall_bench::contents::Contents;
use landfall_bench::files::Scratch;
use landfall_bench::random::Random;
use landfall_core::snapshot::{KeyRange, Position, SectionPriority, StateName};

/// Measures reading a keyed state, without a server.
#[derive(Debug, Parser)]
struct Args {
    /// Keys of about 100 bytes that the state holds.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    keys: u32,
    /// Reads by each thread in each round.
    #[arg(long, default_value_t = 300_000)]
    reads: u32,
    /// Threads that read at once.
    #[arg(long, default_values_t = [1, 2])]
    threads: Vec<u32>,
    /// How often to measure.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Memory for tree nodes, in megabytes.
    #[arg(long, default_value_t = 512)]
    cache_mb: u64,
    /// Entries of one scan.
    #[arg(long, default_value_t = 100)]
    scan: usize,
    /// The state is kept in a directory below this one while this runs.
    #[arg(long, default_value = "bench/work")]
    work: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = Scratch::create(&args.work, "get")?;
    let section =
        SectionSchema { name: StateName::new("data")?, priority: SectionPriority::Bulk, range: KeyRange::default() };
    let keyed = Keyed::open(KeyedConfig {
        name: StateName::new("bench")?,
        directory: work.path().to_owned(),
        schema: Schema::new(vec![section])?,
        cache_bytes: args.cache_mb * 1_000_000,
        salt_seed: [7; 32],
    })?;
    let section = keyed.schema().id("data").context("the section that was just made")?;
    let contents = Contents::new(args.keys);
    fill(&keyed, section, &contents)?;
    check(&keyed, section, &contents)?;
    for round in 1..=args.rounds {
        for &threads in &args.threads {
            let per_read = measure(threads, args.reads, |random| read(&keyed, section, &contents, random))?;
            println!("round {round}, {threads} threads: {per_read:.0} ns for each get of one thread");
        }
        let per_scan = measure(1, args.reads / SCANS_ARE_FEWER, |random| {
            let from = Contents::key(random.below(u64::from(contents.keys())) as u32);
            black_box(keyed.scan(section, from.as_bytes(), args.scan)?);
            Ok(())
        })?;
        println!("round {round}, 1 thread: {per_scan:.0} ns for each scan of {} entries", args.scan);
    }
    Ok(())
}

fn fill(keyed: &Arc<Keyed>, section: SectionId, contents: &Contents) -> Result<()> {
    let numbers: Vec<u32> = (0..contents.keys()).collect();
    for (index, some) in (1..).zip(numbers.chunks(KEYS_PER_RECORD)) {
        let put = keyed.transact(Position { epoch: 1, index }, b"fill", |transaction| {
            for &number in some {
                let (key, value): (Bytes, Bytes) = (Contents::key(number).into(), contents.value(number, 0).into());
                transaction.put(section, key, value).expect("short keys and values");
            }
            Ok(())
        })?;
        ensure!(put.is_some(), "a position was used twice");
    }
    keyed.seal()?.wait()?;
    Ok(())
}

/// Reads every key once, so that what the cache holds of them is there.
fn check(keyed: &Keyed, section: SectionId, contents: &Contents) -> Result<()> {
    for number in 0..contents.keys() {
        let value = keyed.get(section, Contents::key(number).as_bytes())?;
        ensure!(value.as_deref() == Some(&contents.value(number, 0)[..]), "key {number} holds {value:?}");
    }
    Ok(())
}

fn read(keyed: &Keyed, section: SectionId, contents: &Contents, random: &mut Random) -> Result<()> {
    let key = Contents::key(random.below(u64::from(contents.keys())) as u32);
    let value = keyed.get(section, key.as_bytes())?;
    ensure!(black_box(value).is_some(), "key {key} is gone");
    Ok(())
}

/// Nanoseconds that one thread needs for each.
fn measure(threads: u32, times: u32, work: impl Fn(&mut Random) -> Result<()> + Sync) -> Result<f64> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let run = |stream| {
            let mut random = Random::stream(READS_STREAM + u64::from(stream));
            (0..times).try_for_each(|_| work(&mut random))
        };
        let running: Vec<_> = (0..threads).map(|stream| scope.spawn(move || run(stream))).collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("a reader does not panic"))
    })?;
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

const READS_STREAM: u64 = 230;
const KEYS_PER_RECORD: usize = 1000;
const SCANS_ARE_FEWER: u32 = 20;

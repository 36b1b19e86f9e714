//! Measures the chunk store beside the disk it stands on, in the same run.
//!
//! Write: the same frames once with `write` and one `fdatasync`, once through the store (hash, checksum, packs, index),
//! ended by `sync`. Read: random chunks, and ids that are not there.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::vfs::RealVfs;
use landfall_store::{CODEC_RAW, FrameCheck, Store, StoreOptions};
use rustix::time::{ClockId, clock_gettime};

#[derive(Parser)]
#[command(about = "Measures the chunk store beside the disk it stands on")]
struct Arguments {
    /// An empty place on the disk to measure; a directory is made and removed in it.
    #[arg(long, default_value = ".")]
    place: PathBuf,
    /// Bytes to write each time.
    #[arg(long, default_value_t = 800_000_000)]
    bytes: u64,
    /// Length of a chunk.
    #[arg(long, default_value_t = 16 * 1024)]
    chunk_bytes: usize,
    /// How often to measure.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Random reads per round.
    #[arg(long, default_value_t = 100_000)]
    reads: u32,
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
    let chunks = make_chunks(arguments, round);
    let raw = write_raw(&chunks, &directory.join("raw"))?;
    let place = directory.join("store");
    let store = Store::open(Arc::new(RealVfs), &place, StoreOptions::default())?;
    let (put, hashed) = write_store(&chunks, &store)?;
    let total: u64 = chunks.iter().map(|bytes| bytes.len() as u64).sum();
    println!("round {round}: {} chunks of {} bytes", chunks.len(), arguments.chunk_bytes);
    print_rate("raw write + fdatasync", total, raw, raw);
    print_rate("store put + sync", total, put, raw);
    print_rate("store hash + put + sync", total, hashed, raw);
    read_random(arguments, &chunks, &store)?;
    drop(store);
    open_again(&place)?;
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

fn make_chunks(arguments: &Arguments, round: u32) -> Vec<Bytes> {
    let count = (arguments.bytes as usize / arguments.chunk_bytes).max(1);
    let mut content = vec![0; count * arguments.chunk_bytes];
    blake3::Hasher::new().update(&round.to_le_bytes()).finalize_xof().fill(&mut content);
    let content = Bytes::from(content);
    (0..count).map(|chunk| content.slice(chunk * arguments.chunk_bytes..(chunk + 1) * arguments.chunk_bytes)).collect()
}

fn write_raw(chunks: &[Bytes], path: &Path) -> Result<Took> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let began = Clock::now();
    let mut file = File::create(path)?;
    for chunk in chunks {
        if buffer.len() + chunk.len() > BUFFER_BYTES {
            file.write_all(&buffer)?;
            buffer.clear();
        }
        buffer.extend_from_slice(chunk);
    }
    file.write_all(&buffer)?;
    file.sync_data()?;
    let took = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(took)
}

/// Times the store twice: with chunks that were hashed before, then with the hashing (of other chunks).
fn write_store(chunks: &[Bytes], store: &Store) -> Result<(Took, Took)> {
    let proven: Vec<_> = chunks.iter().map(|bytes| Chunk::new(Domain::Data, bytes.clone())).collect();
    let began = Clock::now();
    proven.iter().try_for_each(|chunk| store.put(chunk))?;
    store.sync()?;
    let put = began.elapsed();
    drop(proven);
    let began = Clock::now();
    // Another domain has other ids, so nothing is found to be here already.
    chunks.iter().try_for_each(|bytes| store.put(&Chunk::new(Domain::Node, bytes.clone())))?;
    store.sync()?;
    Ok((put, began.elapsed()))
}

fn read_random(arguments: &Arguments, chunks: &[Bytes], store: &Store) -> Result<()> {
    let ids: Vec<_> = chunks.iter().map(|bytes| ChunkId::of(Domain::Data, bytes)).collect();
    let mut state = 1_u64;
    let began = Clock::now();
    for _ in 0..arguments.reads {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let frame = store.get_encoded(ids[(state >> 33) as usize % ids.len()])?.context("a chunk is lost")?;
        ensure!(frame.codec == CODEC_RAW, "a frame that nobody wrote");
        black_box(frame);
    }
    print_each("random get, cached by the kernel", began.elapsed(), arguments.reads);
    let began = Clock::now();
    for read in 0..arguments.reads {
        black_box(store.contains(ChunkId::of(Domain::Manifest, &read.to_le_bytes()))?);
    }
    print_each("contains, absent id (with hashing it)", began.elapsed(), arguments.reads);
    let began = Clock::now();
    let report = store.verify(&|_, _| FrameCheck::Unknown)?;
    ensure!(report.frames_damaged == 0 && report.frames_unknown == 0, "{report:?}");
    let verified = began.elapsed();
    print_rate("verify all", report.bytes, verified, verified);
    println!("  {:?}", store.stats());
    Ok(())
}

fn open_again(place: &Path) -> Result<()> {
    let began = Clock::now();
    let store = Store::open(Arc::new(RealVfs), place, StoreOptions::default())?;
    println!("  open with index      {:>8.1} ms", began.elapsed().wall.as_secs_f64() * 1e3);
    drop(store);
    std::fs::remove_dir_all(place.join("index"))?;
    let began = Clock::now();
    let store = Store::open(Arc::new(RealVfs), place, StoreOptions::default())?;
    println!("  open without index   {:>8.1} ms", began.elapsed().wall.as_secs_f64() * 1e3);
    drop(store);
    Ok(())
}

/// Wall time, and the processor time of all threads: on a busy machine only the second says something.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    processor: Duration,
}

struct Clock {
    wall: Instant,
    processor: Duration,
}

impl Clock {
    fn now() -> Self {
        Self { wall: Instant::now(), processor: processor_time() }
    }

    fn elapsed(&self) -> Took {
        Took { wall: self.wall.elapsed(), processor: processor_time().saturating_sub(self.processor) }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn print_rate(what: &str, bytes: u64, took: Took, raw: Took) {
    let (wall, processor) = (took.wall.as_secs_f64(), took.processor.as_secs_f64());
    let rate = bytes as f64 / wall / 1e6;
    let (wall_ratio, processor_ratio) = (wall / raw.wall.as_secs_f64(), processor / raw.processor.as_secs_f64());
    println!(
        "  {what:<24} {wall:>7.3} s {rate:>6.0} MB/s {wall_ratio:>5.2} x raw   processor {processor:>6.3} s \
         {processor_ratio:>5.2} x raw"
    );
}

fn print_each(what: &str, took: Took, count: u32) {
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(count);
    println!("  {what:<38} {:>7.2} us, processor {:>6.2} us", each(took.wall), each(took.processor));
}

const BUFFER_BYTES: usize = 1024 * 1024;

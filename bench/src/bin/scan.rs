//! Measures a scan of a directory: the first, one of an unchanged directory, and one that reads everything again.
//!
//! `scan DIRECTORY [THREADS]`. Beside it stands what the machine can do: reading and hashing alone, on as many threads.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use landfall::files::index::{FileStat, IndexHeader, IndexReader, IndexWriter, wall_clock};
use landfall::files::scan::{ChangingFiles, ChunkSink, EntrySink, Previous, Report, Scan, scan};
use landfall_core::files::{FileKey, FilePath, Mtime};
use landfall_core::tree::{Builder, ChunkRef, MemoryNodes, Root, Salt, TreeError, Value};
use landfall_core::{Chunk, ChunkId};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("usage: scan DIRECTORY [THREADS]")?);
    let threads = match arguments.next() {
        Some(threads) => threads.parse()?,
        None => Scan::default_threads(),
    };
    measure_machine(&directory, threads)?;
    let first = measure("first", &directory, threads, None, None)?;
    let taken = wall_clock();
    let taken = Mtime { seconds: taken.seconds + 3600, ..taken };
    write_index(&first, taken)?;
    let control = File::open(".")?;
    let index = Some(IndexReader::open(&control, Path::new(INDEX))?);
    let again = measure("unchanged", &directory, threads, Some(&first), index)?;
    let reread = measure("all read again", &directory, threads, Some(&first), None)?;
    anyhow::ensure!(first.root == again.root && first.root == reread.root, "the roots differ");
    std::fs::remove_file(INDEX)?;
    println!("peak memory {} MiB, with the tree's nodes", peak_memory_mib()?);
    Ok(())
}

struct Scanned {
    root: Root,
    nodes: MemoryNodes,
    stats: Vec<(FilePath, FileStat)>,
}

#[derive(Default)]
struct Counting {
    chunks: AtomicU64,
}

impl ChunkSink for Counting {
    type Error = TreeError;

    fn chunk(&self, _: &FileKey, _: &Chunk, _: Option<ChunkRef>) -> Result<(), TreeError> {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Building {
    builder: Builder,
    nodes: MemoryNodes,
    stats: Vec<(FilePath, FileStat)>,
}

impl EntrySink for Building {
    type Error = TreeError;

    fn entry(&mut self, key: &[u8], value: &Value) -> Result<(), TreeError> {
        self.builder.push(key, value, &mut self.nodes)
    }

    fn stat(&mut self, path: &FilePath, stat: &FileStat) -> Result<(), TreeError> {
        self.stats.push((path.clone(), *stat));
        Ok(())
    }
}

fn measure(
    name: &str,
    directory: &Path,
    threads: NonZeroUsize,
    previous: Option<&Scanned>,
    index: Option<IndexReader>,
) -> anyhow::Result<Scanned> {
    let handle = File::open(directory)?;
    let chunks = Counting::default();
    let mut building =
        Building { builder: Builder::new(Salt::PUBLIC), nodes: MemoryNodes::default(), stats: Vec::new() };
    let previous = previous.map(|last| Previous { root: last.root, nodes: &last.nodes, index });
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let setup = Scan { directory: handle.as_fd(), changing: ChangingFiles::Refuse, threads, previous };
    let report: Report = scan(setup, &chunks, &mut building)?;
    let root = building.builder.finish(&mut building.nodes);
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{name:<16} {seconds:>7.3} s  {cpu:>6.3} s of cores  {:>6.2} GB/s  {} files, {} read, {} MB read, {} chunks handed on, root {}",
        report.bytes as f64 / seconds / 1e9,
        report.files,
        report.files_read,
        report.bytes_read / 1_000_000,
        chunks.chunks.into_inner(),
        root.id.short(),
    );
    Ok(Scanned { root, nodes: building.nodes, stats: building.stats })
}

fn write_index(scanned: &Scanned, taken: Mtime) -> anyhow::Result<()> {
    let start = Instant::now();
    let header = IndexHeader { manifest: ChunkId::from_bytes([0; 32]), taken };
    let mut index = IndexWriter::create(File::open(".")?, Path::new(INDEX), &header)?;
    for (path, stat) in &scanned.stats {
        index.push(path, stat)?;
    }
    index.commit()?;
    println!("{:<16} {:>7.3} s", "index written", start.elapsed().as_secs_f64());
    Ok(())
}

/// Reads and hashes the longest file of the directory in parts, as plainly as can be.
fn measure_machine(directory: &Path, threads: NonZeroUsize) -> anyhow::Result<()> {
    let files = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let longest = files.iter().filter_map(|file| Some((file.metadata().ok()?.len(), file.path()))).max();
    let Some((length, path)) = longest.filter(|(length, path)| *length > 100 << 20 && path.is_file()) else {
        return Ok(());
    };
    let file = File::open(path)?;
    let next = AtomicU64::new(0);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    std::thread::scope(|scope| {
        for _ in 0..threads.get() {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let offset = next.fetch_add(1 << 20, Ordering::Relaxed);
                    if offset + (1 << 20) > length {
                        return;
                    }
                    file.read_exact_at(&mut buffer, offset).expect("a file that rests");
                    for chunk in buffer.chunks(65536) {
                        std::hint::black_box(ChunkId::of(landfall_core::Domain::Data, chunk));
                    }
                }
            });
        }
    });
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let rate = length as f64 / seconds / 1e9;
    println!("{:<16} {seconds:>7.3} s  {cpu:>6.3} s of cores  {rate:>6.2} GB/s", "read and BLAKE3");
    Ok(())
}

/// What all threads of this process used so far: tells more than the time when the machine is busy.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn peak_memory_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

const INDEX: &str = "scan-bench-index";

//! Measures how fast small files become a directory: placed by several threads as a pull places them, beside `cp -a`.
//!
//! The content is in memory, so what is measured is the destination's side alone. The result is checked by reading every file.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use landfall::files::place::{Operation, Placement, Previous};
use landfall_core::ChunkId;
use landfall_core::files::{Content, FileKind, FilePath, Meta, Mtime};
use serde::Serialize;

/// Measures how fast small files become a directory.
#[derive(Debug, Parser)]
struct Args {
    /// An empty directory to work in; the file system under test.
    directory: PathBuf,
    /// Files to place.
    #[arg(long, default_value_t = 78_000)]
    files: u64,
    /// Bytes of each file.
    #[arg(long, default_value_t = 16 * 1024)]
    file_bytes: usize,
    /// Files in one directory.
    #[arg(long, default_value_t = 16)]
    per_directory: u64,
    /// Threads that place files.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Runs of each measurement; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was measured; times are medians over the runs.
#[derive(Debug, Serialize)]
struct Report {
    files: u64,
    file_bytes: usize,
    threads: u64,
    /// From opening the destination to the last file written, and what came after without the sync.
    place_s: f64,
    /// Of each file, as one thread sees it.
    place_us_per_file_and_thread: f64,
    /// Processor time of placing and finishing one file: what is left of it on a machine that others use, too.
    cpu_us_per_file: f64,
    /// Of `cp -a`, which reads the files as well.
    cp_cpu_us_per_file: f64,
    /// Plan, index and rename.
    finish_s: f64,
    /// The final sync, which `cp` does without.
    sync_s: f64,
    cp_s: f64,
    /// Placing and finishing, without the sync, against `cp -a`.
    ratio_to_cp: f64,
    update_open_and_local_changes_s: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let report = measure(&args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report:#?}");
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Run {
    place: Duration,
    finish: Duration,
    sync: Duration,
    copy: Duration,
    changes: Duration,
    cpu: Duration,
    copy_cpu: Duration,
}

fn measure(args: &Args) -> Result<Report> {
    let runs = (0..args.runs).map(|_| run(args)).collect::<Result<Vec<_>>>()?;
    let median = |of: fn(&Run) -> Duration| {
        let mut seconds: Vec<f64> = runs.iter().map(|run| of(run).as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let (place_s, finish_s, cp_s) = (median(|run| run.place), median(|run| run.finish), median(|run| run.copy));
    Ok(Report {
        files: args.files,
        file_bytes: args.file_bytes,
        threads: args.threads,
        place_s,
        place_us_per_file_and_thread: place_s * 1e6 * args.threads as f64 / args.files as f64,
        cpu_us_per_file: median(|run| run.cpu) * 1e6 / args.files as f64,
        cp_cpu_us_per_file: median(|run| run.copy_cpu) * 1e6 / args.files as f64,
        finish_s,
        sync_s: median(|run| run.sync),
        cp_s,
        ratio_to_cp: (place_s + finish_s) / cp_s,
        update_open_and_local_changes_s: median(|run| run.changes),
    })
}

fn run(args: &Args) -> Result<Run> {
    let (placed, copied) = (args.directory.join("placed"), args.directory.join("copied"));
    rustix::fs::sync();
    let (start, cpu) = (Instant::now(), cpu_time(Of::This)?);
    let placement = Placement::open(&placed)?;
    placement.record(Operation::Put { path: FilePath::root(), meta: meta(FileKind::Directory) })?;
    std::thread::scope(|scope| {
        let spawn = |thread| {
            let placement = &placement;
            scope.spawn(move || place_share(args, thread, placement))
        };
        let threads: Vec<_> = (0..args.threads).map(spawn).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("placing does not panic"))
    })?;
    let place = start.elapsed();
    let start = Instant::now();
    for directory in 0..args.files.div_ceil(args.per_directory) {
        let path = FilePath::new(directory_name(directory))?;
        placement.record(Operation::Put { path, meta: meta(FileKind::Directory) })?;
    }
    let report = placement.finish(ChunkId::from_bytes([1; 32]), Previous::Drop)?;
    let finish = start.elapsed().saturating_sub(report.sync);
    let cpu = cpu_time(Of::This)? - cpu;
    let start = Instant::now();
    let changed = Placement::open(&placed)?.local_changes()?.count();
    let changes = start.elapsed();
    ensure!(changed == 0, "{changed} paths differ from the index");
    check(args, &placed)?;
    let (start, copy_cpu) = (Instant::now(), cpu_time(Of::Children)?);
    let copy = Command::new("cp").arg("-a").arg(&placed).arg(&copied).status().context("cp")?;
    ensure!(copy.success(), "cp failed");
    let (copy, copy_cpu) = (start.elapsed(), cpu_time(Of::Children)? - copy_cpu);
    std::fs::remove_dir_all(&placed)?;
    std::fs::remove_dir_all(&copied)?;
    Ok(Run { place, finish, sync: report.sync, copy, changes, cpu, copy_cpu })
}

/// Every thread fills whole directories, as units of a file tree are neighbours.
fn place_share(args: &Args, thread: u64, placement: &Placement) -> Result<()> {
    let mut content = vec![7; args.file_bytes];
    for file in 0..args.files {
        let directory = file / args.per_directory;
        if directory % args.threads != thread {
            continue;
        }
        stamp(&mut content, file);
        let path = FilePath::new(format!("{}/file-{file}", directory_name(directory)))?;
        let kind = FileKind::File { size: args.file_bytes as u64, content: Content::Whole };
        placement.place_small(&path, &meta(kind), &content)?;
    }
    Ok(())
}

fn check(args: &Args, placed: &Path) -> Result<()> {
    let mut expected = vec![7; args.file_bytes];
    for file in 0..args.files {
        stamp(&mut expected, file);
        let path = placed.join(directory_name(file / args.per_directory)).join(format!("file-{file}"));
        ensure!(std::fs::read(&path)? == expected, "{} is not what was placed", path.display());
        let stat = std::fs::symlink_metadata(&path)?;
        ensure!(
            (stat.mode() & 0o7777, stat.mtime()) == (0o644, 1_700_000_000),
            "{} is dressed wrongly",
            path.display()
        );
    }
    Ok(())
}

/// Whose processor time.
enum Of {
    This,
    Children,
}

/// User and system time so far, in ticks of 10 ms.
fn cpu_time(of: Of) -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let first = match of {
        Of::This => 11,
        Of::Children => 13,
    };
    let ticks: u64 = fields[first].parse::<u64>()? + fields[first + 1].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn stamp(content: &mut [u8], file: u64) {
    let stamp = file.to_le_bytes();
    let length = stamp.len().min(content.len());
    content[..length].copy_from_slice(&stamp[..length]);
}

fn directory_name(directory: u64) -> String {
    format!("dir-{directory:05}")
}

fn meta(kind: FileKind) -> Meta {
    let mode = if kind == FileKind::Directory { 0o755 } else { 0o644 };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Meta { kind, mode, uid, gid, mtime: Mtime { seconds: 1_700_000_000, nanos: 5 } }
}

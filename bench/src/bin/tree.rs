//! Measures the tree in memory, on one core: building it from a sorted stream, editing it, and comparing two trees.
//!
//! Times are processor time of the one thread that works, so that other work on the machine disturbs them less.
//! Every result is checked: an edited tree against one built from scratch, a difference against its edits.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Parser;
use landfall_core::Chunk;
use landfall_core::tree::{Builder, Diff, MemoryNodes, NodeSink, Root, Salt, Value, edit, get};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Measures the tree in memory, on one core.
#[derive(Debug, Parser)]
struct Args {
    /// Entries of the tree.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Entries that one batch of edits changes.
    #[arg(long, default_value_t = 1_000)]
    edits: u64,
    /// Runs of each measurement; the median is reported.
    #[arg(long, default_value_t = 7)]
    runs: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was measured; times are medians over the runs, in processor time.
#[derive(Debug, Serialize)]
struct Report {
    keys: u64,
    payload_mb: f64,
    nodes: u64,
    levels: u8,
    leaf_bytes_mean: f64,
    build_streamed_mb_per_s: f64,
    build_kept_mb_per_s: f64,
    edits: u64,
    edit_streamed_ms: f64,
    edit_kept_ms: f64,
    edit_nodes: u64,
    diff_ms: f64,
    get_us: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let report = measure(&args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report) {
    println!("{} keys, {:.0} MB of keys and values", report.keys, report.payload_mb);
    println!("{} nodes on {} levels, leaves of {:.0} B", report.nodes, report.levels, report.leaf_bytes_mean);
    println!("build, streamed        {:8.0} MB/s", report.build_streamed_mb_per_s);
    println!("build, kept in memory  {:8.0} MB/s", report.build_kept_mb_per_s);
    println!("edit of {}, streamed {:8.2} ms, {} nodes", report.edits, report.edit_streamed_ms, report.edit_nodes);
    println!("edit of {}, kept     {:8.2} ms", report.edits, report.edit_kept_ms);
    println!("their difference       {:8.2} ms", report.diff_ms);
    println!("get                    {:8.2} us", report.get_us);
}

fn measure(args: &Args) -> Result<Report> {
    let unedited = Edits::new();
    let mut nodes = MemoryNodes::default();
    let kept = build(args.keys, &unedited, &mut nodes)?;
    let mut counted = Counted::default();
    let mut streamed = Vec::new();
    for _ in 0..args.runs {
        counted = Counted::default();
        let built = build(args.keys, &unedited, &mut counted)?;
        ensure!(built.root == kept.root, "equal content has different roots");
        streamed.push(built.time);
    }
    let edited = measure_edits(args, &mut nodes, kept.root)?;
    let payload_mb = kept.payload_bytes as f64 / 1e6;
    Ok(Report {
        keys: args.keys,
        payload_mb,
        nodes: counted.nodes,
        levels: kept.root.level + 1,
        leaf_bytes_mean: counted.leaf_bytes as f64 / counted.leaves as f64,
        build_streamed_mb_per_s: payload_mb / median(streamed).as_secs_f64(),
        build_kept_mb_per_s: payload_mb / kept.time.as_secs_f64(),
        edits: args.edits,
        edit_streamed_ms: millis(median(edited.streamed)),
        edit_kept_ms: millis(median(edited.kept)),
        edit_nodes: edited.nodes,
        diff_ms: millis(median(edited.diff)),
        get_us: measure_get(args, &nodes, kept.root)?.as_secs_f64() * 1e6,
    })
}

/// Times of every run.
#[derive(Default)]
struct Edited {
    streamed: Vec<Duration>,
    kept: Vec<Duration>,
    diff: Vec<Duration>,
    nodes: u64,
}

fn measure_edits(args: &Args, nodes: &mut MemoryNodes, base: Root) -> Result<Edited> {
    let mut edited = Edited::default();
    for run in 0..args.runs {
        let edits = random_edits(args, run);
        let batch: Vec<_> = edits.iter().map(|(&index, value)| (key(index), Some(value.clone()))).collect();

        let mut counted = Counted::default();
        let start = Stopwatch::start();
        let streamed_root = edit(nodes, &base, SALT, &batch, &mut counted)?;
        edited.streamed.push(start.elapsed());
        edited.nodes = counted.nodes;

        let mut made = MemoryNodes::default();
        let start = Stopwatch::start();
        let root = edit(nodes, &base, SALT, &batch, &mut made)?;
        edited.kept.push(start.elapsed());
        ensure!(streamed_root == root, "equal edits give different roots");

        nodes.absorb(made);
        let start = Stopwatch::start();
        let changes = count_changes(nodes, base, root)?;
        edited.diff.push(start.elapsed());
        ensure!(changes == batch.len(), "{changes} changes after {} edits", batch.len());
        if run == 0 {
            let built = build(args.keys, &edits, &mut Counted::default())?;
            ensure!(built.root == root, "editing and building give different roots");
        }
    }
    Ok(edited)
}

fn count_changes(nodes: &MemoryNodes, base: Root, target: Root) -> Result<usize> {
    let mut diff = Diff::new(base, target);
    let mut changes = 0;
    while let Some(change) = diff.next(nodes)? {
        black_box(change);
        changes += 1;
    }
    Ok(changes)
}

fn measure_get(args: &Args, nodes: &MemoryNodes, root: Root) -> Result<Duration> {
    const GETS: u32 = 100_000;
    let start = Stopwatch::start();
    for count in 0..u64::from(GETS) {
        let found = get(nodes, &root, &key(mix(count) % args.keys))?;
        ensure!(found.is_some(), "a key is lost");
    }
    Ok(start.elapsed() / GETS)
}

struct Built {
    root: Root,
    time: Duration,
    payload_bytes: u64,
}

/// Builds the tree; making up its content is not timed.
fn build(keys: u64, edits: &Edits, sink: &mut impl NodeSink) -> Result<Built> {
    const BATCH: u64 = 4096;
    let mut builder = Builder::new(SALT);
    let (mut time, mut payload_bytes) = (Duration::ZERO, 0);
    for first in (0..keys).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..keys.min(first + BATCH)).map(|index| entry(index, edits)).collect();
        let start = Stopwatch::start();
        for (key, value) in &batch {
            builder.push(key, value, sink)?;
        }
        time += start.elapsed();
        payload_bytes += batch.iter().map(|(key, value)| (key.len() + value.inline.len()) as u64).sum::<u64>();
    }
    let start = Stopwatch::start();
    let root = builder.finish(sink);
    Ok(Built { root, time: time + start.elapsed(), payload_bytes })
}

/// New values by the index of their key.
type Edits = BTreeMap<u64, Value>;

fn random_edits(args: &Args, run: u64) -> Edits {
    let indices = (0..args.edits).map(|count| mix(mix(run) ^ count) % args.keys);
    indices.map(|index| (index, value(index, 1 + run))).collect()
}

fn entry(index: u64, edits: &Edits) -> ([u8; 16], Value) {
    (key(index), edits.get(&index).cloned().unwrap_or_else(|| value(index, 0)))
}

/// Sixteen bytes that ascend with the index.
fn key(index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(index << 30 | mix(index) >> 34).to_be_bytes());
    key[8..].copy_from_slice(&mix(!index).to_be_bytes());
    key
}

/// About 97 bytes, as a service might keep.
fn value(index: u64, version: u64) -> Value {
    let random = mix(index ^ version << 40);
    let text = format!(
        r#"{{"id":{index},"version":{version},"owner":"user-{:08x}","balance":{},"updated":{},"ok":true}}"#,
        random >> 32,
        random % 10_000_000,
        1_700_000_000 + random % 100_000_000,
    );
    Value::inline(Bytes::from(text))
}

/// A bijection that looks random (the end of splitmix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Counts nodes and drops them.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    nodes: u64,
    leaves: u64,
    leaf_bytes: u64,
}

impl NodeSink for Counted {
    fn put(&mut self, node: Chunk) {
        let is_leaf = node.bytes()[1] == 0;
        self.nodes += 1;
        self.leaves += u64::from(is_leaf);
        self.leaf_bytes += if is_leaf { node.bytes().len() as u64 } else { 0 };
    }
}

/// Measures processor time of this thread.
struct Stopwatch {
    start: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { start: processor_time() }
    }

    fn elapsed(&self) -> Duration {
        processor_time().saturating_sub(self.start)
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

const SALT: Salt = Salt(*b"a secret of tree");

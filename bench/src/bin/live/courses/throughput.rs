//! Owns the course of a case without a join: `redis-benchmark` asks as much as the servers answer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::cases::{Case, Request};
use crate::figure::{Figure, Sample};
use crate::servers::{Seat, Server};
use crate::turn::{Stage, Turn};
use landfall_bench::contents::VALUE_BYTES;

pub(super) fn run(stage: &Stage<'_>, case: &Case, server: &dyn Server, request: Request) -> anyhow::Result<Sample> {
    let mut turn = Turn::prepare(stage, case, server)?;
    turn.add_companions(server.members_for_throughput() - 1)?;
    if request == Request::Get {
        ask(stage, &turn.source, Request::Set, stage.contents.keys())?;
    }
    turn.settle()?;
    // A first run warms caches and connections.
    ask(stage, &turn.source, request, WARM_REQUESTS)?;
    let (started, flushes_before) = (Instant::now(), flushes(stage.work)?);
    let asked = ask(stage, &turn.source, request, REQUESTS)?;
    let flushes = flushes(stage.work)? - flushes_before;
    let mut sample = Sample::default();
    sample.note(Figure::OperationsPerSecond, asked.per_second);
    sample.note(Figure::RequestP50Milliseconds, asked.p50_ms);
    sample.note(Figure::RequestP99Milliseconds, asked.p99_ms);
    if request == Request::Set {
        sample.note(Figure::FlushesPerSecond, flushes as f64 / started.elapsed().as_secs_f64());
        sample.note(Figure::OperationsPerFlush, f64::from(REQUESTS) / flushes as f64);
    }
    sample.own_reports = vec![server.own_report(&mut turn.source_client()?)?];
    Ok(sample)
}

/// What `redis-benchmark` says.
#[derive(Debug, PartialEq)]
struct Asked {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn ask(stage: &Stage<'_>, seat: &Seat<'_>, request: Request, requests: u32) -> anyhow::Result<Asked> {
    stage.go_on()?;
    let address = seat.place.client_address;
    let test = if request == Request::Get { "get" } else { "set" };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-t", test, "--csv"]);
    command.args(["-P", "16", "-c", "50", "-d", &VALUE_BYTES.to_string(), "-n", &requests.to_string()]);
    command.args(["-r", &stage.contents.keys().to_string()]);
    let output = stage.network.clients().inside(move || command.output().context("start redis-benchmark"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "redis-benchmark: {text} {}", String::from_utf8_lossy(&output.stderr));
    parse(&text).with_context(|| format!("redis-benchmark printed {text}"))
}

/// A line of names, a line of figures: test, rps, avg, min, p50, p95, p99, max.
fn parse(text: &str) -> Option<Asked> {
    let line = text.lines().rfind(|line| line.starts_with('"'))?;
    let figures: Vec<f64> = line.split(',').filter_map(|field| field.trim_matches('"').parse().ok()).collect();
    Some(Asked { per_second: *figures.first()?, p50_ms: *figures.get(3)?, p99_ms: *figures.get(5)? })
}

/// Flush requests that the disk below a path has completed since the system started.
fn flushes(path: &Path) -> anyhow::Result<u64> {
    let device = fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let table = fs::read_to_string("/proc/diskstats")?;
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
        fields.len() > FLUSHES_FIELD && fields[0] == major.to_string() && fields[1] == minor.to_string()
    });
    Ok(line.context("no statistics of the disk")?[FLUSHES_FIELD].parse()?)
}

/// Counted from the major number on (Linux 5.5 and later).
const FLUSHES_FIELD: usize = 18;
const WARM_REQUESTS: u32 = 50_000;
const REQUESTS: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_table_has_the_figures() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\"SET\",\"250.5\",\"1.1\",\"0.1\",\"0.9\",\"2.0\",\"3.0\",\"4.0\"\n";
        assert_eq!(parse(text), Some(Asked { per_second: 250.5, p50_ms: 0.9, p99_ms: 3.0 }));
        assert_eq!(parse(""), None);
    }
}

//! Compares a replicated landfall-kv with Redis while members join, leave and come back: each member in a network
//! namespace of its own, the same client for both, every result checked. What is measured and why: `bench/README.md`.

mod cases;
mod client;

mod courses;
mod equality;
mod figure;

mod load;
mod memory;
mod network;
mod probe;
mod reader;
mod report;
mod servers;
mod turn;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Parser;
use landfall_bench::files::Scratch;
use landfall_bench::machine::{self, Machine};
use landfall_bench::memory::Filler;
use landfall_bench::netns;
use landfall_bench::turns::{claim_machine, stop_on_signals};

use crate::cases::Case;
use crate::network::Network;
use crate::report::{CaseReport, Report, Row};
use crate::servers::Landfall;
use crate::turn::Stage;
use landfall_bench::contents::Contents;

#[derive(Parser)]
#[command(about = "A replicated landfall-kv beside Redis, while members join, leave and come back")]
struct Arguments {
    /// Only these cases: a name, or its first words (`join`); all without one.
    cases: Vec<String>,
    /// How many keys of about 100 bytes the servers hold.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    keys: u32,
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Only the server whose name begins so.
    #[arg(long)]
    only: Option<String>,
    /// The servers keep their data in a directory below this one while they run.
    #[arg(long, default_value = "bench/work")]
    work: PathBuf,
    /// Write all samples as JSON, to a file or, without one, to the standard output instead of the tables.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Print the tables of an earlier run, from what `--json FILE` wrote, and run nothing.
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
    /// Where the binaries lie that are compared; beside this program by default.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.show {
        Some(path) => show(path),
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
    ensure!(arguments.rounds > 0, "a median needs at least one round");
    let binaries = arguments.binaries.clone().map_or_else(beside_this_program, Ok)?;
    let _alone = claim_machine()?;
    netns::sweep_dead();
    let scratch = Scratch::create(&arguments.work, "live")?;
    let work = scratch.path();
    let landfall = Landfall::new(&binaries, work);
    let cases = cases::select(&arguments.cases, &landfall, arguments.keys)?;
    let stopping = stop_on_signals()?;
    let network = Network::create(MEMBERS)?;
    let contents = Arc::new(Contents::new(arguments.keys));
    let filler = Filler::create(work)?;
    let stage = Stage { work, network: &network, contents, filler, stopping: &stopping };
    let mut report = Report {
        machine: Machine::read(work, versions(&binaries)),
        keys: arguments.keys,
        rounds: arguments.rounds,
        cases: Vec::new(),
    };
    for case in &cases {
        report.cases.push(run_case(&stage, case, arguments, &stopping)?);
        write_report(&report, arguments.json.as_deref())?;
    }
    print_report(&report, arguments.json.as_deref())
}

/// Runs all rounds of a case, each server in turn; one that fails costs its own row only.
fn run_case(
    stage: &Stage<'_>,
    case: &Case,
    arguments: &Arguments,
    stopping: &AtomicBool,
) -> anyhow::Result<CaseReport> {
    let is_wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| name.starts_with(only));
    let servers: Vec<_> = case.contestants.iter().filter(|server| is_wanted(&server.name())).collect();
    let mut rows: Vec<Row> = servers.iter().map(|server| Row::new(&***server)).collect();
    for round in 1..=arguments.rounds {
        for (server, row) in servers.iter().zip(&mut rows) {
            ensure!(!stopping.load(std::sync::atomic::Ordering::Relaxed), "stopped by a signal");
            if row.not_run.is_none() {
                eprintln!("{}, round {round}: {}", case.name, row.label);
                row.record(courses::run(stage, case, &***server));
            }
        }
    }
    Ok(CaseReport::new(case, rows))
}

fn beside_this_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("a program without a directory")?.to_owned())
}

fn versions(binaries: &Path) -> Vec<String> {
    let programs = [PathBuf::from("redis-server"), binaries.join("landfall-kv")];
    programs.into_iter().filter_map(|program| machine::first_line(Command::new(program).arg("--version"))).collect()
}

/// After every case, so that a long run that is cut has not been for nothing.
fn write_report(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    match json {
        Some(path) if path != Path::new("-") => {
            std::fs::write(path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn print_report(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    if json == Some(Path::new("-")) {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("{}", report.to_markdown()?);
    }
    Ok(())
}

fn show(path: &Path) -> anyhow::Result<()> {
    let report: Report = serde_json::from_slice(&std::fs::read(path)?)?;
    print_report(&report, None)
}

/// The source, the joiner, and two that make a majority with the source.
const MEMBERS: usize = 4;

//! Compares Landfall with the tools people use now: both ends on this machine, in network namespaces of their own,
//! all tools in one run, every result compared with its source. What is measured and why: `bench/README.md`.

mod cases;
mod datasets;
mod disk;
mod equality;
mod network;
mod peers;
mod report;
mod sample;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use landfall_bench::machine::{self, Machine};
use landfall_bench::memory::Filler;
use landfall_bench::netns;
use landfall_bench::turns::{claim_machine, stop_on_signals};

use crate::cases::{Arena, Case};
use crate::datasets::{DataSet, Library, Scale};
use crate::network::Network;
use crate::peers::{Landfall, Mode};
use crate::report::Report;

#[derive(Parser)]
#[command(about = "Landfall beside the tools people use now")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build data sets; those that exist are kept.
    Datasets {
        #[command(flatten)]
        place: Place,
        /// Only these.
        #[arg(long, value_enum)]
        only: Vec<DataSet>,
    },
    /// Run cases and print the tables as Markdown.
    Run {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Print the tables of an earlier run again.
    Show {
        /// What `run --json FILE` wrote.
        report: PathBuf,
    },
}

#[derive(Args)]
struct Place {
    /// Where data sets and copies lie: about 15 GB, 60 GB with `memory-large`.
    #[arg(long, default_value = "bench/work")]
    work: PathBuf,
    #[arg(long, value_enum, default_value = "full")]
    scale: Scale,
}

#[derive(Args)]
struct RunOptions {
    /// Only the case of this name; may be repeated.
    #[arg(long = "case")]
    cases: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Write all samples as JSON, to a file or, without one, to the standard output instead of the tables.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// The binary that is compared; beside this program by default.
    #[arg(long)]
    landfall: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Datasets { place, only } => build_data_sets(&place, only),
        Verb::Run { place, options } => run(&place, &options),
        Verb::Show { report } => show(&report),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build_data_sets(place: &Place, only: Vec<DataSet>) -> anyhow::Result<()> {
    let library = Library::open(&place.work, place.scale)?;
    let all = || DataSet::value_variants().iter().copied().filter(|set| *set != DataSet::Large).collect();
    for set in if only.is_empty() { all() } else { only } {
        let extent = library.build(set)?;
        eprintln!("{}: {} bytes in {} files", set.name(), extent.bytes, extent.files);
    }
    Ok(())
}

fn run(place: &Place, options: &RunOptions) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces and loop devices need root");
    ensure!(options.rounds > 0, "a median needs at least one round");
    std::fs::create_dir_all(&place.work)?;
    let base = std::fs::canonicalize(&place.work)?;
    let (library, work) = (Library::open(&base, place.scale)?, base.join(place.scale.name()));
    let landfall = options.landfall.clone().map_or_else(beside_this_program, Ok)?;
    let cases = cases::select(&options.cases, &landfall, &work)?;
    let _alone = claim_machine()?;
    build_missing(&cases, place, &library)?;
    sweep(&work);
    let stopping = stop_on_signals()?;
    Landfall::new(&landfall, &work, Mode::Frozen).create_identities()?;
    let network = Network::create(SOURCES_MAX)?;
    let filler = (place.scale == Scale::Full).then(|| Filler::create(&work)).transpose()?;
    let (rounds, stopping) = (options.rounds, &stopping);
    let arena = Arena { work: &work, library: &library, network: &network, filler, rounds, stopping };
    let mut report = Report {
        machine: Machine::read(&work, versions(&landfall)),
        scale: place.scale,
        rounds: options.rounds,
        cases: vec![],
    };
    for case in &cases {
        report.cases.push(arena.run(case)?);
        write_report(&report, options.json.as_deref())?;
    }
    print_report(&report, options.json.as_deref())
}

/// Data sets are built by processes of their own: a child's peak memory, as the kernel counts
/// it, is never below what its parent once used, so this one has to stay small.
fn build_missing(cases: &[Case], place: &Place, library: &Library) -> anyhow::Result<()> {
    for set in cases.iter().flat_map(Case::data_sets).filter(|set| library.extent(*set).is_none()) {
        let name = set.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut build = Command::new(std::env::current_exe()?);
        build.args(["datasets", "--only", &name, "--scale", place.scale.name(), "--work"]).arg(&place.work);
        ensure!(build.status()?.success(), "the data set {name} could not be built");
    }
    Ok(())
}

/// What a killed run left behind goes before this one begins.
fn sweep(work: &Path) {
    netns::sweep_dead();
    disk::unmount(&disk::mount_point(work));
}

fn beside_this_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("a program without a directory")?.join("landfall"))
}

fn versions(landfall: &Path) -> Vec<String> {
    let tools = [(Path::new("rsync"), "--version"), (Path::new("nginx"), "-v"), (Path::new("curl"), "--version")];
    let of = |(program, flag): (&Path, &str)| machine::first_line(Command::new(program).arg(flag));
    tools.into_iter().chain([(landfall, "--version")]).filter_map(of).collect()
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

const SOURCES_MAX: usize = 2;

//! Owns the command line of the simulation: one seed again, or many.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use landfall_sim::{Figures, Scenario, Trace, World};

/// Runs the simulation.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs this seed alone, twice, and says what it saw.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs all of these seeds, as in 0..5000.
    #[arg(long, default_value = "0..200", value_parser = parse_range)]
    seeds: Range<u64>,
    /// Prints every event.
    #[arg(long)]
    trace: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("two numbers and '..' between them")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let trace = if arguments.trace { Trace::Print } else { Trace::Silent };
    match arguments.seed {
        Some(seed) => replay(seed, trace),
        None => campaign(arguments.seeds, trace),
    }
}

fn replay(seed: u64, trace: Trace) -> ExitCode {
    println!("{:#?}", Scenario::new(seed));
    let Some((hash, figures)) = run(seed, trace) else { return ExitCode::FAILURE };
    println!("{figures:#?}\nevents hash to {hash}");
    match run(seed, Trace::Silent) {
        Some((again, _)) if again == hash => ExitCode::SUCCESS,
        _ => {
            println!("the second run of seed {seed} went another way");
            ExitCode::FAILURE
        }
    }
}

fn campaign(seeds: Range<u64>, trace: Trace) -> ExitCode {
    let began = Instant::now();
    let count = seeds.end.saturating_sub(seeds.start);
    let mut sum = Figures::default();
    let mut failed = Vec::new();
    for seed in seeds {
        match run(seed, trace) {
            Some((_, figures)) => sum = add(sum, figures),
            None => failed.push(seed),
        }
    }
    println!("{count} seeds in {:.1?}, {} failed {failed:?}", began.elapsed(), failed.len());
    println!("{sum:#?}");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seed: u64, trace: Trace) -> Option<(String, Figures)> {
    let mut world = World::new(Scenario::new(seed), trace);
    match world.run() {
        Ok(()) => Some((world.hash().to_string(), world.figures())),
        Err(failure) => {
            println!("seed {seed} failed at {}: {}", failure.at, failure.violation.0);
            println!("{}", failure.tail);
            println!("{:?}\nreplay: cargo run -p landfall-sim -- --seed {seed} --trace\n", Scenario::new(seed));
            None
        }
    }
}

fn add(a: Figures, b: Figures) -> Figures {
    Figures {
        events: a.events + b.events,
        faults: a.faults + b.faults,
        crashes: a.crashes + b.crashes,
        completed: a.completed + b.completed,
        stuck: a.stuck + b.stuck,
        dropped: a.dropped + b.dropped,
        corrupt: a.corrupt + b.corrupt,
    }
}

//! Owns the command line of the simulation: one seed again, or many.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use landfall_sim::{LiveScenario, LiveWorld, Scenario, Trace, World};

/// Runs the simulation.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which simulation.
    #[arg(long, value_enum, default_value_t = States::Directory)]
    states: States,
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

/// Which states are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum States {
    /// Snapshots of a publisher, pulled by members.
    Directory,
    /// Keyed states that are written, sealed, and joined all the time.
    Live,
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
        Some(seed) => replay(arguments.states, seed, trace),
        None => campaign(arguments.states, arguments.seeds, trace),
    }
}

fn replay(states: States, seed: u64, trace: Trace) -> ExitCode {
    println!("{}", states.scenario(seed));
    let Some(ran) = run(states, seed, trace) else { return ExitCode::FAILURE };
    for (name, count) in &ran.figures {
        println!("{name}: {count}");
    }
    println!("events hash to {}", ran.hash);
    match run(states, seed, Trace::Silent) {
        Some(again) if again.hash == ran.hash => ExitCode::SUCCESS,
        _ => {
            println!("the second run of seed {seed} went another way");
            ExitCode::FAILURE
        }
    }
}

fn campaign(states: States, seeds: Range<u64>, trace: Trace) -> ExitCode {
    let began = Instant::now();
    let count = seeds.end.saturating_sub(seeds.start);
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    let mut failed = Vec::new();
    for seed in seeds {
        match run(states, seed, trace) {
            Some(ran) if sums.is_empty() => sums = ran.figures,
            Some(ran) => sums.iter_mut().zip(ran.figures).for_each(|(sum, (_, count))| sum.1 += count),
            None => failed.push(seed),
        }
    }
    println!("{count} seeds in {:.1?}, {} failed {failed:?}", began.elapsed(), failed.len());
    for (name, sum) in sums {
        println!("{name}: {sum}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run saw.
struct Ran {
    hash: String,
    figures: Vec<(&'static str, u64)>,
}

fn run(states: States, seed: u64, trace: Trace) -> Option<Ran> {
    let (ran, hash, figures) = match states {
        States::Directory => {
            let mut world = World::new(Scenario::new(seed), trace);
            let ran = world.run();
            (ran, world.hash().to_string(), world.figures().named())
        }
        States::Live => {
            let mut world = LiveWorld::new(LiveScenario::new(seed), trace);
            let ran = world.run();
            (ran, world.hash().to_string(), world.figures().named())
        }
    };
    match ran {
        Ok(()) => Some(Ran { hash, figures }),
        Err(failure) => {
            println!("seed {seed} failed at {}: {}", failure.at, failure.violation.0);
            println!("{}", failure.tail);
            println!("{}", states.scenario(seed));
            println!("replay: cargo run -p landfall-sim -- --states {} --seed {seed} --trace\n", states.name());
            None
        }
    }
}

impl States {
    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Live => "live",
        }
    }

    fn scenario(self, seed: u64) -> String {
        match self {
            Self::Directory => format!("{:?}", Scenario::new(seed)),
            Self::Live => format!("{:?}", LiveScenario::new(seed)),
        }
    }
}

//! The landfall command. It reads its arguments, calls the engine, prints, and exits; it decides nothing about data.

mod cert;
mod control;
mod demo;
mod diff;
mod failure;
mod gc;
mod identity;
mod kv;
mod log;
mod ls;
mod output;
mod progress;
mod pull;
mod record;
mod reports;
mod restore;
mod serve;
mod signals;
mod snapshot;
mod states;
mod target;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use landfall::core::snapshot::StateName;
use tikv_jemallocator::Jemalloc;

use crate::failure::Failure;
use crate::output::{Format, Output};

/// Many threads take and give back pieces of some kilobytes; see docs/design/0017-allocator.md.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Ships the state of a running service to another machine: by content, as a delta, resumable, from many sources, proven.
#[derive(Parser)]
#[command(name = "landfall", version, max_term_width = 110, after_long_help = EXAMPLES)]
struct Arguments {
    /// Print one JSON object per result instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Arguments),
    Pull(pull::Arguments),
    Restore(restore::Arguments),
    Snapshot(snapshot::Arguments),
    Log(log::Arguments),
    Ls(ls::Arguments),
    Diff(diff::Arguments),
    Verify(verify::Arguments),
    Gc(gc::Arguments),
    Cert(cert::Arguments),
    Kv(kv::Arguments),
    Demo(demo::Arguments),
}

/// Whether what a verb looked at is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// The verb did its work, and what it found is bad: damaged files, for example.
    Bad,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_tracing();
    let mut output = Output::new(if arguments.json { Format::Json } else { Format::Text });
    let verdict = run(arguments.verb, &mut output);
    output.finish();
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(failure::EXIT_FAILED),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(verb: Verb, output: &mut Output) -> Result<Verdict, Failure> {
    match verb {
        Verb::Serve(arguments) => serve::run(&arguments, output),
        Verb::Pull(arguments) => pull::run(&arguments, output),
        Verb::Restore(arguments) => restore::run(&arguments, output),
        Verb::Snapshot(arguments) => snapshot::run(&arguments, output),
        Verb::Log(arguments) => log::run(&arguments, output),
        Verb::Ls(arguments) => ls::run(&arguments, output),
        Verb::Diff(arguments) => diff::run(&arguments, output),
        Verb::Verify(arguments) => verify::run(&arguments, output),
        Verb::Gc(arguments) => gc::run(&arguments, output),
        Verb::Kv(arguments) => kv::run(&arguments, output),
        Verb::Demo(arguments) => demo::run(&arguments, output),
        Verb::Cert(arguments) => cert::run(&arguments, output),
    }
}

/// Reads the name of a state from the command line.
fn state_name(text: &str) -> Result<StateName, String> {
    StateName::new(text).map_err(|error| error.to_string())
}

/// What happens inside goes to stderr, and only where `LANDFALL_LOG` asks for it.
fn start_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LANDFALL_LOG");
    if let Ok(filter) = filter {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

const EXAMPLES: &str = "\
See it work, with real processes on this machine, in about half a minute:
  landfall demo              a service that members join under load, are killed and compared
  landfall demo files        a directory, shipped, changed and proven

Certificates for two machines (once; keep ca/ca.key off both):
  landfall cert create-ca ca
  landfall cert create-member alpha --ca ca --out alpha --writer orders
  landfall cert create-member beta  --ca ca --out beta

On alpha, serve a directory under the name 'orders':
  landfall serve --state orders=/srv/orders --listen 0.0.0.0:7400 --identity alpha

On beta, pull it. The same command again fetches what changed, or goes on where it was cut short:
  landfall pull orders /srv/orders --from alpha:7400 --identity beta

Exit codes:
  0    done
  1    failed, or something was found damaged; stderr says what, why and what to do next
  2    the command line is wrong
  130  interrupted by Ctrl-C; what was received is kept

LANDFALL_LOG=info (or debug) shows on stderr what happens inside.";

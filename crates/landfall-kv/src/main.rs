//! The `landfall-kv` server: reads its arguments, runs a member, and prints one line when it serves.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use landfall_kv::{Arguments, Serving};
use tikv_jemallocator::Jemalloc;

/// Many threads take and give back pieces of some kilobytes; see docs/design/0017-allocator.md.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_tracing();
    match landfall_kv::run(&arguments, say) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall-kv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The first line on stdout says that clients are served.
fn say(serving: &Serving) {
    // Nobody may read it; that stops nothing.
    let _ = writeln!(io::stdout().lock(), "{serving}");
}

/// What happens inside goes to stderr, and only where `LANDFALL_LOG` asks for it.
fn start_tracing() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("LANDFALL_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

//! The `landfall-kv` server: reads its arguments, starts a member, prints one line when it serves, and stops cleanly.

mod arguments;
mod start;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match runtime.block_on(start::run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("landfall-kv: {error:#}");
    ExitCode::FAILURE
}

/// What happens inside goes to stderr, and only where `LANDFALL_LOG` asks for it.
fn start_tracing() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("LANDFALL_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

//! Checks of this repository that cargo does not make: `cargo run -p xtask -- walls`.
//!
//! Every check reads what cargo says of the workspace, or the sources themselves; none changes anything.

mod licences;
mod sources;
mod walls;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let task = std::env::args().nth(1).unwrap_or_default();
    if task != "walls" {
        bail!("usage: cargo run -p xtask -- walls");
    }
    let metadata = metadata()?;
    let mut broken = walls::check(&metadata)?;
    broken.extend(licences::check(&metadata)?);
    broken.extend(sources::check()?);
    for breach in &broken {
        eprintln!("broken: {breach}");
    }
    if !broken.is_empty() {
        bail!("{} walls are broken; ARCHITECTURE.md says why they stand", broken.len());
    }
    println!("walls hold: crate edges, one crypto provider, licences, a core without I/O");
    Ok(())
}

/// What cargo knows of the workspace and everything it builds with.
fn metadata() -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata did not print JSON")
}

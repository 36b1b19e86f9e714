//! Checks of this repository that cargo does not make: `cargo run -p xtask -- walls`.
//!
//! Every check reads what cargo says of the workspace, or the sources and documents themselves; none changes anything.

mod licences;
mod sources;
mod walls;

use std::collections::BTreeSet;
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
        bail!("{} walls are broken; ARCHITECTURE.md says why those between crates stand", broken.len());
    }
    println!("walls hold: crate edges, one crypto provider, licences, a core without I/O, tests that promises name");
    Ok(())
}

/// What cargo knows of the workspace and everything it builds with.
fn metadata() -> Result<Value> {
    let json = cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM])?;
    serde_json::from_str(&json).context("cargo metadata did not print JSON")
}

/// The names of all packages that a build compiles. Metadata also lists optional ones that no feature asks for.
fn built_packages() -> Result<BTreeSet<String>> {
    let tree =
        cargo(&["tree", "--workspace", "--locked", "--edges", "normal", "--prefix", "none", "--target", PLATFORM])?;
    Ok(tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = std::process::Command::new(program).args(arguments).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("cargo did not print text")
}

/// The platform that the walls are checked for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

//! Owns how a command of the system is run to its end. Measured programs are started elsewhere.

use std::process::Command;

use anyhow::{Context, bail};

/// Runs a command of the system to its end; what it prints on failure is the error.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

//! Owns that a run has the machine to itself, and that it ends in order when it is told to.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::netns;

/// Two runs at one time would measure each other; the kernel ends the claim with the process.
pub fn claim_machine() -> anyhow::Result<File> {
    let claim = File::create(CLAIM).with_context(|| format!("create {CLAIM}"))?;
    flock(&claim, FlockOperation::NonBlockingLockExclusive).context("another run is going on on this machine")?;
    Ok(claim)
}

/// On a signal the tool that runs now is ended, so its turn fails; the flag then ends the run, and everything that was
/// made is dropped in order.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stopping = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopping);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            flag.store(true, Ordering::Relaxed);
            netns::end_processes(std::process::id());
        }
    });
    Ok(stopping)
}

const CLAIM: &str = "/run/landfall-bench.lock";

//! Owns what signals mean to a verb. It acts on a thread of its own, so it may do whatever it likes.

use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Calls `act` with the number of each signal in `numbers` that comes.
pub(crate) fn on(numbers: &[i32], mut act: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new("cannot listen for signals").because(&error);
    let mut signals = Signals::new(numbers).map_err(failed)?;
    let watch = move || signals.forever().for_each(&mut act);
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// Ctrl-C, and the wish of a service manager.
pub(crate) const STOP: [i32; 2] = [SIGINT, SIGTERM];

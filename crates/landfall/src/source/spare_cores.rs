//! Owns one question to the kernel: how many of this machine's cores had nothing to do lately?
//!
//! Where none is idle, a link that seems slow is a machine that is busy, and compressing would only make it busier.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Idle cores of the machine, lately: one for all connections, so that a new one need not begin to count.
pub(crate) struct SpareCores {
    /// `/proc/stat`. Not every system has it.
    statistics: Option<File>,
    window: Mutex<Window>,
}

struct Window {
    /// When it began, and the idle ticks of all cores until then.
    since: Instant,
    idle_ticks: Option<u64>,
    /// What the one before said.
    spare: f64,
}

impl SpareCores {
    pub(super) fn new() -> Self {
        let statistics = File::open("/proc/stat").ok();
        let window = Window { since: Instant::now(), idle_ticks: read_idle_ticks(statistics.as_ref()), spare: 0.0 };
        Self { statistics, window: Mutex::new(window) }
    }

    /// How many cores were idle in the last window; none before the first, all one could wish for where the kernel does not say.
    pub(super) fn lately(&self) -> f64 {
        let mut window = self.window.lock().expect("no panic under the lock");
        let elapsed = window.since.elapsed();
        if elapsed < WINDOW {
            return window.spare;
        }
        let now = read_idle_ticks(self.statistics.as_ref());
        let (Some(before), Some(idle_ticks)) = (window.idle_ticks, now) else { return f64::INFINITY };
        // What was while nobody asked for anything is not what is.
        let spare =
            if elapsed < WINDOW_LONGEST { cores(idle_ticks.saturating_sub(before), elapsed) } else { window.spare };
        *window = Window { since: Instant::now(), idle_ticks: now, spare };
        spare
    }
}

fn cores(idle_ticks: u64, elapsed: Duration) -> f64 {
    idle_ticks as f64 / TICKS_PER_SECOND / elapsed.as_secs_f64()
}

fn read_idle_ticks(statistics: Option<&File>) -> Option<u64> {
    let mut text = [0; 256];
    let read = statistics?.read_at(&mut text, 0).ok()?;
    idle_ticks(&text[..read])
}

/// Idle time and time waiting for a disk, of all cores together: the 4th and 5th number of the first line.
fn idle_ticks(text: &[u8]) -> Option<u64> {
    let line = text.split(|&byte| byte == b'\n').next()?;
    let mut fields = std::str::from_utf8(line).ok()?.strip_prefix("cpu ")?.split_ascii_whitespace().skip(3);
    let idle: u64 = fields.next()?.parse().ok()?;
    let waiting: u64 = fields.next()?.parse().ok()?;
    Some(idle + waiting)
}

/// The unit of `/proc/stat`, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Long beside a tick, short beside a transfer.
const WINDOW: Duration = Duration::from_millis(50);
const WINDOW_LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_what_was_idle_and_what_waited_for_a_disk() {
        let text = b"cpu  100 0 200 4000 50 0 7 0 0 0\ncpu0 1 2 3 4 5 6\n";
        assert_eq!(idle_ticks(text), Some(4050));
        assert_eq!(idle_ticks(b""), None);
        assert_eq!(idle_ticks(b"cpu  1 2 3"), None);
        assert_eq!(idle_ticks(b"nonsense 1 2 3 4 5"), None);
    }

    #[test]
    fn two_cores_that_idle_half_of_the_time_are_one() {
        assert!((cores(20, Duration::from_millis(200)) - 1.0).abs() < 1e-9);
        assert!(cores(0, Duration::from_millis(200)).abs() < 1e-9);
    }
}

//! Owns one question to the kernel: how many of this machine's cores had nothing to do lately?
//!
//! Where none is idle, a link that seems slow is a machine that is busy, and compressing would only make it busier.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Idle cores of the machine, while requests were answered.
pub(super) struct SpareCores {
    /// `/proc/stat`. Not every system has it.
    statistics: Option<File>,
    /// What the answers of the present window took, and the idle ticks of all cores in that time.
    elapsed: Duration,
    idle_ticks: u64,
    spare: f64,
}

/// The moment at which an answer began.
pub(super) struct Began {
    at: Instant,
    idle_ticks: Option<u64>,
}

impl SpareCores {
    pub(super) fn new() -> Self {
        Self { statistics: File::open("/proc/stat").ok(), elapsed: Duration::ZERO, idle_ticks: 0, spare: 0.0 }
    }

    pub(super) fn begin(&self) -> Began {
        Began { at: Instant::now(), idle_ticks: read_idle_ticks(self.statistics.as_ref()) }
    }

    /// How many cores were idle in the last window; none before the first, all one could wish for where the kernel does not say.
    pub(super) fn spare(&mut self, began: &Began) -> f64 {
        let now = read_idle_ticks(self.statistics.as_ref());
        let (Some(before), Some(now)) = (began.idle_ticks, now) else { return f64::INFINITY };
        self.idle_ticks += now.saturating_sub(before);
        self.elapsed += began.at.elapsed();
        if self.elapsed >= WINDOW {
            self.spare = cores(self.idle_ticks, self.elapsed);
            (self.idle_ticks, self.elapsed) = (0, Duration::ZERO);
        }
        self.spare
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
const WINDOW: Duration = Duration::from_millis(100);

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

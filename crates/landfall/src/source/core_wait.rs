//! Owns one question to the kernel: how long has this thread waited for a core?
//!
//! A sender that finds its socket full and is then not let run looks, by the clock, as if the link were slow. It is not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The calling thread's time in the run queue. It belongs to the thread that opened it.
pub(super) struct CoreWait {
    /// `/proc/thread-self/schedstat`: nanoseconds on a core, nanoseconds waiting for one, turns. Not every kernel has it.
    statistics: Option<File>,
}

impl CoreWait {
    pub(super) fn of_this_thread() -> Self {
        Self { statistics: File::open("/proc/thread-self/schedstat").ok() }
    }

    /// Time waited so far; nothing where the kernel does not say.
    pub(super) fn so_far(&self) -> Duration {
        let mut text = [0; 96];
        let read = self.statistics.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        waited(&text[..read]).unwrap_or_default()
    }
}

fn waited(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_second_number() {
        assert_eq!(waited(b"12 3456 7\n"), Some(Duration::from_nanos(3456)));
        assert_eq!(waited(b""), None);
        assert_eq!(waited(b"nonsense here"), None);
    }
}

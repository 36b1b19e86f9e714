//! Owns how much memory a server holds: that of all its processes, those that it forked included, each shared page
//! counted once. It never counts the page cache.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};

/// Watches a server until it is dropped.
pub(crate) struct Watch {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    peak_bytes: AtomicU64,
    stopping: AtomicBool,
}

impl Watch {
    /// Begins to look at a process: four times a second while it is alone, once a second while it has children, which costs much more.
    pub(crate) fn start(process: u32) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            while !shared.stopping.load(Ordering::Relaxed) {
                let children = children_of(process);
                // A process may end between two looks.
                let held = if children.is_empty() { held_alone(process) } else { held_with(process, &children) };
                shared.peak_bytes.fetch_max(held.unwrap_or(0), Ordering::Relaxed);
                thread::park_timeout(if children.is_empty() { INTERVAL } else { INTERVAL_WITH_CHILDREN });
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// The most that was held at one look.
    pub(crate) fn peak_bytes(mut self) -> anyhow::Result<u64> {
        self.stop().map_err(|()| anyhow!("the thread that watches memory panicked"))?;
        Ok(self.state.peak_bytes.load(Ordering::Relaxed))
    }

    fn stop(&mut self) -> Result<(), ()> {
        self.state.stopping.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.thread().unpark();
        thread.join().map_err(drop)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Only after an error, which says more.
        let _ = self.stop();
    }
}

fn children_of(process: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// What a process holds that shares nothing: the kernel has counted it.
fn held_alone(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    parse_bytes(&status, ["RssAnon:", "RssShmem:"]).context("unreadable status")
}

/// What a process and all its descendants hold: their pages are looked at one by one, for which each of them stands still.
fn held_with(process: u32, children: &[u32]) -> anyhow::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let own = parse_held_bytes(&rollup).context("unreadable smaps_rollup")?;
    let children = children.iter().filter_map(|child| held_with(*child, &children_of(*child)).ok());
    Ok(own + children.sum::<u64>())
}

/// Files that are mapped can be dropped by the kernel at any time, and are left out.
fn parse_held_bytes(rollup: &str) -> Option<u64> {
    parse_bytes(rollup, ["Pss_Anon:", "Pss_Shmem:"])
}

/// The sum of the lines of these names, in kibibytes each.
fn parse_bytes(text: &str, names: [&str; 2]) -> Option<u64> {
    let kibibytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    names.into_iter().map(kibibytes).sum::<Option<u64>>().map(|kibibytes| kibibytes * 1024)
}

const INTERVAL: Duration = Duration::from_millis(250);
const INTERVAL_WITH_CHILDREN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_and_shared_memory_counts_and_mapped_files_do_not() {
        let rollup = "5-7 ---p 0 00:00 0 [rollup]\nRss:   90 kB\nPss:    60 kB\nPss_Anon:   30 kB\nPss_File:  20 kB\nPss_Shmem:  10 kB\n";
        assert_eq!(parse_held_bytes(rollup), Some(40 * 1024));
        assert_eq!(parse_held_bytes("Rss: 1 kB\n"), None);
    }

    #[test]
    fn either_count_sees_what_this_process_holds() {
        let held = vec![1_u8; 64 << 20];
        let own = std::process::id();
        let (alone, with) = (held_alone(own).unwrap(), held_with(own, &[]).unwrap());
        let held_bytes = std::hint::black_box(&held).len() as u64;
        assert!(alone > held_bytes && with > held_bytes, "{alone} {with}");
    }
}

//! Owns the processes of a run and what they used: wall time, processor time, peak memory. It never decides what is
//! run.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use wait4::{ResUse, Wait4};

use crate::cores::Cores;
use crate::netns::Namespace;

/// What one end of a transfer used, all its processes together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Of its largest single process; what this program itself once used is the least that can be told.
    pub peak_bytes: u64,
}

impl Usage {
    /// Both together: times add up, the larger peak stays.
    pub fn and(self, other: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds + other.cpu_seconds, peak_bytes: self.peak_bytes.max(other.peak_bytes) }
    }
}

/// A process that this program started; killed and reaped when dropped.
pub struct Process {
    child: Option<Child>,
    started: Instant,
    logs: Logs,
}

/// Where a process' two outputs go.
#[derive(Clone)]
struct Logs {
    output: PathBuf,
    errors: PathBuf,
}

/// How a process ended that was waited for.
pub struct Finished {
    /// What it used.
    pub usage: Usage,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it printed.
    pub output: String,
}

impl Process {
    /// Starts a command inside a namespace, as the head of a process group; its outputs go to `LOG.out` and `LOG.err`.
    pub fn start(namespace: &Namespace, command: Command, log: &Path) -> anyhow::Result<Self> {
        Self::start_on(Cores::Any, namespace, command, log)
    }

    /// The same, on some cores only.
    pub fn start_on(cores: Cores, namespace: &Namespace, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let logs = Logs { output: log.with_extension("out"), errors: log.with_extension("err") };
        command.stdin(Stdio::null()).stdout(File::create(&logs.output)?).stderr(File::create(&logs.errors)?);
        command.process_group(0);
        namespace.inside(move || {
            cores.bind()?;
            let started = Instant::now();
            let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
            Ok(Self { child: Some(child), started, logs })
        })
    }

    /// Waits for a successful end; kills the process when it takes longer than any transfer here may.
    pub fn wait(mut self) -> anyhow::Result<Finished> {
        let (used, elapsed) = self.reap(TRANSFER_LIMIT)?;
        if !used.status.success() {
            bail!("{}: {}", used.status, self.logs.last_words());
        }
        Ok(Finished { usage: usage(&used), elapsed, output: self.output() })
    }

    /// Ends the process and its children at once, as a power cut would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.signal_group(Signal::KILL);
        self.reap(STOP_LIMIT).map(drop)
    }

    /// Asks a server to end, once the children of its last transfer are gone, and says what it used in all.
    pub fn stop(mut self) -> anyhow::Result<Usage> {
        wait_until(CHILDREN_LIMIT, || Ok(self.child_ids().is_empty())).ok();
        self.signal(Signal::TERM);
        Ok(usage(&self.reap(STOP_LIMIT)?.0))
    }

    /// Processor time so far, with that of the children it has reaped.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let id = self.id().context("the process has ended")?;
        let line = fs::read_to_string(format!("/proc/{id}/stat"))?;
        parse_cpu_ticks(&line).map(|ticks| ticks as f64 / TICKS_PER_SECOND).context("unreadable /proc/PID/stat")
    }

    /// Waits until `ready` says so; fails early when the process ends.
    pub fn wait_ready(&mut self, mut ready: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + READY_LIMIT;
        while !ready(self) {
            if self.has_ended()? || Instant::now() > until {
                bail!("it did not begin to serve: {}", self.logs.last_words());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.logs.output).unwrap_or_default()
    }

    /// Did it end, reaped or not?
    pub fn has_ended(&self) -> anyhow::Result<bool> {
        let Some(id) = self.id() else { return Ok(true) };
        let line = fs::read_to_string(format!("/proc/{id}/stat"))?;
        Ok(line.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')))
    }

    /// Its number, until it is reaped.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn child_ids(&self) -> Vec<u32> {
        let Some(id) = self.id() else { return Vec::new() };
        let listed = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id().and_then(|id| Pid::from_raw(id as i32)) {
            // Still ours: it is reaped nowhere but in `reap`, which takes it away.
            let _ = kill_process(id, signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(id) = self.id().and_then(|id| Pid::from_raw(id as i32)) {
            // The group bears the number of its head, which is not reaped yet.
            let _ = kill_process_group(id, signal);
        }
    }

    /// Reaps the process; a second thread kills it when the limit passes first.
    fn reap(&mut self, limit: Duration) -> anyhow::Result<(ResUse, Duration)> {
        let child = self.child.take().context("the process was reaped before")?;
        let id = Pid::from_child(&child);
        let (ended, watch) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill_process_group(id, Signal::KILL);
            }
        });
        let used = child.wait4();
        let elapsed = self.started.elapsed();
        drop(ended);
        let _ = watchdog.join();
        Ok((used?, elapsed))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal_group(Signal::KILL);
            let _ = self.reap(STOP_LIMIT);
        }
    }
}

impl Logs {
    fn last_words(&self) -> String {
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        let start = errors.len().saturating_sub(LAST_WORDS_BYTES);
        errors.get(start..).unwrap_or(&errors).trim().to_owned()
    }
}

/// Polls until `done`; an error when the limit passes first.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    while !done()? {
        if Instant::now() > until {
            bail!("waited {limit:?} in vain");
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn usage(used: &ResUse) -> Usage {
    let cpu = used.rusage.utime + used.rusage.stime;
    Usage { cpu_seconds: cpu.as_secs_f64(), peak_bytes: used.rusage.maxrss }
}

/// Sums utime, stime, cutime and cstime: fields 14 to 17, counted after the name, which may hold spaces.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// The kernel's unit in /proc: the same on every Linux of today, whatever its timer.
const TICKS_PER_SECOND: f64 = 100.0;
const TRANSFER_LIMIT: Duration = Duration::from_secs(1800);
const READY_LIMIT: Duration = Duration::from_secs(600);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const CHILDREN_LIMIT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_micros(500);
const LAST_WORDS_BYTES: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_times_of_a_process_whose_name_holds_a_bracket_and_a_space() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 10 20 30 40 20 0 1 0";
        assert_eq!(parse_cpu_ticks(stat), Some(100));
    }

    #[test]
    fn a_cut_line_has_no_times() {
        assert_eq!(parse_cpu_ticks("7 (a) S 1 7"), None);
    }

    #[test]
    fn two_uses_of_one_end_add_their_time_and_keep_the_larger_peak() {
        let sum = Usage { cpu_seconds: 1.0, peak_bytes: 5 }.and(Usage { cpu_seconds: 0.5, peak_bytes: 9 });
        assert_eq!((sum.cpu_seconds, sum.peak_bytes), (1.5, 9));
    }
}

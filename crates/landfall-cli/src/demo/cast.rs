//! Owns the demo's processes: `landfall` started again and again, as people would start it. None outlives the demo.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::failure::Failure;

/// The executable, and the processes that run.
pub(super) struct Cast {
    executable: PathBuf,
    running: Arc<Mutex<Vec<Pid>>>,
    ended: Arc<AtomicBool>,
}

impl Cast {
    /// Processes of this very executable.
    pub(super) fn new() -> Result<Self, Failure> {
        let executable = std::env::current_exe()
            .map_err(|error| Failure::new("cannot find the landfall executable").because(&error))?;
        Ok(Self { executable, running: Arc::default(), ended: Arc::default() })
    }

    /// Ends every process that runs, from any thread, and lets no other start.
    pub(super) fn killer(&self) -> impl Fn() + Send + 'static {
        let (running, ended) = (self.running.clone(), self.ended.clone());
        move || {
            ended.store(true, Ordering::Release);
            for pid in running.lock().expect("no panic under the lock").iter() {
                // It may have ended by itself.
                let _ = kill_process(*pid, Signal::KILL);
            }
        }
    }

    /// Were the processes ended?
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Runs a verb to its end and returns what it printed last.
    pub(super) fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<Value, Failure> {
        self.start(arguments)?.wait(|_| true)?.into_result()
    }

    /// Starts a verb.
    pub(super) fn start<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<Process, Failure> {
        self.start_with(arguments, Stdio::piped())
    }

    fn start_with<I: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
        errors: Stdio,
    ) -> Result<Process, Failure> {
        let mut command = Command::new(&self.executable);
        command.args(arguments).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let line = shown(&command);
        let mut child =
            command.spawn().map_err(|error| Failure::new(format!("cannot start {line}")).because(&error))?;
        let pid = Pid::from_child(&child);
        self.running.lock().expect("no panic under the lock").push(pid);
        if self.is_ended() {
            // It was started while the others were being ended.
            let _ = kill_process(pid, Signal::KILL);
        }
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take();
        Ok(Process { line, pid, child, stdout: Some(stdout), stderr, running: self.running.clone() })
    }

    /// Starts a process that serves, and waits until it listens. What it says on stderr goes to the end of a file.
    pub(super) fn serve<I: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
        errors: PathBuf,
    ) -> Result<Source, Failure> {
        let file = File::options().create(true).append(true).open(&errors);
        let file = file.map_err(|error| Failure::new(format!("cannot write {}", errors.display())).because(&error))?;
        let mut process = self.start_with(arguments, file.into())?;
        let mut lines = BufReader::new(process.stdout.take().expect("nobody took it")).lines();
        let listening = loop {
            let Some(line) = lines.next().transpose().map_err(|error| process.lost(&error))? else {
                let ended = process.wait(|_| true)?;
                return Err(Ended { stderr: read_errors(&errors), ..ended }.failed());
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "listening" {
                break event;
            }
        };
        let drain = std::thread::spawn(move || lines.for_each(drop));
        let address = event_text(&listening, "address");
        Ok(Source { address, listening, process, drain, errors })
    }
}

/// A process that runs. Dropping it kills it.
pub(super) struct Process {
    line: String,
    pid: Pid,
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    running: Arc<Mutex<Vec<Pid>>>,
}

/// How a process ended.
pub(super) struct Ended {
    line: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
    /// It was killed, because whoever watched it said so.
    pub(super) killed: bool,
}

impl Process {
    /// Waits for its end. Every JSON object on its stderr goes to `watch`, which says whether it may live on.
    pub(super) fn wait(mut self, mut watch: impl FnMut(&Value) -> bool) -> Result<Ended, Failure> {
        let stdout = self.stdout.take().map(|stdout| std::thread::spawn(move || read_all(stdout)));
        let (mut stderr, mut killed) = (String::new(), false);
        for line in self.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
            let line = line.map_err(|error| self.lost(&error))?;
            match serde_json::from_str::<Value>(&line) {
                Ok(seen) if seen.is_object() => {
                    if !killed && !watch(&seen) {
                        self.signal(Signal::KILL);
                        killed = true;
                    }
                }
                _ => stderr.push_str(&format!("{line}\n")),
            }
        }
        let status = self.child.wait().map_err(|error| self.lost(&error))?;
        let stdout = stdout.map(|thread| thread.join().expect("reading does not panic")).unwrap_or_default();
        Ok(Ended { line: self.line.clone(), status, stdout, stderr, killed })
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(self.pid, signal);
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("lost sight of `{}`", self.line)).because(error)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.running.lock().expect("no panic under the lock").retain(|pid| *pid != self.pid);
    }
}

impl Ended {
    /// What it printed last, if it did what it should.
    pub(super) fn into_result(self) -> Result<Value, Failure> {
        let last = self.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
        match last {
            Some(value) if self.status.success() => Ok(value),
            _ => Err(self.failed()),
        }
    }

    /// Did it end well?
    pub(super) fn success(&self) -> bool {
        self.status.success()
    }

    /// Everything it printed, as JSON objects.
    pub(super) fn printed(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// That it failed, in its own words.
    pub(super) fn failed(self) -> Failure {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        Failure::new(format!("`{}` ended with {}:\n{}", self.line, self.status, said.trim_end()))
    }
}

/// A process that serves.
pub(super) struct Source {
    /// Where joiners connect.
    pub(super) address: String,
    listening: Value,
    process: Process,
    drain: JoinHandle<()>,
    errors: PathBuf,
}

impl Source {
    /// What it said of itself when it began to listen.
    pub(super) fn said(&self, key: &str) -> String {
        event_text(&self.listening, key)
    }

    /// Ends it as a power cut would: `kill -9`.
    pub(super) fn kill(self) {
        drop(self.process);
        self.drain.join().expect("reading does not panic");
    }

    /// Stops it as a service manager would, and waits for its end.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.process.signal(Signal::TERM);
        let status = self.process.child.wait().map_err(|error| self.process.lost(&error))?;
        self.drain.join().expect("reading does not panic");
        let errors = read_errors(&self.errors);
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("`{}` ended with {status}:\n{}", self.process.line, errors.trim_end())))
    }
}

/// The file is for people: what cannot be read is not worth another failure.
fn read_errors(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn event_text(event: &Value, key: &str) -> String {
    event[key].as_str().unwrap_or_default().to_owned()
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error still says the most.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let name = |word: &OsStr| Path::new(word).file_name().unwrap_or(word).to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    [name(command.get_program())].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

//! Runs the real `landfall` as people would: processes, certificates, directories. Nothing outlives a test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

/// A place for one test.
pub(crate) struct Stage {
    place: tempfile::TempDir,
}

/// What a finished command printed.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A process that serves.
pub(crate) struct Server {
    pub(crate) address: String,
    child: Child,
    lines: Receiver<String>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { place: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A place with an authority, a writer of `orders` called alpha, and a member called beta.
    pub(crate) fn with_certificates() -> Self {
        let stage = Self::new();
        stage.landfall(["cert", "create-ca", "ca"]).good();
        stage.landfall(["cert", "create-member", "alpha", "--ca", "ca", "--out", "alpha", "--writer", "orders"]).good();
        stage.landfall(["cert", "create-member", "beta", "--ca", "ca", "--out", "beta"]).good();
        stage
    }

    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("inside the place")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    /// A command that has not started, inside the place.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command.args(arguments).current_dir(self.place.path()).stdin(Stdio::null());
        command.env("XDG_DATA_HOME", self.at("data-home")).env_remove("LANDFALL_LOG");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn landfall<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Told {
        let output = finish(self.command(arguments));
        let text = |bytes| String::from_utf8(bytes).expect("landfall prints text");
        Told { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Serves `state` (NAME=PATH) as alpha at any free port, or as `more` says.
    pub(crate) fn serve(&self, state: &str, more: &[&str]) -> Server {
        let mut arguments = vec!["serve", "--state", state, "--listen", "127.0.0.1:0", "--json"];
        if !more.contains(&"--insecure") && !more.contains(&"--identity") {
            arguments.extend(["--identity", "alpha"]);
        }
        arguments.extend(more);
        Server::start(self.command(arguments))
    }

    /// Pulls `orders` as beta.
    pub(crate) fn pull(&self, destination: &str, from: &str, more: &[&str]) -> Told {
        let mut arguments = vec!["pull", "orders", destination, "--from", from, "--identity", "beta", "--json"];
        arguments.extend(more);
        self.landfall(arguments)
    }

    /// Fails unless a copy holds what the original does: names, and every byte.
    #[track_caller]
    pub(crate) fn check_equal(&self, original: &str, copy: &str) {
        assert_eq!(tree(&self.at(original)), tree(&self.at(copy)), "{original} and {copy} differ");
    }
}

impl Told {
    /// Fails unless the command did what it should.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Fails unless the command exited with `code` and said all of `words` on stderr.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is missing in:\n{}", self.stderr);
        }
        self
    }

    /// What it printed, a JSON object per line.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The last JSON object.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        self.json().pop().expect("a line of JSON")
    }
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("landfall starts");
        let (said, lines) = channel();
        let stdout = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| said.send(line).is_ok())
        });
        let mut server = Self { address: String::new(), child, lines };
        server.address = server.wait_for("listening")["address"].as_str().expect("an address").to_owned();
        server
    }

    /// Waits until it says that `event` happened.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                let _ = self.child.kill();
                let mut errors = String::new();
                let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut errors));
                panic!("the server never said '{event}': {errors}");
            };
            let value: Value = serde_json::from_str(&line).expect("a line of JSON");
            if value["event"] == event {
                return value;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Ends it as a service manager does, and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal(self.pid(), rustix::process::Signal::TERM);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, which must come in time: a test that hangs says nothing.
pub(crate) fn finish(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("landfall starts");
    let pid = child.id();
    let (ended, end) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            signal(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("it ends");
    drop(ended);
    watchdog.join().expect("watching does not panic");
    output
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// Every path below a directory with its content; the data of a pulled copy aside.
fn tree(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(directory).expect("below it").to_owned();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            if name == Path::new(".landfall") {
                continue;
            } else if metadata.is_dir() {
                pending.push(path.clone());
                found.push((name, b"directory".to_vec()));
            } else if metadata.is_symlink() {
                found.push((name, fs::read_link(&path).expect("a target").into_os_string().into_encoded_bytes()));
            } else {
                found.push((name, fs::read(&path).expect("content")));
            }
        }
    }
    found.sort();
    found
}

/// Far longer than anything here takes; only a broken server needs all of it.
const PATIENCE: Duration = Duration::from_secs(60);

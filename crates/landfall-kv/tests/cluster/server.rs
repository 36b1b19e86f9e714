//! Members as processes: started on free ports, killed, and started again where they were.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::Client;

pub(crate) struct Cluster {
    directory: TempDir,
    members: Vec<Member>,
}

struct Member {
    process: Mutex<Option<Child>>,
    clients: String,
    peers: String,
}

impl Cluster {
    /// One member.
    pub(crate) fn begin() -> Self {
        let directory = TempDir::new().expect("a directory for the members");
        let mut cluster = Self { directory, members: Vec::new() };
        cluster.add(&["--bootstrap"]);
        until("the first member leads", || cluster.client(0).ask("SET started 1") == "+OK");
        assert_eq!(cluster.client(0).ask("FLUSHALL"), "+OK");
        cluster
    }

    /// Three members that vote; the first one leads.
    pub(crate) fn of_three() -> Self {
        let mut cluster = Self::begin();
        let seed = cluster.members[0].peers.clone();
        cluster.add(&["--join", &seed]);
        cluster.add(&["--join", &seed]);
        until("three members vote", || {
            cluster.client(0).ask("LANDFALL STATUS").matches(r#""votes":true"#).count() == 3
        });
        cluster
    }

    fn add(&mut self, beginning: &[&str]) {
        let index = self.members.len();
        let free = "127.0.0.1:0";
        let (process, clients, peers) = start(&self.data(index), free, free, beginning);
        self.members.push(Member { process: Mutex::new(Some(process)), clients, peers });
    }

    /// One more member, which joins with a commit hook.
    pub(crate) fn add_with_hook(&mut self, hook: &str) -> usize {
        let seed = self.members[0].peers.clone();
        self.add(&["--join", &seed, "--commit-hook", hook]);
        self.members.len() - 1
    }

    /// One more member, which joins.
    pub(crate) fn add_joiner(&mut self) -> usize {
        let seed = self.members[0].peers.clone();
        self.add(&["--join", &seed]);
        self.members.len() - 1
    }

    /// The number of a member.
    pub(crate) fn id(&self, index: usize) -> u64 {
        let status = self.client(index).ask("LANDFALL STATUS");
        let status: serde_json::Value = serde_json::from_str(&status[1..]).expect("it is JSON");
        status["id"].as_u64().expect("a number")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A place for a member that will join; it is started with [`Cluster::spawn`].
    pub(crate) fn prepare_joiner(&mut self) -> usize {
        // Ports that were free a moment ago: a restarted member must be where it was.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (clients, peers) = (free().expect("a free port").to_string(), free().expect("a free port").to_string());
        self.members.push(Member { process: Mutex::default(), clients, peers });
        self.members.len() - 1
    }

    fn data(&self, index: usize) -> PathBuf {
        self.directory.path().join(index.to_string())
    }

    pub(crate) fn clients(&self, index: usize) -> &str {
        &self.members[index].clients
    }

    pub(crate) fn client(&self, index: usize) -> Client {
        Client::connect(self.clients(index)).expect("the member runs")
    }

    /// A client of whoever leads.
    pub(crate) fn leader(&self) -> Client {
        let mut found = None;
        until("somebody leads", || {
            let clients = self.members.iter().filter_map(|member| Client::connect(&member.clients));
            found = clients.into_iter().find_map(|mut client| {
                let answer = client.try_ask("GET nothing")?;
                (answer == "nothing").then_some(client)
            });
            found.is_some()
        });
        found.expect("it was found")
    }

    /// `kill -9`, without waiting for anything.
    pub(crate) fn kill_quietly(&self, index: usize) {
        let mut process = self.members[index].process.lock().expect("no panic under the lock");
        process.as_mut().expect("it runs").kill().expect("it can be killed");
    }

    pub(crate) fn reap(&mut self, index: usize) {
        let process = self.members[index].process.lock().expect("no panic under the lock").take();
        process.expect("it ran").wait().expect("it ended");
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.kill_quietly(index);
        self.reap(index);
    }

    /// SIGTERM, which must end it well.
    pub(crate) fn stop(&mut self, index: usize) {
        let process = self.members[index].process.lock().expect("no panic under the lock").take();
        let mut process = process.expect("it runs");
        let told = Command::new("kill").arg(process.id().to_string()).status().expect("kill can be run");
        assert!(told.success());
        assert!(process.wait().expect("it ended").success(), "it stops cleanly");
    }

    /// Starts a member again, with the command line it had.
    pub(crate) fn start(&mut self, index: usize) {
        let member = &self.members[index];
        let (process, ..) = start(&self.data(index), &member.clients, &member.peers, &self.beginning(index));
        *member.process.lock().expect("no panic under the lock") = Some(process);
    }

    /// Starts a member again whose files may not become longer than that: to it, the disk is full.
    pub(crate) fn start_with_files_of(&mut self, index: usize, bytes_max: u64) {
        let member = &self.members[index];
        let command = command(&self.data(index), &member.clients, &member.peers, &self.beginning(index));
        // With the signal ignored, a write fails; the shell counts in blocks of 512 bytes.
        let mut limited = Command::new("sh");
        limited.args(["-c", r#"trap "" XFSZ; ulimit -f "$1"; shift; exec "$@""#, "sh", &(bytes_max / 512).to_string()]);
        limited.arg(command.get_program()).args(command.get_args()).stderr(Stdio::piped());
        let (process, ..) = begin(limited);
        *member.process.lock().expect("no panic under the lock") = Some(process);
    }

    /// Waits until a member has ended by itself; its exit code, and what it said on stderr if that was piped.
    pub(crate) fn wait_for_end(&mut self, index: usize) -> (Option<i32>, String) {
        let process = self.members[index].process.lock().expect("no panic under the lock").take();
        let ended = process.expect("it ran").wait_with_output().expect("it ends");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    }

    /// Starts a member again without waiting until it serves.
    pub(crate) fn spawn(&self, index: usize) {
        let member = &self.members[index];
        let mut command = command(&self.data(index), &member.clients, &member.peers, &self.beginning(index));
        let process = command.stdout(Stdio::null()).spawn().expect("the server can be run");
        *member.process.lock().expect("no panic under the lock") = Some(process);
    }

    fn beginning(&self, index: usize) -> Vec<&str> {
        match index {
            0 => vec!["--bootstrap"],
            _ => {
                let others = self.members.iter().enumerate().filter(|(other, _)| *other != index);
                others.flat_map(|(_, member)| ["--join", &member.peers]).collect()
            }
        }
    }

    /// Stops a process where it stands, or lets it go on.
    pub(crate) fn signal(&self, index: usize, signal: &str) {
        let process = self.members[index].process.lock().expect("no panic under the lock");
        let id = process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill can be run").success());
    }

    /// Whether it answers anything.
    pub(crate) fn serves(&self, index: usize) -> bool {
        self.ask_briefly(index, "PING").is_some()
    }

    pub(crate) fn try_status(&self, index: usize) -> Option<String> {
        self.ask_briefly(index, "LANDFALL STATUS")
    }

    /// Who leads, as a read proves that only the leader answers.
    pub(crate) fn find_leading(&self) -> Option<usize> {
        (0..self.members.len()).find(|member| self.ask_briefly(*member, "GET nothing").as_deref() == Some("nothing"))
    }

    pub(crate) fn leading(&self) -> usize {
        let mut found = None;
        until("somebody leads", || {
            found = self.find_leading();
            found.is_some()
        });
        found.expect("it was found")
    }

    fn ask_briefly(&self, index: usize, request: &str) -> Option<String> {
        Client::connect_with_patience(self.clients(index), BRIEFLY)?.try_ask(request)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &self.members {
            if let Ok(mut process) = member.process.lock()
                && let Some(mut process) = process.take()
            {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

fn command(data: &Path, clients: &str, peers: &str, beginning: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-kv"));
    command.arg("--data").arg(data).args(["--listen", clients, "--peer-listen", peers, "--insecure"]).args(beginning);
    command
}

/// Starts a process and waits for its line on stdout; returns where clients and members reach it.
fn start(data: &Path, clients: &str, peers: &str, beginning: &[&str]) -> (Child, String, String) {
    begin(command(data, clients, peers, beginning))
}

fn begin(mut command: Command) -> (Child, String, String) {
    let mut process = command.stdout(Stdio::piped()).spawn().expect("the server can be run");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says a line");
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.windows(2).position(|pair| pair == [word, "at"]);
        at.map_or_else(|| panic!("no address of {word} in {line:?}"), |at| words[at + 2].to_owned())
    };
    (process, after("clients"), after("members"))
}

/// Waits for something that other processes bring about.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
/// A member that is paused must not be waited for.
const BRIEFLY: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

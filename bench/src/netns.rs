//! Owns the network of a run: namespaces joined by veth pairs, their rate limits and their byte counters, and that
//! all of it is gone afterwards, whatever happened. It never starts a tool that is measured.
//!
//! Names carry the number of this process, so that what a killed run left behind can be told apart and swept.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::run;

/// How fast a link is in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the kernel copies.
    Unlimited,
    /// Capped, without a burst worth mentioning.
    MegabitsPerSecond(u32),
}

/// What an interface has carried since it was made, as its own end counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What left by it, headers included.
    pub sent_bytes: u64,
    /// What came in by it, headers included.
    pub received_bytes: u64,
}

impl Traffic {
    /// What was carried after `earlier` was read.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            received_bytes: self.received_bytes - earlier.received_bytes,
        }
    }
}

/// A network namespace, deleted when dropped together with the processes still in it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `role` tells those of one process apart.
    pub fn create(role: &str) -> anyhow::Result<Self> {
        let name = format!("{}-{role}", prefix(std::process::id()));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Joins two namespaces by a pair of interfaces that bear the same name on both sides and are still down.
    pub fn join(&self, other: &Self, interface: &str) -> anyhow::Result<()> {
        let pair = ["link", "add", interface, "netns", &self.name, "type", "veth", "peer", "name", interface];
        ip(&[&pair[..], &["netns", &other.name]].concat())
    }

    /// Gives an interface its address in a network of 256.
    pub fn bring_up(&self, interface: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "address", "add", &format!("{address}/24"), "dev", interface])?;
        ip(&["-n", &self.name, "link", "set", interface, "up"])
    }

    /// Caps what leaves by an interface, or frees it.
    pub fn set_rate(&self, interface: &str, rate: Rate) -> anyhow::Result<()> {
        shape(self, interface, rate)
    }

    /// Reads the counters of an interface.
    pub fn traffic(&self, interface: &str) -> anyhow::Result<Traffic> {
        self.inside(|| read_traffic(interface))
    }

    /// Runs `work` on a thread inside the namespace; processes it starts are born there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let place = File::open(PathBuf::from("/run/netns").join(&self.name))
            .with_context(|| format!("open the namespace {}", self.name))?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            worker.join().map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Ends what runs in the namespaces of one process of this program.
pub fn end_processes(owner: u32) {
    let names = names().into_iter().filter(|name| name.starts_with(&format!("{}-", prefix(owner))));
    names.for_each(|name| kill_inside(&name));
}

/// Deletes what earlier runs left that were killed before they could.
pub fn sweep_dead() {
    let alive = |process: u32| fs::exists(format!("/proc/{process}")).unwrap_or(true);
    for name in names() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|process| !alive(process)) {
            delete(&name);
        }
    }
}

fn names() -> Vec<String> {
    let listed = fs::read_dir("/run/netns").into_iter().flatten();
    listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn delete(name: &str) {
    kill_inside(name);
    if let Err(error) = ip(&["netns", "delete", name]) {
        eprintln!("{error:#}");
    }
}

fn kill_inside(name: &str) {
    for process in processes(name) {
        // It may have ended by itself since it was listed.
        let _ = kill_process(process, Signal::KILL);
    }
}

/// The processes inside a namespace of ours: only those that this program started are ever born there.
fn processes(name: &str) -> Vec<Pid> {
    let output = Command::new("ip").args(["netns", "pids", name]).output();
    let listed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

fn prefix(process: u32) -> String {
    format!("{PREFIX}{process}")
}

fn shape(namespace: &Namespace, interface: &str, rate: Rate) -> anyhow::Result<()> {
    let base = ["-n", &namespace.name, "qdisc"];
    // Fails when there is none, which is what is wanted.
    let _ = run(Command::new("tc").args(base).args(["delete", "dev", interface, "root"]));
    match rate {
        Rate::Unlimited => Ok(()),
        Rate::MegabitsPerSecond(megabits) => {
            let filter = ["rate", &format!("{megabits}mbit"), "burst", BURST, "latency", LATENCY];
            run(Command::new("tc").args(base).args(["add", "dev", interface, "root", "tbf"]).args(filter))
        }
    }
}

/// Reads the counters that belong to the calling thread's namespace.
fn read_traffic(interface: &str) -> anyhow::Result<Traffic> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    parse_traffic(&table, interface).with_context(|| format!("no counters of {interface}"))
}

fn parse_traffic(table: &str, interface: &str) -> Option<Traffic> {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut fields = line.split_whitespace().map(|field| field.parse().ok());
    let received_bytes = fields.next()??;
    let sent_bytes = fields.nth(7)??;
    Some(Traffic { sent_bytes, received_bytes })
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

const PREFIX: &str = "landfall-bench-";
/// Above one segment of the largest offload, else the filter drops whole segments.
const BURST: &str = "256kb";
const LATENCY: &str = "50ms";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_is_the_first_counter_and_sent_the_ninth() {
        let table = "Inter-| x\n face | y\n    lo: 1 1 1 1 1 1 1 1 1 1\n link0: 10 2 0 0 0 0 0 0 20 3 0 0 0 0 0 0\n";
        let traffic = parse_traffic(table, "link0").unwrap();
        assert_eq!((traffic.received_bytes, traffic.sent_bytes), (10, 20));
        assert!(parse_traffic(table, "link1").is_none());
    }
}

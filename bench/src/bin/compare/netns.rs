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

use crate::disk::run;

/// A joiner's namespace and one for each source, each source on a link of its own.
pub(crate) struct Network {
    joiner: Namespace,
    links: Vec<Link>,
}

/// One source's end, and the pair that joins it to the joiner.
pub(crate) struct Link {
    pub(crate) source: Namespace,
    pub(crate) source_address: Ipv4Addr,
    interface: String,
}

/// How fast a link is in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    Unlimited,
    MegabitsPerSecond(u32),
}

/// What crossed a link since it was made, as its source end counted it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) to_joiner_bytes: u64,
    pub(crate) to_source_bytes: u64,
}

impl Network {
    /// Makes a joiner's namespace and `sources` others.
    pub(crate) fn create(sources: usize) -> anyhow::Result<Self> {
        let mut network = Self { joiner: Namespace::create("joiner")?, links: Vec::new() };
        for number in 0..sources {
            let link = Link::create(number, &network.joiner)?;
            network.links.push(link);
        }
        Ok(network)
    }

    pub(crate) fn joiner(&self) -> &Namespace {
        &self.joiner
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Caps every link in both directions, or frees it.
    pub(crate) fn set_rate(&self, rate: Rate) -> anyhow::Result<()> {
        self.links.iter().try_for_each(|link| {
            shape(&link.source, &link.interface, rate)?;
            shape(&self.joiner, &link.interface, rate)
        })
    }

    /// The sum over all links.
    pub(crate) fn traffic(&self) -> anyhow::Result<Traffic> {
        let mut sum = Traffic::default();
        for link in &self.links {
            let traffic = link.source.inside(|| read_traffic(&link.interface))?;
            sum.to_joiner_bytes += traffic.to_joiner_bytes;
            sum.to_source_bytes += traffic.to_source_bytes;
        }
        Ok(sum)
    }
}

impl Traffic {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            to_joiner_bytes: self.to_joiner_bytes - earlier.to_joiner_bytes,
            to_source_bytes: self.to_source_bytes - earlier.to_source_bytes,
        }
    }
}

impl Link {
    fn create(number: usize, joiner: &Namespace) -> anyhow::Result<Self> {
        let source = Namespace::create(&format!("source{number}"))?;
        let interface = format!("link{number}");
        let subnet = 10 + number as u8;
        let (source_address, joiner_address) = (Ipv4Addr::new(10, 77, subnet, 1), Ipv4Addr::new(10, 77, subnet, 2));
        let pair = ["link", "add", &interface, "netns", &source.name, "type", "veth", "peer", "name", &interface];
        ip(&[&pair[..], &["netns", &joiner.name]].concat())?;
        source.bring_up(&interface, source_address)?;
        joiner.bring_up(&interface, joiner_address)?;
        Ok(Self { source, source_address, interface })
    }
}

/// A network namespace, deleted when dropped together with the processes still in it.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn create(role: &str) -> anyhow::Result<Self> {
        let name = format!("{}-{role}", prefix(std::process::id()));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn bring_up(&self, interface: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "address", "add", &format!("{address}/24"), "dev", interface])?;
        ip(&["-n", &self.name, "link", "set", interface, "up"])
    }

    /// Runs `work` on a thread inside the namespace; processes it starts are born there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
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
pub(crate) fn end_processes(owner: u32) {
    let names = names().into_iter().filter(|name| name.starts_with(&format!("{}-", prefix(owner))));
    names.for_each(|name| kill_inside(&name));
}

/// Deletes what earlier runs left that were killed before they could.
pub(crate) fn sweep_dead() {
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
    let to_source_bytes = fields.next()??;
    let to_joiner_bytes = fields.nth(7)??;
    Some(Traffic { to_joiner_bytes, to_source_bytes })
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

const PREFIX: &str = "landfall-compare-";
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
        assert_eq!((traffic.to_source_bytes, traffic.to_joiner_bytes), (10, 20));
        assert!(parse_traffic(table, "link1").is_none());
    }
}

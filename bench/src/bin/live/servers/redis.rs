//! Owns Redis' command line: a master, and a replica that synchronises without disk, as fast as Redis can.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use landfall_bench::measure::{Process, wait_until};
use serde_json::{Value, json};

use super::{Seat, Server, installed};
use crate::client::Client;
use crate::network::CLIENT_PORT;

/// Redis with one setting that cases differ in.
pub(crate) struct Redis {
    pub(crate) backlog_bytes: u64,
    pub(crate) durability: Durability,
}

/// When a write is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Never by itself.
    Memory,
    /// Before it is answered.
    EveryWrite,
}

impl Redis {
    /// The default of Redis.
    pub(crate) const BACKLOG_BYTES: u64 = 1 << 20;

    /// As it comes, kept in memory only.
    pub(crate) fn plain() -> Self {
        Self { backlog_bytes: Self::BACKLOG_BYTES, durability: Durability::Memory }
    }

    fn command(&self, seat: &Seat<'_>) -> Command {
        let mut command = Command::new(SERVER);
        command.args(["--port", &CLIENT_PORT.to_string(), "--bind", "0.0.0.0", "--protected-mode", "no"]);
        command.args(["--save", "", "--dir"]).arg(&seat.directory);
        command.args(["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
        command.args(["--repl-diskless-load", "swapdb", "--repl-backlog-size", &self.backlog_bytes.to_string()]);
        command.args(["--enable-debug-command", "yes"]);
        if self.durability == Durability::EveryWrite {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        command
    }

    fn replica_of(source: &Seat<'_>) -> [String; 2] {
        [source.place.peer_address.ip().to_string(), CLIENT_PORT.to_string()]
    }
}

impl Server for Redis {
    fn name(&self) -> String {
        let mut name = "redis".to_owned();
        if self.backlog_bytes != Self::BACKLOG_BYTES {
            name += &format!(", backlog {}", readable_bytes(self.backlog_bytes));
        }
        if self.durability == Durability::EveryWrite {
            name += ", appendfsync always";
        }
        name
    }

    fn family(&self) -> &'static str {
        "redis"
    }

    fn absent(&self) -> Option<String> {
        installed(Path::new(SERVER))
    }

    fn companions(&self) -> usize {
        0
    }

    fn members_for_throughput(&self) -> usize {
        1
    }

    fn start_first(&self, seat: &Seat<'_>) -> anyhow::Result<Process> {
        seat.start(self.command(seat))
    }

    fn start_waiting(&self, seat: &Seat<'_>) -> anyhow::Result<Option<Process>> {
        seat.start(self.command(seat)).map(Some)
    }

    fn tell(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Option<Process>> {
        let [host, port] = Self::replica_of(source);
        let mut client = joiner
            .place
            .namespace
            .inside(|| Client::connect_here((std::net::Ipv4Addr::LOCALHOST, CLIENT_PORT).into()))?;
        client.call(&["REPLICAOF", &host, &port])?;
        Ok(None)
    }

    fn start_again(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Process> {
        let mut command = self.command(joiner);
        command.arg("--replicaof").args(Self::replica_of(source));
        joiner.start(command)
    }

    fn hello_for_stale_reads(&self) -> &'static [&'static str] {
        &[]
    }

    fn is_whole(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<bool> {
        let reached = field(&source.text(&["INFO", "replication"])?, "master_repl_offset");
        let Ok(replication) = joiner.text(&["INFO", "replication"]) else { return Ok(false) };
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let is_up = field(&replication, "master_link_status").as_deref() == Some("up");
        let (reached, here) = (number(reached), number(field(&replication, "slave_repl_offset")));
        Ok(is_up && reached.context("a master without an offset")? <= here.unwrap_or(0))
    }

    fn settle(&self, _source: &mut Client) -> anyhow::Result<()> {
        Ok(())
    }

    fn forget_changes(&self, _source: &mut Client) -> anyhow::Result<()> {
        // The backlog's size says what it remembers.
        Ok(())
    }

    fn stop(&self, process: Process, client: &mut Client) -> anyhow::Result<()> {
        // A server that goes away gives no answer.
        let _ = client.try_call(&["SHUTDOWN", "SAVE"]);
        wait_until(SAVE_LIMIT, || process.has_ended()).context("saving")?;
        process.stop().map(drop)
    }

    fn prove_equal(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<()> {
        let digest = |client: &mut Client| client.text(&["DEBUG", "DIGEST"]);
        let (there, here) = (digest(source)?, digest(joiner)?);
        ensure!(there == here, "the digests differ: {there}, {here}");
        Ok(())
    }

    fn own_report(&self, client: &mut Client) -> anyhow::Result<Value> {
        let all = client.text(&["INFO", "everything"])?;
        let wanted = OWN_FIELDS.iter().filter_map(|name| Some(((*name).to_owned(), json!(field(&all, name)?))));
        Ok(Value::Object(wanted.collect()))
    }
}

/// A line of `INFO`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

fn readable_bytes(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

const SERVER: &str = "redis-server";
const SAVE_LIMIT: Duration = Duration::from_secs(300);
const OWN_FIELDS: &[&str] =
    &["sync_full", "sync_partial_ok", "sync_partial_err", "rdb_last_cow_size", "latest_fork_usec", "used_memory"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_info_is_what_follows_its_whole_name() {
        let text = "# Replication\r\nslave_repl_offset_x:1\r\nslave_repl_offset:42\r\n";
        assert_eq!(field(text, "slave_repl_offset").as_deref(), Some("42"));
        assert_eq!(field(text, "offset"), None);
    }
}

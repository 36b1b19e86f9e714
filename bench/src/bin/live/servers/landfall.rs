//! Owns landfall-kv's command line: each member with a certificate of its own, TLS between members always on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use landfall_bench::command::run;
use landfall_bench::measure::{Process, wait_until};
use serde_json::Value;

use super::{Seat, Server, installed};
use crate::client::Client;

/// landfall-kv, as shipped.
#[derive(Clone)]
pub(crate) struct Landfall {
    server: PathBuf,
    /// Makes the certificates.
    tool: PathBuf,
    identities: PathBuf,
    /// How much log is kept for members that lag; without it, what is kept by default.
    log_kept_bytes: Option<u64>,
}

impl Landfall {
    /// `binaries` is where both programs lie, `work` where the certificates of a run are kept.
    pub(crate) fn new(binaries: &Path, work: &Path) -> Self {
        Self {
            server: binaries.join("landfall-kv"),
            tool: binaries.join("landfall"),
            identities: work.join("identities"),
            log_kept_bytes: None,
        }
    }

    /// The same, with so much log kept for members that lag.
    pub(crate) fn keeping_log(self, bytes: u64) -> Self {
        Self { log_kept_bytes: Some(bytes), ..self }
    }

    fn identity(&self, number: usize) -> anyhow::Result<PathBuf> {
        let (authority, name) = (self.identities.join("ca"), format!("member{number}"));
        let identity = self.identities.join(&name);
        if !authority.exists() {
            fs::create_dir_all(&self.identities)?;
            run(Command::new(&self.tool).args(["cert", "create-ca"]).arg(&authority))?;
        }
        if !identity.exists() {
            let mut command = Command::new(&self.tool);
            command.args(["cert", "create-member", &name, "--writer", STATE]);
            run(command.arg("--ca").arg(&authority).arg("--out").arg(&identity))?;
        }
        Ok(identity)
    }

    fn command(&self, seat: &Seat<'_>) -> anyhow::Result<Command> {
        let (clients, peers) = (seat.place.client_address.to_string(), seat.place.peer_address.to_string());
        let mut command = Command::new(&self.server);
        command.arg("--data").arg(&seat.directory).args(["--listen", &clients, "--peer-listen", &peers]);
        command.arg("--identity").arg(self.identity(seat.place.number)?);
        if let Some(bytes) = self.log_kept_bytes {
            command.arg("--log-kept").arg(bytes.to_string());
        }
        Ok(command)
    }

    fn joining(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Process> {
        let mut command = self.command(joiner)?;
        command.args(["--join", &source.place.peer_address.to_string()]);
        joiner.start(command)
    }
}

impl Server for Landfall {
    fn name(&self) -> String {
        super::LANDFALL.to_owned()
    }

    fn family(&self) -> &'static str {
        super::LANDFALL
    }

    fn absent(&self) -> Option<String> {
        installed(&self.server).or_else(|| installed(&self.tool))
    }

    /// Of three members two can write.
    fn companions(&self) -> usize {
        1
    }

    fn members_for_throughput(&self) -> usize {
        3
    }

    fn start_first(&self, seat: &Seat<'_>) -> anyhow::Result<Process> {
        let mut command = self.command(seat)?;
        command.arg("--bootstrap");
        seat.start(command)
    }

    fn start_waiting(&self, _seat: &Seat<'_>) -> anyhow::Result<Option<Process>> {
        Ok(None)
    }

    fn tell(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Option<Process>> {
        self.joining(joiner, source).map(Some)
    }

    fn start_again(&self, joiner: &Seat<'_>, source: &Seat<'_>) -> anyhow::Result<Process> {
        self.joining(joiner, source)
    }

    fn hello_for_stale_reads(&self) -> &'static [&'static str] {
        &["READONLY"]
    }

    fn is_whole(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<bool> {
        let reached = position(&status(source)?)?;
        let there = status(joiner)?;
        Ok(is_complete(&there) && position(&there)? >= reached)
    }

    fn settle(&self, source: &mut Client) -> anyhow::Result<()> {
        audit(source).map(drop)
    }

    /// Marks until the log that was written so far is gone.
    fn forget_changes(&self, source: &mut Client) -> anyhow::Result<()> {
        ensure!(self.log_kept_bytes.is_some(), "a log that is kept for members that lag is not forgotten");
        let written = log(&status(source)?, "last")?;
        wait_until(AUDIT_LIMIT, || {
            audit(source)?;
            Ok(log(&status(source)?, "first")? > written)
        })
        .context("a log that forgets what was written")
    }

    fn stop(&self, process: Process, _client: &mut Client) -> anyhow::Result<()> {
        process.stop().map(drop)
    }

    fn prove_equal(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<()> {
        let joined = status(joiner)?["id"].clone();
        // A member that only just became whole may not have taken part in the first one.
        wait_until(AUDIT_LIMIT, || {
            let audit = audit(source)?;
            ensure!(audit["verdict"] != "diverged", "the roots differ: {audit}");
            let took_part = |member: &Value| member["id"] == joined && member["root"].is_string();
            Ok(audit["verdict"] == "equal" && audit["members"].as_array().is_some_and(|all| all.iter().any(took_part)))
        })
        .context("an audit in which everybody takes part")
    }

    fn own_report(&self, client: &mut Client) -> anyhow::Result<Value> {
        status(client)
    }
}

fn status(client: &mut Client) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&client.text(&["LANDFALL", "STATUS"])?)?)
}

fn audit(client: &mut Client) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&client.text(&["LANDFALL", "AUDIT"])?)?)
}

fn position(status: &Value) -> anyhow::Result<u64> {
    status["position"]["index"].as_u64().with_context(|| format!("a status without a position: {status}"))
}

/// The first or the last index of its log.
fn log(status: &Value, end: &str) -> anyhow::Result<u64> {
    status["log"][end].as_u64().with_context(|| format!("a status without a log: {status}"))
}

/// Does it hold all of the snapshot that it took, if it took one?
fn is_complete(status: &Value) -> bool {
    let Some(reached) = status["join"]["reached"].as_array() else { return true };
    reached.iter().any(|reached| reached["milestone"] == COMPLETE)
}

const COMPLETE: &str = "complete";
const STATE: &str = "kv";
const AUDIT_LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_is_complete_once_it_says_so_or_if_it_never_took_a_snapshot() {
        let reached = |milestones: &[&str]| {
            let reached: Vec<_> = milestones.iter().map(|milestone| json!({ "milestone": milestone })).collect();
            json!({ "join": { "reached": reached } })
        };
        assert!(is_complete(&json!({ "join": null })));
        assert!(!is_complete(&reached(&["attached", "viable"])));
        assert!(is_complete(&reached(&["attached", "viable", "complete"])));
    }
}

//! Owns what happens to the whole cluster: its leader is lost and returns, all members are compared.

use std::time::{Duration, Instant};

use super::members::read_json;
use super::picture::milliseconds;
use super::status::Audit;
use super::{ROOT_SHOWN, Story, shown};
use crate::failure::Failure;
use crate::output;

impl Story<'_> {
    /// The leader is killed, the others go on, it returns with what it had.
    pub(super) fn lose_the_leader(&mut self) -> Result<(), Failure> {
        let old = self.leader()?;
        let name = self.members[old].name;
        self.narrator.begin(&format!("{name}, the leader, is killed with kill -9, and returns with a stale disk"));
        let killed = Instant::now();
        self.members[old].kill();
        let new = self.leader()?;
        self.pause(AWAY)?;
        let (writes, _) = self.clients_between(killed, Instant::now());
        if writes.requests == 0 {
            return Err(Failure::new("no write was acknowledged after the leader was killed"));
        }
        let pause = writes.longest_pause;
        self.narrator.tell(format!(
            "{} leads; the longest time without an acknowledged write was {}",
            self.members[new].name,
            shown(pause)
        ));
        self.narrator.measured(
            "failover_ms",
            "leader killed: longest time without a write",
            milliseconds(pause),
            shown(pause),
        );
        self.bring_back(old, new, writes.requests)
    }

    fn bring_back(&mut self, old: usize, new: usize, missed: u64) -> Result<(), Failure> {
        let name = self.members[old].name;
        let began = Instant::now();
        let served = self.start(old)?;
        let head = self.members[new].status()?.position.index;
        let had = self.members[old].status()?.position.index;
        self.narrator.tell(format!(
            "{name} is started again, and serves after {}; it missed {}",
            shown(served),
            output::counted(missed, "write")
        ));
        let status = self.until("the old leader catches up", |story| {
            let status = story.members[old].status()?;
            Ok((status.position.index >= head).then_some(status))
        })?;
        let took = began.elapsed();
        let how = match &status.join {
            Some(join) if join.bytes() > 0 => format!("by fetching {}", output::bytes(join.bytes())),
            _ => format!("from the log, {} entries", output::count(head.saturating_sub(had))),
        };
        self.narrator.tell(format!("it has caught up after {}, {how}", shown(took)));
        self.narrator.measured("return_ms", "  returned and caught up after", milliseconds(took), shown(took));
        Ok(())
    }

    /// Has every member seal at one position; their roots must be equal.
    pub(super) fn agree(&mut self) -> Result<Audit, Failure> {
        let audit = self.until("all members report", |story| {
            let goes_on = || !story.cast.is_ended();
            let answer = story.caller.ask_until(ASK_LIMIT, goes_on, &[b"LANDFALL", b"AUDIT"]);
            let answer = answer.map_err(|error| Failure::new("no audit").because(&error))?;
            let audit: Audit = read_json("the leader", &answer)?;
            Ok((audit.verdict != "equal so far").then_some(audit))
        })?;
        match audit.verdict.as_str() {
            "equal" => Ok(audit),
            other => Err(Failure::new(format!("the members' roots are not equal: {other}"))),
        }
    }

    /// All members are compared, while the clients go on.
    pub(super) fn audit(&mut self) -> Result<(), Failure> {
        self.narrator.begin("All members seal at one position, while writes go on; roots are compared");
        let began = Instant::now();
        let audit = self.agree()?;
        let took = began.elapsed();
        for member in &audit.members {
            let root = member.root.as_deref().unwrap_or("did not report");
            let name = self.members.iter().find(|other| other.id == member.id).map_or("?", |member| member.name);
            let value = serde_json::json!({ "member": name, "root": root });
            self.narrator.show("sealed", &value, &format!("{name:>8}  {root}"));
        }
        let root = audit.members.first().and_then(|member| member.root.clone()).unwrap_or_default();
        let count = audit.members.len() as u64;
        self.narrator.tell(format!(
            "{} agree at log entry {}, found in {}",
            output::counted(count, "member"),
            output::count(audit.position.index),
            shown(took)
        ));
        self.narrator.measured("audit_ms", "audit of all members", milliseconds(took), shown(took));
        let short =
            format!("{}… at {}", root.chars().take(ROOT_SHOWN).collect::<String>(), output::counted(count, "member"));
        self.narrator.measured("root", "  one root", root, short);
        Ok(())
    }
}

/// How long the old leader stays away.
const AWAY: Duration = Duration::from_secs(4);
/// How long somebody is looked for who carries out an audit.
const ASK_LIMIT: Duration = Duration::from_secs(30);

//! Owns the words of stories.
//!
//! ```text
//! join lag=10                          begins
//! join lag=10 sections                 begins to join some sections
//! offer S1 1.100 v3                    a snapshot, its position, the lease's version
//! received 4 MiB
//! here vital|upper|hot|rest S1 | hot-late S1
//! log 1.100 | log-lost                 attached after that position
//! applied 1.120 of 1.125
//! newer S2 1.200 log-cap|log-gap|overlay-cap|gone|mark
//! rebased S2 | rebase-failed S2
//! audit 1.130 equal=2 different=1 most=S3
//! hook done v3 | hook failed v3
//! lease v4
//! failed disk|no-sources
//! time +2s                             and `handle_timeout`, if it is due
//! ```
//! What stands between `----` and the next empty line is what the join did: commands, and milestones reached or lost.

use super::*;

/// Tells the story again: its comments and steps as they are, and what the join does now.
pub(super) fn tell(text: &str) -> String {
    let mut told = String::new();
    let mut world = None;
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        if !told.is_empty() {
            told.push('\n');
        }
        for line in paragraph.lines().take_while(|line| *line != "----") {
            told.push_str(line);
            told.push('\n');
            if !line.starts_with('#') {
                step(&mut world, line);
            }
        }
        if let Some(world) = &mut world {
            told.push_str("----\n");
            told.push_str(&std::mem::take(&mut world.told));
        }
    }
    told
}

struct World {
    join: Join,
    now: Time,
    milestones: Vec<Option<Reached>>,
    /// Names of snapshots by the digits that commands print.
    names: Vec<(String, String)>,
    told: String,
}

impl World {
    fn new(scope: Scope, lag_max: u64) -> Self {
        let milestones = vec![None; Milestone::ALL.len()];
        let join = Join::with_scope(scope, lag_max, Time::ZERO);
        Self { join, now: Time::ZERO, milestones, names: Vec::new(), told: String::new() }
    }

    fn snapshot(&mut self, name: &str, at: Position) -> Snapshot {
        self.names.push((id(name).short(), name.to_owned()));
        Snapshot { id: id(name), position: at }
    }

    /// Says what the join did since the last time.
    fn observe(&mut self) {
        for (milestone, known) in Milestone::ALL.into_iter().zip(&mut self.milestones) {
            let reached = self.join.reached(milestone);
            if let (Some(reached), true) = (reached, reached != *known) {
                self.told.push_str(&format!("{milestone}: {}, {} B\n", reached.at, reached.bytes));
            } else if reached != *known {
                self.told.push_str(&format!("no longer {milestone}\n"));
            }
            *known = reached;
        }
        while let Some(command) = self.join.poll_command() {
            let text = self.names.iter().fold(command.to_string(), |text, (short, name)| text.replace(short, name));
            self.told.push_str(&format!("<- {text}\n"));
        }
    }
}

fn step(world: &mut Option<World>, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let ["join", lag, ref scope @ ..] = words[..] {
        let scope = if scope == ["sections"] { Scope::Sections } else { Scope::Whole };
        let begun = world.insert(World::new(scope, lag.strip_prefix("lag=").unwrap().parse().unwrap()));
        return begun.observe();
    }
    let world = world.as_mut().expect("a story begins with 'join'");
    let now = world.now;
    match words[..] {
        ["offer", name, at, version] => {
            let snapshot = world.snapshot(name, position(at));
            world.join.handle_offer(snapshot, lease(version), now);
        }
        ["received", count, "MiB"] => world.join.handle_received(count.parse::<u64>().unwrap() << 20),
        ["here", what, name] => world.join.handle_here(part(what), id(name), now),
        ["hot-late", name] => world.join.handle_hot_late(id(name)),
        ["log", after] => world.join.handle_log_attached(position(after), now),
        ["log-lost"] => world.join.handle_log_lost(),
        ["applied", applied, "of", head] => world.join.handle_applied(position(applied), position(head), now),
        ["newer", name, at, why] => {
            let newer = world.snapshot(name, position(at));
            world.join.handle_newer_snapshot(newer, cause(why), now);
        }
        ["rebase-failed", name] => world.join.handle_rebase_failed(id(name), now),
        ["rebased", name] => world.join.handle_rebased(id(name), now),
        ["audit", at, ref counts @ ..] => {
            let tally = tally(world, position(at), counts);
            world.join.handle_audit(tally, now);
        }
        ["hook", outcome, version] => world.join.handle_hook(lease(version), hook(outcome), now),
        ["lease", version] => world.join.handle_lease(lease(version)),
        ["failed", "disk"] => world.join.handle_failed(Failure::Disk),
        ["failed", "no-sources"] => world.join.handle_failed(Failure::NoSources),
        ["time", span] => {
            let seconds = span.strip_prefix('+').unwrap().strip_suffix('s').unwrap();
            world.now = now + Duration::from_millis((seconds.parse::<f64>().unwrap() * 1000.0) as u64);
            world.join.handle_timeout(world.now);
        }
        _ => panic!("no such step: {line}"),
    }
    world.observe();
}

fn position(text: &str) -> Position {
    let (epoch, index) = text.split_once('.').unwrap();
    Position { epoch: epoch.parse().unwrap(), index: index.parse().unwrap() }
}

fn lease(text: &str) -> LeaseVersion {
    LeaseVersion(text.strip_prefix('v').unwrap().parse().unwrap())
}

fn part(text: &str) -> Part {
    match text {
        "vital" => Part::Vital,
        "upper" => Part::Upper,
        "hot" => Part::Hot,
        "rest" => Part::Rest,
        _ => panic!("no such part: {text}"),
    }
}

fn cause(text: &str) -> RebaseCause {
    match text {
        "log-cap" => RebaseCause::LogCap,
        "log-gap" => RebaseCause::LogGap,
        "overlay-cap" => RebaseCause::OverlayCap,
        "gone" => RebaseCause::Gone,
        "mark" => RebaseCause::Mark,
        _ => panic!("no such cause: {text}"),
    }
}

fn hook(text: &str) -> HookOutcome {
    match text {
        "done" => HookOutcome::Done,
        "failed" => HookOutcome::Failed,
        _ => panic!("no such outcome: {text}"),
    }
}

fn tally(world: &mut World, position: Position, counts: &[&str]) -> Tally {
    let value = |name: &str| counts.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| value(name).map_or(0, |text| text.parse().unwrap());
    let (equal, different, most) = (number("equal"), number("different"), value("most"));
    Tally { position, equal, different, most: most.map(|name| world.snapshot(name, position)) }
}

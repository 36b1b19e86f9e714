//! Owns a whole run of live states: the members, the order, the network, the time, and in which order things happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::ChunkId;
use landfall_core::join::{LeaseVersion, RebaseCause};
use landfall_core::keyed::Schema;
use landfall_core::tree::Salt;

use super::deed::{first_deed, schema, some_sections};
use super::joining::LogLease;
use super::member::{Extent, Member, Progress};
use super::model::Model;
use super::order::Order;
use super::reads::{CLIENTS, Read};
use super::scenario::{LiveFaults, LiveScenario};
use super::sealing::Seals;
use crate::checks::{Violation, broken, check};
use crate::ground::{Failure, Ground, Phase};
use crate::log::Trace;
use crate::network::{ConnectionId, End, MemberId, Network};
use crate::random::Random;
use crate::trouble::Trouble;

/// One run of one scenario of live states.
pub struct LiveWorld {
    pub(super) scenario: LiveScenario,
    pub(super) faults: LiveFaults,
    pub(super) ground: Ground<Event>,
    pub(super) joins_made: u64,
    pub(super) reads_made: u64,
    pub(super) members: Vec<Member>,
    pub(super) schema: Arc<Schema>,
    pub(super) salts: Vec<Salt>,
    pub(super) order: Order,
    pub(super) model: Model,
    pub(super) seals: Seals,
    /// Nodes of sealed sections that members with some sections do not hold.
    pub(super) unwanted: BTreeSet<ChunkId>,
    pub(super) leases: BTreeMap<MemberId, LogLease>,
    pub(super) lease_version: u64,
    pub(super) reads: BTreeMap<u64, Read>,
    /// The last index that each client saw.
    pub(super) seen: [u64; CLIENTS],
    pub(super) figures: LiveFigures,
}

/// What a run saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveFigures {
    /// Events that were handled.
    pub events: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Restarts after a crash.
    pub crashes: u64,
    /// Records that members applied.
    pub applied: u64,
    /// Reads that were answered and compared.
    pub reads: u64,
    /// Times that a read had to fetch something.
    pub faults_in: u64,
    /// Snapshots that members sealed and that were compared.
    pub seals: u64,
    /// Seals that were given up.
    pub seals_given_up: u64,
    /// Marks at which a member could not seal.
    pub marks_skipped: u64,
    /// Re-bases of joiners onto newer snapshots.
    pub rebases: u64,
    /// Snapshots that a joiner has whole.
    pub completed: u64,
    /// Of them, those of which a joiner holds some sections only.
    pub sections_completed: u64,
    /// Sources that a joiner heard of while its transfer ran.
    pub named_late: u64,
    /// Chunks that came of them.
    pub came_late: u64,
    /// Joiners that became voters.
    pub promoted: u64,
    /// Voters that lacked too much and joined anew.
    pub demoted: u64,
    /// Joins that were rolled back.
    pub rolled_back: u64,
    /// Differences that audits found.
    pub differences: u64,
    /// Times that a joiner lost the log.
    pub logs_lost: u64,
    /// Transfers that gave up.
    pub stuck: u64,
    /// Lies, and other things that no source says.
    pub corrupt: u64,
    /// Bytes that joiners fetched and did not have.
    pub bytes_fetched: u64,
    /// Bytes that came although they were there.
    pub bytes_again: u64,
    /// Bytes that power cuts took before they were durable.
    pub bytes_lost: u64,
}

impl LiveFigures {
    /// Each with its name.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("events", self.events),
            ("faults", self.faults),
            ("crashes", self.crashes),
            ("applied", self.applied),
            ("reads", self.reads),
            ("faults in", self.faults_in),
            ("seals", self.seals),
            ("seals given up", self.seals_given_up),
            ("marks skipped", self.marks_skipped),
            ("rebases", self.rebases),
            ("completed", self.completed),
            ("sections completed", self.sections_completed),
            ("named late", self.named_late),
            ("came late", self.came_late),
            ("promoted", self.promoted),
            ("demoted", self.demoted),
            ("rolled back", self.rolled_back),
            ("differences", self.differences),
            ("logs lost", self.logs_lost),
            ("stuck", self.stuck),
            ("corrupt", self.corrupt),
            ("bytes fetched", self.bytes_fetched),
            ("bytes again", self.bytes_again),
            ("bytes lost", self.bytes_lost),
        ]
    }
}

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Look { connection: ConnectionId, end: End },
    Write,
    Mark,
    Read,
    ReadAgain { number: u64 },
    Deliver { member: MemberId, life: u64 },
    Apply { member: MemberId, life: u64 },
    SealStep { member: MemberId, life: u64 },
    Start { member: MemberId, life: u64 },
    Line { member: MemberId, join: u64 },
    Drive { member: MemberId, join: u64 },
    Attach { member: MemberId, join: u64 },
    Newer { member: MemberId, join: u64, cause: RebaseCause },
    BulkAgain { member: MemberId, join: u64, of: ChunkId },
    Audit { member: MemberId, join: u64 },
    Hook { member: MemberId, join: u64, lease: LeaseVersion },
    Named { member: MemberId, join: u64 },
    Connect { member: MemberId, source: MemberId, pull: u64 },
    Inspected { member: MemberId, pull: u64, leaf: ChunkId },
    Wake { member: MemberId, pull: u64 },
    Restart { member: MemberId },
    FreeDisk { member: MemberId },
    Quicken { member: MemberId },
    Fate,
    Heal,
}

impl Event {
    /// The member that does it, and may stand still; whether it is for one life or one join only.
    fn at(&self) -> Option<(MemberId, Option<Of>)> {
        Some(match *self {
            Self::Deliver { member, life }
            | Self::Apply { member, life }
            | Self::SealStep { member, life }
            | Self::Start { member, life } => (member, Some(Of::Life(life))),
            Self::Line { member, join }
            | Self::Drive { member, join }
            | Self::Attach { member, join }
            | Self::Newer { member, join, .. }
            | Self::BulkAgain { member, join, .. }
            | Self::Audit { member, join }
            | Self::Hook { member, join, .. }
            | Self::Named { member, join } => (member, Some(Of::Join(join))),
            Self::Connect { member, .. } | Self::Inspected { member, .. } | Self::Wake { member, .. } => (member, None),
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Life(u64),
    Join(u64),
}

impl LiveWorld {
    /// Sets the stage.
    pub fn new(scenario: LiveScenario, trace: Trace) -> Self {
        let mut random = Random::new(scenario.seed);
        let count = scenario.founders + scenario.joiners + scenario.section_joiners;
        let schema = schema();
        let salts = schema.ids().map(|_| Salt(random.bytes(16).try_into().expect("16 bytes"))).collect();
        let members = (0..count).map(|_| Member::new(random.number())).collect();
        let network = Network::new(count, scenario.latency, scenario.bytes_per_second);
        Self {
            faults: scenario.faults,
            ground: Ground::new(network, random, trace),
            joins_made: 0,
            reads_made: 0,
            members,
            order: Order::new(0..scenario.founders),
            model: Model::new(schema.sections().len()),
            schema,
            salts,
            seals: Seals::new(),
            unwanted: BTreeSet::new(),
            leases: BTreeMap::new(),
            lease_version: 1,
            reads: BTreeMap::new(),
            seen: [0; CLIENTS],
            figures: LiveFigures::default(),
            scenario,
        }
    }

    /// Runs until everything has converged, or a promise is broken.
    pub fn run(&mut self) -> Result<(), Failure> {
        let ran = self.set_up().and_then(|()| self.live()).and_then(|()| self.judge());
        ran.map_err(|violation| self.ground.failure(violation))
    }

    /// The hash over everything that happened.
    pub fn hash(&self) -> blake3::Hash {
        self.ground.log.hash()
    }

    /// What the run saw.
    pub fn figures(&self) -> LiveFigures {
        let sum = |of: fn(&Member) -> u64| self.members.iter().map(of).sum();
        LiveFigures {
            events: self.ground.log.events(),
            faults: self.ground.faults,
            bytes_fetched: sum(|at| at.fetched.bytes),
            bytes_again: sum(|at| at.fetched.bytes_again),
            bytes_lost: sum(|at| at.fetched.bytes_lost),
            ..self.figures
        }
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        for member in 0..self.members.len() {
            let at = &mut self.members[member];
            at.is_founder = member < self.scenario.founders;
            if member >= self.scenario.founders + self.scenario.joiners {
                at.sections = some_sections();
            }
            at.is_liar = member > 0 && self.ground.random.chance(500);
            at.open(&self.schema, &self.salts).map_err(Trouble::undisturbed)?;
            self.set_going(member);
        }
        let content = self.scenario.content;
        let mut entries = content.entries;
        while entries > 0 {
            let some = entries.min(FIRST_ENTRIES_AT_ONCE);
            let deed = first_deed(&content, some, &self.schema, &mut self.ground.random);
            self.order.write(deed, &self.schema);
            entries -= some;
        }
        let mark_after = self.ground.random.millis(100, 1000);
        self.ground.schedule(Duration::ZERO, Event::Write);
        self.ground.schedule(mark_after, Event::Mark);
        self.ground.schedule(Duration::ZERO, Event::Read);
        self.ground.schedule(Duration::ZERO, Event::Fate);
        self.ground.schedule(self.scenario.heal_after, Event::Heal);
        Ok(())
    }

    fn live(&mut self) -> Result<(), Violation> {
        while !self.has_converged() {
            let Some(event) = self.ground.next() else {
                return broken("nothing happens any more, and not everybody is a member".to_owned());
            };
            self.handle(event)?;
            self.check_members()?;
            if self.ground.is_too_long(self.scenario.heal_after + HEALING_MAX) {
                return broken(format!("no convergence: {}", self.summary()));
            }
        }
        Ok(())
    }

    /// Everybody holds everything, or all of its sections, is near the end of the order and votes, if it may.
    fn has_converged(&self) -> bool {
        self.ground.phase == Phase::Healing
            && (0..self.members.len()).all(|member| {
                let at = &self.members[member];
                let is_settled = match at.extent_at_best() {
                    Extent::Whole => at.is_whole() && self.order.votes(member),
                    Extent::Sections | Extent::Filling => at.has_its_sections() && self.has_caught_up(member),
                };
                at.is_up() && is_settled && at.diverged.is_none()
            })
            && self.members.iter().all(|at| at.position().index + LAG_MAX >= self.order.decided())
    }

    /// Everybody has everything that was decided: once more from the start, with cold disks.
    fn judge(&mut self) -> Result<(), Violation> {
        for member in 0..self.members.len() {
            self.catch_up(member).and_then(|()| self.check_all(member)).map_err(Trouble::undisturbed)?;
            let (schema, salts) = (self.schema.clone(), self.salts.clone());
            let at = &mut self.members[member];
            at.end();
            at.open(&schema, &salts).map_err(Trouble::undisturbed)?;
            self.catch_up(member).and_then(|()| self.check_all(member)).map_err(Trouble::undisturbed)?;
            self.members[member].disk.prove_all().map_err(|error| Trouble::from(error).undisturbed())?;
        }
        Ok(())
    }

    fn catch_up(&mut self, member: MemberId) -> Result<(), Trouble> {
        let order = &self.order;
        let at = &mut self.members[member];
        let last = at.run_after(at.position().index, |index| order.position(index))?;
        let decided = order.decided();
        check(last + LAG_MAX >= decided, || format!("the log of member {member} ends at {last} instead of {decided}"))?;
        while let Progress::Applied(_) = self.members[member].apply_next(last.min(decided))? {}
        let index = self.members[member].position().index;
        Ok(check(index == last.min(decided), || format!("member {member} stays at {index} instead of {last}"))?)
    }

    fn summary(&self) -> String {
        let member = |(number, at): (usize, &Member)| {
            let join = at.joining.as_ref().map(|joining| joining.summary());
            let base = at.base.as_ref().map(|base| (base.manifest.position.index, base.extent));
            let votes = self.order.votes(number);
            let last = at.log.as_ref().and_then(landfall_store::log::Log::last_index);
            format!(
                "\n[{number} up={} votes={votes} at={} log={last:?} base={base:?} join={join:?}]",
                at.is_up(),
                at.position()
            )
        };
        let members: String = self.members.iter().enumerate().map(member).collect();
        format!("decided {} of {}{members}", self.order.decided(), self.order.last())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        let Some((member, of)) = event.at() else { return self.handle_for_all(event) };
        let at = &self.members[member];
        let join = at.joining.as_ref().map(|joining| joining.number);
        let is_late = match of {
            Some(Of::Life(life)) => life != at.life,
            Some(Of::Join(number)) => join != Some(number),
            None => false,
        };
        if is_late || !at.is_up() {
            return Ok(());
        }
        if at.paused_until > self.ground.now {
            self.ground.schedule_at(at.paused_until, event);
            return Ok(());
        }
        let handled = match event {
            Event::Deliver { .. } => self.deliver(member),
            Event::Apply { .. } => self.apply(member),
            Event::SealStep { .. } => self.seal_step(member),
            Event::Start { life, .. } => self.start(member, life),
            Event::Line { .. } => self.line(member),
            Event::Drive { .. } => self.drive(member),
            Event::Attach { .. } => self.attach(member),
            Event::Newer { cause, .. } => self.newer(member, cause),
            Event::BulkAgain { of, .. } => self.bulk_again(member, of),
            Event::Audit { .. } => self.audit_time(member),
            Event::Hook { lease, .. } => self.hook(member, lease),
            Event::Named { .. } => self.named(member),
            Event::Connect { source, pull, .. } => self.connect(member, source, pull),
            Event::Inspected { pull, leaf, .. } => self.inspected(member, pull, leaf),
            Event::Wake { pull, .. } => self.wake(member, pull),
            _ => Ok(()),
        };
        self.settle(member, handled)
    }

    fn handle_for_all(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Look { connection, end } => return self.look(connection, end),
            Event::Write => self.write(),
            Event::Mark => self.write_mark(),
            Event::Read => {
                let read = self.read_somewhere();
                return self.settle_read(read);
            }
            Event::ReadAgain { number } => {
                let read = self.try_read(number);
                return self.settle_read(read);
            }
            Event::Restart { member } => {
                let started = self.restart(member);
                return self.settle(member, started);
            }
            Event::FreeDisk { member } => self.members[member].disk.vfs().limit_bytes(None),
            Event::Quicken { member } => self.ground.network.quicken(member),
            Event::Fate => return self.roll_dice(),
            Event::Heal => self.heal(),
            _ => {}
        }
        Ok(())
    }

    /// What became of something that a member did.
    pub(super) fn settle(&mut self, member: MemberId, done: Result<(), Trouble>) -> Result<(), Violation> {
        done.or_else(|trouble| self.trouble(member, trouble))
    }

    /// A read whose disk fails is dropped; its member notices when it next does something itself.
    fn settle_read(&mut self, read: Result<(), Trouble>) -> Result<(), Violation> {
        match read {
            Err(Trouble::Violation(violation)) => Err(violation),
            Ok(()) | Err(Trouble::Disk(_) | Trouble::Peer(_)) => Ok(()),
        }
    }
}

/// Virtual time in which everybody must vote once nothing goes wrong any more.
const HEALING_MAX: Duration = Duration::from_secs(300);
/// Entries of one of the first records.
const FIRST_ENTRIES_AT_ONCE: u64 = 100;
/// Records that a member may lack when everybody is done.
const LAG_MAX: u64 = 200;

//! Owns a whole run: the members, the network, the time, and the order in which things happen.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_core::{ChunkId, Time};

use crate::checks::Violation;
use crate::content::{Model, Published};
use crate::log::{EventLog, Trace};
use crate::member::Member;
use crate::network::{ConnectionId, End, MemberId, Network};
use crate::pull::Trouble;
use crate::random::Random;
use crate::scenario::{Faults, Scenario};

/// One run of one scenario.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) faults: Faults,
    pub(crate) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    events_made: u64,
    pub(crate) pulls_made: u64,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) members: Vec<Member>,
    pub(crate) model: Model,
    pub(crate) published: Vec<Published>,
    /// Made, and not yet durable at the publisher.
    pub(crate) unpublished: Option<Published>,
    pub(crate) rounds_left: usize,
    pub(crate) phase: Phase,
    pub(crate) log: EventLog,
    pub(crate) figures: Figures,
}

/// What a run saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Events that were handled.
    pub events: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Restarts after a crash.
    pub crashes: u64,
    /// Snapshots that a joiner has whole.
    pub completed: u64,
    /// Transfers that gave up and began anew.
    pub stuck: u64,
    /// Peers that a transfer dropped.
    pub dropped: u64,
    /// Lies that were recognised.
    pub corrupt: u64,
}

impl Figures {
    /// Each with its name.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("events", self.events),
            ("faults", self.faults),
            ("crashes", self.crashes),
            ("completed", self.completed),
            ("stuck", self.stuck),
            ("dropped", self.dropped),
            ("corrupt", self.corrupt),
        ]
    }
}

/// Whether things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// They do.
    Faults,
    /// They do no longer: everything must converge.
    Healing,
}

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A frame may have arrived.
    Look { connection: ConnectionId, end: End },
    /// A member tells its transfer the time.
    Wake { member: MemberId },
    /// A member begins to pull, if it should.
    Start { member: MemberId, life: u64 },
    /// A joiner tries to reach a source.
    Connect { member: MemberId, source: MemberId, pull: u64 },
    /// A leaf was looked at.
    Inspected { member: MemberId, pull: u64, leaf: ChunkId },
    /// A member runs again.
    Restart { member: MemberId },
    /// A member hears of a snapshot.
    Hear { member: MemberId, version: usize },
    /// The publisher publishes.
    Publish,
    /// A look at the dice of fate.
    Fate,
    /// A disk has room again.
    FreeDisk { member: MemberId },
    /// A member sends as fast as it should.
    Quicken { member: MemberId },
    /// Nothing goes wrong from now on.
    Heal,
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// What was broken.
    pub violation: Violation,
    /// When.
    pub at: Time,
    /// The last events.
    pub tail: String,
}

impl World {
    /// Sets the stage.
    pub fn new(scenario: Scenario, trace: Trace) -> Self {
        let mut random = Random::new(scenario.seed);
        let members: Vec<Member> = (0..scenario.members).map(|_| Member::new(random.number())).collect();
        Self {
            faults: scenario.faults,
            now: Time::ZERO,
            queue: BTreeMap::new(),
            events_made: 0,
            pulls_made: 0,
            network: Network::new(scenario.members, scenario.latency, scenario.bytes_per_second),
            model: Model::new(scenario.content, random.fork()),
            random,
            members,
            published: Vec::new(),
            unpublished: None,
            rounds_left: scenario.rounds,
            phase: Phase::Faults,
            log: EventLog::new(trace),
            figures: Figures::default(),
            scenario,
        }
    }

    /// Runs until everything has converged, or a promise is broken.
    pub fn run(&mut self) -> Result<(), Failure> {
        let ran = self.set_up().and_then(|()| self.live()).and_then(|()| self.judge());
        ran.map_err(|violation| Failure { violation, at: self.now, tail: self.log.tail() })
    }

    /// The hash over everything that happened.
    pub fn hash(&self) -> blake3::Hash {
        self.log.hash()
    }

    /// What the run saw.
    pub fn figures(&self) -> Figures {
        Figures { events: self.log.events(), ..self.figures }
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        for member in &mut self.members {
            member.disk.open().map_err(|error| Violation(format!("an empty disk: {error}")))?;
        }
        let first = self.model.publish();
        for number in 0..self.scenario.seeded {
            let member = &mut self.members[number];
            // Liars and those that hold a part are never the publisher.
            member.is_liar = number > 0 && self.random.chance(500);
            if number > 0 && self.random.chance(300) {
                let random = &mut self.random;
                member.take_part(&first, |_| random.chance(600)).map_err(undisturbed)?;
            } else {
                member.take_whole(&first).map_err(undisturbed)?;
                member.held = Some(0);
            }
        }
        self.published.push(first);
        for member in 0..self.members.len() {
            self.members[member].heard = Some(0);
            let after = self.random_span(0, 500);
            self.schedule(after, Event::Start { member, life: 0 });
        }
        self.schedule(Duration::ZERO, Event::Fate);
        self.schedule(self.scenario.heal_after, Event::Heal);
        for _ in 0..self.scenario.rounds {
            let after = self.random_span(500, self.scenario.heal_after.as_millis() as u64);
            self.schedule(after, Event::Publish);
        }
        Ok(())
    }

    /// A span drawn from the seed.
    pub(crate) fn random_span(&mut self, first_ms: u64, last_ms: u64) -> Duration {
        self.random.millis(first_ms, last_ms)
    }

    fn live(&mut self) -> Result<(), Violation> {
        while !self.has_converged() {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return Err(Violation("nothing happens any more, and not everybody has everything".to_owned()));
            };
            self.now = at;
            self.handle(event)?;
            if self.now.since(Time::ZERO) > self.scenario.heal_after + HEALING_MAX || self.log.events() > EVENTS_MAX {
                return Err(Violation(format!("no convergence: {}", self.summary())));
            }
        }
        Ok(())
    }

    fn has_converged(&self) -> bool {
        let newest = self.published.len().checked_sub(1);
        self.phase == Phase::Healing
            && self.rounds_left == 0
            && self.unpublished.is_none()
            && self.members.iter().all(|member| member.is_up() && member.held == newest && member.pull.is_none())
    }

    /// Everybody has everything: once more from the start, with cold disks.
    fn judge(&mut self) -> Result<(), Violation> {
        for member in 0..self.members.len() {
            self.members[member].disk.close();
            self.members[member].disk.open().map_err(|error| Violation(format!("member {member}: {error}")))?;
            let newest = self.published.last().expect("there is a first");
            match self.members[member].prove(newest) {
                Ok(true) => {}
                Ok(false) => return Err(Violation(format!("member {member} has lost something that it holds"))),
                Err(trouble) => return Err(undisturbed(trouble)),
            }
            self.members[member].disk.prove_all().map_err(|error| undisturbed(error.into()))?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let member = |(number, member): (usize, &Member)| {
            let pull = member.pull.as_ref().map(|pull| format!("v{} {}", pull.version, pull.progress()));
            format!("[{number} up={} held={:?} pull={pull:?}]", member.is_up(), member.held)
        };
        self.members.iter().enumerate().map(member).collect()
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(crate) fn schedule_at(&mut self, at: Time, event: Event) {
        self.events_made += 1;
        self.queue.insert((at.max(self.now), self.events_made), event);
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Look { connection, end } => self.look(connection, end),
            Event::Wake { member } => self.wake(member),
            Event::Start { member, life } => self.start(member, life),
            Event::Connect { member, source, pull } => self.connect(member, source, pull),
            Event::Inspected { member, pull, leaf } => self.inspected(member, pull, leaf),
            Event::Restart { member } => self.restart(member),
            Event::Hear { member, version } => self.hear(member, version),
            Event::Publish => self.publish(),
            Event::Fate => self.roll_dice(),
            Event::FreeDisk { member } => {
                self.members[member].disk.vfs().limit_bytes(None);
                Ok(())
            }
            Event::Quicken { member } => {
                self.network.set_rate(member, self.scenario.bytes_per_second);
                Ok(())
            }
            Event::Heal => self.heal(),
        }
    }
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Trouble where no fault was made.
fn undisturbed(trouble: Trouble) -> Violation {
    match trouble {
        Trouble::Violation(violation) => violation,
        Trouble::Disk(error) => Violation(format!("a sound disk failed: {error}")),
        Trouble::Peer(why) => Violation(why.to_owned()),
    }
}

/// Virtual time in which everything must converge once nothing goes wrong any more.
const HEALING_MAX: Duration = Duration::from_secs(600);
/// More events than any run needs.
const EVENTS_MAX: u64 = 400_000;

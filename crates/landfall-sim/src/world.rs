//! Owns a whole run: the members, the network, the time, and the order in which things happen.

use std::time::Duration;

use landfall_core::ChunkId;

use crate::checks::Violation;
use crate::content::{Model, Published};
use crate::ground::{Failure, Ground, Phase};
use crate::log::Trace;
use crate::member::Member;
use crate::network::{ConnectionId, End, MemberId, Network};
use crate::random::Random;
use crate::scenario::{Faults, Scenario};
use crate::trouble::Trouble;

/// One run of one scenario.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) faults: Faults,
    pub(crate) ground: Ground<Event>,
    pub(crate) pulls_made: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) model: Model,
    pub(crate) published: Vec<Published>,
    /// Made, and not yet durable at the publisher.
    pub(crate) unpublished: Option<Published>,
    pub(crate) rounds_left: usize,
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

impl World {
    /// Sets the stage.
    pub fn new(scenario: Scenario, trace: Trace) -> Self {
        let mut random = Random::new(scenario.seed);
        let members: Vec<Member> = (0..scenario.members).map(|_| Member::new(random.number())).collect();
        let model = Model::new(scenario.content, random.fork());
        let network = Network::new(scenario.members, scenario.latency, scenario.bytes_per_second);
        Self {
            faults: scenario.faults,
            ground: Ground::new(network, random, trace),
            pulls_made: 0,
            model,
            members,
            published: Vec::new(),
            unpublished: None,
            rounds_left: scenario.rounds,
            figures: Figures::default(),
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
    pub fn figures(&self) -> Figures {
        Figures { events: self.ground.log.events(), faults: self.ground.faults, ..self.figures }
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        for member in &mut self.members {
            member.disk.open().map_err(|error| Violation(format!("an empty disk: {error}")))?;
        }
        let first = self.model.publish();
        for number in 0..self.scenario.seeded {
            let member = &mut self.members[number];
            // Liars and those that hold a part are never the publisher.
            member.is_liar = number > 0 && self.ground.random.chance(500);
            if number > 0 && self.ground.random.chance(300) {
                let random = &mut self.ground.random;
                member.take_part(&first, |_| random.chance(600)).map_err(Trouble::undisturbed)?;
            } else {
                member.take_whole(&first).map_err(Trouble::undisturbed)?;
                member.held = Some(0);
            }
        }
        self.published.push(first);
        for member in 0..self.members.len() {
            self.members[member].heard = Some(0);
            let after = self.ground.random.millis(0, 500);
            self.ground.schedule(after, Event::Start { member, life: 0 });
        }
        self.ground.schedule(Duration::ZERO, Event::Fate);
        self.ground.schedule(self.scenario.heal_after, Event::Heal);
        for _ in 0..self.scenario.rounds {
            let after = self.ground.random.millis(500, self.scenario.heal_after.as_millis() as u64);
            self.ground.schedule(after, Event::Publish);
        }
        Ok(())
    }

    fn live(&mut self) -> Result<(), Violation> {
        while !self.has_converged() {
            let Some(event) = self.ground.next() else {
                return Err(Violation("nothing happens any more, and not everybody has everything".to_owned()));
            };
            self.handle(event)?;
            if self.ground.is_too_long(self.scenario.heal_after + HEALING_MAX) {
                return Err(Violation(format!("no convergence: {}", self.summary())));
            }
        }
        Ok(())
    }

    fn has_converged(&self) -> bool {
        let newest = self.published.len().checked_sub(1);
        self.ground.phase == Phase::Healing
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
                Err(trouble) => return Err(trouble.undisturbed()),
            }
            self.members[member].disk.prove_all().map_err(|error| Trouble::from(error).undisturbed())?;
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
                self.ground.network.quicken(member);
                Ok(())
            }
            Event::Heal => self.heal(),
        }
    }
}

/// Virtual time in which everything must converge once nothing goes wrong any more.
const HEALING_MAX: Duration = Duration::from_secs(600);

//! Owns a whole run: the members, the network, the time, and the order in which things happen.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::transfer::{DropReason, Outcome, RequestId};
use landfall_core::wire::{Ask, Message};
use landfall_core::{ChunkId, Time};

use crate::checks::Violation;
use crate::content::{Model, Published, STATE};
use crate::log::{EventLog, Trace};
use crate::member::Member;
use crate::network::{ConnectionId, Delivery, End, MemberId, Network};
use crate::pull::{Effect, Goal, Pull, Trouble};
use crate::random::Random;
use crate::scenario::{Faults, Scenario};
use crate::source::{answer_ask, hello};

/// One run of one scenario.
pub struct World {
    scenario: Scenario,
    pub(crate) faults: Faults,
    pub(crate) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    events_made: u64,
    pulls_made: u64,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) members: Vec<Member>,
    model: Model,
    published: Vec<Published>,
    /// Made, and not yet durable at the publisher.
    unpublished: Option<Published>,
    rounds_left: usize,
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

    fn random_span(&mut self, first_ms: u64, last_ms: u64) -> Duration {
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

    // The network.

    fn look(&mut self, connection: ConnectionId, end: End) -> Result<(), Violation> {
        let Some(at) = self.network.get(connection) else { return Ok(()) };
        let (joiner, source, lane) = (at.joiner, at.source, at.lane);
        match self.network.receive(connection, end, self.now) {
            Delivery::Nothing => return Ok(()),
            Delivery::NotBefore(at) => {
                self.schedule_at(at, Event::Look { connection, end });
                return Ok(());
            }
            Delivery::Frame(frame) if end == End::Source => self.source_hears(source, connection, &frame)?,
            Delivery::Frame(frame) => {
                self.joiner_hears(joiner, source, lane, &frame)?;
                self.serve(source, connection)?;
            }
        }
        if let Some(at) = self.network.look_next(connection, end, self.now) {
            self.schedule_at(at, Event::Look { connection, end });
        }
        Ok(())
    }

    fn send(&mut self, connection: ConnectionId, end: End, frame: Vec<u8>) {
        if let Some(at) = self.network.send(connection, end, frame, self.now) {
            self.schedule_at(at, Event::Look { connection, end });
        }
    }

    /// Breaks every connection between a joiner and a source, and lets the joiner try again later.
    pub(crate) fn part(&mut self, joiner: MemberId, source: MemberId, again_after: Duration) {
        let clock = self.members[joiner].clock(self.now);
        let Some(pull) = &mut self.members[joiner].pull else { return };
        let number = pull.number;
        for connection in pull.lose(source, clock) {
            self.network.close(connection);
            self.members[source].serving.forget(connection);
        }
        self.schedule(again_after, Event::Connect { member: joiner, source, pull: number });
    }

    fn source_hears(&mut self, source: MemberId, connection: ConnectionId, frame: &[u8]) -> Result<(), Violation> {
        let message = Message::decode(frame).map_err(|error| Violation(format!("a joiner sent nonsense: {error}")))?;
        let member = &mut self.members[source];
        let answer = match message {
            Message::Hello(_) => Ok(Some(hello())),
            Message::Ask(ask) => answer_ask(&ask, &member.disk).map(Some),
            Message::Fetch(fetch) => Ok(member.serving.take_fetch(connection, fetch).err().map(Message::Refusal)),
            Message::Cancel { request } => {
                member.serving.take_cancel(connection, request);
                Ok(None)
            }
            other => return Err(Violation(format!("a joiner said {other:?}"))),
        };
        match answer {
            Ok(answer) => {
                if let Some(answer) = answer {
                    self.send(connection, End::Joiner, answer.encode());
                }
                self.serve(source, connection)
            }
            Err(error) => self.trouble(source, error.into()),
        }
    }

    /// Sends what is owed, as long as the connection takes it.
    fn serve(&mut self, source: MemberId, connection: ConnectionId) -> Result<(), Violation> {
        while self.network.get(connection).is_some() && self.network.bytes_to(connection, End::Joiner) < SEND_BYTES_MAX
        {
            let lies =
                self.phase == Phase::Faults && self.members[source].is_liar && self.random.chance(self.faults.lie);
            let member = &mut self.members[source];
            let lies = lies.then_some(&mut self.random);
            match member.serving.next_frame(connection, &member.disk, lies) {
                Ok(Some(frame)) => self.send(connection, End::Joiner, frame),
                Ok(None) => break,
                Err(error) => return self.trouble(source, error.into()),
            }
        }
        Ok(())
    }

    fn joiner_hears(&mut self, joiner: MemberId, source: MemberId, lane: u32, frame: &[u8]) -> Result<(), Violation> {
        let clock = self.members[joiner].clock(self.now);
        let member = &mut self.members[joiner];
        let Some(pull) = &mut member.pull else { return Ok(()) };
        let told = match Message::decode(frame) {
            Ok(Message::Hello(_)) => Ok("hello"),
            Ok(Message::Offer(offer)) => {
                pull.take_offer(source, &offer.manifest, self.scenario.lanes, &member.disk, clock).map(|()| "offer")
            }
            Ok(Message::Refusal(_)) => Err(Trouble::Peer("a refusal")),
            Ok(Message::Item(item)) => pull.take_item(&item, &member.disk, clock),
            Ok(Message::Done { request }) => {
                pull.take_done(RequestId(request), clock);
                Ok("done")
            }
            Ok(_) => Err(Trouble::Peer("a message that no source sends")),
            Err(_) => Err(Trouble::Peer("no message")),
        };
        match told {
            Ok(told) => {
                self.figures.corrupt += u64::from(told == "corrupt");
                self.log.note(self.now, format_args!("{joiner} <- {source}.{lane} {told} {} B", frame.len()));
                self.pump(joiner)
            }
            Err(Trouble::Peer(why)) => {
                self.log.note(self.now, format_args!("{joiner} breaks with {source}: {why}"));
                let again_after = self.random_span(300, 2000);
                self.part(joiner, source, again_after);
                self.pump(joiner)
            }
            Err(trouble) => self.trouble(joiner, trouble),
        }
    }

    fn connect(&mut self, member: MemberId, source: MemberId, number: u64) -> Result<(), Violation> {
        let held = self.members[member].held.map(|held| self.published[held].id);
        let Some(pull) = self.members[member].pull.as_ref().filter(|pull| pull.number == number) else { return Ok(()) };
        let snapshot = pull.snapshot;
        if pull.is_connected(source) {
            return Ok(());
        }
        if !self.members[source].is_up() || self.network.parted_until(member, source, self.now).is_some() {
            let again_after = self.random_span(200, 1000);
            self.schedule(again_after, Event::Connect { member, source, pull: number });
            return Ok(());
        }
        self.log.note(self.now, format_args!("{member} connects to {source}"));
        let bytes = |id: ChunkId| Bytes::copy_from_slice(id.as_bytes());
        let ask = Ask {
            state: STATE.to_owned(),
            sections: Vec::new(),
            snapshots_held: held.map(bytes).into_iter().collect(),
            snapshot_wanted: Some(bytes(snapshot)),
        };
        for lane in 0..self.scenario.lanes {
            let connection = self.network.connect(member, source, lane);
            let pull = self.members[member].pull.as_mut().expect("just seen");
            pull.connected(source, lane, connection);
            self.send(connection, End::Source, hello().encode());
            self.send(connection, End::Source, Message::Ask(ask.clone()).encode());
        }
        Ok(())
    }

    // Pulling.

    fn start(&mut self, member: MemberId, life: u64) -> Result<(), Violation> {
        let at = &self.members[member];
        let wanted = at.heard.filter(|&heard| at.held.is_none_or(|held| held < heard));
        let (Some(version), true, true, None) = (wanted, at.is_up(), at.life == life, &at.pull) else { return Ok(()) };
        self.pulls_made += 1;
        let published = &self.published[version];
        let goal = Goal {
            version,
            snapshot: published.id,
            base: at.held.map(|held| self.published[held].manifest.clone()),
            repeated: published.repeated.clone(),
            storing: self.scenario.storing,
        };
        self.log.note(self.now, format_args!("{member} begins pull {} of v{version}", self.pulls_made));
        match Pull::begin(self.pulls_made, goal, &at.disk, at.clock(self.now)) {
            Ok(pull) => self.members[member].pull = pull,
            Err(trouble) => return self.trouble(member, trouble),
        }
        for source in (0..self.members.len()).filter(|&source| source != member) {
            let after = self.random_span(1, 300);
            self.schedule(after, Event::Connect { member, source, pull: self.pulls_made });
        }
        self.pump(member)
    }

    fn wake(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        if at.wakes_at.is_none_or(|wakes_at| wakes_at > self.now) {
            return Ok(());
        }
        at.wakes_at = None;
        let clock = at.clock(self.now);
        if let Some(pull) = &mut at.pull {
            pull.wake(clock);
        }
        self.pump(member)
    }

    fn inspected(&mut self, member: MemberId, number: u64, leaf: ChunkId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        let Some(pull) = at.pull.as_mut().filter(|pull| pull.number == number) else { return Ok(()) };
        self.log.note(self.now, format_args!("{member} inspected {}", leaf.short()));
        match pull.inspect(leaf, &at.disk) {
            Ok(()) => self.pump(member),
            Err(trouble) => self.trouble(member, trouble),
        }
    }

    /// Lets a member do what its transfer commands.
    pub(crate) fn pump(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        let clock = at.clock(self.now);
        let Some(pull) = &mut at.pull else { return Ok(()) };
        let pumped = match pull.pump(&at.disk, clock) {
            // Chunks are made durable now and then, as packs fill.
            Ok(outcome) if pull.puts_unsynced >= PUTS_UNSYNCED_MAX => {
                pull.puts_unsynced = 0;
                let synced = at.disk.store().map_or(Ok(()), |store| store.sync());
                synced.map(|()| outcome).map_err(Trouble::Disk)
            }
            pumped => pumped,
        };
        let number = pull.number;
        for effect in std::mem::take(&mut pull.outbox) {
            self.carry_out(member, number, effect);
        }
        match pumped {
            Ok(Outcome::Running) => self.set_alarm(member),
            Ok(Outcome::Complete) => self.complete(member)?,
            Ok(Outcome::Stuck(stuck)) => {
                self.figures.stuck += 1;
                self.log.note(self.now, format_args!("{member} is stuck: {stuck}"));
                let again_after = self.random_span(200, 3000);
                self.give_up(member, again_after);
                if matches!(stuck, landfall_core::transfer::Stuck::BrokenTree(_)) {
                    return Err(Violation(stuck.to_string()));
                }
            }
            Err(trouble) => self.trouble(member, trouble)?,
        }
        Ok(())
    }

    fn carry_out(&mut self, member: MemberId, pull: u64, effect: Effect) {
        match effect {
            Effect::Send(connection, frame) => {
                self.log.note(self.now, format_args!("{member} says {:02x?} on {}", frame.first(), connection.0));
                self.send(connection, End::Source, frame);
            }
            Effect::Drop(source, reason) => {
                self.figures.dropped += 1;
                self.log.note(self.now, format_args!("{member} drops {source}: {reason}"));
                let again_after = match reason {
                    DropReason::Stalled => self.random_span(1000, 3000),
                    DropReason::Corrupt => self.random_span(5000, 10_000),
                };
                self.part(member, source, again_after);
            }
            Effect::Inspect(leaf) => {
                let after = self.random_span(0, 20);
                self.schedule(after, Event::Inspected { member, pull, leaf });
            }
        }
    }

    fn set_alarm(&mut self, member: MemberId) {
        let at = &mut self.members[member];
        let clock = at.clock(self.now);
        let Some(wakes_at) = at.pull.as_ref().and_then(|pull| pull.wakes_at(clock)) else { return };
        let wakes_at = self.now + wakes_at.since(clock);
        if at.wakes_at.is_none_or(|earlier| earlier > wakes_at || earlier <= self.now) {
            at.wakes_at = Some(wakes_at);
            self.schedule_at(wakes_at, Event::Wake { member });
        }
    }

    fn complete(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &self.members[member];
        let Some(pull) = &at.pull else { return Ok(()) };
        let version = pull.version;
        let published = &self.published[version];
        let proven = at.disk.store().map_or(Ok(()), |store| store.sync()).map_err(Trouble::Disk);
        match proven.and_then(|()| at.prove(published)) {
            Ok(true) => {}
            Ok(false) if at.disk.may_be_damaged => {
                // What the base lacks is not looked for in a delta: it must look at everything again.
                self.log.note(self.now, format_args!("{member} has v{version} with holes"));
                self.members[member].held = None;
                self.give_up(member, Duration::from_millis(100));
                return Ok(());
            }
            Ok(false) => return Err(Violation(format!("member {member} is complete and lacks something"))),
            Err(trouble) => return self.trouble(member, trouble),
        }
        if let Err(trouble) = at.hold(published.id) {
            return self.trouble(member, trouble);
        }
        self.figures.completed += 1;
        self.log.note(self.now, format_args!("{member} has v{version}"));
        self.members[member].held = Some(version);
        self.give_up(member, Duration::ZERO);
        Ok(())
    }

    /// Ends a pull. What came is kept; the next one goes on from there.
    pub(crate) fn give_up(&mut self, member: MemberId, again_after: Duration) {
        for source in 0..self.members.len() {
            self.part(member, source, Duration::ZERO);
        }
        self.members[member].pull = None;
        let life = self.members[member].life;
        self.schedule(again_after, Event::Start { member, life });
    }

    /// A member's disk failed it, or a promise is broken.
    fn trouble(&mut self, member: MemberId, trouble: Trouble) -> Result<(), Violation> {
        match trouble {
            Trouble::Violation(violation) => Err(violation),
            Trouble::Peer(why) => Err(Violation(format!("member {member}: {why} from its own disk"))),
            Trouble::Disk(error) => {
                self.log.note(self.now, format_args!("{member} has trouble with its disk: {}", chain(&error)));
                self.crash(member);
                Ok(())
            }
        }
    }

    // Life and death.

    /// A member goes down. Its power is cut only if it is cut already, or the caller cut it.
    pub(crate) fn crash(&mut self, member: MemberId) {
        self.figures.crashes += 1;
        let at = &mut self.members[member];
        at.pull = None;
        at.life += 1;
        if at.disk.vfs().is_off() {
            at.disk.crash();
        } else {
            at.disk.vfs().clear_fault();
            at.disk.close();
        }
        at.serving = crate::source::Serving::new();
        for connection in self.network.of(member) {
            let Some(broken) = self.network.close(connection) else { continue };
            if broken.joiner != member {
                let again_after = self.random_span(200, 1000);
                self.part(broken.joiner, member, again_after);
            }
        }
        let after = self.random_span(100, 2000);
        self.schedule(after, Event::Restart { member });
    }

    fn restart(&mut self, member: MemberId) -> Result<(), Violation> {
        if self.members[member].is_up() {
            return Ok(());
        }
        if let Err(error) = self.members[member].disk.open() {
            self.log.note(self.now, format_args!("{member} cannot start: {}", chain(&error)));
            if self.phase == Phase::Healing && !self.members[member].disk.vfs().is_off() {
                return Err(Violation(format!("member {member} cannot start on a sound disk: {}", chain(&error))));
            }
            self.crash(member);
            return Ok(());
        }
        self.log.note(self.now, format_args!("{member} runs again"));
        match self.check_promises(member) {
            Ok(()) => {}
            Err(trouble) => return self.trouble(member, trouble),
        }
        let life = self.members[member].life;
        self.schedule(Duration::ZERO, Event::Start { member, life });
        Ok(())
    }

    /// After a restart everything that was promised to be kept is there.
    fn check_promises(&mut self, member: MemberId) -> Result<(), Trouble> {
        let record = self.members[member].held_record()?;
        let at = &mut self.members[member];
        let on_disk = match record {
            // The power went before anybody heard of the new snapshot.
            Some(id) if self.unpublished.as_ref().is_some_and(|published| published.id == id) => at.held,
            Some(id) => self.published.iter().position(|published| published.id == id),
            None => None,
        };
        if on_disk < at.held {
            return Err(Violation(format!("member {member} forgot that it holds v{:?}", at.held)).into());
        }
        // The power may have gone after the record was written and before anybody heard of it.
        at.held = on_disk;
        let Some(held) = on_disk else { return Ok(()) };
        if !at.prove(&self.published[held])? {
            if !at.disk.may_be_damaged {
                return Err(Violation(format!("member {member} lost a part of v{held}, which it holds")).into());
            }
            // It must fetch it again; what it can still build on is known to be here.
            at.held = None;
        }
        at.disk.prove_all()?;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Violation> {
        if self.unpublished.is_none() {
            self.model.edit();
            self.unpublished = Some(self.model.publish());
        }
        self.finish_publishing()
    }

    fn finish_publishing(&mut self) -> Result<(), Violation> {
        let Some(published) = self.unpublished.take() else { return Ok(()) };
        let taken = if self.members[0].is_up() { self.members[0].take_whole(&published).map(Some) } else { Ok(None) };
        match taken {
            Ok(Some(())) => {}
            Ok(None) => {
                self.unpublished = Some(published);
                self.schedule(Duration::from_millis(100), Event::Publish);
                return Ok(());
            }
            Err(trouble) => {
                self.unpublished = Some(published);
                self.schedule(Duration::from_millis(100), Event::Publish);
                return self.trouble(0, trouble);
            }
        }
        let version = self.published.len();
        self.log.note(self.now, format_args!("v{version} is published as {}", published.id.short()));
        self.published.push(published);
        self.rounds_left -= 1;
        self.members[0].held = Some(version);
        self.members[0].heard = Some(version);
        for member in 1..self.members.len() {
            let after = self.random_span(10, 2000);
            self.schedule(after, Event::Hear { member, version });
        }
        Ok(())
    }

    fn hear(&mut self, member: MemberId, version: usize) -> Result<(), Violation> {
        let at = &mut self.members[member];
        at.heard = at.heard.max(Some(version));
        let switches = at.pull.as_ref().is_some_and(|pull| pull.version < version) && self.random.chance(300);
        if switches {
            // It moves on to the newer snapshot and keeps every chunk.
            self.give_up(member, Duration::ZERO);
        } else {
            let life = self.members[member].life;
            self.schedule(Duration::ZERO, Event::Start { member, life });
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.log.note(self.now, format_args!("healing begins"));
        self.phase = Phase::Healing;
        self.faults = Faults::default();
        self.network.end_partitions();
        self.notice_power_cuts();
        for member in 0..self.members.len() {
            self.network.set_rate(member, self.scenario.bytes_per_second);
            let at = &mut self.members[member];
            at.disk.heal();
            // What a read once brought damaged may be sound on the disk: only a restart looks again.
            if at.is_up() && at.disk.may_be_damaged {
                self.crash(member);
            }
        }
        Ok(())
    }
}

/// An error with everything that led to it.
fn chain(error: &dyn std::error::Error) -> String {
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
/// What waits on a connection before a source stops to send.
const SEND_BYTES_MAX: usize = 128 * 1024;
/// Chunks that a crash may cost.
const PUTS_UNSYNCED_MAX: u64 = 64;

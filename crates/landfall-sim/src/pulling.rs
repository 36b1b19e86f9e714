//! Owns the pulls of a run: when a member begins one, carries out what it commands, proves what came, and gives up.

use std::time::Duration;

use landfall_core::ChunkId;
use landfall_core::keyed::Sections;
use landfall_core::transfer::{DropReason, Outcome, Stuck};

use crate::checks::Violation;
use crate::network::{End, MemberId};
use crate::pull::{Effect, Goal, Pull, Repeated};
use crate::trouble::Trouble;
use crate::world::{Event, World};

impl World {
    pub(crate) fn start(&mut self, member: MemberId, life: u64) -> Result<(), Violation> {
        let at = &self.members[member];
        let wanted = at.heard.filter(|&heard| at.held.is_none_or(|held| held < heard));
        let (Some(version), true, true, None) = (wanted, at.is_up(), at.life == life, &at.pull) else { return Ok(()) };
        self.pulls_made += 1;
        let published = &self.published[version];
        let goal = Goal {
            version,
            snapshot: published.id,
            base: at.held.map(|held| self.published[held].manifest.clone()),
            sections: Sections::All,
            repeated: Repeated::These(published.repeated.clone()),
            storing: self.scenario.storing,
        };
        self.ground.log.note(self.ground.now, format_args!("{member} begins pull {} of v{version}", self.pulls_made));
        match Pull::begin(self.pulls_made, goal, &at.disk, at.clock(self.ground.now)) {
            Ok(pull) => self.members[member].pull = pull,
            Err(trouble) => return self.trouble(member, trouble),
        }
        for source in (0..self.members.len()).filter(|&source| source != member) {
            let after = self.ground.random.millis(1, 300);
            self.ground.schedule(after, Event::Connect { member, source, pull: self.pulls_made });
        }
        self.pump(member)
    }

    pub(crate) fn wake(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        if at.wakes_at.is_none_or(|wakes_at| wakes_at > self.ground.now) {
            return Ok(());
        }
        at.wakes_at = None;
        let clock = at.clock(self.ground.now);
        if let Some(pull) = &mut at.pull {
            pull.wake(clock);
        }
        self.pump(member)
    }

    pub(crate) fn inspected(&mut self, member: MemberId, number: u64, leaf: ChunkId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        let Some(pull) = at.pull.as_mut().filter(|pull| pull.number == number) else { return Ok(()) };
        self.ground.log.note(self.ground.now, format_args!("{member} inspected {}", leaf.short()));
        match pull.inspect(leaf, &at.disk) {
            Ok(()) => self.pump(member),
            Err(trouble) => self.trouble(member, trouble),
        }
    }

    /// Lets a member do what its transfer commands.
    pub(crate) fn pump(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let Some(pull) = &mut at.pull else { return Ok(()) };
        let pumped = match pull.pump(&at.disk, clock) {
            // Chunks are made durable now and then, as packs fill.
            Ok(outcome) if pull.puts_unsynced >= PUTS_UNSYNCED_MAX => {
                pull.puts_unsynced = 0;
                let synced = at.disk.store().map_or(Ok(()), |store| store.sync());
                synced.map(|()| outcome).map_err(Trouble::from)
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
                self.ground.log.note(self.ground.now, format_args!("{member} is stuck: {stuck}"));
                let again_after = self.ground.random.millis(200, 3000);
                self.give_up(member, again_after);
                if matches!(stuck, Stuck::BrokenTree(_)) {
                    return Err(Violation(stuck.to_string()));
                }
            }
            Err(trouble) => self.trouble(member, trouble)?,
        }
        Ok(())
    }

    pub(crate) fn carry_out(&mut self, member: MemberId, pull: u64, effect: Effect) {
        match effect {
            Effect::Send(connection, frame) => {
                self.ground
                    .log
                    .note(self.ground.now, format_args!("{member} says {:02x?} on {}", frame.first(), connection.0));
                self.send(connection, End::Source, frame);
            }
            Effect::Drop(source, reason) => {
                self.figures.dropped += 1;
                self.ground.log.note(self.ground.now, format_args!("{member} drops {source}: {reason}"));
                let again_after = match reason {
                    DropReason::Stalled => self.ground.random.millis(1000, 3000),
                    DropReason::Corrupt => self.ground.random.millis(5000, 10_000),
                };
                self.part(member, source, again_after);
            }
            Effect::Inspect(leaf) => {
                let after = self.ground.random.millis(0, 20);
                self.ground.schedule(after, Event::Inspected { member, pull, leaf });
            }
        }
    }

    pub(crate) fn set_alarm(&mut self, member: MemberId) {
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let Some(wakes_at) = at.pull.as_ref().and_then(|pull| pull.wakes_at(clock)) else { return };
        let wakes_at = self.ground.now + wakes_at.since(clock);
        if at.wakes_at.is_none_or(|earlier| earlier > wakes_at || earlier <= self.ground.now) {
            at.wakes_at = Some(wakes_at);
            self.ground.schedule_at(wakes_at, Event::Wake { member });
        }
    }

    pub(crate) fn complete(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &self.members[member];
        let Some(pull) = &at.pull else { return Ok(()) };
        let version = pull.version;
        let published = &self.published[version];
        let proven = at.disk.store().map_or(Ok(()), |store| store.sync()).map_err(Trouble::from);
        match proven.and_then(|()| at.prove(published)) {
            Ok(true) => {}
            Ok(false) if at.disk.may_be_damaged => {
                // What the base lacks is not looked for in a delta: it must look at everything again.
                self.ground.log.note(self.ground.now, format_args!("{member} has v{version} with holes"));
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
        self.ground.log.note(self.ground.now, format_args!("{member} has v{version}"));
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
        self.ground.schedule(again_after, Event::Start { member, life });
    }

    /// A member's disk failed it, or a promise is broken.
    pub(crate) fn trouble(&mut self, member: MemberId, trouble: Trouble) -> Result<(), Violation> {
        match trouble {
            Trouble::Violation(violation) => Err(violation),
            Trouble::Peer(why) => Err(Violation(format!("member {member}: {why} from its own disk"))),
            Trouble::Disk(error) => {
                self.ground.log.note(self.ground.now, format_args!("{member} has trouble with its disk: {error}"));
                self.crash(member);
                Ok(())
            }
        }
    }
}

/// Chunks that a crash may cost.
const PUTS_UNSYNCED_MAX: u64 = 64;

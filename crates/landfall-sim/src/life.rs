//! Owns the lives of the members: they go down, come back and keep what they promised, publish, hear news, and heal.

use std::time::Duration;

use crate::checks::Violation;
use crate::ground::Phase;
use crate::network::MemberId;
use crate::scenario::Faults;
use crate::source::Serving;
use crate::trouble::{Trouble, chain};
use crate::world::{Event, World};

impl World {
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
        at.serving = Serving::new();
        for connection in self.ground.network.of(member) {
            let Some(broken) = self.ground.network.close(connection) else { continue };
            if broken.joiner != member {
                let again_after = self.ground.random.millis(200, 1000);
                self.part(broken.joiner, member, again_after);
            }
        }
        let after = self.ground.random.millis(100, 2000);
        self.ground.schedule(after, Event::Restart { member });
    }

    pub(crate) fn restart(&mut self, member: MemberId) -> Result<(), Violation> {
        if self.members[member].is_up() {
            return Ok(());
        }
        if let Err(error) = self.members[member].disk.open() {
            self.ground.log.note(self.ground.now, format_args!("{member} cannot start: {}", chain(&error)));
            if self.ground.phase == Phase::Healing && !self.members[member].disk.vfs().is_off() {
                return Err(Violation(format!("member {member} cannot start on a sound disk: {}", chain(&error))));
            }
            self.crash(member);
            return Ok(());
        }
        self.ground.log.note(self.ground.now, format_args!("{member} runs again"));
        match self.check_promises(member) {
            Ok(()) => {}
            Err(trouble) => return self.trouble(member, trouble),
        }
        let life = self.members[member].life;
        self.ground.schedule(Duration::ZERO, Event::Start { member, life });
        Ok(())
    }

    /// After a restart everything that was promised to be kept is there.
    pub(crate) fn check_promises(&mut self, member: MemberId) -> Result<(), Trouble> {
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

    pub(crate) fn publish(&mut self) -> Result<(), Violation> {
        if self.unpublished.is_none() {
            self.model.edit();
            self.unpublished = Some(self.model.publish());
        }
        self.finish_publishing()
    }

    pub(crate) fn finish_publishing(&mut self) -> Result<(), Violation> {
        let Some(published) = self.unpublished.take() else { return Ok(()) };
        let taken = if self.members[0].is_up() { self.members[0].take_whole(&published).map(Some) } else { Ok(None) };
        match taken {
            Ok(Some(())) => {}
            Ok(None) => {
                self.unpublished = Some(published);
                self.ground.schedule(Duration::from_millis(100), Event::Publish);
                return Ok(());
            }
            Err(trouble) => {
                self.unpublished = Some(published);
                self.ground.schedule(Duration::from_millis(100), Event::Publish);
                return self.trouble(0, trouble);
            }
        }
        let version = self.published.len();
        self.ground.log.note(self.ground.now, format_args!("v{version} is published as {}", published.id.short()));
        self.published.push(published);
        self.rounds_left -= 1;
        self.members[0].held = Some(version);
        self.members[0].heard = Some(version);
        for member in 1..self.members.len() {
            let after = self.ground.random.millis(10, 2000);
            self.ground.schedule(after, Event::Hear { member, version });
        }
        Ok(())
    }

    pub(crate) fn hear(&mut self, member: MemberId, version: usize) -> Result<(), Violation> {
        let at = &mut self.members[member];
        at.heard = at.heard.max(Some(version));
        let switches = at.pull.as_ref().is_some_and(|pull| pull.version < version) && self.ground.random.chance(300);
        if switches {
            // It moves on to the newer snapshot and keeps every chunk.
            self.give_up(member, Duration::ZERO);
        } else {
            let life = self.members[member].life;
            self.ground.schedule(Duration::ZERO, Event::Start { member, life });
        }
        Ok(())
    }

    pub(crate) fn heal(&mut self) -> Result<(), Violation> {
        self.ground.begin_healing();
        self.faults = Faults::default();
        self.notice_power_cuts();
        for member in 0..self.members.len() {
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

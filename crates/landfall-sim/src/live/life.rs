//! Owns the lives of the members: records reach them and are applied, they go down, come back and keep what they promised, and heal.

use std::time::Duration;

use landfall_core::join::{Failure, RebaseCause};
use landfall_core::keyed::Sections;
use landfall_store::log::Log;

use super::deed::{Deed, next_deed};
use super::joining::Feed;
use super::line::Task;
use super::member::Progress;
use super::order::UNDECIDED_MAX;
use super::scenario::LiveFaults;
use super::world::{Event, LiveWorld};
use crate::checks::{Violation, check};
use crate::ground::Phase;
use crate::network::MemberId;
use crate::trouble::Trouble;

/// Records that a member takes at once.
const RECORDS_AT_ONCE: u64 = 16;

impl LiveWorld {
    /// Somebody writes; writers never stop.
    pub(super) fn write(&mut self) {
        let mean_ms = 1000 / self.scenario.writes_per_second;
        let again_after = self.ground.random.millis(mean_ms / 2, mean_ms * 3 / 2);
        self.ground.schedule(again_after, Event::Write);
        if self.order.last() < self.order.decided() + UNDECIDED_MAX {
            let deed = next_deed(&self.scenario.content, &self.schema, &mut self.ground.random);
            self.order.write(deed, &self.schema);
        }
    }

    /// Whoever writes puts a mark into the order, once its own seal is done: else no two members might ever seal at the same mark.
    pub(super) fn write_mark(&mut self) {
        self.ground.schedule(self.scenario.mark_every, Event::Mark);
        let writer = self.order.voters().iter().find(|&&voter| self.members[voter].is_up());
        let is_sealing = writer.is_some_and(|&writer| self.members[writer].seal.is_some());
        if !is_sealing && self.order.last() < self.order.decided() + UNDECIDED_MAX {
            self.order.write(Deed::Mark, &self.schema);
        }
    }

    /// A member takes records, and makes them durable.
    pub(super) fn deliver(&mut self, member: MemberId) -> Result<(), Trouble> {
        let at = &self.members[member];
        let (pace, life) = (at.pace, at.life);
        self.ground.schedule(pace, Event::Deliver { member, life });
        if !self.order.votes(member) {
            return self.feed(member);
        }
        if !self.members[member].is_whole() {
            return Ok(());
        }
        self.reconcile(member)?;
        let at = &mut self.members[member];
        let last = at.log.as_ref().and_then(Log::last_index).unwrap_or_default().max(at.position().index);
        if last + 1 < self.order.first() {
            self.demote(member);
            return Ok(());
        }
        let end = self.order.last().min(last + RECORDS_AT_ONCE);
        let placed: Vec<_> = (last + 1..=end).filter_map(|index| self.order.get(index)).cloned().collect();
        if !placed.is_empty() {
            self.members[member].append(&placed)?;
        }
        self.order.acknowledge(member, end.max(last))?;
        self.order.decide(&mut self.model);
        Ok(())
    }

    /// After a start, or when the right to write changed hands, what another history left in the log goes.
    fn reconcile(&mut self, member: MemberId) -> Result<(), Trouble> {
        if self.members[member].is_reconciled {
            return Ok(());
        }
        let order = &self.order;
        let at = &mut self.members[member];
        let last = at.run_after(at.position().index, |index| order.position(index))?;
        at.cut_after(last)?;
        at.is_reconciled = true;
        Ok(())
    }

    /// A member that cannot get the records that it lacks, or was found to be wrong, joins anew.
    pub(super) fn demote(&mut self, member: MemberId) {
        self.ground.log.note(self.ground.now, format_args!("{member} votes no longer"));
        self.figures.demoted += 1;
        self.order.demote(member);
        let life = self.members[member].life;
        self.ground.schedule(Duration::ZERO, Event::Start { member, life });
        self.decide_between_two();
    }

    /// Of two that vote, nobody can tell which is wrong: an operator does.
    fn decide_between_two(&mut self) {
        let voters = self.order.voters();
        let wrong = voters.iter().copied().find(|&voter| self.members[voter].diverged.is_some());
        if let Some(wrong) = wrong.filter(|_| voters.len() == 2) {
            self.ground.log.note(self.ground.now, format_args!("somebody finds out that {wrong} is wrong"));
            self.members[wrong].distrusts_base = true;
            self.demote(wrong);
        }
    }

    /// A member applies what is decided, as far as it can.
    pub(super) fn apply(&mut self, member: MemberId) -> Result<(), Trouble> {
        let at = &self.members[member];
        let (pace, life) = (at.pace, at.life);
        self.ground.schedule(pace, Event::Apply { member, life });
        for _ in 0..RECORDS_AT_ONCE {
            let at = &self.members[member];
            let may_apply = match &at.joining {
                Some(joining) => joining.is_adopted && !joining.line.tasks.contains_key(&Task::Apply),
                None => at.is_reconciled && self.order.votes(member),
            };
            if !may_apply {
                break;
            }
            match self.apply_one(member)? {
                Progress::Applied(_) => {}
                Progress::Idle => break,
                Progress::Needs(missing) => {
                    let Some(joining) = &mut self.members[member].joining else {
                        let what = format!("member {member} has everything, and a record needs {missing:?}");
                        return Err(Violation(what).into());
                    };
                    joining.line.begin(Task::Apply);
                    let join = joining.number;
                    self.ground.schedule(Duration::ZERO, Event::Line { member, join });
                    break;
                }
            }
        }
        self.tell_applied(member)
    }

    /// Tells a join how far the log is applied.
    fn tell_applied(&mut self, member: MemberId) -> Result<(), Trouble> {
        let head = self.order.head();
        let overlay_bytes = self.overlay_bytes(member);
        let at = &mut self.members[member];
        let (clock, position, is_whole) = (at.clock(self.ground.now), at.position(), at.is_whole());
        let Some(joining) = &mut at.joining else { return Ok(()) };
        if !joining.is_adopted {
            return Ok(());
        }
        joining.join.handle_applied(position, head, clock);
        if !is_whole && overlay_bytes > self.scenario.overlay_bytes_max && joining.rebase.is_none() {
            self.newer(member, RebaseCause::OverlayCap)?;
        }
        self.drive(member)
    }

    /// A member applies one record, if there is one.
    pub(super) fn apply_one(&mut self, member: MemberId) -> Result<Progress, Trouble> {
        let decided = self.order.decided();
        let at = &mut self.members[member];
        let progress = at.apply_next(decided)?;
        if let Progress::Applied(deed) = &progress {
            let state = at.state.as_ref().expect("it applied");
            let index = state.position().index;
            check(state.position() == self.order.position(index), || {
                format!("member {member} applied {}, which was not decided", state.position())
            })?;
            check(state.log_hash() == self.order.log_hash(index), || {
                format!("member {member} has another log hash at {index}")
            })?;
            self.figures.applied += 1;
            if *deed == Deed::Mark {
                self.mark(member)?;
            }
        }
        Ok(progress)
    }

    /// A member goes down. Its power is cut only if it is cut already, or the caller cut it.
    pub(super) fn crash(&mut self, member: MemberId, back_after: Duration) {
        self.figures.crashes += 1;
        self.part_bulk(member);
        self.part_line(member);
        for connection in self.ground.network.of(member) {
            let Some(broken) = self.ground.network.close(connection) else { continue };
            self.lost_connection(broken.joiner, broken.source, broken.lane);
        }
        self.members[member].end();
        self.leases.remove(&member);
        self.ground.schedule(back_after, Event::Restart { member });
    }

    fn lost_connection(&mut self, joiner: MemberId, source: MemberId, lane: u32) {
        if lane == super::line::LINE {
            self.part_line(joiner);
        } else {
            self.part_from(joiner, source, Duration::from_millis(500));
        }
    }

    /// A member runs again: what it promised is there.
    pub(super) fn restart(&mut self, member: MemberId) -> Result<(), Trouble> {
        if self.members[member].is_up() {
            return Ok(());
        }
        let (schema, salts) = (self.schema.clone(), self.salts.clone());
        if let Err(error) = self.members[member].open(&schema, &salts) {
            if let Trouble::Disk(why) = &error {
                self.ground.log.note(self.ground.now, format_args!("{member} cannot start: {why}"));
                let is_sound = self.ground.phase == Phase::Healing && !self.members[member].disk.vfs().is_off();
                check(!is_sound, || format!("member {member} cannot start on a sound disk: {why}"))?;
            }
            return Err(error);
        }
        self.ground.log.note(self.ground.now, format_args!("{member} runs again"));
        self.check_promises(member)?;
        self.set_going(member);
        Ok(())
    }

    /// Lets a member that is up do what members do.
    pub(super) fn set_going(&mut self, member: MemberId) {
        let life = self.members[member].life;
        let pace = self.ground.random.millis(2, 60);
        self.members[member].pace = pace;
        self.ground.schedule(Duration::ZERO, Event::Deliver { member, life });
        self.ground.schedule(pace / 2, Event::Apply { member, life });
        self.ground.schedule(Duration::ZERO, Event::Start { member, life });
    }

    /// What a member acknowledged is in its log or in its snapshot, and the snapshot that it stands on is whole if it said so.
    fn check_promises(&mut self, member: MemberId) -> Result<(), Trouble> {
        let acknowledged = self.order.acknowledged(member);
        let at = &self.members[member];
        let order = &self.order;
        if self.order.votes(member) {
            let last = at.run_after(at.position().index, |index| order.position(index))?;
            check(last >= acknowledged.min(order.last()), || {
                format!("member {member} acknowledged {acknowledged} and has only {last}")
            })?;
            check(at.is_whole(), || format!("member {member} votes and is half filled"))?;
        }
        let manifest = at.base.as_ref().map(|base| base.manifest.clone());
        let is_right = manifest.as_ref().is_none_or(|manifest| self.is_right(manifest));
        let position = manifest.map_or(0, |manifest| manifest.position.index);
        let at = &mut self.members[member];
        check(is_right || at.ever_diverged, || format!("member {member} stands on something that never was"))?;
        at.diverged = (!is_right).then_some(position);
        at.distrusts_base = !is_right;
        at.diverges = false;
        if at.has_its_sections() {
            self.check_base(member)?;
        }
        Ok(())
    }

    /// A member's disk failed it, or a promise is broken.
    pub(super) fn trouble(&mut self, member: MemberId, trouble: Trouble) -> Result<(), Violation> {
        match trouble {
            Trouble::Violation(violation) => Err(violation),
            Trouble::Peer(why) => Err(Violation(format!("member {member}: {why} from its own disk"))),
            Trouble::Disk(why) => {
                self.ground.log.note(self.ground.now, format_args!("{member} has trouble with its disk: {why}"));
                if let Err(trouble) = self.fail_join(member, Failure::Disk) {
                    self.ground
                        .log
                        .note(self.ground.now, format_args!("{member} cannot even end its join: {trouble:?}"));
                }
                let back_after = self.ground.random.millis(100, 2000);
                self.crash(member, back_after);
                Ok(())
            }
        }
    }

    /// From now on nothing goes wrong; writers go on.
    pub(super) fn heal(&mut self) {
        self.ground.begin_healing();
        self.faults = LiveFaults::default();
        self.notice_power_cuts();
        for member in 0..self.members.len() {
            let at = &mut self.members[member];
            at.disk.heal();
            at.paused_until = self.ground.now;
            at.diverges = false;
            if !at.is_up() {
                self.ground.schedule(Duration::ZERO, Event::Restart { member });
            }
        }
    }

    /// A machine without power is down, also when nobody was told that a call failed.
    pub(super) fn notice_power_cuts(&mut self) {
        for member in 0..self.members.len() {
            let at = &self.members[member];
            if at.is_up() && at.disk.vfs().is_off() {
                let back_after = self.ground.random.millis(100, 2000);
                self.crash(member, back_after);
            }
        }
    }

    /// What must hold of every member at any time.
    pub(super) fn check_members(&self) -> Result<(), Violation> {
        for (member, at) in self.members.iter().enumerate() {
            if at.is_up() && self.order.votes(member) {
                check(at.is_whole(), || format!("member {member} votes and is half filled"))?;
                check(at.joining.is_none(), || format!("member {member} votes and joins"))?;
                check(at.sections == Sections::All, || format!("member {member} votes and holds {}", at.sections))?;
            }
            // A re-base outdates a seal; it is let go at its next step.
            let seals = at.seal.as_ref().is_some_and(|run| !run.is_outdated(at.rebases));
            check(at.is_whole() || !seals, || format!("member {member} seals and is half filled"))?;
            let is_fed = at.joining.as_ref().is_some_and(|joining| matches!(joining.feed, Feed::Of(_)));
            check(!is_fed || at.log.is_some(), || format!("member {member} takes a log while it is down"))?;
        }
        Ok(())
    }
}

//! Owns what goes wrong: the dice, and what each fault does to whom.

use std::time::Duration;

use landfall_store::vfs::faulty::Fault;
use landfall_store::{CollectBudget, UnixMillis};

use crate::checks::Violation;
use crate::disk::References;
use crate::network::MemberId;
use crate::world::{Event, Phase, World};

impl World {
    /// Looks at the dice once; they are thrown ten times in a second until healing begins.
    pub(crate) fn roll_dice(&mut self) -> Result<(), Violation> {
        if self.phase == Phase::Healing {
            return Ok(());
        }
        self.schedule(Duration::from_millis(100), Event::Fate);
        self.harm_network();
        self.harm_disks();
        if self.random.chance(self.faults.crash) {
            let member = self.someone();
            self.members[member].disk.vfs().cut_power();
            self.note(format_args!("the power of {member} goes"));
            self.crash(member);
        }
        if self.random.chance(self.faults.clock_jump) {
            let member = self.someone();
            let jump = self.random.millis(100, 60_000);
            self.note(format_args!("the clock of {member} jumps by {jump:?}"));
            self.members[member].clock_ahead += jump;
            self.members[member].wakes_at = Some(self.now);
            self.schedule(Duration::ZERO, Event::Wake { member });
        }
        if self.random.chance(self.faults.collect) {
            let member = self.someone();
            self.collect(member)?;
        }
        Ok(())
    }

    fn harm_network(&mut self) {
        let connections = self.network.ids();
        let one = |number: u64| connections.get(number as usize % connections.len().max(1)).copied();
        let (dropped, delayed) = (self.random.next(), self.random.next());
        if self.random.chance(self.faults.drop_connection)
            && let Some(broken) = one(dropped).and_then(|id| self.network.get(id))
        {
            let (joiner, source) = (broken.joiner, broken.source);
            self.note(format_args!("the connections of {joiner} to {source} break"));
            let again_after = self.random.millis(100, 1500);
            self.part(joiner, source, again_after);
        }
        if self.random.chance(self.faults.delay)
            && let Some(late) = one(delayed)
        {
            let until = self.now + self.random.millis(100, 5000);
            self.note(format_args!("connection {} is silent until {until}", late.0));
            self.network.delay(late, until);
        }
        if self.random.chance(self.faults.partition) {
            let (a, b) = (self.someone(), self.someone());
            let until = self.now + self.random.millis(200, 30_000);
            self.note(format_args!("{a} and {b} are parted until {until}"));
            self.network.partition(a, b, until);
        }
        if self.random.chance(self.faults.slow) {
            let member = self.someone();
            self.note(format_args!("{member} is slow"));
            let rate = self.random.between(2_000, 40_000);
            self.network.set_rate(member, rate);
            let after = self.random.millis(500, 8000);
            self.schedule(after, Event::Quicken { member });
        }
    }

    fn harm_disks(&mut self) {
        let member = self.someone();
        let calls = self.random.between(1, 40);
        if self.random.chance(self.faults.crash_at_write) {
            self.note(format_args!("the power of {member} goes at file call {calls}"));
            self.members[member].disk.vfs().fault_at(calls, Fault::CutPower);
        } else if self.random.chance(self.faults.disk_error) {
            self.note(format_args!("file call {calls} of {member} fails"));
            self.members[member].disk.vfs().fault_at(calls, Fault::Fail);
        }
        if self.random.chance(self.faults.disk_full) {
            self.note(format_args!("the disk of {member} is full"));
            self.members[member].disk.vfs().limit_bytes(Some(0));
            let after = self.random.millis(200, 3000);
            self.schedule(after, Event::FreeDisk { member });
        }
        if self.random.chance(self.faults.flip_read) {
            self.note(format_args!("{member} reads a wrong bit"));
            self.members[member].disk.flip_next_read();
        }
        // Somebody must be left who has everything.
        if self.random.chance(self.faults.flip_rest) && member != 0 {
            self.note(format_args!("the disk of {member} decays"));
            let place = self.random.next();
            self.members[member].disk.decay(place);
        }
    }

    fn collect(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &self.members[member];
        let Some(store) = at.disk.store() else { return Ok(()) };
        let collected = store.collect(&[], &References(&at.disk), UnixMillis(0), CollectBudget::default());
        match collected {
            Ok(report) => self.note(format_args!("{member} collects garbage: {:?}", report.outcome)),
            Err(error) => {
                self.note(format_args!("{member} cannot collect garbage: {error}"));
                self.crash(member);
            }
        }
        Ok(())
    }

    fn someone(&mut self) -> MemberId {
        self.random.below(self.members.len() as u64) as MemberId
    }

    fn note(&mut self, event: std::fmt::Arguments<'_>) {
        self.figures.faults += 1;
        self.log.note(self.now, event);
    }
}

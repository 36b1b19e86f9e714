//! Owns what goes wrong: the dice, and what each fault does to whom.

use std::time::Duration;

use crate::checks::Violation;
use crate::ground::{DICE_EVERY, Phase};
use crate::network::MemberId;
use crate::world::{Event, World};

/// Longest time for which a connection is silent, in milliseconds: often, and sometimes longer than anybody waits.
const SILENCE_MS_MAX: u64 = 5000;

impl World {
    /// Looks at the dice once; they are thrown ten times in a second until healing begins.
    pub(crate) fn roll_dice(&mut self) -> Result<(), Violation> {
        if self.ground.phase == Phase::Healing {
            return Ok(());
        }
        self.ground.schedule(DICE_EVERY, Event::Fate);
        self.notice_power_cuts();
        self.harm_network();
        self.harm_disks();
        if self.ground.random.chance(self.faults.crash) {
            let member = self.ground.someone();
            self.members[member].disk.vfs().cut_power();
            self.ground.note_fault(format_args!("the power of {member} goes"));
            self.crash(member);
        }
        if self.ground.random.chance(self.faults.clock_jump) {
            let member = self.ground.someone();
            self.members[member].clock_ahead += self.ground.draw_clock_jump(member);
            self.members[member].wakes_at = Some(self.ground.now);
            self.ground.schedule(Duration::ZERO, Event::Wake { member });
        }
        if self.ground.random.chance(self.faults.collect) {
            let member = self.ground.someone();
            self.collect(member)?;
        }
        Ok(())
    }

    /// A machine without power is down, also when its store did not need to tell anybody that a call failed.
    pub(crate) fn notice_power_cuts(&mut self) {
        for member in 0..self.members.len() {
            let at = &self.members[member];
            if at.is_up() && at.disk.vfs().is_off() {
                self.crash(member);
            }
        }
    }

    fn harm_network(&mut self) {
        let faults = self.faults.links;
        let harm = self.ground.draw_links(&faults);
        if let Some(broken) = harm.breaks.and_then(|id| self.ground.network.get(id)) {
            let (joiner, source) = (broken.joiner, broken.source);
            self.ground.note_fault(format_args!("the connections of {joiner} to {source} break"));
            let again_after = self.ground.random.millis(100, 1500);
            self.part(joiner, source, again_after);
        }
        self.ground.harm_links(&faults, &harm, SILENCE_MS_MAX, |member| Event::Quicken { member });
    }

    fn harm_disks(&mut self) {
        let member = self.ground.someone();
        self.ground.harm_disk(&self.faults.disks, member, &self.members[member].disk, Event::FreeDisk { member });
        // Somebody must be left who has everything: the store counts what it once read damaged as absent, and garbage
        // collection then takes it, however sound it is on the disk.
        if self.ground.random.chance(self.faults.flip_read) && member != 0 {
            self.ground.note_fault(format_args!("{member} reads a wrong bit"));
            self.members[member].disk.flip_next_read();
        }
        if self.ground.random.chance(self.faults.flip_rest) && member != 0 {
            self.ground.note_fault(format_args!("the disk of {member} decays"));
            let place = self.ground.random.number();
            self.members[member].disk.decay(place);
        }
    }

    fn collect(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &self.members[member];
        let Some(collected) = at.disk.collect() else { return Ok(()) };
        match collected {
            Ok(report) => self.ground.note_fault(format_args!("{member} collects garbage: {:?}", report.outcome)),
            Err(error) => {
                self.ground.note_fault(format_args!("{member} cannot collect garbage: {error}"));
                self.crash(member);
            }
        }
        Ok(())
    }
}

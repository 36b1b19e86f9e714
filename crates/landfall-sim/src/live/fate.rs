//! Owns what goes wrong: the dice, and what each fault does to whom.

use landfall_core::join::Milestone;

use super::line::LINE;
use super::sealing::LogCut;
use super::world::{Event, LiveWorld};
use crate::checks::Violation;
use crate::ground::{DICE_EVERY, Phase};
use crate::network::MemberId;
use crate::trouble::Trouble;

/// Longest time for which a connection is silent, in milliseconds: often, and sometimes longer than anybody waits.
const SILENCE_MS_MAX: u64 = 12_000;

impl LiveWorld {
    /// Looks at the dice once; they are thrown ten times in a second until healing begins.
    pub(super) fn roll_dice(&mut self) -> Result<(), Violation> {
        if self.ground.phase == Phase::Healing {
            return Ok(());
        }
        self.ground.schedule(DICE_EVERY, Event::Fate);
        self.notice_power_cuts();
        self.harm_network()?;
        self.harm_disks();
        self.harm_members()?;
        self.harm_history()
    }

    fn harm_network(&mut self) -> Result<(), Violation> {
        let faults = self.faults.links;
        let harm = self.ground.draw_links(&faults);
        if let Some(broken) = harm.breaks.and_then(|id| self.ground.network.get(id)) {
            let (joiner, source, lane) = (broken.joiner, broken.source, broken.lane);
            let which = if lane == LINE { "line" } else { "bulk" };
            self.ground.note_fault(format_args!("the {which} of {joiner} to {source} breaks"));
            let parted = self.part(joiner, source, lane);
            self.settle(joiner, parted)?;
        }
        self.ground.harm_links(&faults, &harm, SILENCE_MS_MAX, |member| Event::Quicken { member });
        Ok(())
    }

    fn harm_disks(&mut self) {
        let member = self.ground.someone();
        self.ground.harm_disk(&self.faults.disks, member, &self.members[member].disk, Event::FreeDisk { member });
    }

    fn harm_members(&mut self) -> Result<(), Violation> {
        if self.ground.random.chance(self.faults.crash) {
            let member = self.ground.someone();
            self.members[member].disk.vfs().cut_power();
            self.ground.note_fault(format_args!("the power of {member} goes"));
            let back_after = self.ground.random.millis(100, 3000);
            self.crash(member, back_after);
        }
        if self.ground.random.chance(self.faults.leave) {
            let stays = self.ground.someone();
            for member in (0..self.members.len()).filter(|&member| member != stays) {
                if self.members[member].is_up() && self.members[member].is_whole() {
                    self.ground.note_fault(format_args!("{member} leaves"));
                    let back_after = self.ground.random.millis(2000, 40_000);
                    self.crash(member, back_after);
                }
            }
        }
        if self.ground.random.chance(self.faults.pause) {
            let member = self.ground.someone();
            let span = self.ground.random.millis(500, 60_000);
            self.ground.note_fault(format_args!("{member} stands still for {span:?}"));
            self.members[member].paused_until = self.ground.now + span;
        }
        if self.ground.random.chance(self.faults.clock_jump) {
            let member = self.ground.someone();
            self.members[member].clock_ahead += self.ground.draw_clock_jump(member);
        }
        if self.ground.random.chance(self.faults.collect) {
            let member = self.ground.someone();
            let collected = self.collect(member);
            self.settle(member, collected)?;
        }
        Ok(())
    }

    fn harm_history(&mut self) -> Result<(), Violation> {
        let member = self.ground.someone();
        if self.ground.random.chance(self.faults.give_up_seal) {
            let sealing: Vec<_> = (0..self.members.len()).filter(|&at| self.members[at].seal.is_some()).collect();
            if let Some(&member) = sealing.first() {
                self.give_up_seal(member)?;
            }
        }
        if self.ground.random.chance(self.faults.unpin) {
            self.ground.note_fault(format_args!("{member} lets old snapshots go"));
            let unpinned = self.let_snapshots_go(member, 1);
            self.settle(member, unpinned)?;
        }
        if self.ground.random.chance(self.faults.cut_log)
            && self.members[member].is_up()
            && self.members[member].is_whole()
        {
            self.ground.note_fault(format_args!("{member} cuts its log"));
            let cut = self.cut_log(member, LogCut::Ruthless);
            self.settle(member, cut)?;
        }
        if self.ground.random.chance(self.faults.diverge) && self.may_diverge(member) {
            self.ground.note_fault(format_args!("{member} will apply something wrong"));
            self.members[member].diverges = true;
        }
        if self.ground.random.chance(self.faults.diverge_voter) && self.voter_may_diverge(member) {
            self.ground.note_fault(format_args!("{member}, which votes, will apply something wrong"));
            self.members[member].diverges = true;
        }
        if self.ground.random.chance(self.faults.fence) {
            self.ground.note_fault(format_args!("the lease on the log is granted anew"));
            self.fence()?;
        }
        if self.ground.random.chance(self.faults.overthrow) {
            let last = self.ground.random.between(self.order.decided(), self.order.last());
            self.ground.note_fault(format_args!("the right to write changes hands; what follows {last} is lost"));
            self.order.begin_epoch(last);
            self.members.iter_mut().for_each(|member| member.is_reconciled = false);
        }
        Ok(())
    }

    /// Only where the audit of a join is still to come.
    fn may_diverge(&self, member: MemberId) -> bool {
        let at = &self.members[member];
        at.joining.as_ref().is_some_and(|joining| {
            joining.is_adopted && !joining.is_audited() && joining.join.reached(Milestone::Verified).is_none()
        })
    }

    /// One at a time, and only while most of those that vote are right.
    fn voter_may_diverge(&self, member: MemberId) -> bool {
        let is_wrong = |at: &super::member::Member| at.diverges || at.diverged.is_some() || at.distrusts_base;
        self.faults_at_voters()
            && self.order.votes(member)
            && self.order.voters().len() >= 3
            && !self.members.iter().any(is_wrong)
    }

    fn collect(&mut self, member: MemberId) -> Result<(), Trouble> {
        let at = &self.members[member];
        let Some(collected) = at.disk.collect() else { return Ok(()) };
        at.nodes.borrow_mut().clear();
        let report = collected?;
        let at = &mut self.members[member];
        let (disk, fetched) = (&at.disk, &mut at.fetched);
        fetched.keep(|id| disk.store().is_some_and(|store| store.contains(id).unwrap_or(true)));
        self.ground.note_fault(format_args!("{member} collects garbage: {:?}", report.outcome));
        Ok(())
    }
}

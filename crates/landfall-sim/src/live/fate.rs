//! Owns what goes wrong: the dice, and what each fault does to whom.

use std::time::Duration;

use landfall_core::join::Milestone;
use landfall_store::vfs::faulty::Fault;
use landfall_store::{CollectBudget, UnixMillis};

use super::here::Trouble;
use super::line::LINE;
use super::sealing::LogCut;
use super::world::{Event, LiveWorld};
use crate::checks::Violation;
use crate::disk::References;
use crate::network::MemberId;
use crate::world::{Phase, chain};

impl LiveWorld {
    /// Looks at the dice once; they are thrown ten times in a second until healing begins.
    pub(super) fn roll_dice(&mut self) -> Result<(), Violation> {
        if self.phase == Phase::Healing {
            return Ok(());
        }
        self.schedule(Duration::from_millis(100), Event::Fate);
        self.notice_power_cuts();
        self.harm_network()?;
        self.harm_disks();
        self.harm_members()?;
        self.harm_history()
    }

    fn harm_network(&mut self) -> Result<(), Violation> {
        let connections = self.network.ids();
        let one = |number: u64| connections.get(number as usize % connections.len().max(1)).copied();
        let (dropped, delayed) = (self.random.number(), self.random.number());
        if self.random.chance(self.faults.drop_connection)
            && let Some(broken) = one(dropped).and_then(|id| self.network.get(id))
        {
            let (joiner, source, lane) = (broken.joiner, broken.source, broken.lane);
            let which = if lane == LINE { "line" } else { "bulk" };
            self.note(format_args!("the {which} of {joiner} to {source} breaks"));
            let parted = self.part(joiner, source, lane);
            self.settle(joiner, parted)?;
        }
        if self.random.chance(self.faults.delay)
            && let Some(late) = one(delayed)
        {
            let until = self.now + self.random.millis(100, 12_000);
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
        Ok(())
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
    }

    fn harm_members(&mut self) -> Result<(), Violation> {
        if self.random.chance(self.faults.crash) {
            let member = self.someone();
            self.members[member].disk.vfs().cut_power();
            self.note(format_args!("the power of {member} goes"));
            let back_after = self.random.millis(100, 3000);
            self.crash(member, back_after);
        }
        if self.random.chance(self.faults.leave) {
            let stays = self.someone();
            for member in (0..self.members.len()).filter(|&member| member != stays) {
                if self.members[member].is_up() && self.members[member].is_whole() {
                    self.note(format_args!("{member} leaves"));
                    let back_after = self.random.millis(2000, 40_000);
                    self.crash(member, back_after);
                }
            }
        }
        if self.random.chance(self.faults.pause) {
            let member = self.someone();
            let span = self.random.millis(500, 60_000);
            self.note(format_args!("{member} stands still for {span:?}"));
            self.members[member].paused_until = self.now + span;
        }
        if self.random.chance(self.faults.clock_jump) {
            let member = self.someone();
            let jump = self.random.millis(100, 60_000);
            self.note(format_args!("the clock of {member} jumps by {jump:?}"));
            self.members[member].clock_ahead += jump;
        }
        if self.random.chance(self.faults.collect) {
            let member = self.someone();
            let collected = self.collect(member);
            self.settle(member, collected)?;
        }
        Ok(())
    }

    fn harm_history(&mut self) -> Result<(), Violation> {
        let member = self.someone();
        if self.random.chance(self.faults.give_up_seal) {
            let sealing: Vec<_> = (0..self.members.len()).filter(|&at| self.members[at].seal.is_some()).collect();
            if let Some(&member) = sealing.first() {
                self.give_up_seal(member)?;
            }
        }
        if self.random.chance(self.faults.unpin) {
            self.note(format_args!("{member} lets old snapshots go"));
            let unpinned = self.let_snapshots_go(member, 1);
            self.settle(member, unpinned)?;
        }
        if self.random.chance(self.faults.cut_log) && self.members[member].is_up() && self.members[member].is_whole() {
            self.note(format_args!("{member} cuts its log"));
            let cut = self.cut_log(member, LogCut::Ruthless);
            self.settle(member, cut)?;
        }
        if self.random.chance(self.faults.diverge) && self.may_diverge(member) {
            self.note(format_args!("{member} will apply something wrong"));
            self.members[member].diverges = true;
        }
        if self.random.chance(self.faults.diverge_voter) && self.voter_may_diverge(member) {
            self.note(format_args!("{member}, which votes, will apply something wrong"));
            self.members[member].diverges = true;
        }
        if self.random.chance(self.faults.fence) {
            self.note(format_args!("the lease on the log is granted anew"));
            self.fence()?;
        }
        if self.random.chance(self.faults.overthrow) {
            let last = self.random.between(self.order.decided(), self.order.last());
            self.note(format_args!("the right to write changes hands; what follows {last} is lost"));
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
        let Some(store) = at.disk.store() else { return Ok(()) };
        let collected = store.collect(&[], &References(&at.disk), UnixMillis(0), CollectBudget::default());
        at.nodes.borrow_mut().clear();
        match collected {
            Ok(report) => {
                let at = &mut self.members[member];
                let (disk, fetched) = (&at.disk, &mut at.fetched);
                fetched.keep(|id| disk.store().is_some_and(|store| store.contains(id).unwrap_or(true)));
                self.note(format_args!("{member} collects garbage: {:?}", report.outcome));
                Ok(())
            }
            Err(error) => Err(Trouble::Disk(chain(&error))),
        }
    }

    fn someone(&mut self) -> MemberId {
        self.random.below(self.members.len() as u64) as MemberId
    }

    fn note(&mut self, event: std::fmt::Arguments<'_>) {
        self.figures.faults += 1;
        self.log.note(self.now, event);
    }
}

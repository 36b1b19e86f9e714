//! Owns the source of which joiners hear later than of the others, while their transfer runs or before.

use super::scenario::Others;
use super::world::{Event, LiveWorld};
use crate::ground::Phase;
use crate::network::MemberId;
use crate::trouble::Trouble;

impl LiveWorld {
    /// The source that a join does not know when it begins; when it will hear of it is settled.
    pub(super) fn begin_unnamed(&mut self, member: MemberId, join: u64) -> Option<MemberId> {
        let late = self.scenario.late_source?;
        let source = self.scenario.founders - 1;
        self.ground.schedule(late.after, Event::Named { member, join });
        Some(source).filter(|&source| source != member)
    }

    /// Has a joiner heard of a source?
    pub(super) fn knows(&self, member: MemberId, source: MemberId) -> bool {
        self.members[member].joining.as_ref().is_none_or(|joining| joining.unnamed != Some(source))
    }

    /// A joiner hears of the last source. It may be the only one from then on, for a while.
    pub(super) fn named(&mut self, member: MemberId) -> Result<(), Trouble> {
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        let Some(source) = joining.unnamed.take() else { return Ok(()) };
        let join = joining.number;
        self.ground.log.note(self.ground.now, format_args!("{member} hears of {source}"));
        if let Some(bulk) = &joining.bulk {
            let pull = bulk.number;
            joining.late = Some(source);
            self.figures.named_late += 1;
            self.ground.schedule(self.scenario.latency, Event::Connect { member, source, pull });
        }
        self.ground.schedule(self.scenario.latency, Event::Line { member, join });
        let leave = self.scenario.late_source.is_some_and(|late| late.others == Others::Leave);
        if leave && self.ground.phase == Phase::Faults {
            self.leave_to(source, member);
        }
        Ok(())
    }

    /// All other members that hold everything go down.
    fn leave_to(&mut self, stays: MemberId, joiner: MemberId) {
        for member in (0..self.members.len()).filter(|&member| member != stays && member != joiner) {
            if self.members[member].is_up() && self.members[member].is_whole() {
                self.ground.note_fault(format_args!("{member} leaves the joiners to {stays}"));
                let back_after = self.ground.random.millis(2000, 20_000);
                self.crash(member, back_after);
            }
        }
    }

    /// Counts what came of the source that was named late.
    pub(super) fn note_late(&mut self, member: MemberId, source: MemberId) {
        let is_late = self.members[member].joining.as_ref().is_some_and(|joining| joining.late == Some(source));
        self.figures.came_late += u64::from(is_late);
    }
}

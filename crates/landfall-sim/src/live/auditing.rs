//! Owns how a joiner becomes a member that votes: audits compare what it sealed with what others sealed, then its commit hook runs.

use std::time::Duration;

use landfall_core::Time;
use landfall_core::join::{HookOutcome, LeaseVersion, Milestone, Snapshot, Tally};
use landfall_core::snapshot::Position;

use super::world::LiveWorld;
use crate::checks::{Violation, check};
use crate::network::MemberId;
use crate::trouble::Trouble;

/// An audit that has no answer for so long is told so.
pub(super) const AUDIT_MAX: Duration = Duration::from_secs(5);

/// An audit that a join asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audit {
    pub(super) position: Position,
    pub(super) since: Time,
}

impl LiveWorld {
    /// Compares what joiners sealed with what members sealed that vote.
    pub(super) fn look_at_audits(&mut self) -> Result<(), Trouble> {
        for member in 0..self.members.len() {
            let audit = self.members[member].joining.as_ref().and_then(|joining| joining.audit);
            let Some(audit) = audit else { continue };
            if let Some(tally) = self.tally(member, audit.position) {
                self.tell_audit(member, tally)?;
            }
        }
        Ok(())
    }

    /// Nobody answered an audit in time, perhaps.
    pub(super) fn audit_time(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
        let audit = self.members[member].joining.as_ref().and_then(|joining| joining.audit);
        let Some(audit) = audit.filter(|audit| clock.since(audit.since) >= AUDIT_MAX) else { return Ok(()) };
        self.tell_audit(member, Tally { position: audit.position, equal: 0, different: 0, most: None })
    }

    fn tell_audit(&mut self, member: MemberId, tally: Tally) -> Result<(), Trouble> {
        self.ground.log.note(self.ground.now, format_args!("{member} hears of an audit: {tally:?}"));
        let clock = self.members[member].clock(self.ground.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        joining.audit = None;
        joining.join.handle_audit(tally, clock);
        if joining.join.reached(Milestone::Verified).is_some() {
            joining.verified_at = Some(tally.position.index);
        }
        self.drive(member)
    }

    fn tally(&self, member: MemberId, wanted: Position) -> Option<Tally> {
        let voters = self.order.voters();
        self.seals.range(wanted.index..).find_map(|(&index, by)| {
            let own = by.get(&member)?;
            let others = || by.iter().filter(|(other, _)| voters.contains(other) && **other != member);
            let equal = others().filter(|(_, sealed)| *sealed == own).count();
            let different = others().count() - equal;
            let most =
                if equal >= different { Some(own) } else { others().map(|(_, sealed)| sealed).find(|s| *s != own) };
            let position = self.order.position(index);
            let is_decided = equal.max(different) >= self.vouchers_min();
            let most = most.map(|sealed| Snapshot { id: sealed.id, position });
            is_decided.then_some(Tally { position, equal: equal as u32, different: different as u32, most })
        })
    }

    /// The commit hook of a joiner runs.
    pub(super) fn hook(&mut self, member: MemberId, lease: LeaseVersion) -> Result<(), Trouble> {
        let fails = self.ground.random.chance(self.faults.hook);
        let clock = self.members[member].clock(self.ground.now);
        let is_fenced = lease < LeaseVersion(self.lease_version);
        let at = &mut self.members[member];
        let Some(joining) = &mut at.joining else { return Ok(()) };
        if fails || is_fenced {
            joining.join.handle_hook(lease, HookOutcome::Failed, clock);
            return self.drive(member);
        }
        let verified_at = joining.verified_at;
        joining.join.handle_hook(lease, HookOutcome::Done, clock);
        if joining.join.reached(Milestone::Promoted).is_none() {
            return Ok(());
        }
        check(at.is_whole(), || format!("member {member} is promoted half filled"))?;
        check(at.diverged.is_none(), || format!("member {member} is promoted although it has something wrong"))?;
        let own = verified_at.and_then(|index| self.seals.get(&index)?.get(&member)).copied();
        let is_right = verified_at.zip(own).is_some_and(|(index, own)| {
            self.seals[&index].iter().any(|(other, sealed)| *other != member && *sealed == own)
        });
        check(is_right, || format!("member {member} is promoted, and no root of it was equal to another's"))?;
        self.check_all(member)?;
        self.ground.log.note(self.ground.now, format_args!("{member} votes"));
        self.figures.promoted += 1;
        self.members[member].diverges = false;
        self.order.promote(member);
        self.end_join(member, Duration::ZERO);
        Ok(())
    }

    /// The lease on the log has another version from now on.
    pub(super) fn fence(&mut self) -> Result<(), Violation> {
        self.lease_version += 1;
        let lease = LeaseVersion(self.lease_version);
        for member in 0..self.members.len() {
            if let Some(joining) = &mut self.members[member].joining {
                joining.join.handle_lease(lease);
                let driven = self.drive(member);
                self.settle(member, driven)?;
            }
        }
        Ok(())
    }
}

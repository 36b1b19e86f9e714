//! Owns how joiners come by their records: they attach to the log of a member, take from it, and lose it.

use std::time::Duration;

use landfall_core::snapshot::Position;
use landfall_store::log::Log;

use super::joining::{AGAIN_AFTER, Feed, LogLease};
use super::world::{Event, LiveWorld};
use crate::network::MemberId;
use crate::trouble::Trouble;

/// How long members keep their log for a joiner that says nothing.
const LEASE_TIME: Duration = Duration::from_secs(10);
/// Bytes of records that a joiner takes at once.
const FEED_BYTES_MAX: u64 = 64 * 1024;

impl LiveWorld {
    /// Looks for a member whose log goes on where the joiner stands.
    pub(super) fn attach(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
        let joining = self.members[member].joining.as_ref();
        let Some((Feed::Wanted(after), number)) = joining.map(|joining| (joining.feed, joining.number)) else {
            return Ok(());
        };
        let sources = self.sources_of(member);
        let Some(&source) = sources.get(self.ground.random.below(sources.len() as u64) as usize) else {
            self.ground.schedule(AGAIN_AFTER, Event::Attach { member, join: number });
            return Ok(());
        };
        let order = &self.order;
        let after = if self.members[member].joining.as_ref().is_some_and(|joining| joining.is_adopted) {
            after.max(self.members[member].position())
        } else {
            after
        };
        let last = self.members[member].run_after(after.index, |index| order.position(index))?;
        let first = self.members[source].log.as_ref().map_or(u64::MAX, Log::first_index);
        let begins_after = if first <= last + 1 { after } else { self.order.position(first - 1) };
        let is_near = begins_after <= after;
        if is_near {
            self.members[member].cut_after(last)?;
            let ends_at = self.ground.now + LEASE_TIME;
            self.leases.insert(member, LogLease { after: last, ends_at });
        }
        self.ground
            .log
            .note(self.ground.now, format_args!("{member} attaches to the log of {source} after {begins_after}"));
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        joining.feed = if is_near { Feed::Of(source) } else { Feed::None };
        joining.join.handle_log_attached(begins_after, clock);
        self.drive(member)
    }

    /// Takes records out of the log of the member that it is attached to.
    pub(super) fn feed(&mut self, member: MemberId) -> Result<(), Trouble> {
        let Some(Feed::Of(source)) = self.members[member].joining.as_ref().map(|joining| joining.feed) else {
            return Ok(());
        };
        let last = self.members[member].log.as_ref().and_then(Log::last_index);
        let base = self.members[member].base.as_ref().map_or(0, |base| base.manifest.position.index);
        let first = self.members[member].joining.as_ref().and_then(|joining| joining.join.snapshot());
        let first = first.map_or(base, |snapshot| if base == 0 { snapshot.position.index } else { base });
        let last = last.unwrap_or_default().max(first);
        let is_reachable = self.sources_of(member).contains(&source);
        let log = self.members[source].log.as_ref().filter(|log| is_reachable && log.first_index() <= last + 1);
        let Some(log) = log else { return self.lose_log(member) };
        let records = match log.read(last + 1, FEED_BYTES_MAX) {
            Ok(records) => records,
            Err(error) => return self.trouble(source, error.into()).map_err(Trouble::Violation),
        };
        let decided = self.order.decided();
        let records = records.into_iter().filter(|record| record.position.index <= decided);
        let placed: Vec<_> = records
            .filter_map(|record| {
                self.order.get(record.position.index).filter(|placed| placed.position == record.position)
            })
            .cloned()
            .collect();
        if placed.first().is_some_and(|placed| placed.position.index != last + 1) {
            return self.lose_log(member);
        }
        self.members[member].append(&placed)?;
        let after = last + placed.len() as u64;
        self.leases.insert(member, LogLease { after, ends_at: self.ground.now + LEASE_TIME });
        Ok(())
    }

    /// The member that the joiner is attached to is gone, or does not keep what it needs.
    pub(super) fn lose_log(&mut self, member: MemberId) -> Result<(), Trouble> {
        self.ground.log.note(self.ground.now, format_args!("{member} lost the log"));
        self.figures.logs_lost += 1;
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        joining.feed = Feed::None;
        joining.join.handle_log_lost();
        // It is asked for again once the log is attached.
        joining.audit = None;
        // Where nothing waits for the log any more, nobody commands that it be attached.
        self.drive(member)?;
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        if joining.feed == Feed::None && joining.join.snapshot().is_none() {
            joining.feed = Feed::Wanted(Position::default());
            let join = joining.number;
            self.ground.schedule(AGAIN_AFTER, Event::Attach { member, join });
        }
        Ok(())
    }

    /// Members that vote, hold everything and can be reached.
    pub(super) fn sources_of(&self, member: MemberId) -> Vec<MemberId> {
        let can_serve = |&source: &MemberId| {
            let at = &self.members[source];
            source != member
                && at.is_up()
                && at.is_whole()
                && self.order.votes(source)
                && self.ground.network.parted_until(member, source, self.ground.now).is_none()
        };
        (0..self.members.len()).filter(can_serve).collect()
    }
}

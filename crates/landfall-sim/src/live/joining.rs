//! Owns the joins of a run: it does for a joiner what the core's join commands, and tells it the facts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::join::{
    Command, Failure, HookOutcome, Join, LeaseVersion, Milestone, Part, RebaseCause, Snapshot, Tally,
};
use landfall_core::snapshot::{Manifest, Position, SectionPriority};
use landfall_core::{Chunk, ChunkId, Time};
use landfall_store::Session;

use super::here::Trouble;
use super::line::{Line, Task};
use super::member::{Extent, violation};
use super::world::{Event, LiveWorld};
use crate::checks::{Violation, broken, check};
use crate::network::MemberId;
use crate::pull::Pull;

/// A joiner counts as caught up when it lacks at most so many records.
const LAG_MAX: u64 = 32;
/// Pause before something that nobody could give is asked for again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// An audit that has no answer for so long is told so.
const AUDIT_MAX: Duration = Duration::from_secs(5);
/// How long members keep their log for a joiner that says nothing.
const LEASE_TIME: Duration = Duration::from_secs(10);

/// One join under way.
pub(super) struct Joining {
    /// Told apart from joins before.
    pub(super) number: u64,
    pub(super) join: Join,
    pub(super) line: Line,
    /// The snapshot that it begins with.
    pub(super) first: ChunkId,
    pub(super) manifests: BTreeMap<ChunkId, Chunk>,
    pub(super) bulk: Option<Pull>,
    pub(super) feed: Feed,
    pub(super) rebase: Option<(Snapshot, RebaseCause)>,
    audit: Option<Audit>,
    /// Where an audit showed that the state is right.
    verified_at: Option<u64>,
    pub(super) hot_keys: Vec<Bytes>,
    /// The state stands on a snapshot of this join, and serves reads.
    pub(super) is_adopted: bool,
    pub(super) bytes_told: u64,
    /// Looks that are due: at the line, at the transfer, at the join's own clock.
    pub(super) line_at: Option<Time>,
    pub(super) bulk_at: Option<Time>,
    pub(super) drive_at: Option<Time>,
    _session: Session,
}

/// Where a joiner's records come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    None,
    /// The records after this position are needed.
    Wanted(Position),
    /// Out of the log of a member.
    Of(MemberId),
}

#[derive(Debug, Clone, Copy)]
struct Audit {
    position: Position,
    since: Time,
}

/// What keeps the members' logs for a joiner.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogLease {
    /// The records after this index.
    pub(super) after: u64,
    pub(super) ends_at: Time,
}

impl Joining {
    /// Is an audit under way?
    pub(super) fn is_audited(&self) -> bool {
        self.audit.is_some()
    }

    /// How far it is, for people.
    pub(super) fn summary(&self) -> String {
        let reached = Milestone::ALL.into_iter().filter(|&milestone| self.join.reached(milestone).is_some()).last();
        let bulk = self.bulk.as_ref().map(Pull::progress);
        let tasks: Vec<_> = self.line.tasks.keys().collect();
        let (snapshot, feed, rebase, audit) = (self.join.snapshot(), self.feed, self.rebase, self.audit);
        format!("{reached:?} {snapshot:?} {feed:?} rebase {rebase:?} audit {audit:?} tasks {tasks:?} bulk {bulk:?}")
    }
}

impl LiveWorld {
    /// A member that does not vote begins to join.
    pub(super) fn start(&mut self, member: MemberId, life: u64) -> Result<(), Trouble> {
        let at = &self.members[member];
        if !at.is_up() || at.life != life || at.joining.is_some() || self.order.votes(member) {
            return Ok(());
        }
        // What it seals now would be later than what it is about to stand on.
        self.give_up_seal(member)?;
        let Some(first) = self.first_snapshot(member) else {
            self.schedule(AGAIN_AFTER, Event::Start { member, life });
            return Ok(());
        };
        self.joins_made += 1;
        let number = self.joins_made;
        let hot_keys = (0..3).map(|_| Bytes::from(format!("key/{:05}", self.random.below(self.scenario.content.keys))));
        let hot_keys = hot_keys.collect();
        let at = &mut self.members[member];
        let store = at.disk.store().expect("it is up");
        self.log.note(self.now, format_args!("{member} begins join {number} with {}", first.short()));
        let mut line = Line::new();
        line.begin(Task::Manifest(first));
        at.joining = Some(Joining {
            number,
            join: Join::new(LAG_MAX, at.clock(self.now)),
            line,
            first,
            manifests: BTreeMap::new(),
            bulk: None,
            feed: Feed::None,
            rebase: None,
            audit: None,
            verified_at: None,
            hot_keys,
            is_adopted: false,
            bytes_told: 0,
            line_at: None,
            bulk_at: None,
            drive_at: None,
            _session: store.begin_session(),
        });
        self.schedule(Duration::ZERO, Event::Line { member, join: number });
        Ok(())
    }

    /// The snapshot on which it stands, if that is whole or somebody has it; else the newest.
    fn first_snapshot(&self, member: MemberId) -> Option<ChunkId> {
        let reference = self.reference();
        let at = &self.members[member];
        let Some(base) = &at.base else { return reference.map(|reference| reference.id) };
        let has = |other: &super::member::Member| other.seals.values().any(|id| *id == base.id);
        let may_serve = !at.distrusts_base;
        if may_serve && (base.extent == Extent::Whole || self.members.iter().any(|other| other.is_up() && has(other))) {
            return Some(base.id);
        }
        reference.filter(|reference| reference.position >= base.manifest.position).map(|reference| reference.id)
    }

    /// Carries out what a join commands, and tells it the time if it must know.
    pub(super) fn drive(&mut self, member: MemberId) -> Result<(), Trouble> {
        loop {
            let now = self.members[member].clock(self.now);
            let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
            let bytes = joining.line.bytes;
            joining.join.handle_received(bytes - joining.bytes_told);
            joining.bytes_told = bytes;
            joining.join.handle_timeout(now);
            let Some(command) = joining.join.poll_command() else { break };
            self.log.note(self.now, format_args!("{member}: {command}"));
            self.obey(member, command)?;
        }
        let clock = self.members[member].clock(self.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        if let Some(at) = joining.join.poll_timeout()
            && is_new(&mut joining.drive_at, self.now, self.now + at.since(clock))
        {
            let join = joining.number;
            self.schedule(at.since(clock), Event::Drive { member, join });
        }
        Ok(())
    }

    fn obey(&mut self, member: MemberId, command: Command) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        let number = joining.number;
        match command {
            Command::AttachLog { after } => {
                joining.feed = Feed::Wanted(after);
                self.schedule(self.scenario.latency, Event::Attach { member, join: number });
            }
            Command::FetchVital { of } => self.begin_task(member, Task::Vital(of)),
            Command::FetchUpper { of } => self.begin_task(member, Task::Upper(of)),
            Command::FetchHot { of } => {
                self.adopt(member, of)?;
                self.begin_task(member, Task::Hot(of));
            }
            Command::FetchRest { of } => {
                self.adopt(member, of)?;
                self.begin_bulk(member, of)?;
            }
            Command::AskNewer { .. } => {
                let cause = RebaseCause::LogGap;
                self.schedule(self.scenario.latency, Event::Newer { member, join: number, cause });
            }
            Command::Rebase { onto, cause } => {
                joining.rebase = Some((onto, cause));
                self.begin_task(member, Task::Manifest(onto.id));
            }
            Command::Audit { position } => {
                joining.audit = Some(Audit { position, since: clock });
                self.schedule(AUDIT_MAX, Event::Audit { member, join: number });
                self.look_at_audits()?;
            }
            Command::ReportDifference { theirs } => {
                self.figures.differences += 1;
                let is_known = self.members[member].ever_diverged;
                let is_right = self.seals.values().flat_map(BTreeMap::values).any(|sealed| sealed.id == theirs.id);
                check(is_known && is_right, || format!("member {member} differs from {theirs}, which nobody planned"))?;
            }
            Command::RunCommitHook { lease } => {
                let after = self.random.millis(1, 300);
                self.schedule(after, Event::Hook { member, join: number, lease });
            }
            Command::RollBack { reason } => {
                self.log.note(self.now, format_args!("{member} is rolled back: {reason}"));
                self.figures.rolled_back += 1;
                self.end_join(member, Duration::from_secs(1));
            }
        }
        Ok(())
    }

    fn begin_task(&mut self, member: MemberId, task: Task) {
        let Some(joining) = &mut self.members[member].joining else { return };
        // A later command of a kind takes the place of an earlier one.
        let kind = std::mem::discriminant(&task);
        joining.line.tasks.retain(|other, _| std::mem::discriminant(other) != kind || *other == task);
        joining.line.begin(task);
        let join = joining.number;
        self.schedule(Duration::ZERO, Event::Line { member, join });
    }

    /// Puts a snapshot below the state, if it is not there yet: it serves from now on.
    fn adopt(&mut self, member: MemberId, snapshot: ChunkId) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        let Some(joining) = &mut at.joining else { return Ok(()) };
        joining.is_adopted = true;
        if at.base.as_ref().is_some_and(|base| base.id == snapshot) {
            return Ok(());
        }
        let manifest = joining.manifests.get(&snapshot).cloned();
        let manifest = manifest.ok_or_else(|| Violation(format!("{snapshot} is adopted, and its manifest unknown")))?;
        self.stand_on(member, &manifest)
    }

    pub(super) fn stand_on(&mut self, member: MemberId, manifest: &Chunk) -> Result<(), Trouble> {
        self.log.note(self.now, format_args!("{member} stands on {}", manifest.id().short()));
        let at = &mut self.members[member];
        at.seals.clear();
        at.stand_on(manifest, &self.schema)?;
        let position = at.base.as_ref().map(|base| base.manifest.position.index).unwrap_or_default();
        at.distrusts_base = false;
        if at.diverged.is_some_and(|since| since <= position) {
            at.diverged = None;
        }
        Ok(())
    }

    /// A task of the line is done.
    pub(super) fn task_done(&mut self, member: MemberId, task: Task) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let lease = LeaseVersion(self.lease_version);
        let at = &mut self.members[member];
        let Some(joining) = &mut at.joining else { return Ok(()) };
        joining.line.tasks.remove(&task);
        match task {
            Task::Manifest(id) => {
                let Some(chunk) = at.disk.read(id)? else { return Ok(()) };
                let manifest = Manifest::decode(chunk.bytes()).map_err(|error| violation(&error))?;
                // What came of it must outlive garbage collection, also after a crash.
                at.keep(&chunk)?;
                let Some(joining) = &mut at.joining else { return Ok(()) };
                joining.manifests.insert(id, chunk);
                if joining.first == id {
                    joining.join.handle_offer(Snapshot { id, position: manifest.position }, lease, clock);
                }
                if joining.rebase.is_some_and(|(onto, _)| onto.id == id) {
                    self.begin_task(member, Task::Upper(id));
                }
            }
            Task::Vital(of) => joining.join.handle_here(Part::Vital, of, clock),
            Task::Hot(of) => joining.join.handle_here(Part::Hot, of, clock),
            Task::Upper(of) => {
                joining.join.handle_here(Part::Upper, of, clock);
                if let Some((onto, _)) = joining.rebase.filter(|(onto, _)| onto.id == of) {
                    self.finish_rebase(member, onto)?;
                }
            }
            Task::Apply | Task::Read(_) => {}
        }
        self.drive(member)
    }

    /// The upper levels of a snapshot are here: it goes below the state.
    fn finish_rebase(&mut self, member: MemberId, onto: Snapshot) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let at = &mut self.members[member];
        let base = at.base.as_ref().map(|base| base.manifest.position).unwrap_or_default();
        let Some(joining) = &mut at.joining else { return Ok(()) };
        joining.rebase = None;
        if onto.position < base {
            // It sealed by itself meanwhile: changes between the two are nowhere but in its own seal.
            joining.join.handle_rebase_failed(onto.id, clock);
            return Ok(());
        }
        joining.is_adopted = true;
        let manifest = joining.manifests.get(&onto.id).cloned();
        let manifest = manifest.ok_or_else(|| Violation(format!("a re-base onto {onto}, which is unknown")))?;
        self.stand_on(member, &manifest)?;
        self.figures.rebases += 1;
        if let Some(joining) = &mut self.members[member].joining {
            joining.join.handle_rebased(onto.id, clock);
        }
        Ok(())
    }

    /// A joiner asks, or hears, of a newer snapshot.
    pub(super) fn newer(&mut self, member: MemberId, cause: RebaseCause) -> Result<(), Trouble> {
        let reference = self.reference();
        let at = &mut self.members[member];
        let base = at.base.as_ref().map(|base| base.manifest.position).unwrap_or_default();
        let Some(joining) = &mut at.joining else { return Ok(()) };
        let number = joining.number;
        let Some(newest) = reference.filter(|newest| newest.position >= base) else {
            if cause != RebaseCause::Mark {
                self.schedule(AGAIN_AFTER, Event::Newer { member, join: number, cause });
            }
            return Ok(());
        };
        if joining.join.snapshot().is_none() && joining.join.reached(Milestone::Planned).is_none() {
            // Nobody may have the one that it began with any longer.
            if newest.id != joining.first {
                self.end_join(member, Duration::ZERO);
            }
            return Ok(());
        }
        joining.join.handle_newer_snapshot(newest, cause);
        if cause == RebaseCause::LogGap && joining.feed == Feed::None && joining.rebase.is_none() {
            self.schedule(AGAIN_AFTER, Event::Newer { member, join: number, cause });
        }
        self.begin_manifests(member);
        self.drive(member)
    }

    /// Nobody who can be reached has what a task needs.
    pub(super) fn nobody_has(&mut self, member: MemberId, task: Task) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        let join = joining.number;
        let of = match task {
            Task::Manifest(of) | Task::Vital(of) | Task::Upper(of) | Task::Hot(of) => Some(of),
            Task::Apply | Task::Read(_) => None,
        };
        if joining.rebase.is_some_and(|(onto, _)| Some(onto.id) == of) {
            joining.rebase = None;
            joining.line.tasks.remove(&task);
            joining.join.handle_rebase_failed(of.expect("just compared"), clock);
            return self.drive(member);
        }
        let cause = RebaseCause::Mark;
        self.schedule(AGAIN_AFTER, Event::Newer { member, join, cause });
        Ok(())
    }

    /// A newer snapshot may have been planned: its manifest comes first.
    fn begin_manifests(&mut self, member: MemberId) {
        let Some(joining) = &mut self.members[member].joining else { return };
        if let Some(snapshot) = joining.join.snapshot()
            && !joining.manifests.contains_key(&snapshot.id)
        {
            self.begin_task(member, Task::Manifest(snapshot.id));
        }
    }

    /// Looks for a member whose log goes on where the joiner stands.
    pub(super) fn attach(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let joining = self.members[member].joining.as_ref();
        let Some((Feed::Wanted(after), number)) = joining.map(|joining| (joining.feed, joining.number)) else {
            return Ok(());
        };
        let sources = self.sources_of(member);
        let Some(&source) = sources.get(self.random.below(sources.len() as u64) as usize) else {
            self.schedule(AGAIN_AFTER, Event::Attach { member, join: number });
            return Ok(());
        };
        let order = &self.order;
        let after = if self.members[member].joining.as_ref().is_some_and(|joining| joining.is_adopted) {
            after.max(self.members[member].position())
        } else {
            after
        };
        let last = self.members[member].run_after(after.index, |index| order.position(index))?;
        let first = self.members[source].log.as_ref().map_or(u64::MAX, landfall_store::log::Log::first_index);
        let begins_after = if first <= last + 1 { after } else { self.order.position(first - 1) };
        let is_near = begins_after <= after;
        if is_near {
            self.members[member].cut_after(last)?;
            let ends_at = self.now + LEASE_TIME;
            self.leases.insert(member, LogLease { after: last, ends_at });
        }
        self.log.note(self.now, format_args!("{member} attaches to the log of {source} after {begins_after}"));
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
        let last = self.members[member].log.as_ref().and_then(landfall_store::log::Log::last_index);
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
        self.leases.insert(member, LogLease { after, ends_at: self.now + LEASE_TIME });
        Ok(())
    }

    /// The member that the joiner is attached to is gone, or does not keep what it needs.
    pub(super) fn lose_log(&mut self, member: MemberId) -> Result<(), Trouble> {
        self.log.note(self.now, format_args!("{member} lost the log"));
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
            self.schedule(AGAIN_AFTER, Event::Attach { member, join });
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
                && self.network.parted_until(member, source, self.now).is_none()
        };
        (0..self.members.len()).filter(can_serve).collect()
    }

    /// All of a snapshot is here.
    pub(super) fn complete(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.now);
        let at = &mut self.members[member];
        let Some(joining) = &mut at.joining else { return Ok(()) };
        let Some(bulk) = joining.bulk.take() else { return Ok(()) };
        let id = bulk.snapshot;
        let manifest = joining.manifests[&id].clone();
        drop(bulk);
        self.part_bulk(member);
        let at = &mut self.members[member];
        at.sync()?;
        self.check_whole(member, &manifest)?;
        let at = &mut self.members[member];
        if at.base.as_ref().is_some_and(|base| base.id == id) {
            at.record_base(&manifest, Extent::Whole)?;
            let index = at.base.as_ref().map_or(0, |base| base.manifest.position.index);
            for pinned in at.pinned()?.into_iter().filter(|pinned| *pinned != id) {
                at.unpin(pinned)?;
            }
            at.seals.insert(index, id);
        }
        self.figures.completed += 1;
        self.log.note(self.now, format_args!("{member} has all of {}", id.short()));
        if let Some(joining) = &mut self.members[member].joining {
            joining.join.handle_here(Part::Rest, id, clock);
        }
        self.drive(member)
    }

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
        let clock = self.members[member].clock(self.now);
        let audit = self.members[member].joining.as_ref().and_then(|joining| joining.audit);
        let Some(audit) = audit.filter(|audit| clock.since(audit.since) >= AUDIT_MAX) else { return Ok(()) };
        self.tell_audit(member, Tally { position: audit.position, equal: 0, different: 0, most: None })
    }

    fn tell_audit(&mut self, member: MemberId, tally: Tally) -> Result<(), Trouble> {
        self.log.note(self.now, format_args!("{member} hears of an audit: {tally:?}"));
        let clock = self.members[member].clock(self.now);
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
        let fails = self.random.chance(self.faults.hook);
        let clock = self.members[member].clock(self.now);
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
        self.log.note(self.now, format_args!("{member} votes"));
        self.figures.promoted += 1;
        self.members[member].diverges = false;
        self.order.promote(member);
        self.end_join(member, Duration::ZERO);
        Ok(())
    }

    /// Lets a join go. What came is kept.
    pub(super) fn end_join(&mut self, member: MemberId, again_after: Duration) {
        self.part_bulk(member);
        self.part_line(member);
        self.leases.remove(&member);
        let at = &mut self.members[member];
        at.joining = None;
        at.is_reconciled = false;
        let life = at.life;
        self.schedule(again_after, Event::Start { member, life });
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

    /// The disk of a joiner is full: its join is over.
    pub(super) fn fail_join(&mut self, member: MemberId, failure: Failure) -> Result<(), Trouble> {
        if let Some(joining) = &mut self.members[member].joining {
            joining.join.handle_failed(failure);
        }
        self.drive(member)
    }

    /// The snapshot that a member said it holds whole is whole.
    pub(super) fn check_base(&self, member: MemberId) -> Result<(), Trouble> {
        let Some(base) = &self.members[member].base else { return Ok(()) };
        let manifest = base.manifest.to_chunk();
        self.check_whole(member, &manifest)
    }

    /// Every node and every long value of a snapshot is here.
    fn check_whole(&self, member: MemberId, manifest: &Chunk) -> Result<(), Trouble> {
        let at = &self.members[member];
        let here = at.here();
        let decoded = Manifest::decode(manifest.bytes()).map_err(|error| violation(&error))?;
        for section in &decoded.sections {
            let need = super::needs::whole_tree(&here, at.disk.store(), &section.root)?;
            here.failed()?;
            if !matches!(need, super::line::Need::Nothing) {
                return broken(format!("member {member} has all of {}, but needs {need:?}", manifest.id()))?;
            }
        }
        let vital = decoded.sections.iter().filter(|section| section.priority == SectionPriority::Vital).count();
        Ok(check(vital > 0, || "no section is vital".to_owned())?)
    }
}

/// Notes when a look is due; says whether none is due by then.
pub(super) fn is_new(due: &mut Option<Time>, now: Time, at: Time) -> bool {
    if due.is_some_and(|due| due > now && due <= at) {
        return false;
    }
    *due = Some(at);
    true
}

const FEED_BYTES_MAX: u64 = 64 * 1024;

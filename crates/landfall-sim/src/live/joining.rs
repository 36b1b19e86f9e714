//! Owns the joins of a run: it does for a joiner what the core's join commands, and tells it the facts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::join::{Command, Failure, Join, LeaseVersion, Milestone, Part, RebaseCause, Scope, Snapshot};
use landfall_core::keyed::Sections;
use landfall_core::snapshot::{Manifest, Position, SectionPriority};
use landfall_core::{Chunk, ChunkId, Time};
use landfall_store::Session;

use super::auditing::{AUDIT_MAX, Audit};
use super::line::{Line, Task};
use super::member::{Extent, violation};
use super::world::{Event, LiveWorld};
use crate::checks::{Violation, broken, check};
use crate::network::MemberId;
use crate::pull::Pull;
use crate::trouble::Trouble;

/// A joiner counts as caught up when it lacks at most so many records.
const LAG_MAX: u64 = 32;
/// Pause before something that nobody could give is asked for again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(300);

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
    pub(super) audit: Option<Audit>,
    pub(super) is_verifying: bool,
    /// Where an audit showed that the state is right.
    pub(super) verified_at: Option<u64>,
    pub(super) hot_keys: Vec<Bytes>,
    /// A source that it has not heard of.
    pub(super) unnamed: Option<MemberId>,
    /// A source that it heard of while its transfer ran.
    pub(super) late: Option<MemberId>,
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

/// What keeps the members' logs for a joiner.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogLease {
    /// The records after this index.
    pub(super) after: u64,
    pub(super) ends_at: Time,
}

impl Joining {
    /// Is everything here, and an audit to show that it is right?
    pub(super) fn is_audited(&self) -> bool {
        self.is_verifying
    }

    /// Does it fetch this snapshot?
    pub(super) fn wants(&self, id: ChunkId) -> bool {
        let is_first = self.first == id && self.join.snapshot().is_none();
        let is_below = self.join.snapshot().is_some_and(|snapshot| snapshot.id == id);
        is_first || is_below || self.rebase.is_some_and(|(onto, _)| onto.id == id)
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
            self.ground.schedule(AGAIN_AFTER, Event::Start { member, life });
            return Ok(());
        };
        self.joins_made += 1;
        let number = self.joins_made;
        let hot_keys =
            (0..3).map(|_| Bytes::from(format!("key/{:05}", self.ground.random.below(self.scenario.content.keys))));
        let hot_keys = hot_keys.collect();
        let unnamed = self.begin_unnamed(member, number);
        let at = &mut self.members[member];
        let scope = if at.sections == Sections::All { Scope::Whole } else { Scope::Sections };
        let store = at.disk.store().expect("it is up");
        self.ground.log.note(self.ground.now, format_args!("{member} begins join {number} with {}", first.short()));
        let mut line = Line::new();
        line.begin(Task::Manifest(first));
        at.joining = Some(Joining {
            number,
            join: Join::with_scope(scope, LAG_MAX, at.clock(self.ground.now)),
            line,
            first,
            manifests: BTreeMap::new(),
            bulk: None,
            feed: Feed::None,
            rebase: None,
            audit: None,
            is_verifying: false,
            verified_at: None,
            hot_keys,
            unnamed,
            late: None,
            is_adopted: false,
            bytes_told: 0,
            line_at: None,
            bulk_at: None,
            drive_at: None,
            _session: store.begin_session(),
        });
        self.ground.schedule(Duration::ZERO, Event::Line { member, join: number });
        Ok(())
    }

    /// The snapshot on which it stands, if that is whole or somebody has it; else the newest.
    fn first_snapshot(&self, member: MemberId) -> Option<ChunkId> {
        let reference = self.reference();
        let at = &self.members[member];
        let Some(base) = &at.base else { return reference.map(|reference| reference.id) };
        let has = |other: &super::member::Member| other.seals.values().any(|id| *id == base.id);
        let may_serve = !at.distrusts_base;
        if may_serve && (base.extent != Extent::Filling || self.members.iter().any(|other| other.is_up() && has(other)))
        {
            return Some(base.id);
        }
        reference.filter(|reference| reference.position >= base.manifest.position).map(|reference| reference.id)
    }

    /// Carries out what a join commands, and tells it the time if it must know.
    pub(super) fn drive(&mut self, member: MemberId) -> Result<(), Trouble> {
        loop {
            let now = self.members[member].clock(self.ground.now);
            let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
            let bytes = joining.line.bytes;
            joining.join.handle_received(bytes - joining.bytes_told);
            joining.bytes_told = bytes;
            joining.join.handle_timeout(now);
            let Some(command) = joining.join.poll_command() else { break };
            self.ground.log.note(self.ground.now, format_args!("{member}: {command}"));
            self.obey(member, command)?;
        }
        let clock = self.members[member].clock(self.ground.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        if let Some(at) = joining.join.poll_timeout()
            && is_new(&mut joining.drive_at, self.ground.now, self.ground.now + at.since(clock))
        {
            let join = joining.number;
            self.ground.schedule(at.since(clock), Event::Drive { member, join });
        }
        Ok(())
    }

    fn obey(&mut self, member: MemberId, command: Command) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        let number = joining.number;
        match command {
            Command::AttachLog { after } => {
                joining.feed = Feed::Wanted(after);
                self.ground.schedule(self.scenario.latency, Event::Attach { member, join: number });
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
                self.ground.schedule(self.scenario.latency, Event::Newer { member, join: number, cause });
            }
            Command::Rebase { onto, cause } => {
                joining.rebase = Some((onto, cause));
                self.begin_task(member, Task::Manifest(onto.id));
            }
            Command::Audit { position } => {
                joining.audit = Some(Audit { position, since: clock });
                joining.is_verifying = true;
                self.ground.schedule(AUDIT_MAX, Event::Audit { member, join: number });
                self.look_at_audits()?;
            }
            Command::ReportDifference { theirs } => {
                self.figures.differences += 1;
                joining.is_verifying = false;
                let is_known = self.members[member].ever_diverged;
                let is_right = self.seals.values().flat_map(BTreeMap::values).any(|sealed| sealed.id == theirs.id);
                check(is_known && is_right, || format!("member {member} differs from {theirs}, which nobody planned"))?;
            }
            Command::RunCommitHook { lease } => {
                let after = self.ground.random.millis(1, 300);
                self.ground.schedule(after, Event::Hook { member, join: number, lease });
            }
            Command::RollBack { reason } => {
                self.ground.log.note(self.ground.now, format_args!("{member} is rolled back: {reason}"));
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
        self.ground.schedule(Duration::ZERO, Event::Line { member, join });
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
        self.ground.log.note(self.ground.now, format_args!("{member} stands on {}", manifest.id().short()));
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
        let clock = self.members[member].clock(self.ground.now);
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
        let clock = self.members[member].clock(self.ground.now);
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
        let clock = at.clock(self.ground.now);
        let base = at.base.as_ref().map(|base| base.manifest.position).unwrap_or_default();
        let Some(joining) = &mut at.joining else { return Ok(()) };
        let number = joining.number;
        let Some(newest) = reference.filter(|newest| newest.position >= base) else {
            if cause != RebaseCause::Mark {
                self.ground.schedule(AGAIN_AFTER, Event::Newer { member, join: number, cause });
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
        joining.join.handle_newer_snapshot(newest, cause, clock);
        if cause == RebaseCause::LogGap && joining.feed == Feed::None && joining.rebase.is_none() {
            self.ground.schedule(AGAIN_AFTER, Event::Newer { member, join: number, cause });
        }
        self.begin_manifests(member);
        self.drive(member)
    }

    /// Nobody who can be reached has what a task needs.
    pub(super) fn nobody_has(&mut self, member: MemberId, task: Task) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
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
        let cause = RebaseCause::Gone;
        self.ground.schedule(AGAIN_AFTER, Event::Newer { member, join, cause });
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

    /// All of a snapshot is here.
    pub(super) fn complete(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
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
            let extent = at.extent_at_best();
            at.record_base(&manifest, extent)?;
            let index = at.base.as_ref().map_or(0, |base| base.manifest.position.index);
            for pinned in at.pinned()?.into_iter().filter(|pinned| *pinned != id) {
                at.unpin(pinned)?;
            }
            match extent {
                Extent::Whole => drop(at.seals.insert(index, id)),
                Extent::Sections | Extent::Filling => self.figures.sections_completed += 1,
            }
        }
        self.figures.completed += 1;
        self.ground.log.note(self.ground.now, format_args!("{member} has all of {}", id.short()));
        if let Some(joining) = &mut self.members[member].joining {
            joining.join.handle_here(Part::Rest, id, clock);
        }
        self.drive(member)
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
        self.ground.schedule(again_after, Event::Start { member, life });
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

    /// Every node and every long value of a snapshot is here, of the sections that the member is to hold.
    fn check_whole(&self, member: MemberId, manifest: &Chunk) -> Result<(), Trouble> {
        let at = &self.members[member];
        let here = at.here();
        let decoded = Manifest::decode(manifest.bytes()).map_err(|error| violation(&error))?;
        for section in decoded.sections.iter().filter(|section| at.sections.has(&section.name)) {
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

//! Owns how far a join is: what it reached and when, who waits for it, and whether it was stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use landfall_core::join::{Command, Join, LeaseVersion, Milestone, Part, Reached, RollBackReason, Scope, Snapshot};
use landfall_core::keyed::Sections;
use landfall_core::snapshot::{Manifest, Position};
use landfall_core::wire::TouchedKey;
use landfall_core::{Chunk, ChunkId, Time};

use super::landing::{KeyedLanding, LandingError};
use super::lanes::FaultLanes;
use super::{JoinError, JoinFailure};
use crate::clock::Clock;
use crate::fetch::session::Session;
use crate::fetch::status::{Status, StatusFigures};
use crate::history::Extent;
use crate::keyed::Standing;

/// When a milestone was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachedAfter {
    /// Time since the join began.
    pub after: Duration,
    /// Plaintext bytes that had come until then.
    pub bytes: u64,
}

/// A join at one moment.
#[derive(Debug, Clone)]
pub struct JoinStatus {
    /// The snapshot and its position, once it is known which.
    pub snapshot: Option<(ChunkId, Position)>,
    /// What was reached, in the order in which it was.
    pub reached: Vec<(Milestone, ReachedAfter)>,
    /// Plaintext bytes that came because something could not wait.
    pub fault_bytes: u64,
    /// Figures of the transfer, of all connections.
    pub figures: StatusFigures,
    /// Time until everything is here, at the pace of the last half minute, or since this was asked last; nothing where nothing came
    /// meanwhile, and once it ended.
    pub left: Option<Duration>,
    /// Why it ended, if it did without everything here.
    pub failure: Option<JoinError>,
    /// Why this member does not become one though everything is here, and when that was found.
    pub rolled_back: Option<(RollBackReason, ReachedAfter)>,
}

/// What is fetched.
pub(in crate::keyed) struct Plan {
    pub(super) snapshot: ChunkId,
    pub(in crate::keyed) manifest: Manifest,
    pub(super) manifest_chunk: Chunk,
    /// The sections of it that are.
    pub(in crate::keyed) sections: Sections,
    pub(in crate::keyed) lanes: Arc<FaultLanes>,
    /// Keys that readers of the sources touched lately.
    pub(super) touches: Vec<TouchedKey>,
}

impl Plan {
    /// As it stands below the state, so much of it being here.
    pub(super) fn standing(&self, extent: Extent) -> Standing {
        let (chunk, manifest) = (self.manifest_chunk.clone(), self.manifest.clone());
        Standing { chunk, manifest, extent, sections: self.sections.clone() }
    }
}

/// How far a join is, shared by its thread and whoever holds its handle.
pub(in crate::keyed) struct Progress {
    clock: Clock,
    pub(super) status: Arc<Status>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    join: Join,
    bytes_told: u64,
    plan: Option<Arc<Plan>>,
    session: Option<Arc<Session<KeyedLanding>>>,
    /// Keeps what came from being collected.
    protection: Option<landfall_store::Session>,
    /// Connections on which hot units come, and what came on them.
    hot_lanes: Option<Arc<FaultLanes>>,
    /// Addresses of all sources that were named so far.
    sources: Vec<String>,
    /// What the join asks for that is about chunks.
    fetches: VecDeque<Fetch>,
    /// What it asks for that is not.
    for_caller: VecDeque<Command>,
    rolled_back: Option<(RollBackReason, ReachedAfter)>,
    stopped: bool,
    end: Option<Result<(), JoinError>>,
    pace: Pace,
}

impl Progress {
    pub(super) fn new(scope: Scope, sources: Vec<String>) -> Self {
        let clock = Clock::start();
        let inner = Inner {
            join: Join::with_scope(scope, LAG_MAX, clock.now()),
            bytes_told: 0,
            plan: None,
            session: None,
            protection: None,
            hot_lanes: None,
            sources,
            fetches: VecDeque::new(),
            for_caller: VecDeque::new(),
            rolled_back: None,
            stopped: false,
            end: None,
            pace: Pace::default(),
        };
        Self { clock, status: Arc::default(), inner: Mutex::new(inner), changed: Condvar::new() }
    }

    pub(in crate::keyed) fn plan(&self) -> Option<Arc<Plan>> {
        self.lock().plan.clone()
    }

    pub(super) fn has_reached(&self, milestone: Milestone) -> bool {
        self.lock().join.reached(milestone).is_some()
    }

    /// Tells the join a fact.
    pub(super) fn tell(&self, fact: impl FnOnce(&mut Join, Time)) {
        let mut inner = self.lock();
        let bytes = self.bytes(&inner);
        let came = bytes.saturating_sub(inner.bytes_told);
        inner.bytes_told = bytes;
        inner.join.handle_received(came);
        let now = self.clock.now();
        fact(&mut inner.join, now);
        let after = ReachedAfter { after: now.since(Time::ZERO), bytes };
        inner.rolled_back = inner.rolled_back.or(inner.join.rolled_back().map(|reason| (reason, after)));
        self.changed.notify_all();
    }

    /// The next thing that is about chunks.
    pub(super) fn next_fetch(&self) -> Option<Fetch> {
        let mut inner = self.lock();
        inner.sort_commands();
        inner.fetches.pop_front()
    }

    /// The next thing that is for whoever joins to do.
    pub(super) fn next_for_caller(&self) -> Option<Command> {
        let mut inner = self.lock();
        inner.sort_commands();
        inner.for_caller.pop_front()
    }

    /// How long until the join is to be told that time passed.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let at = self.lock().join.poll_timeout()?;
        Some(at.since(self.clock.now()))
    }

    pub(super) fn wait(&self, milestone: Milestone) -> Result<(), JoinError> {
        let inner = self.lock();
        // After a good end, later milestones are reached by what the caller tells.
        let is_over = |inner: &Inner| {
            let is_in_vain = !inner.join.may_reach(milestone);
            is_in_vain || matches!(inner.end, Some(Err(_))) || (inner.stopped && inner.end.is_some())
        };
        let waits = |inner: &mut Inner| inner.join.reached(milestone).is_none() && !is_over(inner);
        let inner = self.changed.wait_while(inner, waits).expect("no panic under the lock");
        match &inner.end {
            _ if inner.join.reached(milestone).is_some() => Ok(()),
            Some(Err(error)) => Err(error.clone()),
            _ if !inner.join.may_reach(milestone) => Err(JoinError(Arc::new(JoinFailure::SomeSections))),
            _ => Err(JoinError(Arc::new(JoinFailure::Stopped))),
        }
    }

    pub(super) fn status(&self) -> JoinStatus {
        let mut inner = self.lock();
        let reached = Milestone::ALL.into_iter().filter_map(|milestone| {
            let Reached { at, bytes } = inner.join.reached(milestone)?;
            Some((milestone, ReachedAfter { after: at.since(Time::ZERO), bytes }))
        });
        let mut reached: Vec<_> = reached.collect();
        reached.sort_by_key(|(_, reached)| reached.after);
        let figures = self.status.figures();
        let left = inner.time_left(&figures, self.clock.now());
        JoinStatus {
            snapshot: inner.plan.as_ref().map(|plan| (plan.snapshot, plan.manifest.position)),
            reached,
            fault_bytes: inner.plan.as_ref().map_or(0, |plan| plan.lanes.bytes()),
            figures,
            left,
            failure: inner.end.as_ref().and_then(|end| end.as_ref().err().cloned()),
            // One that could not go on fetching is begun again.
            rolled_back: inner.rolled_back.filter(|_| !matches!(inner.end, Some(Err(_)))),
        }
    }

    /// Says what is fetched.
    pub(super) fn set_plan(&self, plan: Arc<Plan>, lease: LeaseVersion) -> Result<(), JoinFailure> {
        let snapshot = Snapshot { id: plan.snapshot, position: plan.manifest.position };
        let mut inner = self.lock();
        inner.sources.iter().for_each(|source| plan.lanes.add_source(source));
        inner.plan = Some(plan);
        if inner.stopped {
            return Err(JoinFailure::Stopped);
        }
        drop(inner);
        self.tell(|join, now| {
            join.handle_offer(snapshot, lease, now);
            join.handle_log_attached(snapshot.position, now);
        });
        Ok(())
    }

    /// Says that all of a snapshot is here, and that nobody fetches anything.
    pub(super) fn begin_whole(&self, snapshot: Snapshot) {
        // Only a source's lease has a version.
        let lease = LeaseVersion(0);
        self.tell(|join, now| {
            join.handle_offer(snapshot, lease, now);
            join.handle_log_attached(snapshot.position, now);
            for part in [Part::Vital, Part::Upper, Part::Hot, Part::Rest] {
                join.handle_here(part, snapshot.id, now);
            }
        });
        let mut inner = self.lock();
        inner.sort_commands();
        // It is here already.
        inner.fetches.clear();
        inner.end = Some(Ok(()));
    }

    /// Keeps what comes until [`Progress::unprotect`].
    pub(super) fn protect(&self, protection: landfall_store::Session) {
        self.lock().protection = Some(protection);
    }

    /// What came is pinned, or of no use to anybody.
    pub(super) fn unprotect(&self) {
        self.lock().protection = None;
    }

    /// Says which transfer is to be ended, should the join be stopped, and hear of sources that are named later than those that were asked.
    pub(super) fn set_session(&self, session: Arc<Session<KeyedLanding>>, asked: &[String]) -> Result<(), JoinFailure> {
        let mut inner = self.lock();
        let later = inner.sources.iter().filter(|source| !asked.contains(source));
        later.for_each(|source| session.add_source(source.clone()));
        inner.session = Some(session);
        if inner.stopped { Err(JoinFailure::Stopped) } else { Ok(()) }
    }

    /// Says on which connections hot units come, should the join be stopped.
    pub(super) fn set_hot_lanes(&self, lanes: Arc<FaultLanes>) -> Result<(), JoinFailure> {
        let mut inner = self.lock();
        inner.sources.iter().for_each(|source| lanes.add_source(source));
        inner.hot_lanes = Some(lanes);
        if inner.stopped { Err(JoinFailure::Stopped) } else { Ok(()) }
    }

    /// The sources that were named so far.
    pub(super) fn sources(&self) -> Vec<String> {
        self.lock().sources.clone()
    }

    /// Names one more source to everything that asks.
    pub(super) fn add_source(&self, address: String) {
        let mut inner = self.lock();
        if inner.sources.contains(&address) {
            return;
        }
        let lanes = inner.plan.as_ref().map(|plan| &plan.lanes).into_iter().chain(&inner.hot_lanes);
        lanes.for_each(|lanes| lanes.add_source(&address));
        if let Some(session) = &inner.session {
            session.add_source(address.clone());
        }
        inner.sources.push(address);
    }

    pub(super) fn stop(&self) {
        let (plan, session, hot_lanes) = {
            let mut inner = self.lock();
            inner.stopped = true;
            self.changed.notify_all();
            (inner.plan.clone(), inner.session.take(), inner.hot_lanes.clone())
        };
        if let Some(lanes) = hot_lanes {
            lanes.end();
        }
        if let Some(session) = session {
            session.fail(LandingError::Stopped);
        }
        if let Some(plan) = plan {
            plan.lanes.end();
        }
    }

    pub(super) fn was_stopped(&self) -> bool {
        self.lock().stopped
    }

    pub(super) fn end(&self, end: Result<(), JoinFailure>) {
        if let Err(failure) = &end {
            let failure = failure.kind();
            self.tell(|join, _| join.handle_failed(failure));
        }
        let mut inner = self.lock();
        inner.session = None;
        inner.end = Some(end.map_err(|failure| JoinError(Arc::new(failure))));
        self.changed.notify_all();
    }

    fn bytes(&self, inner: &Inner) -> u64 {
        let figures = self.status.figures();
        let urgent = inner.plan.as_ref().map_or(0, |plan| plan.lanes.bytes());
        let hot = inner.hot_lanes.as_ref().map_or(0, |lanes| lanes.bytes());
        figures.node_bytes + figures.bytes_done + urgent + hot
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under the lock")
    }
}

/// How fast entries come, by what was seen lately.
#[derive(Default)]
struct Pace {
    /// When how many had come, oldest first.
    seen: VecDeque<(Time, u64)>,
}

impl Pace {
    fn note(&mut self, now: Time, came: u64) {
        if self.seen.back().is_some_and(|(last, _)| now.since(*last) < PACE_EVERY) {
            return;
        }
        self.seen.push_back((now, came));
        while self.seen.get(1).is_some_and(|(second, _)| now.since(*second) >= PACE_OF) {
            self.seen.pop_front();
        }
    }

    /// Time until as many as are `missing` will have come; nothing where none came lately.
    fn time_for(&self, missing: u64, now: Time, came: u64) -> Option<Duration> {
        let (since, before) = self.seen.front()?;
        let lately = came.checked_sub(*before).filter(|lately| *lately > 0)?;
        Duration::try_from_secs_f64(now.since(*since).as_secs_f64() * (missing as f64 / lately as f64)).ok()
    }
}

/// Between two looks at how many came, at least.
const PACE_EVERY: Duration = Duration::from_secs(1);
/// The pace is that of so long, or since somebody looked last if that is longer ago.
const PACE_OF: Duration = Duration::from_secs(30);

impl Inner {
    /// Time until everything is here, once it is known what is wanted and while it comes.
    fn time_left(&mut self, figures: &StatusFigures, now: Time) -> Option<Duration> {
        if figures.entries_wanted == 0 || self.end.is_some() {
            return None;
        }
        let missing = figures.entries_wanted.saturating_sub(figures.entries_here);
        let left = self.pace.time_for(missing, now, figures.entries_came);
        self.pace.note(now, figures.entries_came);
        left
    }

    /// Tells what is the fetching thread's from what is the caller's. Once nobody fetches, all is the caller's.
    fn sort_commands(&mut self) {
        while let Some(command) = self.join.poll_command() {
            let fetch = match command {
                // The log is the caller's, and was said to be attached.
                Command::AttachLog { .. } => continue,
                Command::FetchVital { of } => Some(Fetch { part: Part::Vital, of }),
                Command::FetchUpper { of } => Some(Fetch { part: Part::Upper, of }),
                Command::FetchHot { of } => Some(Fetch { part: Part::Hot, of }),
                Command::FetchRest { of } => Some(Fetch { part: Part::Rest, of }),
                _ => None,
            };
            match fetch.filter(|_| self.end.is_none()) {
                Some(fetch) => self.fetches.push_back(fetch),
                None => self.for_caller.push_back(command),
            }
        }
    }
}

/// A part of a snapshot to be fetched.
pub(super) struct Fetch {
    pub(super) part: Part,
    pub(super) of: ChunkId,
}

/// Records that may lie between here and the end of the log when a joiner counts as caught up.
pub const LAG_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_left_takes_as_long_as_it_took_lately() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_for(100, at(0), 0), None);
        // A hundred in a second; then ten, for longer than is remembered.
        pace.note(at(0), 0);
        pace.note(at(1), 100);
        assert_eq!(pace.time_for(300, at(1), 100), Some(Duration::from_secs(3)));
        for second in 2..=31 {
            pace.note(at(second), 100 + (second - 1) * 10);
        }
        assert_eq!(pace.time_for(300, at(31), 400), Some(Duration::from_secs(30)));
        assert_eq!(pace.time_for(0, at(31), 400), Some(Duration::ZERO));
    }

    #[test]
    fn nothing_is_foretold_where_nothing_comes_or_the_end_is_not_in_sight() {
        let mut pace = Pace::default();
        pace.note(at(0), 5);
        assert_eq!(pace.time_for(100, at(9), 5), None);
        // What is wanted is what a source claims.
        assert_eq!(pace.time_for(u64::MAX, at(1000), 6), None);
    }

    #[test]
    fn looks_that_follow_each_other_at_once_count_as_one() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.note(at(0), 0);
        }
        pace.note(at(1), 7);
        assert_eq!(pace.seen.len(), 2);
    }
}

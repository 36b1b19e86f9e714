//! Owns how far a join is: what it reached and when, who waits for it, and whether it was stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use landfall_core::snapshot::{Manifest, Position};
use landfall_core::{Chunk, ChunkId};

use super::landing::{KeyedLanding, LandingError};
use super::lanes::FaultLanes;
use super::{JoinError, JoinFailure};
use crate::fetch::session::Session;
use crate::fetch::status::{Status, StatusFigures};

/// How far a joiner has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Milestone {
    /// Every source was asked.
    Asked,
    /// It is known which snapshot is fetched.
    Planned,
    /// Vital sections are whole and the upper levels of the others are here: it can serve reads that fault.
    Viable,
    /// Everything is here, and durable.
    Complete,
}

/// When a milestone was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
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
    /// What was reached, in order.
    pub reached: Vec<(Milestone, Reached)>,
    /// Plaintext bytes that came because something could not wait.
    pub fault_bytes: u64,
    /// Figures of the transfer, of all connections.
    pub figures: StatusFigures,
    /// Why it ended, if it did without everything here.
    pub failure: Option<JoinError>,
}

/// What is fetched.
pub(in crate::keyed) struct Plan {
    pub(super) snapshot: ChunkId,
    pub(in crate::keyed) manifest: Manifest,
    pub(super) manifest_chunk: Chunk,
    pub(in crate::keyed) lanes: Arc<FaultLanes>,
}

/// How far a join is, shared by its thread and whoever holds its handle.
pub(in crate::keyed) struct Progress {
    began: Instant,
    pub(super) status: Arc<Status>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    plan: Option<Arc<Plan>>,
    reached: BTreeMap<Milestone, Reached>,
    session: Option<Arc<Session<KeyedLanding>>>,
    stopped: bool,
    end: Option<Result<(), JoinError>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), status: Arc::default(), inner: Mutex::default(), changed: Condvar::new() }
    }

    pub(in crate::keyed) fn plan(&self) -> Option<Arc<Plan>> {
        self.lock().plan.clone()
    }

    pub(super) fn has_reached(&self, milestone: Milestone) -> bool {
        self.lock().reached.contains_key(&milestone)
    }

    pub(super) fn reach(&self, milestone: Milestone) {
        let after = self.began.elapsed();
        let mut inner = self.lock();
        let bytes = self.bytes(&inner);
        inner.reached.entry(milestone).or_insert(Reached { after, bytes });
        self.changed.notify_all();
    }

    pub(super) fn wait(&self, milestone: Milestone) -> Result<(), JoinError> {
        let inner = self.lock();
        let waits = |inner: &mut Inner| !inner.reached.contains_key(&milestone) && inner.end.is_none();
        let inner = self.changed.wait_while(inner, waits).expect("no panic under the lock");
        match &inner.end {
            _ if inner.reached.contains_key(&milestone) => Ok(()),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(())) | None => Err(JoinError(Arc::new(JoinFailure::Stopped))),
        }
    }

    pub(super) fn status(&self) -> JoinStatus {
        let inner = self.lock();
        JoinStatus {
            snapshot: inner.plan.as_ref().map(|plan| (plan.snapshot, plan.manifest.position)),
            reached: inner.reached.iter().map(|(&milestone, &reached)| (milestone, reached)).collect(),
            fault_bytes: inner.plan.as_ref().map_or(0, |plan| plan.lanes.bytes()),
            figures: self.status.figures(),
            failure: inner.end.as_ref().and_then(|end| end.as_ref().err().cloned()),
        }
    }

    /// Says what is fetched.
    pub(super) fn set_plan(&self, plan: Arc<Plan>) -> Result<(), JoinFailure> {
        let mut inner = self.lock();
        inner.plan = Some(plan);
        if inner.stopped { Err(JoinFailure::Stopped) } else { Ok(()) }
    }

    /// Says which transfer is to be ended, should the join be stopped.
    pub(super) fn set_session(&self, session: Arc<Session<KeyedLanding>>) -> Result<(), JoinFailure> {
        let mut inner = self.lock();
        inner.session = Some(session);
        if inner.stopped { Err(JoinFailure::Stopped) } else { Ok(()) }
    }

    pub(super) fn stop(&self) {
        let (plan, session) = {
            let mut inner = self.lock();
            inner.stopped = true;
            (inner.plan.clone(), inner.session.take())
        };
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
        let mut inner = self.lock();
        inner.session = None;
        inner.end = Some(end.map_err(|failure| JoinError(Arc::new(failure))));
        self.changed.notify_all();
    }

    fn bytes(&self, inner: &Inner) -> u64 {
        let figures = self.status.figures();
        figures.node_bytes + figures.bytes_done + inner.plan.as_ref().map_or(0, |plan| plan.lanes.bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under the lock")
    }
}

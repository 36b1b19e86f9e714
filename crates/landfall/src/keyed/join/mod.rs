//! Owns a join: from asking the sources to everything of a snapshot here, while the state is read and changed.
//!
//! What cannot wait travels on lanes of its own; the bulk is a transfer. A join that ends early loses what was in flight: what came stays,
//! and the next join goes on from it.

mod early;
mod hot;
mod landing;
mod lanes;
mod line;
#[cfg(test)]
mod power;
mod progress;
mod run;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle as Thread};
use std::time::Duration;

use landfall_core::join::{Command, Failure, Join, Scope, Snapshot};
use landfall_core::keyed::{RebaseRefused, SchemaMismatch, Sections, SectionsRefused};
use landfall_core::snapshot::{Position, StateName};
use landfall_core::transfer::Stuck;
use landfall_core::tree::TreeError;
use landfall_core::{ChunkId, Time};
use landfall_net::Transport;
use landfall_store::StoreError;

pub use landfall_core::join::Milestone;
pub use landing::LandingError;
pub use lanes::FaultError;
pub(super) use lanes::{FaultLanes, Reach};
pub use progress::{JoinStatus, LAG_MAX, ReachedAfter};

use super::frozen::Work;
use super::{Extent, Keyed, RollBackError};
use crate::fetch::greet::Trust;
use progress::Progress;
use run::{Bases, Past, Run};

/// Whom to join, and what.
#[derive(Clone)]
pub struct JoinOptions {
    /// Addresses of members that serve the state; each may hold all of it or a part. More can be named later, with
    /// [`JoinHandle::add_source`].
    pub sources: Vec<String>,
    /// The way to reach them.
    pub transport: Arc<dyn Transport>,
    /// Who may speak for the state. A snapshot that is wanted by its id needs nobody's word.
    pub trust: Arc<dyn Trust>,
    /// The snapshot, if it is decided already; else the newest that is offered.
    pub wanted: Option<ChunkId>,
    /// The sections that this member is to hold, whole; vital ones always come. Those that it held before and that are not named it
    /// holds no longer once the snapshot is adopted.
    pub sections: Sections,
}

/// Why a join ended without all of the snapshot here. What came is kept for the next one.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// No source can be used.
    #[error("no source can serve '{state}': {reasons}")]
    NoSource {
        /// The state.
        state: StateName,
        /// What each source said.
        reasons: String,
    },
    /// The state has no such sections to join.
    #[error(transparent)]
    Sections(#[from] SectionsRefused),
    /// What was waited for is nothing that a member with some sections only becomes.
    #[error("a member that holds some sections only is neither verified nor promoted")]
    SomeSections,
    /// The snapshot has other sections than this program knows.
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
    /// The offered snapshot is older than the one on which the state stands.
    #[error("the sources offer a snapshot of position {offered}; the state stands on one of {held}")]
    Older {
        /// The position of the snapshot below the state.
        held: Position,
        /// The position of the offered one.
        offered: Position,
    },
    /// What is needed before serving cannot be had.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The sources that are left cannot complete it: join again when more are reachable.
    #[error("the transfer cannot go on: {0}")]
    Stuck(Stuck),
    /// What came cannot be kept.
    #[error(transparent)]
    Landing(#[from] LandingError),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot is broken at its source.
    #[error("the snapshot is broken at its source: {0}")]
    Tree(#[from] TreeError),
    /// Whoever began it let it go.
    #[error("the join was stopped")]
    Stopped,
    /// The system gave no thread for it: join again when it has some.
    #[error("the system gave no thread for a join")]
    NoThread,
}

impl JoinFailure {
    /// What it is to the join as a whole.
    fn kind(&self) -> Failure {
        match self {
            Self::NoSource { .. } | Self::Older { .. } | Self::Stuck(_) => Failure::NoSources,
            Self::Fault(FaultError::Nobody(_) | FaultError::Ended) => Failure::NoSources,
            Self::Fault(FaultError::Store(_)) | Self::Store(_) => Failure::Disk,
            Self::Landing(LandingError::Tree(_) | LandingError::NoSuchChunk) => Failure::BrokenSnapshot,
            Self::Landing(LandingError::Stopped) | Self::Stopped => Failure::Cancelled,
            Self::Landing(LandingError::Store(_) | LandingError::NodeLost(_)) => Failure::Disk,
            Self::Fault(FaultError::Tree(_)) | Self::Schema(_) | Self::Tree(_) => Failure::BrokenSnapshot,
            Self::Sections(_) | Self::SomeSections => Failure::Cancelled,
            Self::NoThread | Self::Landing(LandingError::NoThread) => Failure::NoThread,
        }
    }
}

/// Why a join ended. Everybody who waits is told.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct JoinError(pub Arc<JoinFailure>);

/// Why a snapshot was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// What serving needs is not here: wait for [`Milestone::Viable`].
    #[error("what serving needs is not here yet")]
    TooEarly,
    /// The snapshot cannot be put below the state.
    #[error(transparent)]
    Refused(#[from] RebaseRefused),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<RollBackError> for AdoptError {
    fn from(error: RollBackError) -> Self {
        match error {
            RollBackError::Store(error) => Self::Store(error),
            RollBackError::Refused(refused) => Self::Refused(refused),
            RollBackError::UnknownSnapshot(_) | RollBackError::Already => Self::TooEarly,
        }
    }
}

fn join_thread(run: Work) -> io::Result<Thread<()>> {
    Builder::new().name("join".into()).spawn(run)
}

/// A join under way. Dropping it stops the join; what came is kept.
pub struct JoinHandle {
    pub(super) keyed: Arc<Keyed>,
    pub(super) progress: Arc<Progress>,
    thread: Mutex<Option<Thread<()>>>,
}

impl Keyed {
    /// Begins to fetch a snapshot from other members. The state is what it was until [`JoinHandle::adopt`].
    pub fn join(self: &Arc<Self>, options: JoinOptions) -> JoinHandle {
        self.begin_join(options, Past::Refused, join_thread)
    }

    /// Begins to fetch a snapshot that is to take the place of a state which differs from it, with [`JoinHandle::heal`]: it may be older than
    /// what the state stands on.
    pub fn join_to_heal(self: &Arc<Self>, options: JoinOptions) -> JoinHandle {
        self.begin_join(options, Past::Welcome, join_thread)
    }

    /// Joins on the thread that `spawn` starts. Without one the join has failed from the beginning.
    fn begin_join(
        self: &Arc<Self>,
        options: JoinOptions,
        past: Past,
        spawn: impl FnOnce(Work) -> io::Result<Thread<()>>,
    ) -> JoinHandle {
        let sections = options.sections.within(&self.schema());
        let scope = if matches!(sections, Ok(Sections::Only(_))) { Scope::Sections } else { Scope::Whole };
        let JoinOptions { sources, transport, trust, wanted, .. } = options;
        let progress = Arc::new(Progress::new(scope, sources));
        let reach = Reach { transport, trust };
        let run =
            Run { keyed: self.clone(), reach, wanted, sections, past, bases: Bases::new(), progress: progress.clone() };
        let thread = spawn(Box::new(move || run.carry_out())).map_err(|error| {
            tracing::warn!(state = %self.name(), %error, "no thread for a join");
            progress.end(Err(JoinFailure::NoThread));
        });
        JoinHandle { keyed: self.clone(), progress, thread: Mutex::new(thread.ok()) }
    }

    /// The join of a member that was restarted when all was here: nothing is fetched, the state is as good as adopted, and what is left is to
    /// catch up, to be verified and promoted. Nothing if the state does not stand on a snapshot that is all here.
    pub fn join_held(self: &Arc<Self>) -> Option<JoinHandle> {
        let held = self.sealed().filter(|held| held.extent == Extent::Whole)?;
        let progress = Arc::new(Progress::new(Scope::Whole, Vec::new()));
        let snapshot = Snapshot { id: held.id, position: held.manifest.position };
        progress.begin_whole(snapshot);
        Some(JoinHandle { keyed: self.clone(), progress, thread: Mutex::new(None) })
    }
}

impl JoinHandle {
    /// Waits until a milestone is reached.
    ///
    /// # Errors
    /// [`JoinError`] if the join ended without it.
    pub fn wait(&self, milestone: Milestone) -> Result<(), JoinError> {
        self.progress.wait(milestone)
    }

    /// The snapshot and its position, once it is known which.
    pub fn snapshot(&self) -> Option<(ChunkId, Position)> {
        self.progress.plan().map(|plan| (plan.snapshot, plan.manifest.position))
    }

    /// Names one more source while the join runs: what the others lack, or cannot give any longer, is asked of it.
    pub fn add_source(&self, address: impl Into<String>) {
        self.progress.add_source(address.into());
    }

    /// Puts the snapshot below the state: from now on reads see it, faulting in what is not here. It is recorded first, so that the state is
    /// opened on it next time. Changes that are later than the snapshot stay. A join that ended early after [`Milestone::Viable`] can be
    /// adopted too: the next one goes on from there.
    pub fn adopt(&self) -> Result<Position, AdoptError> {
        let plan = self.progress.plan().filter(|_| self.progress.has_reached(Milestone::Viable));
        let plan = plan.ok_or(AdoptError::TooEarly)?;
        let keyed = &self.keyed;
        let mut base = keyed.lock_base();
        let stands =
            keyed.sealed().is_some_and(|sealed| sealed.id == plan.snapshot && sealed.sections == plan.sections);
        if !stands {
            let is_whole = self.progress.has_reached(Milestone::Complete);
            let extent = if is_whole { Extent::complete(&plan.sections) } else { Extent::Filling };
            keyed.here.store.sync()?;
            if !is_whole {
                keyed.ask_on(plan.lanes.clone());
            }
            keyed.stand_on(plan.standing(extent), &mut base)?;
            if is_whole {
                self.progress.unprotect();
            }
        }
        Ok(plan.manifest.position)
    }

    /// Makes the state exactly the snapshot, all of which must be here: changes that no seal has merged are forgotten, every other snapshot is
    /// let go, and the position goes back to the snapshot's. The log after it is to be applied again. It is durable when this returns.
    pub fn heal(&self) -> Result<Position, AdoptError> {
        let plan = self.progress.plan().filter(|_| self.progress.has_reached(Milestone::Complete));
        let plan = plan.ok_or(AdoptError::TooEarly)?;
        let keyed = &self.keyed;
        let _one_at_a_time = keyed.lock_applying();
        let mut base = keyed.lock_base();
        keyed.here.store.sync()?;
        keyed.stand_only_on(plan.standing(Extent::complete(&plan.sections)), &mut base)?;
        self.progress.unprotect();
        Ok(plan.manifest.position)
    }

    /// Tells the join a fact that is not about chunks: how far the log is applied here, what an audit found, what became of the commit hook.
    /// The log itself is the caller's, and counts as attached from the snapshot's position on.
    pub fn tell(&self, fact: impl FnOnce(&mut Join, Time)) {
        self.progress.tell(fact);
    }

    /// The next thing that the join asks of whoever began it: an audit, the commit hook, another snapshot.
    pub fn poll_command(&self) -> Option<Command> {
        self.progress.next_for_caller()
    }

    /// How long until the join must be told that time passed, with [`Join::handle_timeout`]; nothing if no clock matters now.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.progress.next_timeout()
    }

    /// How far it is.
    pub fn status(&self) -> JoinStatus {
        self.progress.status()
    }

    /// Ends the join, and waits until it has ended. What came is kept.
    pub fn stop(&self) {
        self.progress.stop();
        let thread = self.thread.lock().expect("no panic under the lock").take();
        if let Some(thread) = thread {
            thread.join().expect("a join does not panic");
        }
    }
}

impl Drop for JoinHandle {
    fn drop(&mut self) {
        self.stop();
        self.progress.unprotect();
    }
}

#[cfg(test)]
mod tests {
    use landfall_net::PlainTransport;

    use super::*;
    use crate::keyed::alone::open;
    use crate::pull::TrustAll;

    fn nobody() -> JoinOptions {
        JoinOptions {
            sources: Vec::new(),
            transport: Arc::new(PlainTransport),
            trust: Arc::new(TrustAll),
            wanted: None,
            sections: Sections::All,
        }
    }

    #[test]
    fn what_came_for_a_join_that_failed_is_kept_until_its_handle_goes() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = open(directory.path());
        let handle = keyed.join(nobody());
        let failure = handle.wait(Milestone::Viable).unwrap_err();
        assert!(matches!(*failure.0, JoinFailure::NoSource { .. }), "{failure}");
        assert_eq!(keyed.here.store.stats().sessions, 1, "it might be adopted yet");
        drop(handle);
        assert_eq!(keyed.here.store.stats().sessions, 0);
    }

    #[test]
    fn a_join_without_a_thread_says_so_to_whoever_waits() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = open(directory.path());
        let no_thread = |_| Err(io::Error::from(io::ErrorKind::WouldBlock));
        let handle = keyed.begin_join(nobody(), Past::Refused, no_thread);
        let failure = handle.wait(Milestone::Viable).unwrap_err();
        assert!(matches!(*failure.0, JoinFailure::NoThread), "{failure}");
        assert!(matches!(handle.adopt(), Err(AdoptError::TooEarly)));
        handle.stop();
    }
}

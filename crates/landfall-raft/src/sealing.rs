//! Owns what follows a seal: waiting until it is durable, and telling everybody.
//!
//! It never decides when to seal.

use std::sync::{Arc, Mutex, PoisonError};

use landfall::core::snapshot::{Manifest, Position};
use landfall::keyed::{AdoptError, Keyed, SealReport, SealTicket};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::apply::ApplyError;
use crate::cadence::{Cadence, SealCost};
use crate::consensus::{MemberId, StoredMembership};
use crate::healing::HealError;
use crate::message::SealedAt;
use crate::reserved::ReservedError;
use crate::seals::{Sealed, Seals};

/// Follows seals on threads that may block.
#[derive(Clone)]
pub(crate) struct Sealing {
    member: MemberId,
    keyed: Arc<Keyed>,
    seals: Arc<Seals>,
    cadence: Arc<Mutex<Cadence>>,
    runtime: Handle,
    progress: watch::Sender<Progress>,
    /// Held while what was sealed is told, and while the state is healed: what a state that went wrong sealed is told to nobody afterwards.
    telling: Arc<Mutex<()>>,
    /// Seals that became durable: whoever tells the others reads them.
    finished: mpsc::UnboundedSender<SealedAt>,
}

/// Where seals stand.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The newest seal that began.
    begun: Position,
    under_way: bool,
}

impl Sealing {
    /// Seals that finish are told to `finished`; there is at most one at a time.
    pub(crate) fn new(
        member: MemberId,
        keyed: Arc<Keyed>,
        seals: Arc<Seals>,
        runtime: Handle,
        finished: mpsc::UnboundedSender<SealedAt>,
    ) -> Self {
        let cadence = Arc::new(Mutex::new(Cadence::new()));
        let (progress, telling) = (watch::Sender::default(), Arc::default());
        Self { member, keyed, seals, cadence, runtime, progress, telling, finished }
    }

    /// Whether enough has changed for a mark, in the state or in bytes of log since the last one, and that one is done with.
    pub(crate) fn is_due(&self, log_bytes: u64) -> bool {
        let cadence = self.cadence.lock().unwrap_or_else(PoisonError::into_inner);
        !self.progress.borrow().under_way && cadence.is_due(self.keyed.overlay_bytes(), log_bytes)
    }

    /// Whether a seal began at that position; otherwise the mark there was skipped.
    pub(crate) fn has_begun(&self, position: Position) -> bool {
        self.progress.borrow().begun == position
    }

    pub(crate) async fn wait_until_idle(&self) {
        // The sender lives as long as this.
        let _ = self.progress.subscribe().wait_for(|progress| !progress.under_way).await;
    }

    /// Waits for a seal elsewhere.
    pub(crate) fn follow(&self, ticket: SealTicket, at: Position, membership: StoredMembership, changed_bytes: u64) {
        self.progress.send_replace(Progress { begun: at, under_way: true });
        let sealing = self.clone();
        self.runtime.spawn_blocking(move || {
            match ticket.wait() {
                Ok(report) => {
                    sealing.learn(SealCost { changed_bytes, node_bytes: report.node_bytes });
                    sealing.handle_durable(&report, membership);
                }
                Err(error) => tracing::error!(%error, "a seal failed; the next mark tries again"),
            }
            sealing.progress.send_modify(|progress| progress.under_way = false);
        });
    }

    fn learn(&self, cost: SealCost) {
        self.cadence.lock().unwrap_or_else(PoisonError::into_inner).handle_seal(cost);
    }

    /// A seal is durable.
    fn handle_durable(&self, made: &SealReport, membership: StoredMembership) {
        let _nobody_heals = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keyed.snapshots().iter().any(|held| held.id == made.snapshot) {
            self.seals.handle_sealed(Sealed::of(&made.manifest, membership));
            self.report(&made.manifest);
        }
    }

    /// Has another snapshot take the place of the state and of all that was sealed here, and tells everybody.
    pub(crate) fn heal(
        &self,
        heal: impl FnOnce() -> Result<Position, AdoptError>,
        membership: impl FnOnce() -> Result<StoredMembership, ReservedError>,
    ) -> Result<(), HealError> {
        let _nobody_tells = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        heal()?;
        let membership = membership().map_err(ApplyError::from)?;
        if let Some(standing) = self.keyed.sealed() {
            self.seals.handle_healed(Sealed::of(&standing.manifest, membership));
            self.report(&standing.manifest);
        }
        Ok(())
    }

    /// Tells everybody what is held here.
    pub(crate) fn report(&self, manifest: &Manifest) {
        let report = SealedAt {
            member: self.member,
            epoch: manifest.position.epoch,
            index: manifest.position.index,
            snapshot: *manifest.id().as_bytes(),
            state_root: *manifest.state_root().as_bytes(),
            log_hash: manifest.log_hash.0,
        };
        self.seals.handle_report(report.clone());
        let _ = self.finished.send(report);
    }
}

//! Owns what follows a seal: waiting until it is durable, and telling everybody.
//!
//! It never decides when to seal.

use std::sync::{Arc, Mutex, PoisonError};

use landfall::core::snapshot::{Manifest, Position};
use landfall::keyed::{AdoptError, CarryTicket, Extent, Keyed, SealReport, SealTicket, SealedSnapshot};
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
    telling: Arc<tokio::sync::Mutex<()>>,
    /// Seals that became durable: whoever tells the others reads them.
    finished: mpsc::UnboundedSender<SealedAt>,
}

/// Where seals stand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// The newest seal that began.
    begun: Position,
    /// To where leaves were last carried over, or are being.
    carried_to: Position,
    /// How many seals began, or were carrying over instead: what ended is the last one, or says nothing.
    count: u64,
    under_way: bool,
}

impl Progress {
    /// One more begins. Says which it is.
    fn begin(&mut self) -> u64 {
        self.count += 1;
        self.under_way = true;
        self.count
    }

    fn end(&mut self, number: u64) {
        self.under_way &= self.count != number;
    }

    /// Whether leaves were carried over to that position, or could not be, and no more will come of it.
    pub(crate) fn has_carried_to(&self, position: Position) -> bool {
        !self.under_way && self.carried_to == position
    }
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
        let number = self.begin(|progress| progress.begun = at);
        let sealing = self.clone();
        self.runtime.spawn_blocking(move || {
            match ticket.wait() {
                Ok(report) => {
                    sealing.learn(SealCost { changed_bytes, node_bytes: report.node_bytes });
                    sealing.handle_durable(&report, membership);
                }
                Err(error) => tracing::error!(%error, "a seal failed; the next mark tries again"),
            }
            sealing.progress.send_modify(|progress| progress.end(number));
        });
    }

    /// Waits elsewhere until what is here was carried over to a position that others seal.
    pub(crate) fn follow_carrying(&self, ticket: CarryTicket) {
        let number = self.begin(|progress| progress.carried_to = ticket.position());
        let sealing = self.clone();
        self.runtime.spawn_blocking(move || {
            if let Err(error) = ticket.wait() {
                tracing::warn!(%error, "what is here was not carried over, and is fetched again");
            }
            sealing.progress.send_modify(|progress| progress.end(number));
        });
    }

    fn begin(&self, note: impl FnOnce(&mut Progress)) -> u64 {
        let mut number = 0;
        self.progress.send_modify(|progress| {
            note(progress);
            number = progress.begin();
        });
        number
    }

    /// Whether somebody sealed at a later position.
    pub(crate) fn is_outdated(&self, position: Position) -> bool {
        self.seals.newest_by_member().into_values().any(|sealed| sealed > position)
    }

    /// Something to wait on: a seal, or carrying over, begins or ends.
    pub(crate) fn changes(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn learn(&self, cost: SealCost) {
        self.cadence.lock().unwrap_or_else(PoisonError::into_inner).handle_seal(cost);
    }

    /// A seal is durable. It blocks.
    fn handle_durable(&self, made: &SealReport, membership: StoredMembership) {
        let _nobody_heals = self.telling.blocking_lock();
        if self.keyed.snapshots().iter().any(|held| held.id == made.snapshot) {
            self.seals.handle_sealed(Sealed::of(&made.manifest, membership));
            self.report(&made.manifest);
        }
    }

    /// Has another snapshot take the place of the state and of all that was sealed here, and tells everybody. It blocks.
    pub(crate) fn heal(
        &self,
        heal: impl FnOnce() -> Result<Position, AdoptError>,
        membership: impl FnOnce() -> Result<StoredMembership, ReservedError>,
    ) -> Result<(), HealError> {
        let _nobody_tells = self.telling.blocking_lock();
        heal()?;
        let membership = membership().map_err(ApplyError::from)?;
        if let Some(standing) = self.keyed.sealed() {
            self.seals.handle_healed(Sealed::of(&standing.manifest, membership));
            self.report(&standing.manifest);
        }
        Ok(())
    }

    /// Tells everybody what is held here whole, if it is later than `told` and not told yet: it was taken from others, or sealed before a restart.
    /// Returns what is told by then.
    pub(crate) async fn report_held(&self, told: Position) -> Position {
        self.report_found(told, || self.keyed.sealed()).await
    }

    /// The same of what `find` finds: a heal must not let it go between being found and being told.
    async fn report_found(&self, told: Position, find: impl FnOnce() -> Option<Arc<SealedSnapshot>>) -> Position {
        let _nobody_heals = self.telling.lock().await;
        let held = find().filter(|held| held.extent == Extent::Whole && held.manifest.position > told);
        let Some(held) = held else { return told };
        let position = held.manifest.position;
        if !self.seals.reports_at(position).contains_key(&self.member) {
            self.report(&held.manifest);
        }
        position
    }

    /// Whether a report is still what this member says of its own seal: a heal takes back what was on its way.
    pub(crate) async fn stands_by(&self, report: &SealedAt) -> bool {
        let _nobody_heals = self.telling.lock().await;
        self.seals.reports_at(report.position()).get(&self.member) == Some(report)
    }

    /// Tells everybody what is held here.
    fn report(&self, manifest: &Manifest) {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use landfall::core::keyed::{Schema, SectionSchema};
    use landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
    use landfall::keyed::KeyedConfig;

    use super::*;

    const OWN: MemberId = 1;

    fn at(index: u64) -> Position {
        Position { epoch: 1, index }
    }

    /// A state that sealed once, at its first position.
    fn sealed_once(directory: &std::path::Path) -> Arc<Keyed> {
        let name = StateName::new("config").unwrap();
        let section =
            SectionSchema { name: name.clone(), priority: SectionPriority::Vital, range: KeyRange::default() };
        let schema = Schema::new(vec![section]).unwrap();
        let directory = directory.to_owned();
        let keyed = Keyed::open(KeyedConfig { name, directory, schema, cache_bytes: 1 << 20, salt_seed: [7; 32] });
        let keyed = keyed.unwrap();
        keyed.transact(at(1), b"record", |_| Ok(())).unwrap();
        keyed.seal().unwrap().wait().unwrap();
        keyed
    }

    fn sealing(keyed: &Arc<Keyed>) -> (Sealing, mpsc::UnboundedReceiver<SealedAt>) {
        let (finished, told) = mpsc::unbounded_channel();
        let seals = Arc::new(Seals::new(OWN));
        (Sealing::new(OWN, keyed.clone(), seals, Handle::current(), finished), told)
    }

    #[test]
    fn what_ended_before_the_next_began_does_not_end_it() {
        let mut progress = Progress { carried_to: at(3), ..Progress::default() };
        let first = progress.begin();
        assert!(!progress.has_carried_to(at(3)), "it goes on");
        let second = progress.begin();
        progress.end(first);
        assert!(progress.under_way && !progress.has_carried_to(at(3)));
        progress.end(second);
        assert!(progress.has_carried_to(at(3)) && !progress.has_carried_to(at(4)));
    }

    #[tokio::test]
    async fn what_was_found_to_be_held_is_not_told_after_a_heal_let_it_go() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = sealed_once(directory.path());
        let (sealing, mut told) = sealing(&keyed);
        let right = keyed.sealed().unwrap();
        let mut wrong = SealedSnapshot::clone(&right);
        wrong.manifest.position = at(9);
        let ((find, found), (go_on, goes_on)) = (channel(), channel());
        let healer = sealing.clone();
        let healing = std::thread::spawn(move || {
            found.recv().unwrap();
            let heal = || healer.heal(|| Ok(at(1)), || Ok(StoredMembership::default())).unwrap();
            // Where it has to wait, what was found is told first; where not, it comes between.
            match healer.telling.try_lock().map(drop) {
                Err(_) => {
                    go_on.send(()).unwrap();
                    heal();
                }
                Ok(()) => {
                    heal();
                    go_on.send(()).unwrap();
                }
            }
        });
        let find = move || {
            find.send(()).unwrap();
            goes_on.recv().unwrap();
            Some(Arc::new(wrong))
        };
        assert_eq!(sealing.report_found(Position::default(), find).await, at(9));
        healing.join().unwrap();
        assert!(sealing.seals.reports_at(at(9)).is_empty(), "nothing is said of what a heal let go");
        assert!(sealing.seals.reports_at(at(1)).contains_key(&OWN));
        // What was on its way to the others is taken back.
        let (first, last) = (told.recv().await.unwrap(), told.recv().await.unwrap());
        assert_eq!((first.position(), last.position()), (at(9), at(1)));
        assert!(!sealing.stands_by(&first).await);
        assert!(sealing.stands_by(&last).await);
    }

    #[tokio::test]
    async fn what_is_held_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = sealed_once(directory.path());
        let (sealing, mut told) = sealing(&keyed);
        let first = sealing.report_held(Position::default()).await;
        assert_eq!((first, sealing.report_held(first).await), (at(1), at(1)));
        assert_eq!(sealing.report_held(Position::default()).await, at(1));
        assert_eq!(told.recv().await.unwrap().position(), at(1));
        assert!(told.try_recv().is_err());
    }
}

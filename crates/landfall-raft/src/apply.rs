//! Owns carrying out committed entries on the state, on a thread of its own: commands, membership, leases, and the seal at each mark.
//!
//! It never decides what is committed or when a mark is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use landfall::core::keyed::{Missing, ReadError, SectionId, Transaction};
use landfall::core::snapshot::Position;
use landfall::keyed::{AdoptError, FaultError, Keyed, KeyedError, SealRefused};
use tokio::sync::watch;

use crate::cadence;
use crate::consensus::{MemberId, RaftEntry, StoredMembership, position_of};
use crate::entry::{self, Change, Commands, EntryError, Lease, LogTime, Mark};
use crate::gather::Waiters;
use crate::healing::HealError;
use crate::replies::{Replies, Wanted};
use crate::reserved::{self, Reserved, ReservedError};
use crate::sealing::Sealing;
use crate::service::{ProposeError, Service};

/// Pause before parts of the state that nobody gave are asked for again.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

/// The state, and what it takes to change it.
pub(crate) struct Applier<S: Service> {
    service: Arc<S>,
    keyed: Arc<Keyed>,
    config: SectionId,
    waiters: Arc<Waiters<S::Reply>>,
    sealing: Sealing,
    reserved: Reserved,
    applied: watch::Sender<Applied>,
    patience: Patience,
    /// Where the state stood when it was healed last: everything up to there is to be applied again before anything else.
    healing_up_to: Option<Position>,
}

/// How long the thread waits for parts of the state that nobody gives now: until they come, or the member closes.
#[derive(Clone, Default)]
pub(crate) struct Patience {
    closing: Arc<AtomicBool>,
    starved: Arc<watch::Sender<u64>>,
}

impl Patience {
    /// Nothing is waited for any more.
    pub(crate) fn end(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Something to wait on: it changes when an entry cannot be applied because nobody gives what it reads.
    pub(crate) fn starved(&self) -> watch::Receiver<u64> {
        self.starved.subscribe()
    }
}

/// How far the state is, for everybody who waits for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Applied {
    pub(crate) position: Position,
    pub(crate) time: LogTime,
    pub(crate) membership: StoredMembership,
    /// The newest mark, and what it says to keep.
    pub(crate) mark: Option<(Position, u64)>,
    /// The first index that leases need.
    pub(crate) leased_from: Option<u64>,
    /// All leases, by their holder.
    pub(crate) leases: Arc<BTreeMap<MemberId, Lease>>,
}

/// Why an entry was not applied. The member stops: going on would make it differ from the others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Keyed(#[from] KeyedError),
    #[error("entry {0}: {1}")]
    Entry(Position, EntryError),
    #[error("entry {next} comes after {stands}: the state lacks what lies between; it goes on after a restart")]
    Gap { stands: Position, next: Position },
    #[error(
        "entry {position}, command {number}: it cannot be decoded ({reason}): a newer member wrote it; update this one"
    )]
    Command { position: Position, number: usize, reason: String },
    #[error(transparent)]
    Reserved(#[from] ReservedError),
}

impl<S: Service> Applier<S> {
    /// Goes on from where the state stands.
    pub(crate) fn new(
        service: Arc<S>,
        keyed: Arc<Keyed>,
        config: SectionId,
        waiters: Arc<Waiters<S::Reply>>,
        sealing: Sealing,
        patience: Patience,
    ) -> Result<Self, ReservedError> {
        let applied = watch::Sender::new(Applied::default());
        let reserved = Reserved::default();
        let healing_up_to = None;
        let mut applier = Self { service, keyed, config, waiters, sealing, reserved, applied, patience, healing_up_to };
        applier.reload()?;
        Ok(applier)
    }

    /// Reads what the state says of the cluster: after opening it, and after another snapshot took its place.
    pub(crate) fn reload(&mut self) -> Result<(), ReservedError> {
        self.reserved = Reserved::read(&self.keyed, self.config)?;
        self.publish(None);
        Ok(())
    }

    /// Something to wait on for what is applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    pub(crate) fn keyed(&self) -> &Arc<Keyed> {
        &self.keyed
    }

    /// Applies entries in order. What stands at or below the state's position was applied before.
    pub(crate) fn apply(&mut self, entries: Vec<RaftEntry>) -> Result<(), ApplyError> {
        let mut mark = None;
        self.check_follows(&entries)?;
        for entry in entries {
            let position = position_of(entry.log_id);
            let record = entry::encode(&entry.payload);
            match entry::change_of(&entry.payload).map_err(|error| ApplyError::Entry(position, error))? {
                Change::Blank => {
                    self.transact(position, &record, |_| Ok(()))?;
                }
                Change::Commands(commands) => self.commands(position, &record, commands)?,
                Change::Membership(membership) => {
                    let membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.membership(position, &record, membership)?;
                }
                Change::Lease(lease) => self.lease(position, &record, lease)?,
                Change::Mark(found) => {
                    self.mark(position, &record, found)?;
                    mark = Some((position, found.keep_from));
                }
            }
        }
        self.publish(mark);
        Ok(())
    }

    /// A state that could not be healed all the way stands behind what openraft takes for applied.
    fn check_follows(&self, entries: &[RaftEntry]) -> Result<(), ApplyError> {
        let (stands, first) = (self.keyed.position(), entries.first().map(|entry| position_of(entry.log_id)));
        let lacks = self.healing_up_to.filter(|up_to| stands < *up_to);
        match lacks.and(first).filter(|first| first.index > stands.index + 1) {
            Some(next) => Err(ApplyError::Gap { stands, next }),
            None => Ok(()),
        }
    }

    /// How far entries were applied here, though a heal that broke off may have left the state behind.
    pub(crate) fn reached(&self) -> Position {
        self.healing_up_to.unwrap_or_default().max(self.keyed.position())
    }

    /// Has another snapshot take the place of the state, which is wrong, and of everything that this member ever sealed. Whoever waits for what
    /// is applied hears nothing of its going back: the log is to be applied again at once.
    pub(crate) fn take_place(&mut self, heal: impl FnOnce() -> Result<Position, AdoptError>) -> Result<(), HealError> {
        self.healing_up_to = Some(self.reached());
        self.sealing.heal(heal, || Reserved::read(&self.keyed, self.config).map(|reserved| reserved.membership))?;
        self.reserved = Reserved::read(&self.keyed, self.config).map_err(ApplyError::from)?;
        Ok(())
    }

    fn commands(&mut self, position: Position, record: &Bytes, commands: Commands) -> Result<(), ApplyError> {
        self.reserved.time = self.reserved.time.max(commands.time);
        let decoded = decode_all::<S>(position, &commands.encoded)?;
        let (service, time) = (self.service.clone(), self.reserved.time);
        let wanted = if self.waiters.awaits(commands.origin) { Wanted::Yes } else { Wanted::No };
        let replies = self.transact(position, record, |state| run_all(&*service, time, &decoded, state, wanted))?;
        // Whoever hears a reply must find it here.
        let applied_time = self.reserved.time;
        self.applied.send_modify(|applied| {
            applied.position = applied.position.max(position);
            applied.time = applied.time.max(applied_time);
        });
        let mut replies = replies.into_iter().flat_map(Replies::into_iter);
        for waiter in self.waiters.take(commands.origin) {
            // A newer snapshot passed over the entry: it took effect, and nobody here knows with which reply.
            let reply = replies.next().unwrap_or(Err(ProposeError::Unknown));
            // Whoever asked may have gone.
            let _ = waiter.send(reply);
        }
        Ok(())
    }

    fn membership(&mut self, at: Position, record: &Bytes, membership: StoredMembership) -> Result<(), ApplyError> {
        let config = self.config;
        let applied = self.transact(at, record, |state| reserved::put_membership(&membership, config, state))?;
        if applied.is_some() {
            self.reserved.membership = membership;
        }
        Ok(())
    }

    fn lease(&mut self, position: Position, record: &Bytes, lease: Lease) -> Result<(), ApplyError> {
        self.reserved.time = self.reserved.time.max(lease.time);
        let admitted = self.reserved.admits(&lease);
        let config = self.config;
        let applied = self.transact(position, record, |state| match admitted {
            true => reserved::put_lease(&lease, config, state),
            false => Ok(()),
        })?;
        if applied.is_some() && admitted {
            self.reserved.set_lease(lease);
        }
        Ok(())
    }

    /// Everything that the cluster keeps goes into the state first: a service that cleared the section must not take it away from a
    /// snapshot.
    fn mark(&mut self, position: Position, record: &Bytes, mark: Mark) -> Result<(), ApplyError> {
        self.reserved.time = self.reserved.time.max(mark.time);
        let ended = self.reserved.end_leases();
        let (reserved, config) = (self.reserved.clone(), self.config);
        let applied = self.transact(position, record, |state| {
            reserved.write(config, state)?;
            ended.iter().try_for_each(|holder| reserved::remove_lease(*holder, config, state))?;
            reserved.leases.values().try_for_each(|lease| reserved::put_lease(lease, config, state))
        })?;
        if applied.is_some() {
            self.seal();
        }
        Ok(())
    }

    /// Makes changes take effect. A member that does not hold all of its state yet waits for what they read.
    fn transact<R>(
        &mut self,
        position: Position,
        record: &Bytes,
        mut run: impl FnMut(&mut Transaction<'_>) -> Result<R, ReadError>,
    ) -> Result<Option<R>, ApplyError> {
        let mut is_waiting = false;
        loop {
            match self.keyed.transact(position, record, &mut run) {
                // A newer snapshot took the place of the state beneath: what the cluster knows of itself is what stands there.
                Ok(None) => {
                    self.reserved = Reserved::read(&self.keyed, self.config)?;
                    return Ok(None);
                }
                Err(error) if is_to_come(&error) && self.may_wait() => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::info!(%position, %error, "waits for a part of the state");
                    }
                    self.patience.starved.send_modify(|count| *count += 1);
                    std::thread::sleep(STARVED_PAUSE);
                }
                tried => return Ok(tried?),
            }
        }
    }

    fn may_wait(&self) -> bool {
        self.keyed.is_filling() && !self.patience.closing.load(Ordering::Acquire)
    }

    /// Seals at the current position; the merge goes on in the background.
    pub(crate) fn seal(&mut self) {
        let membership = self.reserved.membership.clone();
        let changed_bytes = self.keyed.overlay_bytes();
        match self.keyed.seal() {
            Ok(ticket) => self.sealing.follow(ticket, self.keyed.position(), membership, changed_bytes),
            // It moves on to what others seal here.
            Err(SealRefused::Filling) if cadence::moves_on(changed_bytes, true) => self.carry_over(),
            Err(refused) => self.note_refusal(&refused),
        }
    }

    fn carry_over(&self) {
        let position = self.keyed.position();
        if self.sealing.is_outdated(position) {
            // The log is behind what others sealed since: the state moves on to that.
            return;
        }
        match self.keyed.carry_over() {
            Ok(ticket) => self.sealing.follow_carrying(ticket),
            Err(refused) => tracing::info!(%position, %refused, "nothing is carried over"),
        }
    }

    fn note_refusal(&self, refused: &SealRefused) {
        tracing::info!(position = %self.keyed.position(), %refused, "a mark was skipped");
    }

    fn publish(&self, mark: Option<(Position, u64)>) {
        let position = self.keyed.position();
        self.applied.send_modify(|applied| {
            applied.position = applied.position.max(position);
            applied.time = applied.time.max(self.reserved.time);
            if applied.membership != self.reserved.membership {
                applied.membership = self.reserved.membership.clone();
            }
            applied.mark = mark.or(applied.mark);
            applied.leased_from = self.reserved.keep_from();
            if *applied.leases != self.reserved.leases {
                applied.leases = Arc::new(self.reserved.leases.clone());
            }
        });
    }
}

/// Whether what an entry missed may still come: from another member, or with another snapshot. A disk that fails is not cured by waiting.
fn is_to_come(error: &KeyedError) -> bool {
    matches!(error, KeyedError::NotHere { .. } | KeyedError::Fault(FaultError::Nobody(_) | FaultError::Ended))
}

fn decode_all<S: Service>(position: Position, encoded: &[Bytes]) -> Result<Vec<S::Command>, ApplyError> {
    let decode = |(number, bytes): (usize, &Bytes)| {
        rmp_serde::from_slice(bytes).map_err(|error| ApplyError::Command {
            position,
            number,
            reason: error.to_string(),
        })
    };
    encoded.iter().enumerate().map(decode).collect()
}

/// Runs all commands of an entry, or says everything that any of them misses: one command that must wait would otherwise make each of
/// the others wait in turn. Once something is missing nothing is kept, so what later commands see does not matter.
fn run_all<S: Service>(
    service: &S,
    time: LogTime,
    commands: &[S::Command],
    state: &mut Transaction<'_>,
    wanted: Wanted,
) -> Result<Replies<S::Reply>, ReadError> {
    let mut replies = Replies::new(wanted);
    let mut missing: Option<Missing> = None;
    for command in commands {
        match service.apply(time, command, state) {
            Ok(reply) => replies.add(reply, |reply| service.reply_bytes(reply)),
            // It is refused on every member alike, and what the command did before stands on every member alike.
            Err(ReadError::Refused(refused)) => replies.add_refused(refused),
            Err(ReadError::Missing(found)) => match &mut missing {
                Some(missing) => missing.absorb(found),
                None => missing = Some(found),
            },
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(missing) => Err(ReadError::Missing(missing)),
        None => Ok(replies),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use landfall::core::ChunkId;
    use landfall::core::tree::TreeError;
    use landfall_store::StoreError;

    use super::*;

    #[test]
    fn what_others_may_still_give_is_waited_for_and_a_disk_that_fails_is_not() {
        let id = ChunkId::from_bytes([7; 32]);
        assert!(is_to_come(&KeyedError::NotHere { first: id, nodes: 1, chunks: 0 }));
        assert!(is_to_come(&FaultError::Nobody("all of them were asked".into()).into()));
        assert!(is_to_come(&FaultError::Ended.into()));
        let full = || StoreError::Full { action: "write", path: PathBuf::new() };
        assert!(!is_to_come(&FaultError::Store(full()).into()));
        assert!(!is_to_come(&FaultError::Tree(TreeError::Malformed { id, reason: "nonsense" }).into()));
        assert!(!is_to_come(&full().into()));
    }
}

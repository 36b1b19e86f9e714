//! Owns making a state that went wrong what others sealed: their snapshot takes its place, and the log after it is applied again, on the thread
//! that applies and before anything else is.
//!
//! It never decides that a state is wrong; an audit or a mark finds that, and the join or aftercare says what follows.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use landfall::core::snapshot::{Manifest, Position};
use landfall::keyed::{AdoptError, JoinHandle, Keyed};
use landfall_store::log::{Log, LogError};

use crate::apply::{Applier, ApplyError};
use crate::consensus::{MemberId, RaftEntry};
use crate::entry::{self, EntryError};
use crate::owner::{Gone, Owner};
use crate::service::Service;

/// Bytes of log that are read before the state is changed, and applied again after; a state that is farther ahead is healed with a newer snapshot.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of log that are read at once.
const READ_BYTES: u64 = 4 * 1024 * 1024;
/// Keys of a difference that are told; there may be many more.
pub(crate) const KEYS_TOLD_MAX: usize = 32;

/// Keys on which a member did not agree with what others sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferentKeys {
    /// The mark at which they sealed.
    pub position: Position,
    /// Those that sealed something else than this member.
    pub members: Vec<MemberId>,
    /// The keys, from what this member sealed to what they did; at most some tens, in order.
    pub keys: Vec<landfall::keyed::Difference>,
}

/// Why a state was not healed. It is what it was, but for [`HealError::Apply`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealError {
    /// Take a newer snapshot.
    #[error("the log after {0} is gone, or too long")]
    NoLog(Position),
    /// Take one that is not newer than the state.
    #[error("the state stands at {stands} only, the snapshot at {snapshot}")]
    Ahead { stands: Position, snapshot: Position },
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("a record of the log cannot be read: {0}")]
    Entry(#[from] EntryError),
    #[error(transparent)]
    Log(LogError),
    /// The state stands between the snapshot and where it was: the member stops when the next entry comes.
    #[error("the log cannot be applied again: {0}")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// Heals the state, whatever its service is.
pub(crate) trait Heal: Send + Sync {
    /// Puts the snapshot of a pull that has ended in the state's place, and applies the log up to where the state was.
    fn heal(&self, onto: Arc<JoinHandle>) -> Pin<Box<dyn Future<Output = Result<(), HealError>> + Send + '_>>;
}

/// The thread that applies, and the log from which it applies again.
pub(crate) struct Healer<S: Service> {
    pub(crate) applier: Weak<Owner<Applier<S>>>,
    pub(crate) log: Arc<Log>,
}

impl<S: Service> Heal for Healer<S> {
    fn heal(&self, onto: Arc<JoinHandle>) -> Pin<Box<dyn Future<Output = Result<(), HealError>> + Send + '_>> {
        Box::pin(async move {
            let (applier, log) = (self.applier.upgrade().ok_or(Gone)?, self.log.clone());
            applier.ask(move |applier| heal(applier, &onto, &log)).await?
        })
    }
}

fn heal<S: Service>(applier: &mut Applier<S>, onto: &JoinHandle, log: &Log) -> Result<(), HealError> {
    let stands = applier.reached();
    let snapshot = onto.snapshot().map(|(_, position)| position).ok_or(AdoptError::TooEarly)?;
    if stands < snapshot {
        return Err(HealError::Ahead { stands, snapshot });
    }
    // Read before anything is changed: what a purge takes meanwhile would be missed after.
    let entries = entries_between(log, snapshot, stands)?;
    tracing::info!(%snapshot, %stands, entries = entries.len(), "heals the state");
    applier.take_place(|| onto.heal())?;
    Ok(applier.apply(entries)?)
}

/// The entries of the log after one position up to another, which were applied before.
fn entries_between(log: &Log, after: Position, through: Position) -> Result<Vec<RaftEntry>, HealError> {
    let (mut entries, mut next, mut bytes) = (Vec::new(), after.index + 1, 0);
    while next <= through.index {
        let records = match log.read(next, READ_BYTES) {
            Ok(records) => records,
            Err(LogError::Purged { .. }) => return Err(HealError::NoLog(after)),
            Err(error) => return Err(HealError::Log(error)),
        };
        let found = records.iter().take_while(|record| record.position.index <= through.index);
        for record in found {
            bytes += record.payload.len() as u64;
            next = record.position.index + 1;
            entries.push(entry::decode(record.position, &record.payload)?);
        }
        if records.is_empty() || bytes > LOG_BYTES_MAX {
            return Err(HealError::NoLog(after));
        }
    }
    Ok(entries)
}

/// What this member sealed itself where others sealed something else.
pub(crate) fn own_seal(keyed: &Keyed, position: Position) -> Option<Manifest> {
    let held = keyed.snapshots().into_iter().rev();
    held.map(|held| held.manifest).find(|manifest| manifest.position == position)
}

#[cfg(test)]
mod tests {
    use landfall_store::log::{LogOptions, LogRecord};
    use landfall_store::vfs::RealVfs;
    use openraft::EntryPayload;

    use super::*;
    use crate::consensus::position_of;

    fn at(index: u64) -> Position {
        Position { epoch: 1, index }
    }

    fn log_of(directory: &std::path::Path, entries: u64) -> Log {
        let log = Log::open(Arc::new(RealVfs), directory, LogOptions::default()).unwrap();
        let payload = entry::encode(&EntryPayload::Blank);
        let record = |index| {
            let kind = entry::record_kind(&payload);
            LogRecord { position: at(index), kind, payload: payload.clone() }
        };
        log.append(&(1..=entries).map(record).collect::<Vec<_>>()).unwrap();
        log
    }

    #[test]
    fn what_is_applied_again_is_what_the_log_says_after_the_snapshot_up_to_where_the_state_stood() {
        let directory = tempfile::tempdir().unwrap();
        let log = log_of(directory.path(), 9);
        let indices = |after, through| {
            let entries = entries_between(&log, at(after), at(through)).unwrap();
            entries.into_iter().map(|entry| position_of(entry.log_id).index).collect::<Vec<_>>()
        };
        assert_eq!(indices(4, 7), [5, 6, 7]);
        assert!(indices(7, 7).is_empty());
    }

    #[test]
    fn a_log_that_does_not_go_back_to_the_snapshot_or_not_up_to_the_state_heals_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let log = log_of(directory.path(), 9);
        log.purge_through(at(5)).unwrap();
        assert!(entries_between(&log, at(5), at(9)).is_ok());
        for (after, through) in [(4, 9), (5, 10)] {
            let refused = entries_between(&log, at(after), at(through)).unwrap_err();
            assert!(matches!(refused, HealError::NoLog(_)), "{refused}");
        }
    }
}

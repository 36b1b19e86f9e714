//! Owns what a record of a log does to the state: which act of the engine each kind is. It never reads a log, and knows no command of a
//! service.

use std::sync::Arc;

use landfall_core::ChunkId;
use landfall_core::keyed::{Batch, BatchError, Op, ReadError, Record, RecordError, RecordKind, Transaction};

use super::{Keyed, KeyedError, RollBackError, SealRefused, SealTicket};

/// What carrying out a record did.
#[derive(Debug)]
pub enum CarriedOut {
    /// The state stood at or behind its position already.
    Already,
    /// The state stands at its position, and its changes, if it has any, took effect.
    Done,
    /// The same, and the state is being sealed at its position.
    Sealing(SealTicket),
    /// The same, and the mark was skipped.
    NotSealed(SealRefused),
    /// The content of an earlier snapshot is the state's again; a snapshot of that was made.
    RolledBack(ChunkId),
}

/// Why a record was not carried out. The state stands where it was, and must not go on to the next one.
#[derive(Debug, thiserror::Error)]
pub enum CarryOutError {
    /// It is no record that this member knows: update the member, or whoever wrote it is broken.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its changes are none that this member knows: the same.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// It names no snapshot to roll back to: whoever wrote it is broken.
    #[error("a record rolls back to something that is no snapshot")]
    BadSnapshot,
    /// It is the service's to carry out, with [`Keyed::transact`].
    #[error("a command is the service's to carry out")]
    Command,
    /// The state was not changed.
    #[error(transparent)]
    State(#[from] KeyedError),
    /// The state was not rolled back. If the snapshot is not held here, join again: others rolled back to it.
    #[error(transparent)]
    RollBack(#[from] RollBackError),
}

impl Keyed {
    /// Carries out a record of the log, which stands after all that the state has seen.
    ///
    /// A mark seals the state; a rollback names the snapshot with its payload, the id. A lease changes nothing here: it is for whoever
    /// keeps the log.
    pub fn carry_out(self: &Arc<Self>, record: &Record) -> Result<CarriedOut, CarryOutError> {
        if record.position <= self.position() {
            return Ok(CarriedOut::Already);
        }
        match record.kind {
            RecordKind::Batch => self.change(record, &Batch::decode(&record.payload, &self.schema())?),
            RecordKind::Lease => self.change(record, &Batch::default()),
            RecordKind::Mark => self.mark(record),
            RecordKind::Rollback => {
                let snapshot = ChunkId::from_slice(&record.payload).ok_or(CarryOutError::BadSnapshot)?;
                Ok(CarriedOut::RolledBack(self.roll_back(snapshot, record.position, &record.encode()?)?))
            }
            RecordKind::Command => Err(CarryOutError::Command),
        }
    }

    fn mark(self: &Arc<Self>, record: &Record) -> Result<CarriedOut, CarryOutError> {
        let moved = self.change(record, &Batch::default())?;
        if matches!(moved, CarriedOut::Already) {
            return Ok(moved);
        }
        Ok(self.seal().map_or_else(CarriedOut::NotSealed, CarriedOut::Sealing))
    }

    fn change(&self, record: &Record, changes: &Batch) -> Result<CarriedOut, CarryOutError> {
        let run = |transaction: &mut Transaction<'_>| enter(transaction, changes);
        let done = self.transact(record.position, &record.encode()?, run)?;
        Ok(done.map_or(CarriedOut::Already, |()| CarriedOut::Done))
    }
}

fn enter(transaction: &mut Transaction<'_>, changes: &Batch) -> Result<(), ReadError> {
    for (section, op) in changes.ops() {
        match op {
            Op::Put { key, value } => transaction.put(*section, key.clone(), value.clone())?,
            Op::Delete { key } => transaction.delete(*section, key.clone())?,
            Op::Clear => transaction.clear(*section),
        }
    }
    Ok(())
}

//! Owns the raft log and the vote as openraft sees them: entries are records of the log on disk, the vote stands in the ballot.
//!
//! Writes to the disk's cache happen at once, so that entries are readable; waiting for the disk happens on a thread of its own. It never
//! looks into an entry, but for whoever waits for its replies.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use landfall_store::log::{Log, LogError, LogRecord};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader, StorageIOError};

use crate::ballot::Ballot;
use crate::consensus::{Consensus, RaftEntry, RaftLogId, RaftVote, StorageError, log_id_of, position_of};
use crate::entry::{self, EntryError};
use crate::gather::Appended;
use crate::message::{ENTRIES_BYTES_MAX, ENTRIES_MAX};
use crate::owner::Owner;

/// The raft log of one member. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Log>,
    /// The thread that waits for the disk, in order: votes and entries must not overtake each other.
    disk: Arc<Owner<Ballot>>,
    appended: Appended,
}

impl LogStore {
    /// The log and the thread that owns the ballot; entries that wait for replies are noted in `appended`.
    pub(crate) fn new(log: Arc<Log>, disk: Arc<Owner<Ballot>>, appended: Appended) -> Self {
        Self { log, disk, appended }
    }

    /// Entries of a range of openraft's indices, in order, while they are within `bytes_max`, and at least one of those that are here.
    #[allow(clippy::result_large_err, reason = "openraft's own error")]
    fn read(&self, start: u64, end: u64, bytes_max: u64, entries_max: usize) -> Result<Vec<RaftEntry>, StorageError> {
        let mut entries = Vec::new();
        // A position's index is one more than openraft's.
        let mut next = start.saturating_add(1).max(self.log.first_index());
        let mut bytes = 0;
        while next <= end && entries.len() < entries_max && (bytes < bytes_max || entries.is_empty()) {
            let records = match self.log.read(next, bytes_max - bytes) {
                Ok(records) => records,
                // It was purged meanwhile, so nobody needs it.
                Err(LogError::Purged { .. }) => return Ok(entries),
                Err(error) => return Err(StorageIOError::read_logs(&error).into()),
            };
            let Some(last) = records.last() else { break };
            next = last.position.index + 1;
            let wanted = records.into_iter().take_while(|record| record.position.index <= end);
            for record in wanted.take(entries_max - entries.len()) {
                bytes += record.payload.len() as u64;
                entries.push(entry_of(&record).map_err(|error| StorageIOError::read_logs(&error))?);
            }
        }
        Ok(entries)
    }
}

fn entry_of(record: &LogRecord) -> Result<RaftEntry, EntryError> {
    entry::decode(record.position, &record.payload)
}

impl RaftLogReader<Consensus> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        let (start, end) = half_open(&range);
        self.read(start, end, u64::MAX, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, StorageError> {
        self.read(start, end, ENTRIES_BYTES_MAX as u64, ENTRIES_MAX as usize)
    }
}

impl RaftLogStorage<Consensus> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Consensus>, StorageError> {
        let last_purged_log_id = self.log.purged_through().and_then(log_id_of);
        Ok(LogState { last_purged_log_id, last_log_id: self.log.last_position().and_then(log_id_of) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.disk.ask(move |ballot| ballot.change(|facts| facts.vote = Some(vote))).await;
        saved
            .map_err(|error| StorageIOError::write_vote(&error))?
            .map_err(|error| StorageIOError::write_vote(&error))?;
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, StorageError> {
        let read = self.disk.ask(|ballot| ballot.facts().vote).await;
        Ok(read.map_err(|error| StorageIOError::read_vote(&error))?)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Consensus>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let records: Vec<_> = entries.into_iter().map(|entry| self.record(&entry)).collect();
        let written = self.write(&records);
        written.map_err(|error| StorageIOError::write_logs(&error))?;
        let log = self.log.clone();
        let synced = self.disk.hand(move |_| callback.log_io_completed(log.sync().map_err(io::Error::other)));
        Ok(synced.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn truncate(&mut self, from: RaftLogId) -> Result<(), StorageError> {
        let log = self.log.clone();
        let index = position_of(from).index;
        let truncated = self.disk.ask(move |_| log.truncate_from(index)).await;
        let truncated = truncated.map_err(|error| StorageIOError::write_logs(&error))?;
        Ok(truncated.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn purge(&mut self, through: RaftLogId) -> Result<(), StorageError> {
        let log = self.log.clone();
        let purged = self.disk.ask(move |_| log.purge_through(position_of(through))).await;
        let purged = purged.map_err(|error| StorageIOError::write_logs(&error))?;
        Ok(purged.map_err(|error| StorageIOError::write_logs(&error))?)
    }
}

impl LogStore {
    fn record(&self, entry: &RaftEntry) -> LogRecord {
        if let EntryPayload::Normal(payload) = &entry.payload
            && let Some(origin) = payload.origin()
        {
            self.appended.note(origin);
        }
        let payload = entry::encode(&entry.payload);
        LogRecord { position: position_of(entry.log_id), kind: entry::record_kind(&payload), payload }
    }

    /// Appends behind what stays. openraft truncates by itself, but for entries that a snapshot passed over.
    fn write(&self, records: &[LogRecord]) -> Result<(), LogError> {
        // What a snapshot passed over need not be kept.
        let purged = self.log.purged_through().map_or(0, |purged| purged.index);
        let records = &records[records.partition_point(|record| record.position.index <= purged)..];
        let Some(first) = records.first() else { return Ok(()) };
        if self.log.last_index().is_some_and(|last| last >= first.position.index) {
            self.log.truncate_from(first.position.index)?;
        }
        self.log.append(records)
    }
}

/// The first index of a range, and the first beyond it.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

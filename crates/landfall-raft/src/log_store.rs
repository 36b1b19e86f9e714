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
use crate::message::{ENTRIES_BYTES_MAX, ENTRIES_MAX, ENTRY_HEAD_BYTES};
use crate::owner::Owner;
use crate::voted::Voted;

/// The raft log of one member. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Log>,
    /// The thread that waits for the disk, in order: votes and entries must not overtake each other.
    disk: Arc<Owner<Ballot>>,
    appended: Appended,
    voted: Voted,
}

impl LogStore {
    /// The log and the thread that owns the ballot; entries that wait for replies are noted in `appended`, votes in `voted`.
    pub(crate) fn new(log: Arc<Log>, disk: Arc<Owner<Ballot>>, appended: Appended, voted: Voted) -> Self {
        Self { log, disk, appended, voted }
    }

    /// Entries of a range of openraft's indices, in order, while what an append takes for them is within `bytes_max`; at least one of those
    /// that are here.
    #[allow(clippy::result_large_err, reason = "openraft's own error")]
    fn read(&self, start: u64, end: u64, bytes_max: u64, entries_max: usize) -> Result<Vec<RaftEntry>, StorageError> {
        let mut entries = Vec::new();
        // A position's index is one more than openraft's.
        let mut next = start.saturating_add(1).max(self.log.first_index());
        let mut bytes_left = bytes_max;
        while next <= end && entries.len() < entries_max {
            let records = match self.log.read(next, bytes_left) {
                Ok(records) => records,
                // It was purged meanwhile, so nobody needs it.
                Err(LogError::Purged { .. }) => return Ok(entries),
                Err(error) => return Err(StorageIOError::read_logs(&error).into()),
            };
            let Some(last) = records.last() else { break };
            next = last.position.index + 1;
            let wanted = records.into_iter().take_while(|record| record.position.index <= end);
            for record in wanted.take(entries_max - entries.len()) {
                let bytes = (ENTRY_HEAD_BYTES + record.payload.len()) as u64;
                // The log gives one record more than fits when it would give none.
                if bytes > bytes_left && !entries.is_empty() {
                    return Ok(entries);
                }
                bytes_left = bytes_left.saturating_sub(bytes);
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
        // Before openraft tells anybody.
        self.voted.note(Some(vote));
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, StorageError> {
        let read = self.disk.ask(|ballot| ballot.facts().vote).await;
        let vote = read.map_err(|error| StorageIOError::read_vote(&error))?;
        self.voted.note(vote);
        Ok(vote)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use landfall::core::snapshot::Position;
    use landfall::net::FRAME_BYTES_MAX;
    use landfall_store::log::LogOptions;
    use landfall_store::vfs::RealVfs;
    use landfall_store::vfs::faulty::{Fault, FaultyVfs};
    use openraft::Vote;
    use openraft::raft::AppendEntriesRequest;
    use openraft::storage::RaftLogStorageExt;

    use super::*;
    use crate::entry::{COMMAND_BYTES_MAX, CommandsBuilder, LogTime, Origin};
    use crate::message::Request;

    /// An entry of one command, whose encoding is `bytes` long.
    fn record(index: u64, bytes: usize) -> LogRecord {
        let mut builder = CommandsBuilder::new();
        let overhead = entry::ENTRY_BYTES_MAX - COMMAND_BYTES_MAX;
        builder.add(&vec![7; bytes - overhead]);
        let payload = builder.finish(LogTime(1), Origin { member: 1, ticket: index });
        let payload = entry::encode(&EntryPayload::Normal(payload));
        LogRecord { position: Position { epoch: 1, index }, kind: entry::record_kind(&payload), payload }
    }

    /// A log as openraft sees it, with a ballot in a directory.
    fn store(log: Log, directory: &Path) -> LogStore {
        let ballot = Ballot::open(&directory.join("raft"), 1, [0; 32]).unwrap();
        let disk = Arc::new(Owner::start("test", ballot).unwrap());
        LogStore::new(Arc::new(log), disk, Appended::default(), Voted::default())
    }

    /// Sends a log of entries of these lengths, append by append; every one must fit a frame.
    #[track_caller]
    fn check_frames(lengths: &[usize], cache_bytes_max: u64) {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions { cache_bytes_max, ..LogOptions::default() };
        let log = Log::open(Arc::new(RealVfs), directory.path(), options).unwrap();
        let records: Vec<_> = (1..).zip(lengths).map(|(index, bytes)| record(index, *bytes)).collect();
        log.append(&records).unwrap();
        let store = store(log, directory.path());
        let (mut sent, end) = (0, lengths.len() as u64);
        while sent < end {
            let entries = store.read(sent, end, ENTRIES_BYTES_MAX as u64, ENTRIES_MAX as usize).unwrap();
            assert!(!entries.is_empty(), "nothing after {sent}");
            sent += entries.len() as u64;
            let append = AppendEntriesRequest {
                vote: Vote::new_committed(1, 1),
                prev_log_id: None,
                leader_commit: None,
                entries,
            };
            let frame = Request::Append(append).encode(u64::MAX, None);
            assert!(frame.len() <= FRAME_BYTES_MAX as usize, "a frame of {} bytes after {sent}", frame.len());
        }
    }

    #[test]
    fn an_append_of_whatever_entries_fits_a_frame() {
        let longest = entry::ENTRY_BYTES_MAX;
        for cache_bytes_max in [0, 64 * 1024 * 1024] {
            check_frames(&[100, longest, longest, 200, longest - 150, 100], cache_bytes_max);
            check_frames(&[300_000; 20], cache_bytes_max);
            check_frames(&[250; 9000], cache_bytes_max);
            check_frames(&[40; 9000], cache_bytes_max);
        }
    }

    /// When the power went.
    #[derive(Debug, PartialEq, Eq)]
    enum PowerCut {
        WithinTheAppend,
        AfterTheAnswer,
    }

    /// Cuts the power at a call of an append to the disk, or once it answered if it makes fewer: what it answered for is there after a restart.
    async fn check_power_cut(call: u64, seed: u64) -> PowerCut {
        let (directory, vfs) = (tempfile::tempdir().unwrap(), FaultyVfs::new(seed));
        let open = || Log::open(Arc::new(vfs.clone()), Path::new("log"), LogOptions::default()).unwrap();
        let mut store = store(open(), directory.path());
        let records = [record(1, 100), record(2, 2000)];
        let entries: Vec<_> = records.iter().map(|record| entry_of(record).unwrap()).collect();
        vfs.fault_at(call, Fault::CutPower);
        let answer = store.blocking_append(entries).await;
        vfs.cut_power();
        let power_cut = match vfs.clear_fault() {
            Some(_) => PowerCut::AfterTheAnswer,
            None => PowerCut::WithinTheAppend,
        };
        drop(store);
        vfs.restart();
        if answer.is_ok() {
            assert_eq!(open().read(1, u64::MAX).unwrap(), records, "cut at call {call}, seed {seed}");
        }
        assert!(answer.is_ok() || power_cut == PowerCut::WithinTheAppend, "{answer:?}");
        power_cut
    }

    #[tokio::test]
    async fn what_an_append_answered_for_survives_a_power_cut() {
        // Of what was not synced, each seed keeps something else.
        for seed in 0..8 {
            let mut call = 1;
            while check_power_cut(call, seed).await == PowerCut::WithinTheAppend {
                call += 1;
            }
            assert!(call > 1, "it writes nothing");
        }
    }
}

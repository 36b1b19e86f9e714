//! Owns reading records: from memory if they are there, else by a walk from the last signpost before them.
//!
//! It never takes a broken frame for the end: everything before the end was written, so it must be there.

use std::ops::ControlFlow;

use crate::lock::{lock, read};
use crate::vfs::OpenMode;

use super::Log;
use super::error::{LogDamage, LogError};
use super::reader::{Cursor, FrameReader, ReadStop};
use super::record::LogRecord;
use super::segment::Segment;
use super::signposts::Seen;

impl Log {
    /// Reads records in order, from the first one at or above `from` on, while their payloads together have at most
    /// `bytes_max`; at least one, if there is one.
    ///
    /// # Errors
    /// [`LogError::Purged`] if `from` is below [`Log::first_index`]: the reader needs a snapshot.
    pub fn read(&self, from: u64, bytes_max: u64) -> Result<Vec<LogRecord>, LogError> {
        let mut budget = Budget::new(bytes_max);
        // Nothing is cut or removed while its bytes are looked at.
        let _layout = read(&self.layout);
        let mut next = Some(from);
        while let Some(from) = next {
            next = self.read_some(from, &mut budget)?;
        }
        Ok(budget.records)
    }

    /// The record with this index; `None` if there is none.
    ///
    /// # Errors
    /// [`LogError::Purged`] if the index is below [`Log::first_index`].
    pub fn get(&self, index: u64) -> Result<Option<LogRecord>, LogError> {
        Ok(self.read(index, 0)?.pop().filter(|record| record.position.index == index))
    }

    /// Reads from memory or from one segment; says from which index on to read more.
    fn read_some(&self, from: u64, budget: &mut Budget) -> Result<Option<u64>, LogError> {
        let mut state = lock(&self.state);
        if let Some(through) = state.purged.filter(|through| from <= through.index) {
            return Err(LogError::Purged { through });
        }
        if state.last.is_none_or(|last| from > last.index) {
            return Ok(None);
        }
        if state.cache.covers(from) {
            state.cache.read(from, budget);
            return Ok(None);
        }
        let place = state.segment_of(from);
        let segment = state.segments[place];
        let start = state.start_for(&segment, from);
        let above = state.segments.get(place + 1).and_then(|next| next.previous);
        drop(state);
        let flow = self.read_segment(&segment, start, from, budget)?;
        Ok(above.filter(|_| flow.is_continue()).map(|above| above.index.saturating_add(1)))
    }

    fn read_segment(
        &self,
        segment: &Segment,
        start: Cursor,
        from: u64,
        budget: &mut Budget,
    ) -> Result<ControlFlow<()>, LogError> {
        let file = self.disk.open_segment(segment.number, OpenMode::Read)?;
        let mut reader = FrameReader::new(file.as_ref(), segment.number, start, segment.end);
        let mut seen = Seen::default();
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue() {
            let next = reader.next();
            let Some(frame) = next.map_err(|stop| self.stop_error(segment, &reader, stop))? else { break };
            seen.note(&frame);
            if let Some(record) = frame.into_record().filter(|record| record.position.index >= from) {
                flow = budget.take(record);
            }
        }
        lock(&self.state).signposts.learn(segment.number, seen);
        Ok(flow)
    }

    /// What it means that a segment cannot be read where it was written.
    pub(super) fn stop_error(&self, segment: &Segment, reader: &FrameReader<'_>, stop: ReadStop) -> LogError {
        let path = self.disk.path(segment.number);
        match stop {
            ReadStop::Io(error) => LogError::io("read", &path, error),
            ReadStop::Broken => LogError::damaged(path, reader.cursor().offset, LogDamage::Frame),
        }
    }
}

/// Records that were read, and how much more may be.
pub(super) struct Budget {
    records: Vec<LogRecord>,
    bytes_left: u64,
}

impl Budget {
    fn new(bytes_max: u64) -> Self {
        Self { records: Vec::new(), bytes_left: bytes_max }
    }

    /// Takes a record if it fits or is the first; breaks when there is no room for another.
    pub(super) fn take(&mut self, record: LogRecord) -> ControlFlow<()> {
        let bytes = record.payload.len() as u64;
        if bytes > self.bytes_left && !self.records.is_empty() {
            return ControlFlow::Break(());
        }
        self.records.push(record);
        match self.bytes_left.checked_sub(bytes) {
            Some(left) if self.records.len() < RECORDS_READ_MAX => {
                self.bytes_left = left;
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    }
}

/// One read gives at most so many records, however small they are.
const RECORDS_READ_MAX: usize = 65_536;

//! Owns appending: records become frames, frames go behind the last one, finished segments make room.
//!
//! It never syncs, except a segment that is finished.

use landfall_core::snapshot::Position;

use crate::lock::lock;

use super::Log;
use super::disk::Disk;
use super::error::LogError;
use super::reader::Cursor;
use super::record::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, LOG_PAYLOAD_BYTES_MAX, Link, LogRecord};
use super::segment::{Place, SEGMENT_HEADER_BYTES};
use super::signposts::Seen;
use super::tail::{Prepare, State};

impl Log {
    /// Appends records, in order. They are readable at once, and durable after the next [`Log::sync`].
    ///
    /// The cache keeps the payloads: one that is a slice of a larger buffer keeps all of that in memory.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] or [`LogError::TooLong`] before anything is written. After another error a first part
    /// of the records may have been appended; [`Log::last_position`] says which.
    pub fn append(&self, records: &[LogRecord]) -> Result<(), LogError> {
        self.disk.check()?;
        let mut state = lock(&self.state);
        check_records(records, state.last)?;
        let mut rest = records;
        while let Some(next) = rest.first() {
            let target = self.options.segment_bytes_target;
            if state.is_full_for(next, target) {
                state.begin_segment(&self.disk)?;
            }
            let appended = state.append_to_segment(&self.disk, rest, target)?;
            rest = &rest[appended..];
        }
        Ok(())
    }

    /// Writes into the segment how much of it is durable, if no frame says so yet: from then on, damage there is not
    /// mistaken for a torn tail.
    pub(super) fn leave_receipt(&self) -> Result<(), LogError> {
        self.disk.check()?;
        lock(&self.state).leave_receipt(&self.disk)
    }
}

impl State {
    fn is_full_for(&self, record: &LogRecord, target: u32) -> bool {
        let end = self.last_segment().end;
        end > SEGMENT_HEADER_BYTES && u64::from(end) + u64::from(frame_bytes(record)) > u64::from(target)
    }

    /// Appends the first record and those after it that fit; says how many.
    fn append_to_segment(&mut self, disk: &Disk, records: &[LogRecord], target: u32) -> Result<usize, LogError> {
        let batch = Batch::new(records, self.end(), self.tail.link, self.durable_end(), target);
        let frames_end = self.last_segment().end + batch.frames.len() as u32;
        let prepare = match batch.frames.len() <= PREPARE_FOR_BYTES_MAX {
            true => Prepare::Until(target.min(frames_end + PREPARE_BYTES)),
            false => Prepare::Nothing,
        };
        self.write(disk, &batch.frames, prepare)?;
        self.tail.link = batch.link;
        self.tail.claimed_end = self.durable_end();
        self.tail.records_end = frames_end;
        self.appended_bytes += batch.frames.len() as u64;
        let number = self.last_segment().number;
        self.signposts.learn(number, batch.seen);
        let appended = &records[..batch.records];
        appended.iter().for_each(|record| self.cache.push(record.clone()));
        self.last = appended.last().map(|record| record.position).or(self.last);
        Ok(batch.records)
    }

    fn leave_receipt(&mut self, disk: &Disk) -> Result<(), LogError> {
        let Some(last) = self.last else { return Ok(()) };
        if self.durable_end().min(self.tail.records_end) <= self.tail.claimed_end {
            return Ok(());
        }
        let mut frame = Vec::new();
        let link = FrameHeader::receipt(last, self.tail.link, self.durable_end()).write(self.end(), &mut frame);
        self.write(disk, &frame, Prepare::Nothing)?;
        self.tail.link = link;
        self.tail.claimed_end = self.durable_end();
        Ok(())
    }

    /// How much of the last segment is durable.
    fn durable_end(&self) -> u32 {
        if self.synced.segment == self.last_segment().number { self.synced.offset } else { SEGMENT_HEADER_BYTES }
    }
}

/// Frames for one write call.
struct Batch {
    frames: Vec<u8>,
    records: usize,
    link: Link,
    seen: Seen,
}

impl Batch {
    /// Takes the first record, and those after it while the segment and the write call stay within their limits.
    fn new(records: &[LogRecord], at: Place, link: Link, durable_end: u32, target: u32) -> Self {
        let room = target.saturating_sub(at.offset).min(WRITE_BYTES_MAX) as usize;
        let mut batch = Self { frames: Vec::new(), records: 0, link, seen: Seen::default() };
        for record in records {
            if batch.records > 0 && batch.frames.len() + frame_bytes(record) as usize > room {
                break;
            }
            let place = Place { offset: at.offset + batch.frames.len() as u32, ..at };
            batch.seen.note_record(record.position.index, Cursor { offset: place.offset, link: batch.link });
            batch.link = FrameHeader::of(record, batch.link, durable_end).write(place, &mut batch.frames);
            batch.frames.extend_from_slice(&record.payload);
            batch.records += 1;
        }
        batch
    }
}

fn frame_bytes(record: &LogRecord) -> u32 {
    FRAME_HEADER_BYTES + record.payload.len() as u32
}

fn check_records(records: &[LogRecord], last: Option<Position>) -> Result<(), LogError> {
    let mut last = last;
    for record in records {
        if record.payload.len() > LOG_PAYLOAD_BYTES_MAX as usize {
            return Err(LogError::TooLong { bytes: record.payload.len() });
        }
        let position = record.position;
        if let Some(last) = last.filter(|last| position.index <= last.index || position.epoch < last.epoch) {
            return Err(LogError::OutOfOrder { position, last });
        }
        last = Some(position);
    }
    Ok(())
}

/// One write call takes at most so much, or one record.
const WRITE_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Space is prepared for so many bytes at a time.
const PREPARE_BYTES: u32 = 1024 * 1024;
/// Greater writes gain nothing from prepared space: they would only write everything twice.
const PREPARE_FOR_BYTES_MAX: usize = 64 * 1024;
/// A segment's target leaves room for one more frame and its preparation in a 32-bit offset.
pub(super) const SEGMENT_BYTES_TARGET_MAX: u32 = 1024 * 1024 * 1024;
const _: () = assert!(SEGMENT_BYTES_TARGET_MAX.checked_add(FRAME_BYTES_MAX + PREPARE_BYTES).is_some());

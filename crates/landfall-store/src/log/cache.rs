//! Owns the newest records in memory, so that replication that keeps up never reads the disk.
//!
//! It never holds more than its limit and one append, and never a record without all that follow it.

use std::collections::VecDeque;

use super::read::Budget;
use super::record::{FRAME_HEADER_BYTES, LogRecord};

/// The newest records.
#[derive(Debug)]
pub(super) struct TailCache {
    records: VecDeque<LogRecord>,
    bytes: u64,
    bytes_max: u64,
    /// Records above this index are all here.
    floor: Option<u64>,
}

impl TailCache {
    /// An empty cache over a log whose last record has index `last`.
    pub(super) fn new(bytes_max: u64, last: Option<u64>) -> Self {
        Self { records: VecDeque::new(), bytes: 0, bytes_max, floor: last }
    }

    /// Whether all records from `index` on are here.
    pub(super) fn covers(&self, index: u64) -> bool {
        self.floor.is_none_or(|floor| index > floor)
    }

    pub(super) fn push(&mut self, record: LogRecord) {
        self.bytes += weight(&record);
        self.records.push_back(record);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.records.pop_front() else { return };
            self.bytes -= weight(&oldest);
            self.floor = Some(oldest.position.index);
        }
    }

    /// Copies records from `index` on while the budget lasts.
    pub(super) fn read(&self, index: u64, budget: &mut Budget) {
        let start = self.records.partition_point(|record| record.position.index < index);
        for record in self.records.range(start..) {
            if budget.take(record.clone()).is_break() {
                return;
            }
        }
    }

    /// Forgets the records from `index` on; the last one left is `last`.
    pub(super) fn truncate_from(&mut self, index: u64, last: Option<u64>) {
        while let Some(record) = self.records.pop_back_if(|record| record.position.index >= index) {
            self.bytes -= weight(&record);
        }
        self.floor = self.floor.min(last);
    }

    /// Forgets the records up to `index`.
    pub(super) fn purge_through(&mut self, index: u64) {
        while let Some(record) = self.records.pop_front_if(|record| record.position.index <= index) {
            self.bytes -= weight(&record);
        }
        self.floor = self.floor.max(Some(index));
    }
}

fn weight(record: &LogRecord) -> u64 {
    u64::from(FRAME_HEADER_BYTES) + record.payload.len() as u64
}

//! Owns making a log shorter at either end: a tail that lost is truncated, a beginning that a snapshot holds is purged.
//!
//! It never rewrites a frame. A tail is cut out of its file before anything else is written there, so that no crash
//! brings it back.

use std::sync::Arc;

use landfall_core::snapshot::Position;

use crate::lock::{lock, write};
use crate::vfs::{OpenMode, VfsFile};

use super::Log;
use super::error::LogError;
use super::purge_point;
use super::reader::{Cursor, FrameReader};
use super::segment::{Place, Segment, SegmentNumber};
use super::tail::{State, Tail};

/// Where a log is to end.
struct Cut {
    segment: Segment,
    end: Cursor,
    last: Option<Position>,
}

impl Log {
    /// Removes the records with this index and above. When it returns, no crash brings them back; what stays is durable.
    ///
    /// # Errors
    /// [`LogError::Purged`] if that would take back a purge. After [`LogError::Reopen`] a part may have been removed,
    /// from the end: open the log again, and truncate again.
    pub fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        let _turn = lock(&self.turn);
        let _layout = write(&self.layout);
        self.disk.check()?;
        let mut state = lock(&self.state);
        if let Some(through) = state.purged.filter(|through| index <= through.index) {
            return Err(LogError::Purged { through });
        }
        if state.last.is_none_or(|last| last.index < index) {
            return Ok(());
        }
        let cut = self.find_cut(&mut state, index)?;
        let file = self.cut_files(&state, &cut)?;
        state.shorten(index, &cut, file);
        Ok(())
    }

    /// Walks to the first record with this index or above.
    fn find_cut(&self, state: &mut State, index: u64) -> Result<Cut, LogError> {
        let segment = state.segments[state.segment_of(index)];
        let file = self.disk.open_segment(segment.number, OpenMode::Read)?;
        let start = state.start_for(&segment, index);
        let mut reader = FrameReader::new(file.as_ref(), segment.number, start, segment.end);
        let mut last = segment.previous;
        loop {
            let end = reader.cursor();
            let next = reader.next();
            let frame = next.map_err(|stop| self.stop_error(&segment, &reader, stop))?;
            match frame.as_ref().map(|frame| (frame.record_index(), frame.header.position)) {
                Some((Some(found), position)) if found < index => last = Some(position),
                Some((None, _)) => {}
                _ => return Ok(Cut { segment, end, last: later(last, state.purged) }),
            }
        }
    }

    /// Removes later segments, the last one first, then cuts the file; gives the file.
    fn cut_files(&self, state: &State, cut: &Cut) -> Result<Arc<dyn VfsFile>, LogError> {
        let number = cut.segment.number;
        let later: Vec<_> = state.segments.iter().rev().map(|segment| segment.number).collect();
        let file = self.disk.open_segment(number, OpenMode::Write)?;
        for number in later.into_iter().take_while(|later| *later > number) {
            let path = self.disk.path(number);
            self.disk.vfs.remove(&path).map_err(|error| self.disk.doubt(&path, error))?;
        }
        // A later segment must not outlive the end of this one: it would say that something is missing.
        self.disk.sync_directory()?;
        let cut = file.set_bytes(u64::from(cut.end.offset));
        cut.map_err(|error| self.disk.doubt(&self.disk.path(number), error))?;
        self.disk.sync(file.as_ref(), number)?;
        Ok(file)
    }

    /// Forgets the records up to `through` and remembers that position durably, whether there is such a record or not:
    /// after a snapshot was installed, it may lie beyond the last one. Space is given back by whole segments.
    ///
    /// # Errors
    /// After [`LogError::Io`] the purge may have happened; segments that it left are removed when the log is opened.
    pub fn purge_through(&self, through: Position) -> Result<(), LogError> {
        let _turn = lock(&self.turn);
        self.disk.check()?;
        if lock(&self.state).purged.is_some_and(|purged| purged.index >= through.index) {
            return Ok(());
        }
        purge_point::write(&self.disk, through)?;
        let _layout = write(&self.layout);
        let gone = lock(&self.state).forget_through(through);
        gone.into_iter().try_for_each(|number| self.disk.remove_segment(number))
    }
}

impl State {
    fn shorten(&mut self, index: u64, cut: &Cut, file: Arc<dyn VfsFile>) {
        let Cut { segment, end, last } = cut;
        self.segments.retain(|known| known.number <= segment.number);
        self.last_segment_mut().end = end.offset;
        self.tail = Tail { link: end.link, ..Tail::new(file, self.last_segment()) };
        self.last = *last;
        self.synced = Place { segment: segment.number, offset: end.offset };
        self.cache.truncate_from(index, last.map(|last| last.index));
        self.signposts.cut(segment.number, end.offset);
    }

    /// Says which segments hold nothing but what was purged, oldest first.
    fn forget_through(&mut self, through: Position) -> Vec<SegmentNumber> {
        self.purged = Some(through);
        self.last = later(self.last, self.purged);
        self.cache.purge_through(through.index);
        let mut gone = Vec::new();
        while self.segments.get(1).is_some_and(|next| next.begins_within(through.index)) {
            gone.extend(self.segments.pop_front().map(|segment| segment.number));
        }
        self.signposts.purge_before(self.segments[0].number);
        gone
    }
}

/// Whichever has the greater index.
pub(super) fn later(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    let positions = [one, other].into_iter().flatten();
    positions.max_by_key(|position| position.index)
}

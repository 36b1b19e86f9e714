//! Owns opening a log: which segments belong to it, where the last one ends, and what a crash left to tidy.
//!
//! Only what was never durable is cut. Everything else that is wrong is an error, never the end of the log.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use landfall_core::snapshot::Position;

use crate::vfs::{OpenMode, Vfs};

use super::append::SEGMENT_BYTES_TARGET_MAX;
use super::cache::TailCache;
use super::cut::later;
use super::disk::{Disk, NEW_EXTENSION};
use super::error::{LogDamage, LogError, LogOpenError};
use super::purge_point;
use super::reader::{Content, Cursor, FrameReader, ReadStop, look_behind};
use super::record::FrameRole;
use super::segment::{Place, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentNumber};
use super::signposts::{Seen, Signposts};
use super::tail::{State, Tail};
use super::{Log, LogOptions};

pub(super) fn open(vfs: Arc<dyn Vfs>, directory: &Path, options: LogOptions) -> Result<Log, LogOpenError> {
    let (min, max) = (SEGMENT_BYTES_TARGET_MIN, SEGMENT_BYTES_TARGET_MAX);
    if !(min..=max).contains(&options.segment_bytes_target) {
        return Err(LogOpenError::BadOption { min, max });
    }
    let disk = Disk::open(vfs, directory)?;
    let state = open_state(&disk, options)?;
    Ok(Log { disk, options, state: Mutex::new(state), layout: RwLock::new(()), turn: Mutex::new(()) })
}

fn open_state(disk: &Disk, options: LogOptions) -> Result<State, LogError> {
    let purged = purge_point::read(disk)?;
    let numbers = list_segments(disk)?;
    if numbers.is_empty() {
        if purged.is_some() {
            return Err(LogError::damaged(disk.path(SegmentNumber::FIRST), 0, LogDamage::Missing));
        }
        disk.create_segment(SegmentHeader { number: SegmentNumber::FIRST, previous_end: 0, previous: None })?;
        return open_state(disk, options);
    }
    let headers = read_headers(disk, &numbers)?;
    let headers = remove_purged(disk, headers, purged)?;
    let mut segments = finished_segments(disk, &headers)?;
    let found = Found::scan(disk, headers.last().expect("a segment was listed"))?;
    let last = later(found.last, purged);
    segments.push_back(found.segment);
    let mut signposts = Signposts::default();
    signposts.learn(found.segment.number, found.seen);
    Ok(State {
        segments,
        last,
        purged,
        synced: Place { segment: found.segment.number, offset: found.segment.end },
        appended_bytes: 0,
        tail: found.tail,
        cache: TailCache::new(options.cache_bytes_max, last.map(|last| last.index)),
        signposts,
    })
}

/// The segments on disk, in order; files that never got their name are removed.
fn list_segments(disk: &Disk) -> Result<Vec<SegmentNumber>, LogError> {
    let names = disk.vfs.list(&disk.directory).map_err(|error| LogError::io("list", &disk.directory, error))?;
    for name in names.iter().filter(|name| Path::new(name).extension().is_some_and(|it| it == NEW_EXTENSION)) {
        let path = disk.directory.join(name);
        disk.vfs.remove(&path).map_err(|error| LogError::io("remove", &path, error))?;
    }
    let mut numbers: Vec<_> = names.iter().filter_map(|name| SegmentNumber::from_file_name(name)).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0].next() != pair[1]) {
        Some(pair) => Err(LogError::damaged(disk.path(pair[0].next()), 0, LogDamage::Missing)),
        None => Ok(numbers),
    }
}

fn read_headers(disk: &Disk, numbers: &[SegmentNumber]) -> Result<Vec<SegmentHeader>, LogError> {
    numbers.iter().map(|number| read_header(disk, *number)).collect()
}

fn read_header(disk: &Disk, number: SegmentNumber) -> Result<SegmentHeader, LogError> {
    let path = disk.path(number);
    let file = disk.open_segment(number, OpenMode::Read)?;
    // Bits may flip on the way from the disk: only what is wrong twice is wrong there.
    for _ in 0..2 {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        match file.read_at(0, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            outcome => outcome.map_err(|error| LogError::io("read", &path, error))?,
        }
        if let Some(header) = SegmentHeader::read(&bytes, number) {
            return Ok(header);
        }
    }
    Err(LogError::damaged(path, 0, LogDamage::Header))
}

/// Removes what a purge left, oldest first; refuses if more is gone than was purged.
fn remove_purged(
    disk: &Disk,
    mut headers: Vec<SegmentHeader>,
    purged: Option<Position>,
) -> Result<Vec<SegmentHeader>, LogError> {
    let is_purged = |position: Option<Position>| {
        position.is_none_or(|position| purged.is_some_and(|purged| position.index <= purged.index))
    };
    let gone = headers.iter().skip(1).take_while(|next| is_purged(next.previous)).count();
    for header in headers.drain(..gone) {
        disk.remove_segment(header.number)?;
    }
    let first = headers[0];
    match is_purged(first.previous) {
        true => Ok(headers),
        false => Err(LogError::damaged(disk.path(SegmentNumber(first.number.0 - 1)), 0, LogDamage::Missing)),
    }
}

/// All but the last: each was durable as a whole before the next was begun.
fn finished_segments(disk: &Disk, headers: &[SegmentHeader]) -> Result<VecDeque<Segment>, LogError> {
    let pairs = headers.windows(2).map(|pair| {
        let (header, end) = (&pair[0], pair[1].previous_end);
        let path = disk.path(header.number);
        let file = disk.open_segment(header.number, OpenMode::Read)?;
        let bytes = file.bytes().map_err(|error| LogError::io("read", &path, error))?;
        match bytes.cmp(&u64::from(end)) {
            std::cmp::Ordering::Equal => Ok(Segment { end, ..Segment::from_header(header) }),
            _ => Err(LogError::damaged(path, u32::try_from(bytes).map_or(end, |bytes| end.min(bytes)), LogDamage::Cut)),
        }
    });
    pairs.collect()
}

/// What the last segment holds.
struct Found {
    segment: Segment,
    tail: Tail,
    last: Option<Position>,
    seen: Seen,
}

impl Found {
    /// Walks the last segment to the first frame that is not right, and cuts there; what is before becomes durable.
    fn scan(disk: &Disk, header: &SegmentHeader) -> Result<Self, LogError> {
        let path = disk.path(header.number);
        let io_error = |error| LogError::io("read", &path, error);
        let segment = Segment::from_header(header);
        let file = disk.open_segment(header.number, OpenMode::Write)?;
        let bytes = file.bytes().map_err(io_error)?;
        let too_long = || LogError::damaged(path.clone(), u32::MAX, LogDamage::Frame);
        let file_end = u32::try_from(bytes).map_err(|_| too_long())?;
        let tail = Tail::new(Arc::clone(&file), &segment);
        let mut found = Self { segment, tail, last: header.previous, seen: Seen::default() };

        let start = Cursor { offset: SEGMENT_HEADER_BYTES, link: segment.link };
        let mut reader = FrameReader::new(file.as_ref(), segment.number, start, file_end);
        loop {
            match reader.next() {
                Ok(Some(frame)) => found.note(&frame),
                Ok(None) | Err(ReadStop::Broken) => break,
                Err(ReadStop::Io(error)) => return Err(io_error(error)),
            }
        }
        found.end_at(disk, reader.cursor(), file_end)?;
        Ok(found)
    }

    fn note(&mut self, frame: &super::reader::Frame) {
        self.seen.note(frame);
        self.tail.claimed_end = self.tail.claimed_end.max(frame.header.durable_end);
        if frame.header.role == FrameRole::Record {
            self.tail.records_end = frame.next.offset;
            self.last = Some(frame.header.position);
        }
    }

    fn end_at(&mut self, disk: &Disk, end: Cursor, file_end: u32) -> Result<(), LogError> {
        let number = self.segment.number;
        let path = disk.path(number);
        let file = Arc::clone(&self.tail.file);
        let from = Place { segment: number, offset: end.offset };
        let remains = look_behind(file.as_ref(), from, file_end).map_err(|error| LogError::io("read", &path, error))?;
        if remains.durable_end.max(self.tail.claimed_end) > end.offset {
            return Err(LogError::damaged(path, end.offset, LogDamage::Frame));
        }
        self.segment.end = end.offset;
        self.tail.link = end.link;
        self.tail.prepared_end = file_end;
        if remains.content == Content::Bytes {
            // Torn frames must not stand behind the next ones.
            file.set_bytes(u64::from(end.offset)).map_err(|error| LogError::io("cut", &path, error))?;
            self.tail.prepared_end = end.offset;
        }
        // A process that was killed may have left this in memory only: it can be read, and yet a power cut would take it.
        disk.sync(file.as_ref(), number)?;
        disk.sync_directory()
    }
}

/// Room for a header and a small record; every greater record gets a segment of its own.
const SEGMENT_BYTES_TARGET_MIN: u32 = 256;

//! Owns what the log remembers of where records stand: one signpost for a stretch of a segment, for few segments.
//!
//! It never knows all: reading starts at the last signpost before, and walks.

use std::collections::BTreeMap;

use super::reader::{Cursor, Frame};
use super::segment::SegmentNumber;

/// Where one record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signpost {
    index: u64,
    at: Cursor,
}

/// Signposts seen on a walk, to be remembered.
#[derive(Debug, Default)]
pub(super) struct Seen {
    posts: Vec<Signpost>,
}

impl Seen {
    pub(super) fn note(&mut self, frame: &Frame) {
        if let Some(index) = frame.record_index() {
            self.note_record(index, frame.at);
        }
    }

    pub(super) fn note_record(&mut self, index: u64, at: Cursor) {
        push_if_far(&mut self.posts, Signpost { index, at });
    }
}

/// The signposts of the segments that were used last.
#[derive(Debug, Default)]
pub(super) struct Signposts {
    segments: BTreeMap<SegmentNumber, Posts>,
    uses: u64,
}

#[derive(Debug, Default)]
struct Posts {
    posts: Vec<Signpost>,
    used: u64,
}

impl Signposts {
    /// The last signpost of a record below `index`.
    pub(super) fn before(&mut self, segment: SegmentNumber, index: u64) -> Option<Cursor> {
        self.uses += 1;
        let known = self.segments.get_mut(&segment)?;
        known.used = self.uses;
        let below = known.posts.partition_point(|post| post.index < index);
        Some(known.posts[..below].last()?.at)
    }

    /// Remembers what a walk saw.
    pub(super) fn learn(&mut self, segment: SegmentNumber, seen: Seen) {
        self.uses += 1;
        let known = self.segments.entry(segment).or_default();
        known.used = self.uses;
        seen.posts.into_iter().for_each(|post| push_if_far(&mut known.posts, post));
        if self.segments.len() > SEGMENTS_KNOWN_MAX {
            let oldest = self.segments.iter().min_by_key(|(_, known)| known.used).map(|(number, _)| *number);
            oldest.map(|number| self.segments.remove(&number));
        }
    }

    /// Forgets what stood at or behind `offset` of `segment`, and in later ones.
    pub(super) fn cut(&mut self, segment: SegmentNumber, offset: u32) {
        self.segments.retain(|number, _| *number <= segment);
        if let Some(known) = self.segments.get_mut(&segment) {
            known.posts.retain(|post| post.at.offset < offset);
        }
    }

    /// Forgets the segments before `segment`.
    pub(super) fn purge_before(&mut self, segment: SegmentNumber) {
        self.segments.retain(|number, _| *number >= segment);
    }
}

fn push_if_far(posts: &mut Vec<Signpost>, post: Signpost) {
    if posts.last().is_none_or(|last| post.at.offset >= last.at.offset.saturating_add(STRETCH_BYTES)) {
        posts.push(post);
    }
}

/// A read walks over at most so many bytes, and one record, before it finds its own.
const STRETCH_BYTES: u32 = 64 * 1024;
/// At 32 MiB each this is 8 GiB of log and 2 MiB of memory.
const SEGMENTS_KNOWN_MAX: usize = 256;

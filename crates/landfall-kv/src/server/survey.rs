//! Owns commands that walk the keys. A walk goes in stretches and blocks, so long ones run beside the connections.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursors::Cursors;
use crate::command::{Survey, format_integer, texts};
use crate::glob;
use crate::keyspace::{Entry, Section};
use crate::limits::{LISTED_KEYS_MAX, REPLY_BYTES_MAX, SCANNED_KEYS_MAX, STRETCH_KEYS_MAX};
use crate::replica::{Replica, Unavailable};
use crate::reply::{HEAD_BYTES_MAX, Reply};

/// Walks, and answers.
pub(super) fn survey<R: Replica>(survey: &Survey, replica: &R, cursors: &Cursors) -> Result<Reply, Unavailable> {
    match survey {
        Survey::Scan { cursor, pattern, count, kind } => {
            let wanted = Wanted { pattern: pattern.as_deref(), kind: kind.as_deref() };
            scan(*cursor, &wanted, (*count).min(SCANNED_KEYS_MAX), replica, cursors)
        }
        Survey::Keys(pattern) => keys(pattern, replica),
        Survey::Count => count(replica),
    }
}

/// Which keys are wanted.
struct Wanted<'a> {
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
}

impl Wanted<'_> {
    fn takes(&self, key: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
            && self.kind.is_none_or(|kind| kind.eq_ignore_ascii_case(b"string"))
    }
}

fn scan<R: Replica>(
    cursor: u64,
    wanted: &Wanted<'_>,
    count: usize,
    replica: &R,
    cursors: &Cursors,
) -> Result<Reply, Unavailable> {
    let from = match cursor {
        0 => Bytes::new(),
        other => match cursors.place(other) {
            Some(place) => place,
            None => return Ok(Reply::refused(UNKNOWN_CURSOR)),
        },
    };
    let time_ms = replica.log_time_ms();
    let mut found = Vec::new();
    let mut walk = Walk { replica, place: Some(from), keys_left: count };
    while let Some(stretch) = walk.next_stretch()? {
        let wanted = stretch.into_iter().filter(|(key, stored)| is_live(stored, time_ms) && wanted.takes(key));
        found.extend(wanted.map(|(key, _)| Reply::Bulk(key)));
    }
    let next = walk.place.map_or(0, |place| cursors.note(place));
    let cursor = i64::try_from(next).map(format_integer).unwrap_or_default();
    Ok(Reply::Array(vec![Reply::Bulk(cursor), Reply::Array(found)]))
}

const UNKNOWN_CURSOR: &str =
    "ERR invalid cursor: the walk began at another member, or too long ago; begin again with 0";

fn keys<R: Replica>(pattern: &[u8], replica: &R) -> Result<Reply, Unavailable> {
    let time_ms = replica.log_time_ms();
    let (mut found, mut bytes) = (Vec::new(), HEAD_BYTES_MAX);
    let mut walk = Walk::over_everything(replica);
    while let Some(stretch) = walk.next_stretch()? {
        let live = stretch.into_iter().filter(|(_, stored)| is_live(stored, time_ms));
        for (key, _) in live.filter(|(key, _)| glob::matches(pattern, key)) {
            bytes += HEAD_BYTES_MAX + key.len();
            found.push(Reply::Bulk(key));
        }
        if found.len() > LISTED_KEYS_MAX || bytes > REPLY_BYTES_MAX {
            return Ok(Reply::error(texts::too_many_keys()));
        }
    }
    Ok(Reply::Array(found))
}

/// Counts what is there, expired keys that no sweep has removed included, as Redis does.
fn count<R: Replica>(replica: &R) -> Result<Reply, Unavailable> {
    let mut count = 0;
    let mut walk = Walk::over_everything(replica);
    while let Some(stretch) = walk.next_stretch()? {
        count += stretch.len();
    }
    Ok(Reply::count(count))
}

/// A walk through the keys in order, stretch by stretch: nothing can be applied while one is looked at, and its values are in memory.
struct Walk<'a, R> {
    replica: &'a R,
    /// Where it goes on; nothing at the end of the keys.
    place: Option<Bytes>,
    keys_left: usize,
}

impl<'a, R: Replica> Walk<'a, R> {
    fn over_everything(replica: &'a R) -> Self {
        Self { replica, place: Some(Bytes::new()), keys_left: usize::MAX }
    }

    /// The next stretch, unless there is nothing left.
    fn next_stretch(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, Unavailable> {
        let keys_max = self.keys_left.min(STRETCH_KEYS_MAX);
        let Some(from) = self.place.as_ref().filter(|_| keys_max > 0) else { return Ok(None) };
        let stretch = self.replica.scan(Section::Data, from, keys_max)?;
        self.keys_left -= stretch.len();
        self.place = match stretch.last() {
            Some((last, _)) if stretch.len() == keys_max => Some(just_after(last)),
            _ => None,
        };
        Ok(Some(stretch))
    }
}

fn is_live(stored: &Bytes, time_ms: u64) -> bool {
    Entry::decode(stored).is_some_and(|entry| entry.is_live(time_ms))
}

/// The first key that could follow.
fn just_after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

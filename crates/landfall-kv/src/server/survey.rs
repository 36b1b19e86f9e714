//! Owns commands that walk the keys. A walk goes in stretches and blocks, so long ones run beside the connections.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursors::Cursors;
use crate::command::{Survey, format_integer};
use crate::glob;
use crate::keyspace::{Entry, Section};
use crate::limits::{LISTED_KEYS_MAX, SCANNED_KEYS_MAX};
use crate::replica::{Replica, Unavailable};
use crate::reply::Reply;

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
    let stretch = replica.scan(Section::Data, &from, count)?;
    let next = match stretch.last() {
        Some((last, _)) if stretch.len() == count => cursors.note(just_after(last)),
        _ => 0,
    };
    let time_ms = replica.log_time_ms();
    let found = stretch.into_iter().filter(|(key, stored)| is_live(stored, time_ms) && wanted.takes(key));
    let found = found.map(|(key, _)| Reply::Bulk(key)).collect();
    let cursor = i64::try_from(next).map(format_integer).unwrap_or_default();
    Ok(Reply::Array(vec![Reply::Bulk(cursor), Reply::Array(found)]))
}

const UNKNOWN_CURSOR: &str =
    "ERR invalid cursor: the walk began at another member, or too long ago; begin again with 0";

fn keys<R: Replica>(pattern: &[u8], replica: &R) -> Result<Reply, Unavailable> {
    let time_ms = replica.log_time_ms();
    let mut found = Vec::new();
    walk(replica, |key, stored| {
        if found.len() <= LISTED_KEYS_MAX && is_live(stored, time_ms) && glob::matches(pattern, key) {
            found.push(Reply::Bulk(key.clone()));
        }
    })?;
    if found.len() > LISTED_KEYS_MAX {
        return Ok(Reply::error(format!("ERR more than {LISTED_KEYS_MAX} keys look like this; use SCAN")));
    }
    Ok(Reply::Array(found))
}

/// Counts what is there, expired keys that no sweep has removed included, as Redis does.
fn count<R: Replica>(replica: &R) -> Result<Reply, Unavailable> {
    let mut count = 0;
    walk(replica, |_, _| count += 1)?;
    Ok(Reply::count(count))
}

fn walk<R: Replica>(replica: &R, mut visit: impl FnMut(&Bytes, &Bytes)) -> Result<(), Unavailable> {
    let mut from = Bytes::new();
    loop {
        let stretch = replica.scan(Section::Data, &from, STRETCH_KEYS)?;
        stretch.iter().for_each(|(key, stored)| visit(key, stored));
        match stretch.last() {
            Some((last, _)) if stretch.len() == STRETCH_KEYS => from = just_after(last),
            _ => return Ok(()),
        }
    }
}

/// Keys that a walk looks at in one go: while it does, nothing can be applied.
const STRETCH_KEYS: usize = 1000;

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

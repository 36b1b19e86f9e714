//! Owns what commands that look at keys answer. The same code answers within a transaction and outside.

use bytes::Bytes;

use super::replies::{Fit, Replies};
use super::{Entry, Lookup, Section};
use crate::command::texts::reply_too_long;
use crate::command::{Read, Unit};
use crate::reply::Reply;

/// What a read knows of time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The log's time: what has expired by it is not there.
    pub log_ms: u64,
    /// What time is left is counted from here. A member that answers for itself uses its own clock where that is
    /// ahead, because the log's time stands still while nobody writes.
    pub now_ms: u64,
}

impl Clock {
    /// Nothing but the log's time.
    pub fn log(time_ms: u64) -> Self {
        Self { log_ms: time_ms, now_ms: time_ms }
    }
}

/// Answers a command that looks at keys.
pub fn read<S: Lookup>(clock: Clock, command: &Read, state: &S) -> Result<Reply, S::Error> {
    let live = |key: &Bytes| live_entry(clock.log_ms, key, state);
    Ok(match command {
        Read::Get(key) => Reply::bulk_or_nothing(live(key)?.map(|entry| entry.value)),
        Read::GetMany(keys) => {
            let mut replies = Replies::default();
            for key in keys {
                let value = live(key)?.map(|entry| entry.value);
                if replies.add(Reply::bulk_or_nothing(value)) == Fit::TooLong {
                    return Ok(Reply::error(reply_too_long()));
                }
            }
            replies.together()
        }
        Read::Exists(keys) => {
            let mut count = 0;
            for key in keys {
                count += usize::from(live(key)?.is_some());
            }
            Reply::count(count)
        }
        Read::Length(key) => Reply::count(live(key)?.map_or(0, |entry| entry.value.len())),
        Read::Range(key, start, end) => {
            let value = live(key)?.map(|entry| entry.value).unwrap_or_default();
            Reply::Bulk(part(&value, *start, *end))
        }
        Read::TimeLeft(key, unit) => time_left(clock.now_ms, live(key)?, *unit),
        Read::Kind(key) => Reply::Status(if live(key)?.is_some() { "string" } else { "none" }.into()),
    })
}

/// The entry of a key that has not expired.
pub(super) fn live_entry<S: Lookup>(time_ms: u64, key: &[u8], state: &S) -> Result<Option<Entry>, S::Error> {
    let stored = state.get(Section::Data, key)?;
    Ok(stored.and_then(|stored| Entry::decode(&stored)).filter(|entry| entry.is_live(time_ms)))
}

fn time_left(now_ms: u64, entry: Option<Entry>, unit: Unit) -> Reply {
    let Some(entry) = entry else { return Reply::Integer(NO_KEY) };
    let Some(deadline) = entry.deadline_ms else { return Reply::Integer(NO_DEADLINE) };
    let left_ms = i64::try_from(deadline.saturating_sub(now_ms)).unwrap_or(i64::MAX);
    Reply::Integer(match unit {
        Unit::Milliseconds => left_ms,
        Unit::Seconds => left_ms.saturating_add(500) / 1000,
    })
}

const NO_KEY: i64 = -2;
const NO_DEADLINE: i64 = -1;

/// From `start` to `end`, both included; negative numbers count from the end.
fn part(value: &Bytes, start: i64, end: i64) -> Bytes {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return Bytes::new();
    }
    let place = |index: i64| if index < 0 { (length + index).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(length - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end => value.slice(start..=end),
        _ => Bytes::new(),
    }
}

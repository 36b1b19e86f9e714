//! Owns what commands that change keys do and answer.

use bytes::{Bytes, BytesMut};

use super::read::live_entry;
use super::{Change, Entry, Section, deadline_key, entry};
use crate::command::texts::{NOT_AN_INTEGER, OVERFLOW, VALUE_TOO_LONG};
use crate::command::{
    Condition, Deadline, ExpireCondition, Moment, Order, Present, Set, SetAnswer, Write, format_integer, integer,
};
use crate::limits::VALUE_BYTES_MAX;
use crate::reply::Reply;

/// Carries a command out at the log's time.
pub(super) fn write<S: Change>(time_ms: u64, command: &Write, state: &mut S) -> Result<Reply, S::Error> {
    match command {
        Write::Set(command) => set(time_ms, command, state),
        Write::SetMany(pairs, condition) => set_many(time_ms, pairs, *condition, state),
        Write::Delete(keys) => delete(time_ms, keys, state),
        Write::Take(key) => take(time_ms, key, state),
        Write::Increment(key, by) => increment(time_ms, key, *by, state),
        Write::Append(key, more) => append(time_ms, key, more, state),
        Write::Expire(key, moment, condition) => expire(time_ms, key, *moment, *condition, state),
        Write::Persist(key) => persist(time_ms, key, state),
        Write::Flush => {
            state.clear(Section::Data)?;
            state.clear(Section::Cache)?;
            Ok(Reply::Ok)
        }
    }
}

fn set<S: Change>(time_ms: u64, set: &Set, state: &mut S) -> Result<Reply, S::Error> {
    let looks =
        set.condition != Condition::Always || set.answer == SetAnswer::Previous || set.deadline == Deadline::Keep;
    let before = if looks { live_entry(time_ms, &set.key, state)? } else { None };
    let done = match set.condition {
        Condition::Always => true,
        Condition::IfAbsent => before.is_none(),
        Condition::IfPresent => before.is_some(),
    };
    if done {
        let deadline_ms = match set.deadline {
            Deadline::Never => None,
            Deadline::Keep => before.as_ref().and_then(|entry| entry.deadline_ms),
            Deadline::At(moment) => Some(at(time_ms, moment)),
        };
        store(&set.key, &set.value, deadline_ms, state)?;
    }
    Ok(match set.answer {
        SetAnswer::Previous => Reply::bulk_or_nothing(before.map(|entry| entry.value)),
        SetAnswer::Count => Reply::Integer(done.into()),
        SetAnswer::Word if done => Reply::Ok,
        SetAnswer::Word => Reply::Nothing,
    })
}

/// Puts a value, and its deadline into the index.
fn store<S: Change>(key: &Bytes, value: &[u8], deadline_ms: Option<u64>, state: &mut S) -> Result<(), S::Error> {
    state.put(Section::Data, own(key), entry::encode(value, deadline_ms))?;
    match deadline_ms {
        Some(deadline) => state.put(Section::Cache, deadline_key(deadline, key), Bytes::new()),
        None => Ok(()),
    }
}

/// The key without the record that it came in: the state keeps it long after the record is gone.
fn own(key: &Bytes) -> Bytes {
    Bytes::copy_from_slice(key)
}

/// A moment by the log's time. A moment before 1970 is 1970: gone either way.
fn at(time_ms: u64, moment: Moment) -> u64 {
    match moment {
        Moment::FromNow(milliseconds) => time_ms.saturating_add_signed(milliseconds),
        Moment::Unix(milliseconds) => u64::try_from(milliseconds).unwrap_or(0),
    }
}

fn set_many<S: Change>(
    time_ms: u64,
    pairs: &[(Bytes, Bytes)],
    condition: Condition,
    state: &mut S,
) -> Result<Reply, S::Error> {
    if condition == Condition::IfAbsent {
        for (key, _) in pairs {
            if live_entry(time_ms, key, state)?.is_some() {
                return Ok(Reply::Integer(0));
            }
        }
    }
    for (key, value) in pairs {
        store(key, value, None, state)?;
    }
    Ok(if condition == Condition::Always { Reply::Ok } else { Reply::Integer(1) })
}

fn delete<S: Change>(time_ms: u64, keys: &[Bytes], state: &mut S) -> Result<Reply, S::Error> {
    let mut removed = 0;
    for key in keys {
        removed += usize::from(remove(time_ms, key, state)?.is_some());
    }
    Ok(Reply::count(removed))
}

fn take<S: Change>(time_ms: u64, key: &Bytes, state: &mut S) -> Result<Reply, S::Error> {
    Ok(Reply::bulk_or_nothing(remove(time_ms, key, state)?.map(|entry| entry.value)))
}

/// Removes a key with its place in the deadline index; answers what it was.
fn remove<S: Change>(time_ms: u64, key: &Bytes, state: &mut S) -> Result<Option<Entry>, S::Error> {
    let Some(entry) = live_entry(time_ms, key, state)? else { return Ok(None) };
    state.delete(Section::Data, own(key))?;
    forget_deadline(key, &entry, state)?;
    Ok(Some(entry))
}

fn forget_deadline<S: Change>(key: &Bytes, entry: &Entry, state: &mut S) -> Result<(), S::Error> {
    match entry.deadline_ms {
        Some(deadline) => state.delete(Section::Cache, deadline_key(deadline, key)),
        None => Ok(()),
    }
}

fn increment<S: Change>(time_ms: u64, key: &Bytes, by: i64, state: &mut S) -> Result<Reply, S::Error> {
    let before = live_entry(time_ms, key, state)?;
    let number = match &before {
        None => 0,
        Some(entry) => match integer(&entry.value) {
            Some(number) => number,
            None => return Ok(Reply::refused(NOT_AN_INTEGER)),
        },
    };
    let Some(sum) = number.checked_add(by) else { return Ok(Reply::refused(OVERFLOW)) };
    replace(key, &format_integer(sum), before, state)?;
    Ok(Reply::Integer(sum))
}

fn append<S: Change>(time_ms: u64, key: &Bytes, more: &Bytes, state: &mut S) -> Result<Reply, S::Error> {
    let before = live_entry(time_ms, key, state)?;
    let old: &[u8] = before.as_ref().map_or(&[], |entry| &entry.value);
    let length = old.len() + more.len();
    if length > VALUE_BYTES_MAX {
        return Ok(Reply::refused(VALUE_TOO_LONG));
    }
    let mut value = BytesMut::with_capacity(length);
    value.extend_from_slice(old);
    value.extend_from_slice(more);
    replace(key, &value, before, state)?;
    Ok(Reply::count(length))
}

/// Another value under the same deadline, which the index has already.
fn replace<S: Change>(key: &Bytes, value: &[u8], before: Option<Entry>, state: &mut S) -> Result<(), S::Error> {
    let deadline_ms = before.and_then(|entry| entry.deadline_ms);
    state.put(Section::Data, own(key), entry::encode(value, deadline_ms))
}

fn expire<S: Change>(
    time_ms: u64,
    key: &Bytes,
    moment: Moment,
    condition: ExpireCondition,
    state: &mut S,
) -> Result<Reply, S::Error> {
    let Some(entry) = live_entry(time_ms, key, state)? else { return Ok(Reply::Integer(0)) };
    let deadline_ms = at(time_ms, moment);
    if !holds(condition, entry.deadline_ms, deadline_ms) {
        return Ok(Reply::Integer(0));
    }
    forget_deadline(key, &entry, state)?;
    if deadline_ms <= time_ms {
        state.delete(Section::Data, own(key))?;
    } else {
        store(key, &entry.value, Some(deadline_ms), state)?;
    }
    Ok(Reply::Integer(1))
}

fn holds(condition: ExpireCondition, old_ms: Option<u64>, new_ms: u64) -> bool {
    let present = match condition.present {
        None => true,
        Some(Present::No) => old_ms.is_none(),
        Some(Present::Yes) => old_ms.is_some(),
    };
    let ordered = match condition.order {
        None => true,
        Some(Order::Later) => old_ms.is_some_and(|old| new_ms > old),
        Some(Order::Earlier) => old_ms.is_none_or(|old| new_ms < old),
    };
    present && ordered
}

fn persist<S: Change>(time_ms: u64, key: &Bytes, state: &mut S) -> Result<Reply, S::Error> {
    let Some(entry) = live_entry(time_ms, key, state)? else { return Ok(Reply::Integer(0)) };
    if entry.deadline_ms.is_none() {
        return Ok(Reply::Integer(0));
    }
    forget_deadline(key, &entry, state)?;
    store(key, &entry.value, None, state)?;
    Ok(Reply::Integer(1))
}

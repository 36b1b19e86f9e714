//! Owns how what has expired is removed: by a step of the log, from the deadline index, a limited number at a time.

use super::{Change, Entry, Lookup, Section, sessions, split_deadline_key};
use crate::limits::SWEPT_KEYS_MAX;
use crate::reply::Reply;

/// Removes keys whose deadline has come, entries of the index that no longer hold, and sessions that nobody uses.
pub(super) fn sweep<S: Change>(time_ms: u64, state: &mut S) -> Result<Reply, S::Error> {
    let mut swept = 0;
    for (indexed, _) in state.scan(Section::Cache, &[], SWEPT_KEYS_MAX)? {
        let Some((deadline_ms, key)) = split_deadline_key(&indexed) else { break };
        if deadline_ms > time_ms {
            break;
        }
        // The value may have been set again since, with another deadline or none: then only the index is wrong.
        let stored = state.get(Section::Data, &key)?;
        let entry = stored.and_then(|stored| Entry::decode(&stored));
        if entry.and_then(|entry| entry.deadline_ms) == Some(deadline_ms) {
            state.delete(Section::Data, key)?;
        }
        state.delete(Section::Cache, indexed)?;
        swept += 1;
    }
    swept += sessions::sweep(time_ms, SWEPT_KEYS_MAX, state)?;
    Ok(Reply::count(swept))
}

/// Would a sweep at `time_ms` find anything? Asked by whoever leads, who proposes the sweep.
pub fn is_sweep_due<S: Lookup>(time_ms: u64, state: &S) -> Result<bool, S::Error> {
    let first = state.scan(Section::Cache, &[], 1)?;
    let deadline = first.first().and_then(|(indexed, _)| split_deadline_key(indexed));
    if deadline.is_some_and(|(deadline_ms, _)| deadline_ms <= time_ms) {
        return Ok(true);
    }
    sessions::is_sweep_due(time_ms, state)
}

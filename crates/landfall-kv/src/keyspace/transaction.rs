//! Owns how the steps of a transaction are carried out: all of them at one instant, and none of them if their replies are too long together.

use super::replies::{Fit, Replies};
use super::tentative::Tentative;
use super::{Change, Step, apply_one};
use crate::command::texts::reply_too_long;
use crate::limits::REPLY_BYTES_MAX;
use crate::reply::Reply;

/// Carries out a transaction. One whose replies could be too long is tried first.
pub(super) fn carry_out<S: Change>(time_ms: u64, steps: &[Step], state: &mut S) -> Result<Reply, S::Error> {
    let replies_bytes_max: usize = steps.iter().map(Step::reply_bytes_max).sum();
    match replies_bytes_max < REPLY_BYTES_MAX {
        true => carry_out_directly(time_ms, steps, state),
        false => try_first(time_ms, steps, state),
    }
}

/// The same where the replies are known to fit.
pub(super) fn carry_out_directly<S: Change>(time_ms: u64, steps: &[Step], state: &mut S) -> Result<Reply, S::Error> {
    let replies = steps.iter().map(|step| apply_one(time_ms, step, state)).collect::<Result<_, _>>()?;
    Ok(Reply::Array(replies))
}

/// Keeps the changes aside until the last reply is known to fit.
pub(super) fn try_first<S: Change>(time_ms: u64, steps: &[Step], state: &mut S) -> Result<Reply, S::Error> {
    let mut tentative = Tentative::on(&*state);
    let mut replies = Replies::default();
    for step in steps {
        if replies.add(apply_one(time_ms, step, &mut tentative)?) == Fit::TooLong {
            return Ok(Reply::error(reply_too_long()));
        }
    }
    tentative.changes().make(state)?;
    Ok(replies.together())
}

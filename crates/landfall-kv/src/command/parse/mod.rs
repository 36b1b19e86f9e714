//! Owns how the arguments of each command are read: here of those that name keys. It refuses with Redis' own texts, which some clients look for.

mod server;

use bytes::Bytes;

pub(super) use server::{
    allow_stale_reads, begin, client, command_list, config, count, describe, discard, echo, execute,
    forbid_stale_reads, hello, keys, landfall, ping, quit, scan, select,
};

use super::texts::{DECREMENT_OVERFLOW, KEY_TOO_LONG, NOT_AN_INTEGER, SYNTAX, VALUE_TOO_LONG};
use super::{
    Command, Condition, Deadline, ExpireCondition, Moment, Order, Present, Read, Refusal, Set, SetAnswer, Unit, Write,
    integer, specification,
};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::request::Arguments;

pub(in crate::command) type Parser = fn(Arguments<'_>) -> Parsed;
pub(in crate::command) type Parsed = Result<Command, Refusal>;

/// Reads one request, which must not be empty.
pub fn parse(arguments: Arguments<'_>) -> Parsed {
    let Some(command) = specification(arguments.raw(0)) else { return Err(unknown(arguments)) };
    if !command.accepts(arguments.count()) {
        return Err(wrong_count(command.name));
    }
    (command.parse)(arguments)
}

fn unknown(arguments: Arguments<'_>) -> Refusal {
    let shown = |argument: Bytes| String::from_utf8_lossy(&argument[..argument.len().min(QUOTED_MAX)]).into_owned();
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(arguments.get(0)));
    for argument in arguments.from(1).iter() {
        if text.len() >= QUOTED_MAX {
            break;
        }
        text.push_str(&format!("'{}' ", shown(argument)));
    }
    Refusal(text.into())
}

fn wrong_count(name: &str) -> Refusal {
    Refusal(format!("ERR wrong number of arguments for '{name}' command").into())
}

/// How much of a stranger's words is repeated.
const QUOTED_MAX: usize = 128;

fn key(arguments: Arguments<'_>, index: usize) -> Result<Bytes, Refusal> {
    let key = arguments.get(index);
    if key.len() > KEY_BYTES_MAX { Err(Refusal::fixed(KEY_TOO_LONG)) } else { Ok(key) }
}

fn keys_from(arguments: Arguments<'_>, first: usize) -> Result<Vec<Bytes>, Refusal> {
    (first..arguments.count()).map(|index| key(arguments, index)).collect()
}

fn value(arguments: Arguments<'_>, index: usize) -> Result<Bytes, Refusal> {
    let value = arguments.get(index);
    if value.len() > VALUE_BYTES_MAX { Err(Refusal::fixed(VALUE_TOO_LONG)) } else { Ok(value) }
}

fn number(arguments: Arguments<'_>, index: usize) -> Result<i64, Refusal> {
    integer(arguments.raw(index)).ok_or(Refusal::fixed(NOT_AN_INTEGER))
}

fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

fn syntax<T>() -> Result<T, Refusal> {
    Err(Refusal::fixed(SYNTAX))
}

// --- reads ---

pub(in crate::command) fn get(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::Get(key(arguments, 1)?)))
}

pub(in crate::command) fn get_many(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::GetMany(keys_from(arguments, 1)?)))
}

pub(in crate::command) fn exists(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::Exists(keys_from(arguments, 1)?)))
}

pub(in crate::command) fn length(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::Length(key(arguments, 1)?)))
}

pub(in crate::command) fn range(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::Range(key(arguments, 1)?, number(arguments, 2)?, number(arguments, 3)?)))
}

pub(in crate::command) fn time_left(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::TimeLeft(key(arguments, 1)?, Unit::Seconds)))
}

pub(in crate::command) fn time_left_milliseconds(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::TimeLeft(key(arguments, 1)?, Unit::Milliseconds)))
}

pub(in crate::command) fn kind(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Read(Read::Kind(key(arguments, 1)?)))
}

// --- writes ---

pub(in crate::command) fn set(arguments: Arguments<'_>) -> Parsed {
    let mut set = plain_set(arguments, 1, 2)?;
    let mut options = SetOptions::default();
    let mut index = 3;
    while index < arguments.count() {
        index += options.read(arguments, index)?;
    }
    set.deadline = options.deadline.unwrap_or(Deadline::Never);
    set.condition = options.condition.unwrap_or(Condition::Always);
    set.answer = options.answer.unwrap_or(SetAnswer::Word);
    Ok(Command::Write(Write::Set(set)))
}

fn plain_set(arguments: Arguments<'_>, key_at: usize, value_at: usize) -> Result<Set, Refusal> {
    Ok(Set {
        key: key(arguments, key_at)?,
        value: value(arguments, value_at)?,
        deadline: Deadline::Never,
        condition: Condition::Always,
        answer: SetAnswer::Word,
    })
}

/// The options of `SET`; each may be given once.
#[derive(Default)]
struct SetOptions {
    deadline: Option<Deadline>,
    condition: Option<Condition>,
    answer: Option<SetAnswer>,
}

impl SetOptions {
    /// Reads the option at `index`; answers how many arguments it took.
    fn read(&mut self, arguments: Arguments<'_>, index: usize) -> Result<usize, Refusal> {
        let option = arguments.raw(index);
        if is(option, "nx") {
            return self.put_condition(Condition::IfAbsent);
        }
        if is(option, "xx") {
            return self.put_condition(Condition::IfPresent);
        }
        if is(option, "get") {
            self.answer = Some(SetAnswer::Previous);
            return Ok(1);
        }
        if is(option, "keepttl") {
            return self.put_deadline(Deadline::Keep, 1);
        }
        let Some((unit, moment)) = set_moment(option) else { return syntax() };
        if index + 1 == arguments.count() || self.deadline.is_some() {
            return syntax();
        }
        let moment = positive_moment(number(arguments, index + 1)?, unit, moment, "set")?;
        self.put_deadline(Deadline::At(moment), 2)
    }

    fn put_condition(&mut self, condition: Condition) -> Result<usize, Refusal> {
        match self.condition.replace(condition) {
            Some(before) if before != condition => syntax(),
            _ => Ok(1),
        }
    }

    fn put_deadline(&mut self, deadline: Deadline, took: usize) -> Result<usize, Refusal> {
        match self.deadline.replace(deadline) {
            Some(before) if before != deadline || took > 1 => syntax(),
            _ => Ok(took),
        }
    }
}

type MomentOf = fn(i64) -> Moment;

fn set_moment(option: &[u8]) -> Option<(Unit, MomentOf)> {
    let known: [(&str, Unit, MomentOf); 4] = [
        ("ex", Unit::Seconds, Moment::FromNow),
        ("px", Unit::Milliseconds, Moment::FromNow),
        ("exat", Unit::Seconds, Moment::Unix),
        ("pxat", Unit::Milliseconds, Moment::Unix),
    ];
    known.into_iter().find(|(name, ..)| is(option, name)).map(|(_, unit, moment)| (unit, moment))
}

/// A deadline that a value is set with lies after the moment it is set.
fn positive_moment(count: i64, unit: Unit, moment: MomentOf, name: &str) -> Result<Moment, Refusal> {
    if count <= 0 {
        return Err(invalid_expire(name));
    }
    any_moment(count, unit, moment, name)
}

/// Milliseconds that can be added to any time of a log without running over.
fn any_moment(count: i64, unit: Unit, moment: MomentOf, name: &str) -> Result<Moment, Refusal> {
    let factor = if unit == Unit::Seconds { 1000 } else { 1 };
    let milliseconds = count.checked_mul(factor).filter(|milliseconds| milliseconds.unsigned_abs() <= MOMENT_MS_MAX);
    milliseconds.map(moment).ok_or_else(|| invalid_expire(name))
}

/// Farther away than any clock will ever show.
const MOMENT_MS_MAX: u64 = i64::MAX as u64 / 4;

fn invalid_expire(name: &str) -> Refusal {
    Refusal(format!("ERR invalid expire time in '{name}' command").into())
}

pub(in crate::command) fn set_if_absent(arguments: Arguments<'_>) -> Parsed {
    let plain = plain_set(arguments, 1, 2)?;
    Ok(Command::Write(Write::Set(Set { condition: Condition::IfAbsent, answer: SetAnswer::Count, ..plain })))
}

pub(in crate::command) fn get_set(arguments: Arguments<'_>) -> Parsed {
    let plain = plain_set(arguments, 1, 2)?;
    Ok(Command::Write(Write::Set(Set { answer: SetAnswer::Previous, ..plain })))
}

pub(in crate::command) fn set_seconds(arguments: Arguments<'_>) -> Parsed {
    set_for(arguments, Unit::Seconds, "setex")
}

pub(in crate::command) fn set_milliseconds(arguments: Arguments<'_>) -> Parsed {
    set_for(arguments, Unit::Milliseconds, "psetex")
}

fn set_for(arguments: Arguments<'_>, unit: Unit, name: &str) -> Parsed {
    let plain = plain_set(arguments, 1, 3)?;
    let moment = positive_moment(number(arguments, 2)?, unit, Moment::FromNow, name)?;
    Ok(Command::Write(Write::Set(Set { deadline: Deadline::At(moment), ..plain })))
}

pub(in crate::command) fn set_many(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::SetMany(pairs(arguments, "mset")?, Condition::Always)))
}

pub(in crate::command) fn set_many_if_absent(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::SetMany(pairs(arguments, "msetnx")?, Condition::IfAbsent)))
}

fn pairs(arguments: Arguments<'_>, name: &str) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
    if arguments.count().is_multiple_of(2) {
        return Err(wrong_count(name));
    }
    let starts = (1..arguments.count()).step_by(2);
    starts.map(|index| Ok((key(arguments, index)?, value(arguments, index + 1)?))).collect()
}

pub(in crate::command) fn delete(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Delete(keys_from(arguments, 1)?)))
}

pub(in crate::command) fn take(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Take(key(arguments, 1)?)))
}

pub(in crate::command) fn increment(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Increment(key(arguments, 1)?, 1)))
}

pub(in crate::command) fn decrement(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Increment(key(arguments, 1)?, -1)))
}

pub(in crate::command) fn increment_by(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Increment(key(arguments, 1)?, number(arguments, 2)?)))
}

pub(in crate::command) fn decrement_by(arguments: Arguments<'_>) -> Parsed {
    let by = number(arguments, 2)?.checked_neg().ok_or(Refusal::fixed(DECREMENT_OVERFLOW))?;
    Ok(Command::Write(Write::Increment(key(arguments, 1)?, by)))
}

pub(in crate::command) fn append(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Append(key(arguments, 1)?, value(arguments, 2)?)))
}

pub(in crate::command) fn expire(arguments: Arguments<'_>) -> Parsed {
    expire_with(arguments, Unit::Seconds, Moment::FromNow, "expire")
}

pub(in crate::command) fn expire_milliseconds(arguments: Arguments<'_>) -> Parsed {
    expire_with(arguments, Unit::Milliseconds, Moment::FromNow, "pexpire")
}

pub(in crate::command) fn expire_at(arguments: Arguments<'_>) -> Parsed {
    expire_with(arguments, Unit::Seconds, Moment::Unix, "expireat")
}

pub(in crate::command) fn expire_at_milliseconds(arguments: Arguments<'_>) -> Parsed {
    expire_with(arguments, Unit::Milliseconds, Moment::Unix, "pexpireat")
}

fn expire_with(arguments: Arguments<'_>, unit: Unit, moment: MomentOf, name: &str) -> Parsed {
    let condition = expire_condition(arguments.from(3))?;
    let moment = any_moment(number(arguments, 2)?, unit, moment, name)?;
    Ok(Command::Write(Write::Expire(key(arguments, 1)?, moment, condition)))
}

fn expire_condition(options: Arguments<'_>) -> Result<ExpireCondition, Refusal> {
    let mut given = [false; 4];
    for option in options.iter() {
        let found = EXPIRE_OPTIONS.iter().position(|name| is(&option, name));
        let Some(found) = found else {
            return Err(Refusal(format!("ERR Unsupported option {}", String::from_utf8_lossy(&option)).into()));
        };
        given[found] = true;
    }
    let [nx, xx, gt, lt] = given;
    if nx && (xx || gt || lt) {
        return Err(Refusal::fixed("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if gt && lt {
        return Err(Refusal::fixed("ERR GT and LT options at the same time are not compatible"));
    }
    let present = if nx { Some(Present::No) } else { xx.then_some(Present::Yes) };
    let order = if gt { Some(Order::Later) } else { lt.then_some(Order::Earlier) };
    Ok(ExpireCondition { present, order })
}

const EXPIRE_OPTIONS: [&str; 4] = ["nx", "xx", "gt", "lt"];

pub(in crate::command) fn persist(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Write(Write::Persist(key(arguments, 1)?)))
}

pub(in crate::command) fn flush(arguments: Arguments<'_>) -> Parsed {
    let known = |option: &[u8]| is(option, "async") || is(option, "sync");
    match arguments.count() {
        1 => Ok(Command::Write(Write::Flush)),
        2 if known(arguments.raw(1)) => Ok(Command::Write(Write::Flush)),
        _ => syntax(),
    }
}

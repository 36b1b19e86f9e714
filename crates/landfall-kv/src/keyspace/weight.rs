//! Owns how much of a log entry a step takes, without encoding it, how long its reply can be, and which key stands for it.

use bytes::Bytes;

use super::Step;
use crate::command::{Read, SetAnswer, Write};
use crate::limits::{REPLY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::reply::{HEAD_BYTES_MAX, Reply};

impl Step {
    /// At least the bytes that it takes in the log.
    pub fn weight(&self) -> usize {
        match self {
            Self::Write(command) => STEP_BYTES + command.weight(),
            Self::Read(command) => STEP_BYTES + command.weight(),
            Self::Transaction(steps) => STEP_BYTES + steps.iter().map(Self::weight).sum::<usize>(),
            Self::Say(Reply::Bulk(bytes)) => STEP_BYTES + bytes.len(),
            Self::Say(_) | Self::Sweep => STEP_BYTES,
            Self::Once(once) => STEP_BYTES + weight(&once.session) + once.write.weight(),
        }
    }

    /// No state makes its reply longer.
    pub fn reply_bytes_max(&self) -> usize {
        match self {
            Self::Write(command) => command.reply_bytes_max(),
            Self::Read(command) => command.reply_bytes_max(),
            // A longer one is refused.
            Self::Transaction(steps) => {
                let together = steps.iter().map(Self::reply_bytes_max).sum::<usize>();
                together.saturating_add(HEAD_BYTES_MAX).min(REPLY_BYTES_MAX)
            }
            Self::Say(reply) => reply.bytes_max(),
            Self::Once(once) => once.write.reply_bytes_max(),
            Self::Sweep => SHORT_REPLY_BYTES_MAX,
        }
    }

    /// The first key that it names: where several are named, the first stands for all.
    pub fn first_key(&self) -> Option<Bytes> {
        match self {
            Self::Write(command) => command.first_key(),
            Self::Read(command) => Some(command.first_key().clone()),
            Self::Transaction(steps) => steps.iter().find_map(Self::first_key),
            Self::Once(once) => once.write.first_key(),
            Self::Say(_) | Self::Sweep => None,
        }
    }
}

impl Write {
    fn weight(&self) -> usize {
        match self {
            Self::Set(set) => weight(&set.key) + weight(&set.value),
            Self::SetMany(pairs, _) => pairs.iter().map(|(key, value)| weight(key) + weight(value)).sum(),
            Self::Delete(keys) => keys.iter().map(weight).sum(),
            Self::Append(key, more) => weight(key) + weight(more),
            Self::Take(key) | Self::Increment(key, _) | Self::Expire(key, ..) | Self::Persist(key) => weight(key),
            Self::Flush => 0,
        }
    }

    fn reply_bytes_max(&self) -> usize {
        match self {
            Self::Set(set) if set.answer != SetAnswer::Previous => SHORT_REPLY_BYTES_MAX,
            Self::Set(_) | Self::Take(_) => LONG_REPLY_BYTES_MAX,
            _ => SHORT_REPLY_BYTES_MAX,
        }
    }

    fn first_key(&self) -> Option<Bytes> {
        match self {
            Self::Set(set) => Some(set.key.clone()),
            Self::SetMany(pairs, _) => pairs.first().map(|(key, _)| key.clone()),
            Self::Delete(keys) => keys.first().cloned(),
            Self::Append(key, _) | Self::Take(key) | Self::Increment(key, _) => Some(key.clone()),
            Self::Expire(key, ..) | Self::Persist(key) => Some(key.clone()),
            Self::Flush => None,
        }
    }
}

impl Read {
    fn weight(&self) -> usize {
        match self {
            Self::GetMany(keys) | Self::Exists(keys) => keys.iter().map(weight).sum(),
            one => weight(one.first_key()),
        }
    }

    fn reply_bytes_max(&self) -> usize {
        match self {
            Self::Get(_) | Self::Range(..) => LONG_REPLY_BYTES_MAX,
            // A longer one is refused.
            Self::GetMany(keys) => (HEAD_BYTES_MAX + keys.len() * LONG_REPLY_BYTES_MAX).min(REPLY_BYTES_MAX),
            Self::Exists(_) | Self::Length(_) | Self::TimeLeft(..) | Self::Kind(_) => SHORT_REPLY_BYTES_MAX,
        }
    }

    /// The first key that it names.
    pub fn first_key(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::GetMany(keys) | Self::Exists(keys) => keys.first().unwrap_or(&NONE),
            Self::Get(key) | Self::Length(key) | Self::Range(key, ..) => key,
            Self::TimeLeft(key, _) | Self::Kind(key) => key,
        }
    }
}

/// Bytes with the head that says how many they are, and what holds a pair together.
fn weight(bytes: &Bytes) -> usize {
    bytes.len() + 6
}

/// The names of a step, its numbers and options.
const STEP_BYTES: usize = 48;
/// A word, a number, or a refusal.
const SHORT_REPLY_BYTES_MAX: usize = HEAD_BYTES_MAX + 256;
/// A value.
const LONG_REPLY_BYTES_MAX: usize = HEAD_BYTES_MAX + VALUE_BYTES_MAX;

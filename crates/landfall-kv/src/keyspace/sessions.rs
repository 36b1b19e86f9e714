//! Owns the sessions of clients: a write that is asked for again, because nobody heard whether it was done, is done once.
//!
//! `inflight` holds two kinds of keys: `r` and a session's name, with what it did last; `d`, a deadline and a session's
//! name, so that sessions that nobody uses are found in order.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Change, Lookup, Section, write};
use crate::command::Once;
use crate::limits::{SESSION_IDLE_MS_MAX, SESSION_REPLY_BYTES_MAX};
use crate::reply::{Reply, Version};

/// What a session did last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    sequence: u64,
    deadline_ms: u64,
    reply: Reply,
}

impl Session {
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.sequence);
        bytes.put_u64(self.deadline_ms);
        put_reply(&self.reply, &mut bytes);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (deadline, _) = rest.split_first_chunk()?;
        Some(Self {
            sequence: u64::from_be_bytes(*sequence),
            deadline_ms: u64::from_be_bytes(*deadline),
            reply: reply(&bytes.slice(16..))?,
        })
    }
}

/// Does a write unless the session did it before; then it only answers again.
pub(super) fn once<S: Change>(time_ms: u64, once: &Once, state: &mut S) -> Result<Reply, S::Error> {
    let record_key = record_key(&once.session);
    let before = state.get(Section::Inflight, &record_key)?.and_then(|bytes| Session::decode(&bytes));
    // What a sweep would remove is gone, whether the sweep has come or not.
    let before = before.filter(|before| before.deadline_ms > time_ms);
    if let Some(before) = &before {
        if before.sequence == once.sequence {
            return Ok(before.reply.clone());
        }
        if before.sequence > once.sequence {
            return Ok(Reply::refused(TOO_OLD));
        }
        state.delete(Section::Inflight, deadline_key(before.deadline_ms, &once.session))?;
    }
    let answer = write::write(time_ms, &once.write, state)?;
    let deadline_ms = time_ms.saturating_add(SESSION_IDLE_MS_MAX);
    let session = Session { sequence: once.sequence, deadline_ms, reply: kept(&answer) };
    state.put(Section::Inflight, record_key, session.encode())?;
    state.put(Section::Inflight, deadline_key(deadline_ms, &once.session), Bytes::new())?;
    Ok(answer)
}

const TOO_OLD: &str = "ERR the session has carried out a later command";
const NOT_KEPT: &str = "ERR the command was carried out before, and its reply was too long to keep";

/// The reply that is given if the command is asked for again.
fn kept(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(bytes) if bytes.len() > SESSION_REPLY_BYTES_MAX => Reply::refused(NOT_KEPT),
        reply => reply.clone(),
    }
}

/// Removes sessions that nobody used for long.
pub(super) fn sweep<S: Change>(time_ms: u64, sessions_max: usize, state: &mut S) -> Result<usize, S::Error> {
    let mut swept = 0;
    for (indexed, _) in state.scan(Section::Inflight, DEADLINES, sessions_max)? {
        let Some((deadline_ms, name)) = split_deadline_key(&indexed) else { break };
        if deadline_ms > time_ms {
            break;
        }
        state.delete(Section::Inflight, indexed)?;
        let record_key = record_key(&name);
        let session = state.get(Section::Inflight, &record_key)?.and_then(|bytes| Session::decode(&bytes));
        if session.is_some_and(|session| session.deadline_ms == deadline_ms) {
            state.delete(Section::Inflight, record_key)?;
        }
        swept += 1;
    }
    Ok(swept)
}

pub(super) fn is_sweep_due<S: Lookup>(time_ms: u64, state: &S) -> Result<bool, S::Error> {
    let first = state.scan(Section::Inflight, DEADLINES, 1)?;
    let deadline = first.first().and_then(|(indexed, _)| split_deadline_key(indexed));
    Ok(deadline.is_some_and(|(deadline_ms, _)| deadline_ms <= time_ms))
}

const DEADLINES: &[u8] = b"d";
const RECORDS: &[u8] = b"r";

fn record_key(name: &[u8]) -> Bytes {
    [RECORDS, name].concat().into()
}

fn deadline_key(deadline_ms: u64, name: &[u8]) -> Bytes {
    [DEADLINES, &deadline_ms.to_be_bytes(), name].concat().into()
}

fn split_deadline_key(bytes: &Bytes) -> Option<(u64, Bytes)> {
    let rest = bytes.strip_prefix(DEADLINES)?;
    let (deadline, _) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*deadline), bytes.slice(DEADLINES.len() + 8..)))
}

/// A reply is kept as it travels: its first byte says what it is. Only what a write can answer is kept.
fn put_reply(reply: &Reply, bytes: &mut BytesMut) {
    reply.encode(Version::Resp2, bytes);
}

fn reply(bytes: &Bytes) -> Option<Reply> {
    use redis_protocol::resp2::decode::decode_bytes;
    use redis_protocol::resp2::types::BytesFrame;
    let (frame, _) = decode_bytes(bytes).ok()??;
    Some(match frame {
        BytesFrame::SimpleString(text) if text == "OK" => Reply::Ok,
        BytesFrame::SimpleString(text) => Reply::Status(String::from_utf8_lossy(&text).into_owned().into()),
        BytesFrame::Error(text) => Reply::error(text.to_string()),
        BytesFrame::Integer(number) => Reply::Integer(number),
        BytesFrame::BulkString(bytes) => Reply::Bulk(bytes),
        BytesFrame::Null => Reply::Nothing,
        BytesFrame::Array(_) => return None,
    })
}

//! Owns what a client is answered, and its bytes in both versions of the protocol. It never decides an answer.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp2::encode::extend_encode_borrowed;
use redis_protocol::resp2::types::BorrowedFrame;
use serde::{Deserialize, Serialize};

/// Which version of the protocol a connection speaks; `HELLO` changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// What every client speaks first.
    #[default]
    Resp2,
    /// Has maps and a null of its own.
    Resp3,
}

/// One answer. The short names are what a log and a session keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The word of success.
    #[serde(rename = "k")]
    Ok,
    /// Another short word.
    #[serde(rename = "s")]
    Status(Cow<'static, str>),
    /// A number.
    #[serde(rename = "i")]
    Integer(i64),
    /// Bytes.
    #[serde(rename = "b")]
    Bulk(Bytes),
    /// There is nothing.
    #[serde(rename = "n")]
    Nothing,
    /// Several answers.
    #[serde(rename = "a")]
    Array(Vec<Reply>),
    /// Names and what they stand for, in this order.
    #[serde(rename = "m")]
    Map(Vec<(Reply, Reply)>),
    /// A refusal: its code, a space, and a sentence, on one line.
    #[serde(rename = "e")]
    Error(Cow<'static, str>),
}

impl Reply {
    /// Bytes that are known when the program is built.
    pub fn text(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// A refusal whose sentence is known when the program is built.
    pub const fn refused(text: &'static str) -> Self {
        Self::Error(Cow::Borrowed(text))
    }

    /// A refusal whose sentence depends on what was asked. Line breaks would end it early, so they become spaces.
    pub fn error(text: impl Into<String>) -> Self {
        let text = text.into();
        let broken = text.contains(['\r', '\n']);
        Self::Error(Cow::Owned(if broken { text.replace(['\r', '\n'], " ") } else { text }))
    }

    /// A count.
    pub fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Bytes, or nothing.
    pub fn bulk_or_nothing(bytes: Option<Bytes>) -> Self {
        bytes.map_or(Self::Nothing, Self::Bulk)
    }

    /// Was the command refused?
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// No version of the protocol needs more bytes for it.
    pub fn bytes_max(&self) -> usize {
        match self {
            Self::Ok | Self::Integer(_) | Self::Nothing => HEAD_BYTES_MAX,
            Self::Status(text) | Self::Error(text) => HEAD_BYTES_MAX + text.len(),
            Self::Bulk(bytes) => HEAD_BYTES_MAX + bytes.len(),
            Self::Array(replies) => HEAD_BYTES_MAX + replies.iter().map(Self::bytes_max).sum::<usize>(),
            Self::Map(pairs) => {
                let pair = |(name, value): &(Self, Self)| name.bytes_max() + value.bytes_max();
                HEAD_BYTES_MAX + pairs.iter().map(pair).sum::<usize>()
            }
        }
    }

    /// Appends this answer as it travels.
    pub fn encode(&self, version: Version, output: &mut BytesMut) {
        match self {
            Self::Ok => output.put_slice(b"+OK\r\n"),
            Self::Status(text) => put(output, &BorrowedFrame::SimpleString(text.as_bytes())),
            Self::Integer(number) => put(output, &BorrowedFrame::Integer(*number)),
            Self::Bulk(bytes) => put(output, &BorrowedFrame::BulkString(bytes)),
            Self::Error(text) => put(output, &BorrowedFrame::Error(text)),
            Self::Nothing if version == Version::Resp3 => output.put_slice(b"_\r\n"),
            Self::Nothing => put(output, &BorrowedFrame::Null),
            Self::Array(replies) => {
                put_header(output, b'*', replies.len());
                replies.iter().for_each(|reply| reply.encode(version, output));
            }
            Self::Map(pairs) => encode_map(pairs, version, output),
        }
    }
}

/// What stands around the bytes of an answer: its kind, a number, two ends of lines.
pub(crate) const HEAD_BYTES_MAX: usize = 32;

/// Where there are no maps, a map is an array of names and values in turn.
fn encode_map(pairs: &[(Reply, Reply)], version: Version, output: &mut BytesMut) {
    match version {
        Version::Resp2 => put_header(output, b'*', pairs.len() * 2),
        Version::Resp3 => put_header(output, b'%', pairs.len()),
    }
    for (name, value) in pairs {
        name.encode(version, output);
        value.encode(version, output);
    }
}

/// The head of an aggregate. The library encodes whole frames only, and its maps have no order.
fn put_header(output: &mut BytesMut, kind: u8, count: usize) {
    output.put_u8(kind);
    output.put_slice(count.to_string().as_bytes());
    output.put_slice(b"\r\n");
}

/// Scalars look the same in both versions.
fn put(output: &mut BytesMut, frame: &BorrowedFrame<'_>) {
    let encoded = extend_encode_borrowed(output, frame, false);
    debug_assert!(encoded.is_ok(), "the library makes room before it writes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &Reply, resp2: &str, resp3: &str) {
        for (version, expected) in [(Version::Resp2, resp2), (Version::Resp3, resp3)] {
            let mut output = BytesMut::new();
            reply.encode(version, &mut output);
            assert_eq!(String::from_utf8_lossy(&output), expected, "{version:?}");
            assert!(output.len() <= reply.bytes_max(), "{reply:?}");
        }
    }

    #[test]
    fn scalars_look_the_same_in_both_versions() {
        for (reply, expected) in [
            (Reply::Ok, "+OK\r\n"),
            (Reply::Status("PONG".into()), "+PONG\r\n"),
            (Reply::Integer(-7), ":-7\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n"),
            (Reply::text("two\r\nlines"), "$10\r\ntwo\r\nlines\r\n"),
            (Reply::text(""), "$0\r\n\r\n"),
            (Reply::refused("ERR no"), "-ERR no\r\n"),
            (Reply::Array(vec![]), "*0\r\n"),
            (Reply::Array(vec![Reply::Integer(1), Reply::Ok]), "*2\r\n:1\r\n+OK\r\n"),
        ] {
            check(&reply, expected, expected);
        }
    }

    #[test]
    fn nothing_and_maps_differ_between_the_versions() {
        check(&Reply::Nothing, "$-1\r\n", "_\r\n");
        let map = Reply::Map(vec![(Reply::text("b"), Reply::Integer(1)), (Reply::text("a"), Reply::Nothing)]);
        check(&map, "*4\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n$-1\r\n", "%2\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n_\r\n");
    }

    #[test]
    fn an_error_stays_on_one_line_whatever_it_quotes() {
        check(&Reply::error("ERR unknown 'a\r\n+OK'"), "-ERR unknown 'a  +OK'\r\n", "-ERR unknown 'a  +OK'\r\n");
    }
}

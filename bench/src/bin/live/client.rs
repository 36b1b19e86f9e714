//! Owns a blocking connection to a server that speaks the Redis protocol: the same client for everybody who is compared.
//! It never decides what is asked, or when.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use landfall_bench::netns::Namespace;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    output: Vec<u8>,
    replies: Replies,
}

/// The half that hears.
pub(crate) struct Replies {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    /// Connects from inside a namespace.
    pub(crate) fn connect(from: &Namespace, address: SocketAddr) -> anyhow::Result<Self> {
        from.inside(|| Self::connect_here(address))
    }

    /// Connects from the namespace of the calling thread.
    pub(crate) fn connect_here(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect_timeout(&address, CONNECT_LIMIT).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        let replies = Replies { stream: stream.try_clone()?, input: BytesMut::with_capacity(INPUT_BYTES) };
        Ok(Self { stream, output: Vec::new(), replies })
    }

    /// Asks and waits for the answer. What the server refuses is an error.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> anyhow::Result<BytesFrame> {
        match self.try_call(words)? {
            BytesFrame::Error(refusal) => {
                let asked: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word.as_ref())).collect();
                let asked = asked.join(" ");
                bail!("{} was refused: {refusal}", asked.get(..ASKED_BYTES_MAX).unwrap_or(&asked))
            }
            answer => Ok(answer),
        }
    }

    /// Asks and waits for the answer, be it a refusal.
    pub(crate) fn try_call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> anyhow::Result<BytesFrame> {
        self.output.clear();
        append_command(&mut self.output, words);
        self.stream.write_all(&self.output)?;
        self.replies.next()?.context("no answer in time")
    }

    /// Asks for a text.
    pub(crate) fn text<A: AsRef<[u8]>>(&mut self, words: &[A]) -> anyhow::Result<String> {
        match self.call(words)? {
            BytesFrame::SimpleString(text) | BytesFrame::BulkString(text) => {
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            other => bail!("a text was expected, not {other:?}"),
        }
    }

    /// Two halves for two threads, so that questions do not wait for answers. The hearing half waits `patience` at a
    /// time.
    pub(crate) fn split(self, patience: Duration) -> anyhow::Result<(TcpStream, Replies)> {
        self.stream.set_read_timeout(Some(patience))?;
        Ok((self.stream, self.replies))
    }
}

impl Replies {
    /// The next answer; nothing if none came in time.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<BytesFrame>> {
        loop {
            if let Some((frame, ..)) = decode_bytes_mut(&mut self.input).context("an answer that is no RESP")? {
                return Ok(Some(frame));
            }
            let mut piece = [0; INPUT_BYTES];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(read) => self.input.extend_from_slice(&piece[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Appends a request as clients write it: an array of bulk strings.
pub(crate) fn append_command<A: AsRef<[u8]>>(output: &mut Vec<u8>, words: &[A]) {
    append_length(output, b'*', words.len());
    for word in words {
        let word = word.as_ref();
        append_length(output, b'$', word.len());
        output.extend_from_slice(word);
        output.extend_from_slice(b"\r\n");
    }
}

fn append_length(output: &mut Vec<u8>, kind: u8, length: usize) {
    output.push(kind);
    output.extend_from_slice(length.to_string().as_bytes());
    output.extend_from_slice(b"\r\n");
}

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const REPLY_LIMIT: Duration = Duration::from_secs(120);
const INPUT_BYTES: usize = 64 * 1024;
const ASKED_BYTES_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_array_of_bulk_strings() {
        let mut output = Vec::new();
        append_command(&mut output, &["GET", "key:00000001"]);
        assert_eq!(output, b"*2\r\n$3\r\nGET\r\n$12\r\nkey:00000001\r\n");
    }
}

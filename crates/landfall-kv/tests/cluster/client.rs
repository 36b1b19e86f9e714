//! A client that asks one question at a time and shows the answer on one line, its kind first.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

pub(crate) struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Option<Self> {
        Self::connect_with_patience(address, ANSWER_PATIENCE)
    }

    /// One that takes a server for gone which says nothing for so long.
    pub(crate) fn connect_with_patience(address: &str, patience: Duration) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, input: BytesMut::new() })
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.try_ask(request).unwrap_or_else(|| panic!("no answer to {request}"))
    }

    /// Nothing if the server went away.
    pub(crate) fn try_ask(&mut self, request: &str) -> Option<String> {
        self.stream.write_all(format!("{request}\r\n").as_bytes()).ok()?;
        loop {
            if let Some((frame, _, _)) = decode_bytes_mut(&mut self.input).expect("the server speaks the protocol") {
                return Some(shown(&frame));
            }
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part).ok().filter(|read| *read > 0)?;
            self.input.extend_from_slice(&part[..read]);
        }
    }
}

const ANSWER_PATIENCE: Duration = Duration::from_secs(90);

fn shown(frame: &BytesFrame) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match frame {
        BytesFrame::SimpleString(word) => format!("+{}", text(word)),
        BytesFrame::Error(error) => format!("-{error}"),
        BytesFrame::Integer(number) => format!(":{number}"),
        BytesFrame::BulkString(bytes) => format!("${}", text(bytes)),
        BytesFrame::Null => "nothing".to_owned(),
        BytesFrame::Array(frames) => frames.iter().map(shown).collect::<Vec<_>>().join(" "),
    }
}

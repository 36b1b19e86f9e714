//! Owns one connection of a client that speaks the Redis protocol, and blocks. It neither tries again nor looks elsewhere.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::encode::extend_encode_borrowed;
use redis_protocol::resp2::types::{BorrowedFrame, BytesFrame};
use thiserror::Error;

/// A connection to a server.
pub(super) struct Client {
    stream: TcpStream,
    output: BytesMut,
    input: BytesMut,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is no such value.
    Nothing,
    /// A value, or a word.
    Bytes(Bytes),
    /// A number.
    Number(i64),
    /// Several of them.
    Many(Vec<Answer>),
    /// It did not do it, in its own words.
    Refused(Refusal),
}

/// Why a server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

impl Refusal {
    /// Where the server that would do it is.
    pub(super) fn moved_to(&self) -> Option<&str> {
        let mut words = self.0.split(' ');
        (words.next() == Some("MOVED")).then(|| words.nth(1)).flatten()
    }

    /// It may have been done all the same.
    pub(super) fn is_uncertain(&self) -> bool {
        self.0.starts_with("UNKNOWN")
    }
}

/// Why there is no value, by what the caller does next.
#[derive(Debug, Error)]
pub(super) enum AskError {
    /// The server is there: try again, here or where it says.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection is no good any more. What was sent may have been done.
    #[error(transparent)]
    Lost(#[from] io::Error),
}

impl Client {
    /// Connects. A server that says nothing for `patience` is given up.
    pub(super) fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, output: BytesMut::new(), input: BytesMut::new() })
    }

    /// Puts a command behind those that wait to be sent.
    pub(super) fn push(&mut self, words: &[&[u8]]) {
        let frames: Vec<_> = words.iter().map(|word| BorrowedFrame::BulkString(word)).collect();
        extend_encode_borrowed(&mut self.output, &BorrowedFrame::Array(&frames), false)
            .expect("the buffer grows as needed");
    }

    /// Sends the commands that wait.
    pub(super) fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Waits for the answer to the oldest command that has none yet.
    pub(super) fn answer(&mut self) -> io::Result<Answer> {
        loop {
            match decode_bytes_mut(&mut self.input) {
                Ok(Some((frame, ..))) => return Ok(Answer::of(frame)),
                Ok(None) => self.read_more()?,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
        }
    }

    /// Sends one command and waits for its answer; a refusal is an error.
    pub(super) fn ask(&mut self, words: &[&[u8]]) -> Result<Answer, AskError> {
        self.push(words);
        self.send()?;
        match self.answer()? {
            Answer::Refused(refusal) => Err(AskError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.input.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }
}

impl Answer {
    fn of(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => Self::Bytes(bytes),
            BytesFrame::Error(text) => Self::Refused(Refusal(text.to_string())),
            BytesFrame::Integer(number) => Self::Number(number),
            BytesFrame::Array(frames) => Self::Many(frames.into_iter().map(Self::of).collect()),
            BytesFrame::Null => Self::Nothing,
        }
    }
}

const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers `answers` to whatever comes, then closes; and what came.
    fn with_server<R>(
        answers: &'static [u8],
        expected_bytes: usize,
        talk: impl FnOnce(&mut Client) -> R,
    ) -> (R, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut came = vec![0; expected_bytes];
            stream.read_exact(&mut came).unwrap();
            stream.write_all(answers).unwrap();
            came
        });
        let mut client = Client::connect(address, Duration::from_secs(60)).unwrap();
        let result = talk(&mut client);
        (result, server.join().unwrap())
    }

    #[test]
    fn sends_a_pipeline_at_once_and_takes_its_answers_in_order() {
        let sent = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n";
        let (answers, came) = with_server(b"$3\r\none\r\n$-1\r\n", sent.len(), |client| {
            client.push(&[b"GET", b"a"]);
            client.push(&[b"GET", b"b"]);
            client.send().unwrap();
            (client.answer().unwrap(), client.answer().unwrap())
        });
        assert_eq!(came, sent);
        assert_eq!(answers, (Answer::Bytes(Bytes::from_static(b"one")), Answer::Nothing));
    }

    #[test]
    fn a_refusal_says_where_to_go_and_whether_it_may_have_been_done() {
        let sent = b"*1\r\n$3\r\nGET\r\n".len();
        let ((moved, unknown), _) =
            with_server(b"-MOVED 7 127.0.0.1:7002\r\n-UNKNOWN who knows\r\n", 2 * sent, |client| {
                client.push(&[b"GET"]);
                client.push(&[b"GET"]);
                client.send().unwrap();
                (client.answer().unwrap(), client.answer().unwrap())
            });
        let Answer::Refused(moved) = moved else { panic!("{moved:?}") };
        assert_eq!((moved.moved_to(), moved.is_uncertain()), (Some("127.0.0.1:7002"), false));
        let Answer::Refused(unknown) = unknown else { panic!("{unknown:?}") };
        assert_eq!((unknown.moved_to(), unknown.is_uncertain()), (None, true));
    }

    #[test]
    fn a_server_that_is_gone_is_told_apart_from_one_that_refuses() {
        let (asked, _) = with_server(b"$3\r\non", b"*1\r\n$4\r\nPING\r\n".len(), |client| client.ask(&[b"PING"]));
        assert!(matches!(asked, Err(AskError::Lost(_))), "{asked:?}");
    }
}

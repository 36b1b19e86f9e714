//! Owns connections without encryption: TCP between two processes of one machine, and frames straight on bytes.
//!
//! It never leaves loopback: whoever reads the path reads the state.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bytestream::{ByteReader, ByteStream, ByteWriter, DEADLINE_DEFAULT, early_end, receive_error, send_error};
use crate::frame::{END_MARK, LENGTH_BYTES, Reassembly, length_word};
use crate::identity::PeerIdentity;
use crate::receiver::{Half, Inflow, Receiver};
use crate::tcp::{self, TcpAcceptor};
use crate::transport::{
    AcceptError, Accepted, Closer, ConnectError, Connection, FrameSender, ListenError, Listener, Pressure,
    ReceiveError, SendError, Transport,
};

/// TCP without TLS, between processes of one machine only.
///
/// Peers prove nothing, so every peer is called [`PlainTransport::PEER_NAME`] and is writer of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainTransport;

impl PlainTransport {
    /// The name of every peer.
    pub const PEER_NAME: &str = "loopback";
}

impl Transport for PlainTransport {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        let stream = tcp::connect(address, deadline, loopback_only)?;
        Ok(connection(stream, PeerIdentity::unproven(Self::PEER_NAME)))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        Ok(Box::new(PlainListener(TcpAcceptor::bind(address, loopback_only)?)))
    }
}

fn loopback_only(address: SocketAddr) -> Result<(), String> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "{} is not a loopback address, and connections without TLS never leave this machine; \
         give this member a certificate (`landfall cert create-member`), or use 127.0.0.1",
        address.ip()
    ))
}

struct PlainListener(TcpAcceptor);

impl Listener for PlainListener {
    fn accept(&self) -> Result<Accepted, AcceptError> {
        // A socket bound to loopback is reached from loopback only, so the peer's address needs no check.
        let (stream, address) = self.0.accept()?;
        let closer = stream.closer.clone();
        let complete = move |_| Ok(connection(stream, PeerIdentity::unproven(PlainTransport::PEER_NAME)));
        Ok(Accepted::new(address.to_string(), closer, complete))
    }

    fn local_address(&self) -> String {
        self.0.local_address()
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Puts frames straight on a byte stream.
pub(crate) fn connection(stream: ByteStream, peer: PeerIdentity) -> Connection {
    let ByteStream { reader, writer, closer, address } = stream;
    let sender = PlainSender {
        writer,
        closer: closer.clone(),
        gathered: Vec::with_capacity(GATHERED_BYTES),
        bytes_sent: 0,
        deadline: DEADLINE_DEFAULT,
        state: Half::Open,
    };
    let inflow = PlainInflow { reader, closer: closer.clone(), bytes_received: 0, deadline: DEADLINE_DEFAULT };
    let receiver = Receiver::new(inflow, Reassembly::new(RECEIVE_BYTES));
    Connection { peer, address, sender: Box::new(sender), receiver: Box::new(receiver), closer }
}

struct PlainSender {
    writer: Box<dyn ByteWriter>,
    closer: Closer,
    gathered: Vec<u8>,
    bytes_sent: u64,
    deadline: Duration,
    state: Half,
}

impl PlainSender {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        // A long body that follows nothing would only be copied to be written at once.
        if self.gathered.len() + bytes.len() > GATHERED_BYTES {
            self.write_gathered()?;
            if bytes.len() >= DIRECT_BYTES_MIN {
                return self.write(bytes);
            }
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn write_gathered(&mut self) -> Result<(), SendError> {
        let gathered = std::mem::take(&mut self.gathered);
        let written = self.write(&gathered);
        self.gathered = gathered;
        self.gathered.clear();
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        if self.state != Half::Open {
            return Err(SendError::Closed);
        }
        if let Err(error) = self.writer.write_all(bytes) {
            self.state = Half::Failed;
            return Err(send_error(error, &self.closer, self.deadline));
        }
        self.bytes_sent += bytes.len() as u64;
        Ok(())
    }
}

impl FrameSender for PlainSender {
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        if self.state != Half::Open || self.closer.is_closed() {
            return Err(SendError::Closed);
        }
        self.append(&length_word(head, body)?)?;
        self.append(head)?;
        self.append(body)
    }

    fn flush(&mut self) -> Result<(), SendError> {
        self.write_gathered()
    }

    fn finish(&mut self) -> Result<(), SendError> {
        self.append(&END_MARK.to_le_bytes())?;
        self.write_gathered()?;
        self.state = Half::Finished;
        self.writer.end();
        Ok(())
    }

    fn pressure(&self) -> Pressure {
        Pressure {
            bytes_sent: self.bytes_sent,
            blocked: self.writer.blocked(),
            receiver_limited: self.writer.receiver_limited(),
            unsent_bytes: self.writer.unsent_bytes(),
        }
    }

    fn set_stall_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
        if self.writer.set_deadline(deadline).is_err() {
            self.state = Half::Failed;
        }
    }
}

impl Drop for PlainSender {
    fn drop(&mut self) {
        self.writer.end();
    }
}

/// Bytes as they come.
struct PlainInflow {
    reader: Box<dyn ByteReader>,
    closer: Closer,
    bytes_received: u64,
    deadline: Duration,
}

impl Inflow for PlainInflow {
    fn fill(&mut self, reassembly: &mut Reassembly, bytes_min: usize) -> Result<(), ReceiveError> {
        let room = reassembly.room(bytes_min);
        // Reading a long frame exactly to its end leaves no start of the next one to move.
        let bytes_max = if bytes_min >= EXACT_BYTES_MIN { bytes_min } else { room.len() };
        match self.reader.read(&mut room[..bytes_max]) {
            Ok(0) => Err(early_end(&self.closer)),
            Ok(bytes) => {
                reassembly.filled(bytes);
                self.bytes_received += bytes as u64;
                Ok(())
            }
            Err(error) => Err(receive_error(error, &self.closer, self.deadline)),
        }
    }

    fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    fn set_deadline(&mut self, deadline: Duration) -> std::io::Result<()> {
        self.deadline = deadline;
        self.reader.set_deadline(deadline)
    }

    fn closer(&self) -> &Closer {
        &self.closer
    }
}

/// Frames gathered before a write.
const GATHERED_BYTES: usize = 256 * 1024;
/// From this length on a write of its own costs less than a copy.
const DIRECT_BYTES_MIN: usize = 64 * 1024;
/// Bytes read at once while frames are short.
const RECEIVE_BYTES: usize = 512 * 1024;
/// From this length on the rest of a frame is read alone.
const EXACT_BYTES_MIN: usize = 256 * 1024;

const _: () = assert!(LENGTH_BYTES < DIRECT_BYTES_MIN && DIRECT_BYTES_MIN <= GATHERED_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_loopback_is_loopback_and_nothing_else_is() {
        let check = |address: &str| loopback_only(address.parse().expect("an address"));
        for address in ["127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(address), Ok(()));
        }
        for address in ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            assert!(check(address).is_err(), "{address}");
        }
    }
}

//! Owns the handshake: it drives rustls until both sides are proven, then takes the keys over.
//!
//! It runs on one thread per connection and ends at its deadline, whatever the peer sends.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::{ClientConfig, ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{CommonState, ExtractedSecrets};

use super::halves::{KeySchedule, Keys};
use super::record::RecordKey;
use crate::bytestream::{ByteStream, DEADLINE_DEFAULT};
use crate::identity::{PeerIdentity, describe};
use crate::transport::HandshakeError;

/// A stream on which both sides are proven.
pub(super) struct Proven {
    pub(super) stream: ByteStream,
    pub(super) peer: PeerIdentity,
    pub(super) keys: Keys,
}

/// Proves this side to the listener at the other end of `stream`, and the listener to this side.
pub(super) fn connect(
    stream: ByteStream,
    config: &Arc<ClientConfig>,
    deadline: Duration,
) -> Result<Proven, HandshakeError> {
    // Peers are named by their certificates, not by where they are, so rustls gets an address that means nothing.
    let nobody = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut rustls = UnbufferedClientConnection::new(Arc::clone(config), nobody).map_err(broken)?;
    let (stream, left_over) = drive(stream, &mut rustls, deadline)?;
    let peer = proven_peer(&rustls)?;
    let (secrets, schedule) = rustls.dangerous_into_kernel_connection().map_err(broken)?;
    let keys = keys(&secrets, KeySchedule::Client(schedule), left_over)?;
    Ok(Proven { stream, peer, keys })
}

/// Proves this side to whoever connected through `stream`, and them to this side.
pub(super) fn accept(
    stream: ByteStream,
    config: &Arc<ServerConfig>,
    deadline: Duration,
) -> Result<Proven, HandshakeError> {
    let mut rustls = UnbufferedServerConnection::new(Arc::clone(config)).map_err(broken)?;
    let (stream, left_over) = drive(stream, &mut rustls, deadline)?;
    let peer = proven_peer(&rustls)?;
    let (secrets, schedule) = rustls.dangerous_into_kernel_connection().map_err(broken)?;
    let keys = keys(&secrets, KeySchedule::Server(schedule), left_over)?;
    Ok(Proven { stream, peer, keys })
}

/// What came after the handshake in the same reads.
#[derive(Default)]
struct LeftOver {
    encrypted: Vec<u8>,
    plaintext: Vec<u8>,
}

fn keys(secrets: &ExtractedSecrets, schedule: KeySchedule, left_over: LeftOver) -> Result<Keys, HandshakeError> {
    let key = |(sequence, secrets): &(u64, _)| {
        RecordKey::new(*sequence, secrets).map_err(|bad| HandshakeError::Protocol { reason: bad.0.to_owned() })
    };
    Ok(Keys {
        sealing: key(&secrets.tx)?,
        opening: key(&secrets.rx)?,
        schedule,
        encrypted: left_over.encrypted,
        plaintext: left_over.plaintext,
    })
}

fn proven_peer(rustls: &CommonState) -> Result<PeerIdentity, HandshakeError> {
    if rustls.alpn_protocol() != Some(super::ALPN) {
        return Err(HandshakeError::Protocol { reason: "it named no protocol".to_owned() });
    }
    let chain: &[CertificateDer<'_>] = rustls.peer_certificates().unwrap_or_default();
    PeerIdentity::from_verified_chain(chain).map_err(|reason| HandshakeError::Untrusted { reason })
}

/// The part of rustls that differs between the two sides.
trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// The bytes of one handshake, and the time left for it.
struct Exchange {
    stream: ByteStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    left_over: LeftOver,
    started: Instant,
    deadline: Duration,
}

fn drive<S: Side>(
    stream: ByteStream,
    side: &mut S,
    deadline: Duration,
) -> Result<(ByteStream, LeftOver), HandshakeError> {
    let (incoming, outgoing) = (Vec::with_capacity(READ_BYTES), Vec::new());
    let mut exchange =
        Exchange { stream, incoming, outgoing, left_over: LeftOver::default(), started: Instant::now(), deadline };
    match exchange.run(side) {
        Ok(()) => exchange.finish(),
        Err(error) => {
            exchange.say_goodbye(side);
            Err(error)
        }
    }
}

impl Exchange {
    fn run<S: Side>(&mut self, side: &mut S) -> Result<(), HandshakeError> {
        loop {
            let UnbufferedStatus { discard, state, .. } = side.process(&mut self.incoming);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.incoming.drain(..discard);
                    return Err(describe_failure(error));
                }
            };
            let next = match state {
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.outgoing),
                ConnectionState::TransmitTlsData(transmit) => {
                    transmit.done();
                    Next::Write
                }
                ConnectionState::BlockedHandshake => Next::Read,
                ConnectionState::WriteTraffic(_) => Next::Finish,
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        self.left_over.plaintext.extend_from_slice(record.map_err(describe_failure)?.payload);
                    }
                    Next::Continue
                }
                _ => return Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into())),
            };
            self.incoming.drain(..discard);
            match next {
                Next::Continue => {}
                Next::Write => self.write()?,
                Next::Read => self.read()?,
                Next::Finish => return self.write(),
            }
        }
    }

    /// Hands the stream on, with the deadlines that it has outside a handshake.
    fn finish(mut self) -> Result<(ByteStream, LeftOver), HandshakeError> {
        self.stream.reader.set_deadline(DEADLINE_DEFAULT).map_err(HandshakeError::Lost)?;
        self.stream.writer.set_deadline(DEADLINE_DEFAULT).map_err(HandshakeError::Lost)?;
        Ok((self.stream, LeftOver { encrypted: self.incoming, ..self.left_over }))
    }

    fn time_left(&self) -> Result<Duration, HandshakeError> {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        if left.is_zero() { Err(HandshakeError::TimedOut { after: self.deadline }) } else { Ok(left) }
    }

    fn write(&mut self) -> Result<(), HandshakeError> {
        let left = self.time_left()?;
        let writer = &mut self.stream.writer;
        let written = writer.set_deadline(left).and_then(|()| writer.write_all(&self.outgoing));
        self.outgoing.clear();
        written.map_err(|error| self.lost(error))
    }

    fn read(&mut self) -> Result<(), HandshakeError> {
        if self.incoming.len() > INCOMING_BYTES_MAX {
            return Err(HandshakeError::Protocol { reason: "its handshake is too long".to_owned() });
        }
        let left = self.time_left()?;
        let end = self.incoming.len();
        self.incoming.resize(end + READ_BYTES, 0);
        let reader = &mut self.stream.reader;
        let read = reader.set_deadline(left).and_then(|()| reader.read(&mut self.incoming[end..]));
        self.incoming.truncate(end + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, error: io::Error) -> HandshakeError {
        match error.kind() {
            io::ErrorKind::WouldBlock => HandshakeError::TimedOut { after: self.deadline },
            _ => HandshakeError::Lost(error),
        }
    }

    /// Tells the peer why, as far as it still listens. The failure itself is already on its way to the caller.
    fn say_goodbye<S: Side>(&mut self, side: &mut S) {
        if let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
            side.process(&mut self.incoming)
        {
            encode(data, &mut self.outgoing);
        }
        let said = self.write().is_ok();
        self.stream.writer.end();
        // Closing with unread bytes would reset the connection, and the peer would never see the alert.
        self.deadline = self.deadline.min(self.started.elapsed() + FAREWELL_MAX);
        self.incoming.clear();
        while said && self.read().is_ok() {}
        self.stream.closer.close();
    }
}

enum Next {
    Continue,
    Write,
    Read,
    Finish,
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Next {
    let end = outgoing.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
        outgoing.resize(end + required_size, 0);
        data.encode(&mut outgoing[end..]).expect("the room that was asked for");
    }
    Next::Continue
}

fn describe_failure(error: rustls::Error) -> HandshakeError {
    match error {
        rustls::Error::InvalidCertificate(error) => HandshakeError::Untrusted { reason: describe(&error) },
        rustls::Error::NoCertificatesPresented => {
            HandshakeError::Untrusted { reason: "it sent no certificate".to_owned() }
        }
        rustls::Error::AlertReceived(alert) => HandshakeError::Refused { reason: super::refusal(alert) },
        other => HandshakeError::Protocol { reason: other.to_string() },
    }
}

fn broken(error: rustls::Error) -> HandshakeError {
    HandshakeError::Protocol { reason: error.to_string() }
}

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// More bytes than this without progress are no handshake: a certificate chain is a few KiB.
const INCOMING_BYTES_MAX: usize = 128 * 1024;
/// Longest time for which a refused peer may read why.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

//! Owns the two halves of an encrypted connection: frames to records to bytes, and back.
//!
//! It never shakes hands: the keys come ready. The halves share nothing but the key schedule, which they touch only
//! when a key is renewed, so neither ever waits for the other.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets};

use super::handshake::Proven;
use super::record::{
    BadRecord, Content, ENCRYPTED_BYTES_MAX, HEADER_BYTES, PLAINTEXT_BYTES_MAX, RECORDS_PER_KEY_MAX, RecordKey,
    SEALED_BYTES_MAX, encrypted_bytes, opened_bytes_max,
};
use crate::bytestream::{ByteReader, ByteStream, ByteWriter, DEADLINE_DEFAULT, early_end, receive_error, send_error};
use crate::frame::{END_MARK, Reassembly, length_word};
use crate::receiver::{Half, Inflow, Receiver};
use crate::transport::{Closer, Connection, FrameSender, Pressure, ReceiveError, SendError};

/// What a finished handshake leaves behind.
pub(super) struct Keys {
    pub(crate) sealing: RecordKey,
    pub(crate) opening: RecordKey,
    pub(crate) schedule: KeySchedule,
    /// Bytes of the stream that came with the handshake, not opened yet.
    pub(crate) encrypted: Vec<u8>,
    /// Bytes of frames that came with the handshake, opened already.
    pub(crate) plaintext: Vec<u8>,
}

/// Where the next key of either direction comes from.
pub(super) enum KeySchedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl KeySchedule {
    fn next_sealing(&mut self) -> Result<RecordKey, BadRecord> {
        usable(match self {
            Self::Client(connection) => connection.update_tx_secret(),
            Self::Server(connection) => connection.update_tx_secret(),
        })
    }

    fn next_opening(&mut self) -> Result<RecordKey, BadRecord> {
        usable(match self {
            Self::Client(connection) => connection.update_rx_secret(),
            Self::Server(connection) => connection.update_rx_secret(),
        })
    }
}

fn usable(secrets: Result<(u64, ConnectionTrafficSecrets), rustls::Error>) -> Result<RecordKey, BadRecord> {
    let (sequence, secrets) = secrets.map_err(|_| BadRecord("a key cannot be renewed"))?;
    RecordKey::new(sequence, &secrets)
}

/// What both halves touch when a key is renewed.
struct Renewal {
    schedule: Mutex<KeySchedule>,
    /// The peer renewed its key and asks this side to do the same.
    asked: AtomicBool,
}

impl Renewal {
    fn with<T>(&self, renew: impl FnOnce(&mut KeySchedule) -> T) -> T {
        renew(&mut self.schedule.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Puts frames on an encrypted stream.
pub(super) fn connection(Proven { stream, peer, keys }: Proven) -> Connection {
    let (closer, address) = (stream.closer.clone(), stream.address.clone());
    let (sender, receiver) = split(stream, keys);
    Connection { peer, address, sender: Box::new(sender), receiver: Box::new(receiver), closer }
}

/// The two halves of an encrypted stream.
pub(super) fn split(stream: ByteStream, keys: Keys) -> (TlsSender, Receiver<TlsInflow>) {
    let ByteStream { reader, writer, closer, .. } = stream;
    let renewal = Arc::new(Renewal { schedule: Mutex::new(keys.schedule), asked: AtomicBool::new(false) });
    let sender = TlsSender {
        writer,
        closer: closer.clone(),
        key: keys.sealing,
        renewal: Arc::clone(&renewal),
        outgoing: vec![0; OUTGOING_BYTES],
        sealed: 0,
        open: 0,
        bytes_sent: 0,
        deadline: DEADLINE_DEFAULT,
        state: Half::Open,
    };
    let mut reassembly = Reassembly::new(REASSEMBLY_BYTES);
    reassembly.room(keys.plaintext.len())[..keys.plaintext.len()].copy_from_slice(&keys.plaintext);
    reassembly.filled(keys.plaintext.len());
    let inflow = TlsInflow {
        reader,
        closer,
        key: keys.opening,
        renewal,
        incoming: Incoming::new(&keys.encrypted),
        idle_records: 0,
        bytes_received: (keys.encrypted.len() + keys.plaintext.len()) as u64,
        deadline: DEADLINE_DEFAULT,
    };
    (sender, Receiver::new(inflow, reassembly))
}

/// Sealed records, then the record that is being filled, in one buffer that leaves in one write.
pub(super) struct TlsSender {
    writer: Box<dyn ByteWriter>,
    closer: Closer,
    key: RecordKey,
    renewal: Arc<Renewal>,
    outgoing: Vec<u8>,
    /// Bytes of sealed records at the front of `outgoing`.
    sealed: usize,
    /// Bytes of plaintext in the record that follows them.
    open: usize,
    bytes_sent: u64,
    deadline: Duration,
    state: Half,
}

impl TlsSender {
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), SendError> {
        while !bytes.is_empty() {
            if self.open == 0 && bytes.len() >= PLAINTEXT_BYTES_MAX {
                let (record, rest) = bytes.split_at(PLAINTEXT_BYTES_MAX);
                self.prepare_record()?;
                self.sealed += self.key.seal(Content::Application, record, &mut self.outgoing[self.sealed..]);
                bytes = rest;
            } else {
                bytes = self.stage(bytes)?;
            }
        }
        Ok(())
    }

    /// Copies the start of `bytes` into the open record, seals it once it is full, and returns the rest.
    fn stage<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], SendError> {
        if self.open == 0 {
            self.prepare_record()?;
        }
        let (staged, rest) = bytes.split_at(bytes.len().min(PLAINTEXT_BYTES_MAX - self.open));
        let start = self.sealed + HEADER_BYTES + self.open;
        self.outgoing[start..start + staged.len()].copy_from_slice(staged);
        self.open += staged.len();
        if self.open == PLAINTEXT_BYTES_MAX {
            self.seal_open();
        }
        Ok(rest)
    }

    fn seal_open(&mut self) {
        let record = &mut self.outgoing[self.sealed..];
        self.sealed += self.key.seal_in_place(Content::Application, record, self.open);
        self.open = 0;
    }

    /// Makes sure that a whole record fits after the sealed ones, under a key that may seal it.
    fn prepare_record(&mut self) -> Result<(), SendError> {
        if self.key.sequence() >= RECORDS_PER_KEY_MAX || self.renewal.asked.swap(false, Ordering::AcqRel) {
            self.renew_key()?;
        }
        self.make_room()
    }

    fn make_room(&mut self) -> Result<(), SendError> {
        if self.outgoing.len() - self.sealed < SEALED_BYTES_MAX { self.write() } else { Ok(()) }
    }

    /// Seals a message of TLS itself. No frame may be open.
    pub(super) fn append_control(&mut self, content: Content, message: &[u8]) -> Result<(), SendError> {
        assert!(self.open == 0, "a record inside another");
        self.make_room()?;
        self.sealed += self.key.seal(content, message, &mut self.outgoing[self.sealed..]);
        Ok(())
    }

    /// Tells the peer, under the old key, that the next record has a new one. RFC 8446 §4.6.3.
    pub(super) fn renew_key(&mut self) -> Result<(), SendError> {
        self.append_control(Content::Handshake, &[KEY_UPDATE, 0, 0, 1, UPDATE_NOT_REQUESTED])?;
        match self.renewal.with(KeySchedule::next_sealing) {
            Ok(key) => {
                self.key = key;
                Ok(())
            }
            Err(BadRecord(reason)) => {
                self.state = Half::Failed;
                Err(SendError::Lost(std::io::Error::other(reason)))
            }
        }
    }

    fn write(&mut self) -> Result<(), SendError> {
        if self.state != Half::Open {
            return Err(SendError::Closed);
        }
        let sealed = std::mem::take(&mut self.sealed);
        if let Err(error) = self.writer.write_all(&self.outgoing[..sealed]) {
            self.state = Half::Failed;
            return Err(send_error(error, &self.closer, self.deadline));
        }
        self.bytes_sent += sealed as u64;
        Ok(())
    }
}

impl FrameSender for TlsSender {
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        if self.state != Half::Open || self.closer.is_closed() {
            return Err(SendError::Closed);
        }
        self.append(&length_word(head, body)?)?;
        self.append(head)?;
        self.append(body)
    }

    fn flush(&mut self) -> Result<(), SendError> {
        if self.open > 0 {
            self.seal_open();
        }
        self.write()
    }

    fn finish(&mut self) -> Result<(), SendError> {
        self.append(&END_MARK.to_le_bytes())?;
        self.flush()?;
        self.append_control(Content::Alert, &[WARNING, CLOSE_NOTIFY])?;
        self.write()?;
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

impl Drop for TlsSender {
    fn drop(&mut self) {
        self.writer.end();
    }
}

/// A whole record that came in.
struct Record {
    header: [u8; HEADER_BYTES],
    /// Where its encrypted part is.
    body: Range<usize>,
}

/// Encrypted bytes read ahead of the records that were opened.
struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn new(already: &[u8]) -> Self {
        let mut buffer = vec![0; INCOMING_BYTES.max(already.len())];
        buffer[..already.len()].copy_from_slice(already);
        Self { buffer, start: 0, end: already.len() }
    }

    /// Takes the next whole record off the front.
    fn next_record(&mut self) -> Result<Option<Record>, BadRecord> {
        let Some(header) = self.buffer[self.start..self.end].first_chunk() else {
            return Ok(None);
        };
        let body = self.start + HEADER_BYTES..self.start + HEADER_BYTES + encrypted_bytes(*header)?;
        if body.end > self.end {
            return Ok(None);
        }
        self.start = body.end;
        Ok(Some(Record { header: *header, body }))
    }

    /// Moves the start of a record to the front, so that a large read fits behind it.
    fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }
}

/// Records, opened one by one.
pub(super) struct TlsInflow {
    reader: Box<dyn ByteReader>,
    closer: Closer,
    key: RecordKey,
    renewal: Arc<Renewal>,
    incoming: Incoming,
    /// Records in a row that carried no byte of a frame.
    idle_records: u32,
    bytes_received: u64,
    deadline: Duration,
}

impl Inflow for TlsInflow {
    /// Records are opened only as frames need them, so a frame is still in the cache when it is used.
    fn fill(&mut self, reassembly: &mut Reassembly, bytes_min: usize) -> Result<(), ReceiveError> {
        loop {
            if let Some(record) = self.incoming.next_record().map_err(corrupt)? {
                return self.open_record(record, reassembly, bytes_min);
            }
            let read = self.reader.read(self.incoming.room());
            match read {
                Ok(0) => return Err(early_end(&self.closer)),
                Ok(bytes) => {
                    self.incoming.end += bytes;
                    self.bytes_received += bytes as u64;
                }
                Err(error) => return Err(receive_error(error, &self.closer, self.deadline)),
            }
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

impl TlsInflow {
    /// Room for the whole frame is made at its first record, so that a long one is never moved half-way.
    fn open_record(
        &mut self,
        Record { header, body }: Record,
        reassembly: &mut Reassembly,
        frame_bytes_missing: usize,
    ) -> Result<(), ReceiveError> {
        let room = reassembly.room(frame_bytes_missing.max(opened_bytes_max(body.len())));
        let (content, bytes) = self.key.open(header, &self.incoming.buffer[body], room).map_err(corrupt)?;
        if content == Content::Application && bytes > 0 {
            self.idle_records = 0;
            reassembly.filled(bytes);
            return Ok(());
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(corrupt(BadRecord("too many records without content")));
        }
        match content {
            Content::Application => Ok(()),
            Content::Alert => Err(alert(&room[..bytes])),
            Content::Handshake => {
                let asks = renewals(&room[..bytes]).map_err(corrupt)?;
                self.renew_key(asks)
            }
        }
    }

    fn renew_key(&mut self, asks: Option<Asks>) -> Result<(), ReceiveError> {
        let Some(asks) = asks else { return Ok(()) };
        self.key = self.renewal.with(KeySchedule::next_opening).map_err(corrupt)?;
        if asks == Asks::ForRenewal {
            self.renewal.asked.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Whether the peer, renewing its key, wants this side to renew too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    ForNothing,
    ForRenewal,
}

/// Reads a handshake record that comes after the handshake: session tickets, which nobody here uses, or one renewal.
pub(super) fn renewals(mut message: &[u8]) -> Result<Option<Asks>, BadRecord> {
    loop {
        match message {
            [] => return Ok(None),
            // A record may hold several messages, but the key changes after this one, so nothing may follow it.
            [KEY_UPDATE, 0, 0, 1, UPDATE_NOT_REQUESTED] => return Ok(Some(Asks::ForNothing)),
            [KEY_UPDATE, 0, 0, 1, UPDATE_REQUESTED] => return Ok(Some(Asks::ForRenewal)),
            [NEW_SESSION_TICKET, high, middle, low, rest @ ..] => {
                let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
                message = rest.get(length..).ok_or(BadRecord("a session ticket cut in pieces"))?;
            }
            _ => return Err(BadRecord("a handshake message that has no place after the handshake")),
        }
    }
}

/// What an alert means to the caller: the frames have not ended, so none of them is a clean end.
fn alert(message: &[u8]) -> ReceiveError {
    let &[_, description] = message else {
        return corrupt(BadRecord("an alert of a wrong length"));
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => ReceiveError::Truncated,
        other => ReceiveError::Refused { reason: super::refusal(other) },
    }
}

fn corrupt(BadRecord(reason): BadRecord) -> ReceiveError {
    ReceiveError::Corrupt { reason }
}

/// Sealed records gathered before a write.
const OUTGOING_BYTES: usize = 16 * SEALED_BYTES_MAX;
/// Encrypted bytes read at once.
const INCOMING_BYTES: usize = 256 * 1024;
/// Opened bytes held for a frame; longer frames make it grow.
const REASSEMBLY_BYTES: usize = 128 * 1024;
/// More records without content in a row are an attack on this side's time.
const IDLE_RECORDS_MAX: u32 = 32;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;

const _: () = assert!(INCOMING_BYTES > 2 * (HEADER_BYTES + ENCRYPTED_BYTES_MAX));

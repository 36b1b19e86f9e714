//! Owns what frames and TLS need below them: ordered bytes, both ways, with deadlines that follow progress.

use std::io;
use std::time::Duration;

use crate::transport::{Closer, ReceiveError, SendError};

/// The direction of a byte stream that reads.
pub(crate) trait ByteReader: Send {
    /// Waits for at least one byte; 0 once the other side has ended. `WouldBlock` once nothing came for the deadline.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// How long one read waits.
    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()>;
}

/// The direction of a byte stream that writes.
pub(crate) trait ByteWriter: Send {
    /// Writes everything. `WouldBlock` once nothing left for the deadline.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Time spent so far waiting for room.
    fn blocked(&self) -> Duration;

    /// Time so far in which the receiver, not what lies between, held the writer back.
    fn receiver_limited(&self) -> Duration;

    /// Bytes that were written and could not leave yet.
    fn unsent_bytes(&self) -> u64;

    /// How long one write waits without progress.
    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()>;

    /// Says that nothing follows. Errors do not matter: the other side sees an end in any case.
    fn end(&mut self);
}

/// Both directions of one stream.
pub(crate) struct ByteStream {
    pub(crate) reader: Box<dyn ByteReader>,
    pub(crate) writer: Box<dyn ByteWriter>,
    pub(crate) closer: Closer,
    pub(crate) address: String,
}

/// Deadline of both halves until the caller sets another.
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);

/// What a failed read means to the caller of a receiver.
///
/// `TimedOut` is no deadline of ours: the system has given the peer up.
pub(crate) fn receive_error(error: io::Error, closer: &Closer, deadline: Duration) -> ReceiveError {
    if closer.is_closed() {
        return ReceiveError::Closed;
    }
    match error.kind() {
        io::ErrorKind::WouldBlock => ReceiveError::TimedOut { after: deadline },
        _ => ReceiveError::Lost(error),
    }
}

/// What the end of the bytes means before the end of the frames.
pub(crate) fn early_end(closer: &Closer) -> ReceiveError {
    if closer.is_closed() { ReceiveError::Closed } else { ReceiveError::Truncated }
}

/// What a failed write means to the caller of a sender.
pub(crate) fn send_error(error: io::Error, closer: &Closer, deadline: Duration) -> SendError {
    if closer.is_closed() {
        return SendError::Closed;
    }
    match error.kind() {
        io::ErrorKind::WouldBlock => SendError::TimedOut { after: deadline },
        _ => SendError::Lost(error),
    }
}

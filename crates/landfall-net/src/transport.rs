//! Owns the contract that every transport keeps: connections that carry whole frames, in order, both ways.
//!
//! It says nothing about sockets or certificates; those are in the modules that implement it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::frame::FRAME_BYTES_MAX;
use crate::identity::PeerIdentity;

/// A way to reach other members.
pub trait Transport: Send + Sync {
    /// Opens a connection to the member at `address`; all of it, with the handshake, within `deadline`.
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError>;

    /// Starts to accept connections at `address`. Port 0 takes any free port: see [`Listener::local_address`].
    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError>;
}

/// A place at which other members connect.
pub trait Listener: Send + Sync {
    /// Waits for the next connection. It returns before any handshake, so a peer that never speaks blocks nobody.
    fn accept(&self) -> Result<Accepted, AcceptError>;

    /// The address that others connect to.
    fn local_address(&self) -> String;

    /// Makes this and every later [`Listener::accept`] return [`AcceptError::Closed`].
    fn close(&self);
}

/// A connection that came in and has proven nothing yet.
///
/// The caller limits how many of these it holds at once.
pub struct Accepted {
    address: String,
    closer: Closer,
    complete: Box<dyn FnOnce(Duration) -> Result<Connection, HandshakeError> + Send>,
}

impl Accepted {
    /// A connection from `address` on which `complete` does the handshake.
    pub fn new(
        address: String,
        closer: Closer,
        complete: impl FnOnce(Duration) -> Result<Connection, HandshakeError> + Send + 'static,
    ) -> Self {
        Self { address, closer, complete: Box::new(complete) }
    }

    /// Where the connection comes from.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends a handshake that runs on another thread.
    pub fn closer(&self) -> Closer {
        self.closer.clone()
    }

    /// Proves who is there. Run it on the connection's own thread: it takes up to `deadline`, whatever the peer sends.
    pub fn handshake(self, deadline: Duration) -> Result<Connection, HandshakeError> {
        (self.complete)(deadline)
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accepted({})", self.address)
    }
}

/// An open connection to a peer that has proven who it is.
///
/// To end it without loss: [`FrameSender::finish`], receive until the peer's end, then drop both halves.
pub struct Connection {
    /// Who is at the other end.
    pub peer: PeerIdentity,
    /// Where the other end is.
    pub address: String,
    /// The half that sends; it may move to a thread of its own.
    pub sender: Box<dyn FrameSender>,
    /// The half that receives; it may move to a thread of its own.
    pub receiver: Box<dyn FrameReceiver>,
    /// Ends both halves from any thread.
    pub closer: Closer,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} at {})", self.peer.name, self.address)
    }
}

/// The half of a connection that sends frames.
///
/// Dropping it without [`FrameSender::finish`] makes the peer see a truncated stream, never a clean end.
pub trait FrameSender: Send {
    /// Appends one frame, `head ‖ body`, at most [`FRAME_BYTES_MAX`] together.
    ///
    /// Frames are gathered and leave about 256 KiB at a time; see [`FrameSender::flush`]. After any error but
    /// [`SendError::TooLong`] the half is dead, and how much the peer received is unknown. If the peer refused this
    /// side's certificate, the receiving half says so.
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError>;

    /// Hands everything sent so far to the network.
    fn flush(&mut self) -> Result<(), SendError>;

    /// Flushes, and tells the peer that no frame follows: its receiver returns `None`.
    fn finish(&mut self) -> Result<(), SendError>;

    /// How hard the network pushes back.
    fn pressure(&self) -> Pressure;

    /// Fails with [`SendError::TimedOut`] once no byte has left for `deadline`.
    fn set_stall_deadline(&mut self, deadline: Duration);
}

/// The half of a connection that receives frames.
///
/// Dropping it before its clean end closes the connection: nobody would read what the peer sends.
pub trait FrameReceiver: Send {
    /// Waits for the next whole frame; `None` after the peer finished. The slice is valid until the next call.
    ///
    /// After [`ReceiveError::TimedOut`] and [`ReceiveError::Unfinished`] nothing is lost and receiving may go on; after any
    /// other error the half is dead.
    fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError>;

    /// Bytes that came from the network so far, encryption and framing included.
    fn bytes_received(&self) -> u64;

    /// Fails with [`ReceiveError::TimedOut`] once no byte has come for `deadline`.
    fn set_idle_deadline(&mut self, deadline: Duration);

    /// Fails with [`ReceiveError::Unfinished`] whenever bytes have come for `interval` and the frame is not whole, so that the
    /// caller can look after other things. Until this is called it never does.
    fn set_unfinished_interval(&mut self, interval: Duration);
}

/// How hard the network pushes back on a sender: what a codec policy needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Bytes that left for the network so far, encryption and framing included.
    pub bytes_sent: u64,
    /// Time spent so far waiting for the network to take bytes.
    pub blocked: Duration,
    /// Time so far in which the receiver's window, not the network, held the sender back; none where the transport cannot tell.
    pub receiver_limited: Duration,
    /// Bytes that the system took and could not send yet; none where the transport cannot tell.
    pub unsent_bytes: u64,
}

/// Ends a connection from any thread: both halves return [`SendError::Closed`] and [`ReceiveError::Closed`].
///
/// It keeps nothing alive. Closing twice, or after the end, is fine.
#[derive(Clone)]
pub struct Closer(Arc<CloserState>);

struct CloserState {
    closed: AtomicBool,
    unblock: Box<dyn Fn() + Send + Sync>,
}

impl Closer {
    /// A closer that calls `unblock` on its first use; `unblock` must wake both halves.
    pub fn new(unblock: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(CloserState { closed: AtomicBool::new(false), unblock: Box::new(unblock) }))
    }

    /// Ends the connection.
    pub fn close(&self) {
        if !self.0.closed.swap(true, Ordering::AcqRel) {
            (self.0.unblock)();
        }
    }

    /// Whether this side closed the connection.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Closer(closed: {})", self.is_closed())
    }
}

/// Why a connection could not be opened, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address can never work here: change it.
    #[error("cannot connect to '{address}': {reason}")]
    BadAddress {
        /// The address that was asked for.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there: try again later, or another address.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// The address that was asked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody answers, but did not prove to be a member, or did not accept us as one.
    #[error("no trusted connection to {address}: {source}")]
    Handshake {
        /// The address that was asked for.
        address: String,
        /// What went wrong.
        source: HandshakeError,
    },
}

/// Why a handshake failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer was too slow: try again later.
    #[error("the peer did not complete the handshake within {after:?}")]
    TimedOut {
        /// The deadline that passed.
        after: Duration,
    },
    /// The peer proved nothing that we accept: its certificate must change, or our trusted authority.
    #[error("the peer's certificate is not accepted: {reason}")]
    Untrusted {
        /// What is wrong, and what may help.
        reason: String,
    },
    /// The peer does not accept us: our certificate must change, or its trusted authority.
    #[error("the peer refused this member: {reason}")]
    Refused {
        /// What the peer said.
        reason: String,
    },
    /// The peer does not speak this protocol.
    #[error("the peer does not speak landfall/1 over TLS 1.3: {reason}")]
    Protocol {
        /// What was wrong.
        reason: String,
    },
    /// The connection broke or was closed: try again later.
    #[error("the connection broke during the handshake: {0}")]
    Lost(#[source] io::Error),
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address can never work here: change it.
    #[error("cannot listen at '{address}': {reason}")]
    BadAddress {
        /// The address that was asked for.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address is not to be had now: another process may hold it.
    #[error("cannot listen at {address}: {source}")]
    Unavailable {
        /// The address that was asked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Why no connection was accepted, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The listener was closed: stop.
    #[error("the listener is closed")]
    Closed,
    /// The system is short of something, such as file descriptors: wait a little and go on.
    #[error("cannot accept a connection now: {0}")]
    Exhausted(#[source] io::Error),
}

/// Why a frame was not sent, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The frame is longer than any receiver takes. Nothing was sent, and the connection lives.
    #[error("a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of head and body together.
        length: u64,
    },
    /// No byte has left for the stall deadline: the peer or the path is dead. Some frames may have arrived.
    #[error("the peer took no byte for {after:?}")]
    TimedOut {
        /// The deadline that passed.
        after: Duration,
    },
    /// This side closed or finished the connection, or an earlier call failed.
    #[error("the connection is closed on this side")]
    Closed,
    /// The connection broke. Some frames may have arrived.
    #[error("the connection broke while sending: {0}")]
    Lost(#[source] io::Error),
}

/// Why no frame came, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// No byte came for the idle deadline. Nothing is lost: wait on, or close.
    #[error("nothing came from the peer for {after:?}")]
    TimedOut {
        /// The deadline that passed.
        after: Duration,
    },
    /// Bytes come, but not yet all of a frame. Nothing is lost: wait on.
    #[error("a frame has been coming for {after:?} and is not whole")]
    Unfinished {
        /// The interval that passed.
        after: Duration,
    },
    /// The peer declares a frame longer than any receiver takes: do not trust it.
    #[error("the peer declares a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// The length that the peer declared.
        length: u32,
    },
    /// The bytes were changed on the way, or the peer breaks the protocol.
    #[error("the connection carries wrong bytes: {reason}")]
    Corrupt {
        /// What was wrong.
        reason: &'static str,
    },
    /// The peer does not accept this member's certificate.
    #[error("the peer refused this member: {reason}")]
    Refused {
        /// What the peer said.
        reason: String,
    },
    /// The stream ended without the peer saying so: it died, or somebody cut the connection.
    #[error("the connection ended before the peer finished")]
    Truncated,
    /// This side closed the connection, or an earlier call failed.
    #[error("the connection is closed on this side")]
    Closed,
    /// The connection broke.
    #[error("the connection broke while receiving: {0}")]
    Lost(#[source] io::Error),
}

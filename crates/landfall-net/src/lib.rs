//! Transports of Landfall: whole frames over TCP with TLS 1.3, over plain TCP on loopback, and in memory.
//!
//! Owns sockets, TLS, the cut between bytes and frames, certificates, and the signatures under heads. It never looks
//! inside a frame, never retries, and starts no thread: one thread of the caller carries one direction of one
//! connection, blocking, from socket to wherever the bytes go.
//!
//! On every transport a direction of a connection is the same bytes: frames, each a `u32` length (little endian) and
//! that many bytes, then the length `0xffff_ffff`, which ends the direction. [`TlsTransport`] wraps them in TLS 1.3
//! with the protocol name `landfall/1`; see [`Identity`] for the certificates.
#![deny(unsafe_code)]

mod bytestream;
mod frame;
mod identity;
pub mod memory;
mod plain;
mod receiver;
mod tcp;
#[allow(unsafe_code, reason = "one system call that no library wraps")]
mod tcp_info;
mod tls;
mod transport;

pub use frame::FRAME_BYTES_MAX;
pub use identity::{
    Authority, HeadError, Identity, IdentityError, IdentityFiles, IssueError, MemberRequest, PeerIdentity, Trust,
    create_authority,
};
pub use plain::PlainTransport;
pub use tls::TlsTransport;
pub use transport::{
    AcceptError, Accepted, Closer, ConnectError, Connection, FrameReceiver, FrameSender, HandshakeError, ListenError,
    Listener, Pressure, ReceiveError, SendError, Transport,
};

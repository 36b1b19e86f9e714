//! Owns TCP: addresses, socket options, and blocking reads and writes with deadlines.
//!
//! It never encrypts and never looks at a frame.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, sockopt};

use crate::bytestream::{ByteReader, ByteStream, ByteWriter, DEADLINE_DEFAULT};
use crate::tcp_info;
use crate::transport::{AcceptError, Closer, ConnectError, ListenError};

/// Connects to the first address of `address` that answers, within `deadline`.
///
/// Looking up a name is the system's business and has no deadline; members are best named by their addresses.
pub(crate) fn connect(
    address: &str,
    deadline: Duration,
    accept_address: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<ByteStream, ConnectError> {
    let bad_address = |reason| ConnectError::BadAddress { address: address.to_owned(), reason };
    let unreachable = |source| ConnectError::Unreachable { address: address.to_owned(), source };
    let started = Instant::now();
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for candidate in resolve(address).map_err(bad_address)? {
        accept_address(candidate).map_err(bad_address)?;
        let left = deadline.saturating_sub(started.elapsed()).max(DEADLINE_MIN);
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(socket) => return stream(socket, candidate).map_err(unreachable),
            Err(error) => failure = error,
        }
    }
    Err(unreachable(failure))
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(|error| format!("{error}; {EXAMPLE}"))?.collect();
    if found.is_empty() { Err(format!("the name has no address; {EXAMPLE}")) } else { Ok(found) }
}

/// A listening socket whose `accept` can be ended.
pub(crate) struct TcpAcceptor {
    socket: TcpListener,
    address: SocketAddr,
    closed: AtomicBool,
}

impl TcpAcceptor {
    pub(crate) fn bind(
        address: &str,
        accept_address: impl Fn(SocketAddr) -> Result<(), String>,
    ) -> Result<Self, ListenError> {
        let bad_address = |reason| ListenError::BadAddress { address: address.to_owned(), reason };
        let unavailable = |source| ListenError::Unavailable { address: address.to_owned(), source };
        let candidates = resolve(address).map_err(bad_address)?;
        for candidate in &candidates {
            accept_address(*candidate).map_err(bad_address)?;
        }
        let socket = TcpListener::bind(&candidates[..]).map_err(unavailable)?;
        let address = socket.local_addr().map_err(unavailable)?;
        Ok(Self { socket, address, closed: AtomicBool::new(false) })
    }

    pub(crate) fn accept(&self) -> Result<(ByteStream, SocketAddr), AcceptError> {
        loop {
            let accepted = self.socket.accept();
            if self.closed.load(Ordering::Acquire) {
                return Err(AcceptError::Closed);
            }
            match accepted {
                Ok((socket, address)) => {
                    // A connection that died in the queue cannot be configured; the next one may be fine.
                    if let Ok(stream) = stream(socket, address) {
                        return Ok((stream, address));
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => return Err(AcceptError::Exhausted(error)),
            }
        }
    }

    pub(crate) fn local_address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read).is_err() {
            // Where a listening socket cannot be shut down, a last connection wakes the accepting thread instead.
            drop(TcpStream::connect_timeout(&self.address, DEADLINE_MIN));
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Prepares a connected socket and splits it.
fn stream(socket: TcpStream, address: SocketAddr) -> io::Result<ByteStream> {
    configure(&socket)?;
    let socket = Arc::new(socket);
    let weak = Arc::downgrade(&socket);
    Ok(ByteStream {
        reader: Box::new(TcpReader { socket: Arc::clone(&socket) }),
        writer: Box::new(TcpWriter { socket, blocked: Duration::ZERO }),
        closer: Closer::new(move || shut_down(&weak)),
        address: address.to_string(),
    })
}

fn shut_down(socket: &Weak<TcpStream>) {
    if let Some(socket) = socket.upgrade() {
        // It fails only on a connection that is gone already, which is what was asked for.
        let _gone = socket.shutdown(Shutdown::Both);
    }
}

fn configure(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(DEADLINE_DEFAULT))?;
    set_write_deadline(socket, DEADLINE_DEFAULT)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(())
}

fn set_write_deadline(socket: &TcpStream, deadline: Duration) -> io::Result<()> {
    socket.set_write_timeout(Some(deadline.max(DEADLINE_MIN)))?;
    // Bytes that the system took may stay unanswered as long; its patience is longer, so that ours speaks first.
    let millis = deadline.saturating_mul(2).max(UNANSWERED_MIN).as_millis();
    Ok(sockopt::set_tcp_user_timeout(socket, u32::try_from(millis).unwrap_or(u32::MAX))?)
}

struct TcpReader {
    socket: Arc<TcpStream>,
}

impl ByteReader for TcpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&*self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((bytes, _)) => return Ok(bytes),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(deadline.max(DEADLINE_MIN)))
    }
}

struct TcpWriter {
    socket: Arc<TcpStream>,
    blocked: Duration,
}

impl TcpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let send = |flags| rustix::net::send(&*self.socket, bytes, flags | SendFlags::NOSIGNAL);
        // Asking without waiting first tells time spent waiting from time spent copying.
        let sent = match send(SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => {
                let started = Instant::now();
                let sent = send(SendFlags::empty());
                self.blocked += started.elapsed();
                sent
            }
            sent => sent,
        };
        Ok(sent?)
    }
}

impl ByteWriter for TcpWriter {
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn blocked(&self) -> Duration {
        self.blocked
    }

    fn receiver_limited(&self) -> Duration {
        tcp_info::receiver_limited(&*self.socket)
    }

    fn unsent_bytes(&self) -> u64 {
        tcp_info::unsent_bytes(&*self.socket)
    }

    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()> {
        set_write_deadline(&self.socket, deadline)
    }

    fn end(&mut self) {
        // It fails only on a connection that is gone already: the peer has seen its end.
        let _gone = self.socket.shutdown(Shutdown::Write);
    }
}

/// Shortest wait that can be asked of a socket: zero would mean for ever.
const DEADLINE_MIN: Duration = Duration::from_millis(1);
/// A silent connection is probed after this long, so that paths through firewalls stay open and dead peers are found.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
/// Sent bytes may stay unanswered at least this long before the system gives the peer up.
const UNANSWERED_MIN: Duration = Duration::from_secs(10);
const EXAMPLE: &str = "an address is HOST:PORT, such as 10.0.0.7:7400 or [::1]:7400";

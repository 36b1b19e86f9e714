//! Owns connections inside one process: the same frames over bounded pipes, for tests and for one-process demos.
//!
//! It never touches a socket.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::bytestream::{ByteReader, ByteStream, ByteWriter, DEADLINE_DEFAULT};
use crate::identity::PeerIdentity;
use crate::plain;
use crate::transport::{AcceptError, Accepted, Closer, ConnectError, Connection, ListenError, Listener, Transport};

/// A network inside this process: the names that somebody listens at.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    listeners: Arc<Mutex<BTreeMap<String, Door>>>,
}

/// Where a listener hears of connections, and who it is.
#[derive(Clone)]
struct Door {
    knock: SyncSender<Knock>,
    member: PeerIdentity,
}

/// A new connection, and who made it.
struct Knock {
    stream: ByteStream,
    from: PeerIdentity,
}

impl MemoryNetwork {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The way `member` reaches others; its peers see it under this identity.
    pub fn member(&self, member: PeerIdentity) -> MemoryTransport {
        MemoryTransport { network: self.clone(), member }
    }
}

/// One member's way into a [`MemoryNetwork`]. An address is any name.
#[derive(Clone)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    member: PeerIdentity,
}

impl Transport for MemoryTransport {
    fn connect(&self, address: &str, _deadline: Duration) -> Result<Connection, ConnectError> {
        let refused = || ConnectError::Unreachable {
            address: address.to_owned(),
            source: io::Error::from(io::ErrorKind::ConnectionRefused),
        };
        let door = lock(&self.network.listeners).get(address).cloned().ok_or_else(refused)?;
        let (ours, theirs) = stream_pair(address, &self.member.name);
        door.knock.try_send(Knock { stream: theirs, from: self.member.clone() }).map_err(|_| refused())?;
        Ok(plain::connection(ours, door.member))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        let (knock, knocks) = sync_channel(BACKLOG_MAX);
        let mut listeners = lock(&self.network.listeners);
        if listeners.contains_key(address) {
            return Err(ListenError::Unavailable {
                address: address.to_owned(),
                source: io::Error::from(io::ErrorKind::AddrInUse),
            });
        }
        listeners.insert(address.to_owned(), Door { knock, member: self.member.clone() });
        Ok(Box::new(MemoryListener {
            network: self.network.clone(),
            address: address.to_owned(),
            knocks: Mutex::new(knocks),
        }))
    }
}

struct MemoryListener {
    network: MemoryNetwork,
    address: String,
    knocks: Mutex<Receiver<Knock>>,
}

impl Listener for MemoryListener {
    fn accept(&self) -> Result<Accepted, AcceptError> {
        // The channel ends when `close` takes its only lasting sender out of the network.
        let Ok(Knock { stream, from }) = lock(&self.knocks).recv() else {
            return Err(AcceptError::Closed);
        };
        let closer = stream.closer.clone();
        let address = stream.address.clone();
        Ok(Accepted::new(address, closer, move |_| Ok(plain::connection(stream, from))))
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }

    fn close(&self) {
        lock(&self.network.listeners).remove(&self.address);
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Two ends of one connection; each knows the other's address.
pub(crate) fn stream_pair(listener_address: &str, connector_address: &str) -> (ByteStream, ByteStream) {
    let there = Arc::new(Pipe::default());
    let back = Arc::new(Pipe::default());
    let end = |read: &Arc<Pipe>, write: &Arc<Pipe>, address: &str| {
        let pipes = [Arc::downgrade(read), Arc::downgrade(write)];
        ByteStream {
            reader: Box::new(PipeReader { pipe: Arc::clone(read), deadline: DEADLINE_DEFAULT }),
            writer: Box::new(PipeWriter {
                pipe: Arc::clone(write),
                deadline: DEADLINE_DEFAULT,
                blocked: Duration::ZERO,
            }),
            closer: Closer::new(move || pipes.iter().filter_map(Weak::upgrade).for_each(|pipe| pipe.break_off())),
            address: address.to_owned(),
        }
    };
    (end(&back, &there, listener_address), end(&there, &back, connector_address))
}

/// One direction: at most [`PIPE_BYTES_MAX`] bytes between a writer and a reader.
#[derive(Default)]
struct Pipe {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    bytes: VecDeque<u8>,
    ended: bool,
    reader_gone: bool,
}

impl Pipe {
    /// Ends the pipe for both sides; what is in it can still be read.
    fn break_off(&self) {
        let mut content = lock(&self.content);
        content.ended = true;
        content.reader_gone = true;
        self.changed.notify_all();
    }

    /// Waits until `ready`, or until nothing happened for `deadline`.
    fn wait(&self, deadline: Duration, ready: impl Fn(&Content) -> bool) -> io::Result<MutexGuard<'_, Content>> {
        let content = lock(&self.content);
        let (content, timeout) = self
            .changed
            .wait_timeout_while(content, deadline, |content| !ready(content))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(content) }
    }
}

struct PipeReader {
    pipe: Arc<Pipe>,
    deadline: Duration,
}

impl ByteReader for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut content = self.pipe.wait(self.deadline, |content| !content.bytes.is_empty() || content.ended)?;
        let bytes = content.bytes.read(buffer)?;
        self.pipe.changed.notify_all();
        Ok(bytes)
    }

    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()> {
        self.deadline = deadline;
        Ok(())
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        lock(&self.pipe.content).reader_gone = true;
        self.pipe.changed.notify_all();
    }
}

struct PipeWriter {
    pipe: Arc<Pipe>,
    deadline: Duration,
    blocked: Duration,
}

impl ByteWriter for PipeWriter {
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let started = Instant::now();
            let has_room = |content: &Content| content.bytes.len() < PIPE_BYTES_MAX || content.reader_gone;
            let content = self.pipe.wait(self.deadline, has_room);
            self.blocked += started.elapsed();
            let mut content = content?;
            if content.reader_gone || content.ended {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(PIPE_BYTES_MAX - content.bytes.len());
            content.bytes.extend(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.pipe.changed.notify_all();
        }
        Ok(())
    }

    fn blocked(&self) -> Duration {
        self.blocked
    }

    fn receiver_limited(&self) -> Duration {
        // Nothing lies between.
        self.blocked
    }

    fn unsent_bytes(&self) -> u64 {
        0
    }

    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()> {
        self.deadline = deadline;
        Ok(())
    }

    fn end(&mut self) {
        lock(&self.pipe.content).ended = true;
        self.pipe.changed.notify_all();
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.end();
    }
}

/// A thread that panicked with the lock left whole bytes behind, so the content is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes on the way in one direction.
const PIPE_BYTES_MAX: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn each_side_sees_the_identity_of_the_other() {
        let network = MemoryNetwork::new();
        let writer = PeerIdentity { writer_of: vec!["orders".to_owned()], ..PeerIdentity::unproven("w") };
        let listener = network.member(writer.clone()).listen("hall").expect("a free name");
        let ours = network.member(PeerIdentity::unproven("a")).connect("hall", PATIENCE).expect("a connection");
        let theirs = listener.accept().expect("a connection").handshake(PATIENCE).expect("no handshake to fail");
        assert_eq!((ours.peer, ours.address.as_str()), (writer, "hall"));
        assert_eq!((theirs.peer.name.as_str(), theirs.address.as_str()), ("a", "a"));
    }

    #[test]
    fn a_name_is_taken_once_and_free_after_its_listener_closed() {
        let member = MemoryNetwork::new().member(PeerIdentity::unproven("a"));
        let unreachable = |member: &MemoryTransport| {
            assert!(matches!(member.connect("hall", PATIENCE), Err(ConnectError::Unreachable { .. })));
        };
        unreachable(&member);
        let listener = member.listen("hall").expect("a free name");
        assert!(matches!(member.listen("hall"), Err(ListenError::Unavailable { .. })));
        listener.close();
        assert!(matches!(listener.accept(), Err(AcceptError::Closed)));
        unreachable(&member);
        drop(member.listen("hall").expect("a free name"));
        unreachable(&member);
    }

    #[test]
    fn connections_that_nobody_accepts_are_limited() {
        let member = MemoryNetwork::new().member(PeerIdentity::unproven("a"));
        let _listener = member.listen("hall").expect("a free name");
        let waiting: Vec<_> = (0..BACKLOG_MAX).map(|_| member.connect("hall", PATIENCE).expect("room")).collect();
        assert!(member.connect("hall", PATIENCE).is_err());
        assert_eq!(waiting.len(), BACKLOG_MAX);
    }
}

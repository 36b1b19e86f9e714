//! Loopback with a gate for whatever is pulled: raft passes, pulls pass only as many bytes as they are let.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use landfall_raft::landfall::net::{
    ConnectError, Connection, FrameReceiver, FrameSender, ListenError, Listener, PlainTransport, Pressure,
    ReceiveError, SendError, Transport,
};

/// Connections that this side makes pass it. Bytes that pulls may still bring are counted.
pub(crate) struct Gate {
    bytes_left: Arc<AtomicU64>,
}

impl Gate {
    /// Lets pulls bring so many bytes before it closes, about.
    pub(crate) fn open_for(bytes: u64) -> Arc<Self> {
        Arc::new(Self { bytes_left: Arc::new(AtomicU64::new(bytes)) })
    }

    pub(crate) fn open(&self) {
        self.bytes_left.store(u64::MAX / 2, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.bytes_left.store(0, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.bytes_left.load(Ordering::Acquire) == 0
    }
}

impl Transport for Gate {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        let connection = PlainTransport.connect(address, deadline)?;
        let is_raft = Arc::new(AtomicBool::new(false));
        let sender = Box::new(Watched { inner: connection.sender, is_raft: is_raft.clone() });
        let receiver = Box::new(Gated { inner: connection.receiver, is_raft, bytes_left: self.bytes_left.clone() });
        Ok(Connection { sender, receiver, ..connection })
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

/// Notices which connections are raft's: they ask for the service of that name before anything is received.
struct Watched {
    inner: Box<dyn FrameSender>,
    is_raft: Arc<AtomicBool>,
}

const SERVICE: &[u8] = b"raft";
const SHORT_FRAME_BYTES: usize = 64;

impl FrameSender for Watched {
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        if head.len() < SHORT_FRAME_BYTES && head.windows(SERVICE.len()).any(|part| part == SERVICE) {
            self.is_raft.store(true, Ordering::Release);
        }
        self.inner.send(head, body)
    }

    fn flush(&mut self) -> Result<(), SendError> {
        self.inner.flush()
    }

    fn finish(&mut self) -> Result<(), SendError> {
        self.inner.finish()
    }

    fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    fn set_stall_deadline(&mut self, deadline: Duration) {
        self.inner.set_stall_deadline(deadline);
    }
}

struct Gated {
    inner: Box<dyn FrameReceiver>,
    is_raft: Arc<AtomicBool>,
    bytes_left: Arc<AtomicU64>,
}

impl FrameReceiver for Gated {
    fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
        let is_pull = !self.is_raft.load(Ordering::Acquire);
        if is_pull && self.bytes_left.load(Ordering::Acquire) == 0 {
            return Err(ReceiveError::Truncated);
        }
        let frame = self.inner.receive()?;
        if let Some(frame) = frame.filter(|_| is_pull) {
            let came = frame.len() as u64;
            let less = |left: u64| Some(left.saturating_sub(came));
            // The update is always made.
            let _ = self.bytes_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
        Ok(frame)
    }

    fn bytes_received(&self) -> u64 {
        self.inner.bytes_received()
    }

    fn set_idle_deadline(&mut self, deadline: Duration) {
        self.inner.set_idle_deadline(deadline);
    }

    fn set_unfinished_interval(&mut self, interval: Duration) {
        self.inner.set_unfinished_interval(interval);
    }
}

//! Loopback with a gate for whatever is pulled: raft passes, pulls pass only as many bytes as they are let.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::watched;
use landfall_raft::landfall::net::{
    ConnectError, Connection, FrameReceiver, ListenError, Listener, PlainTransport, ReceiveError, Transport,
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
        let is_raft = Arc::new(AtomicBool::new(false));
        let seen = is_raft.clone();
        let look = move |head: &[u8], _: &[u8]| {
            if asks_for_raft(head) {
                seen.store(true, Ordering::Release);
            }
        };
        let connection = watched::connect(address, deadline, look)?;
        let receiver = Box::new(Gated { inner: connection.receiver, is_raft, bytes_left: self.bytes_left.clone() });
        Ok(Connection { receiver, ..connection })
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

const SERVICE: &[u8] = b"raft";
const SHORT_FRAME_BYTES: usize = 64;

/// Whether a frame asks for raft's service. It comes before anything is received.
fn asks_for_raft(head: &[u8]) -> bool {
    head.len() < SHORT_FRAME_BYTES && head.windows(SERVICE.len()).any(|part| part == SERVICE)
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

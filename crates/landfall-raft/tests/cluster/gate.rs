//! Loopback with a gate for whatever is pulled: raft passes, pulls pass only as many bytes as they are let.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::between::{Between, with_between};
use landfall_raft::landfall::net::{
    ConnectError, Connection, ListenError, Listener, PlainTransport, ReceiveError, Transport,
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
        Ok(with_between(connection, Gated { is_raft: Arc::default(), bytes_left: self.bytes_left.clone() }))
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

/// One connection.
#[derive(Clone)]
struct Gated {
    is_raft: Arc<AtomicBool>,
    bytes_left: Arc<AtomicU64>,
}

impl Gated {
    fn is_pull(&self) -> bool {
        !self.is_raft.load(Ordering::Acquire)
    }
}

impl Between for Gated {
    fn before_frame(&mut self) -> Result<(), ReceiveError> {
        match self.is_pull() && self.bytes_left.load(Ordering::Acquire) == 0 {
            true => Err(ReceiveError::Truncated),
            false => Ok(()),
        }
    }

    fn came(&mut self, frame: &mut [u8]) {
        if self.is_pull() {
            let less = |left: u64| Some(left.saturating_sub(frame.len() as u64));
            // The update is always made.
            let _ = self.bytes_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }

    fn leaves(&mut self, head: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        if asks_for_raft(head) {
            self.is_raft.store(true, Ordering::Release);
        }
        None
    }
}

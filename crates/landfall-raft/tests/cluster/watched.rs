//! Loopback whose senders have each frame looked at before it goes.

use std::time::Duration;

use landfall_raft::landfall::net::{
    ConnectError, Connection, FrameSender, PlainTransport, Pressure, SendError, Transport,
};

/// Connects; `look` sees head and body of each frame that this side sends, and may take its time.
pub(crate) fn connect(
    address: &str,
    deadline: Duration,
    look: impl FnMut(&[u8], &[u8]) + Send + 'static,
) -> Result<Connection, ConnectError> {
    let connection = PlainTransport.connect(address, deadline)?;
    let sender = Box::new(Watched { inner: connection.sender, look });
    Ok(Connection { sender, ..connection })
}

struct Watched<F> {
    inner: Box<dyn FrameSender>,
    look: F,
}

impl<F: FnMut(&[u8], &[u8]) + Send> FrameSender for Watched<F> {
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        (self.look)(head, body);
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

//! Owns what a test puts between a member and the network: it sees every frame, and may hold it up or change it. What to do with a frame is
//! the test's to say. Tests of other crates use it too.

use std::time::Duration;

use landfall::net::{Connection, FrameReceiver, FrameSender, Pressure, ReceiveError, SendError};

/// What a test does with the frames of one connection.
pub(crate) trait Between: Clone + Send + 'static {
    /// Before the next frame is waited for.
    fn before_frame(&mut self) -> Result<(), ReceiveError> {
        Ok(())
    }

    /// A frame came; what is left of it is what came.
    fn came(&mut self, _frame: &mut [u8]) {}

    /// A frame leaves; the head that it gives leaves instead.
    fn leaves(&mut self, _head: &[u8], _body: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The connection, with the test between its two ends. Each direction has its own clone.
pub(crate) fn with_between(connection: Connection, between: impl Between) -> Connection {
    let sender = Box::new(Sender { between: between.clone(), inner: connection.sender });
    let receiver = Box::new(Receiver { between, inner: connection.receiver, frame: Vec::new() });
    Connection { receiver, sender, ..connection }
}

struct Receiver<B> {
    between: B,
    inner: Box<dyn FrameReceiver>,
    frame: Vec<u8>,
}

impl<B: Between> FrameReceiver for Receiver<B> {
    fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
        self.between.before_frame()?;
        let Some(frame) = self.inner.receive()? else { return Ok(None) };
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        self.between.came(&mut self.frame);
        Ok(Some(&self.frame))
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

struct Sender<B> {
    between: B,
    inner: Box<dyn FrameSender>,
}

impl<B: Between> FrameSender for Sender<B> {
    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        match self.between.leaves(head, body) {
            Some(instead) => self.inner.send(&instead, body),
            None => self.inner.send(head, body),
        }
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

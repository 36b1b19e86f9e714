//! Owns the half of a connection that receives frames, whatever the way in which their bytes come off the network.

use std::io;
use std::time::{Duration, Instant};

use crate::frame::{Reassembly, Step};
use crate::transport::{Closer, FrameReceiver, ReceiveError};

/// Where a receiver's bytes come from.
pub(crate) trait Inflow: Send {
    /// Reads once at least, and puts what comes of it into `reassembly`, which lacks `bytes_min` of the next frame.
    fn fill(&mut self, reassembly: &mut Reassembly, bytes_min: usize) -> Result<(), ReceiveError>;

    /// Bytes that came from the network so far.
    fn bytes_received(&self) -> u64;

    /// Lets [`Self::fill`] fail once no byte has come for `deadline`.
    fn set_deadline(&mut self, deadline: Duration) -> io::Result<()>;

    /// Ends the connection.
    fn closer(&self) -> &Closer;
}

/// How far one half of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Frames may follow.
    Open,
    /// The clean end was sent or received.
    Finished,
    /// A call failed; nothing works any more.
    Failed,
}

/// Makes frames of what an inflow brings.
pub(crate) struct Receiver<I: Inflow> {
    inflow: I,
    reassembly: Reassembly,
    /// After how long a frame that is not whole is told.
    unfinished_interval: Option<Duration>,
    state: Half,
}

impl<I: Inflow> Receiver<I> {
    /// A receiver that has received what stands in `reassembly`.
    pub(crate) fn new(inflow: I, reassembly: Reassembly) -> Self {
        Self { inflow, reassembly, unfinished_interval: None, state: Half::Open }
    }

    fn step(&mut self) -> Result<Step, ReceiveError> {
        let due = self.unfinished_interval.map(|after| (Instant::now() + after, after));
        // What was read ahead has been told of: only what comes from the network now is news.
        let already = self.inflow.bytes_received();
        loop {
            match self.reassembly.step()? {
                Step::Missing(bytes_min) => self.inflow.fill(&mut self.reassembly, bytes_min)?,
                step => return Ok(step),
            }
            if let Some((_, after)) = due.filter(|(at, _)| Instant::now() >= *at)
                && self.inflow.bytes_received() > already
            {
                return self.finished(after);
            }
        }
    }

    /// The frame, if the last bytes made it whole.
    fn finished(&mut self, after: Duration) -> Result<Step, ReceiveError> {
        match self.reassembly.step()? {
            Step::Missing(_) => Err(ReceiveError::Unfinished { after }),
            step => Ok(step),
        }
    }
}

impl<I: Inflow> FrameReceiver for Receiver<I> {
    fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
        match self.state {
            Half::Open => {}
            Half::Finished => return Ok(None),
            Half::Failed => return Err(ReceiveError::Closed),
        }
        match self.step() {
            Ok(Step::Frame(range)) => Ok(Some(self.reassembly.frame(range))),
            Ok(_) => {
                self.state = Half::Finished;
                Ok(None)
            }
            Err(error) => {
                if !matches!(error, ReceiveError::TimedOut { .. } | ReceiveError::Unfinished { .. }) {
                    self.state = Half::Failed;
                }
                Err(error)
            }
        }
    }

    fn bytes_received(&self) -> u64 {
        self.inflow.bytes_received()
    }

    fn set_idle_deadline(&mut self, deadline: Duration) {
        if self.inflow.set_deadline(deadline).is_err() {
            self.state = Half::Failed;
        }
    }

    fn set_unfinished_interval(&mut self, interval: Duration) {
        self.unfinished_interval = Some(interval);
    }
}

impl<I: Inflow> Drop for Receiver<I> {
    fn drop(&mut self) {
        if self.state != Half::Finished {
            self.inflow.closer().close();
        }
    }
}

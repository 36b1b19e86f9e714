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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{END_MARK, length_word};

    /// A part of a stream that comes at once: from the network, or from what was read of it before and only had to be decrypted.
    #[derive(Clone, Copy)]
    enum Piece {
        New(usize),
        Ahead(usize),
    }

    /// Brings the pieces of a stream one by one.
    struct Pieces {
        left: std::vec::IntoIter<(Vec<u8>, u64)>,
        bytes_received: u64,
        closer: Closer,
    }

    impl Inflow for Pieces {
        fn fill(&mut self, reassembly: &mut Reassembly, bytes_min: usize) -> Result<(), ReceiveError> {
            let (piece, bytes_received) = self.left.next().ok_or(ReceiveError::Truncated)?;
            reassembly.room(bytes_min)[..piece.len()].copy_from_slice(&piece);
            reassembly.filled(piece.len());
            self.bytes_received += bytes_received;
            Ok(())
        }

        fn bytes_received(&self) -> u64 {
            self.bytes_received
        }

        fn set_deadline(&mut self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn closer(&self) -> &Closer {
            &self.closer
        }
    }

    /// What is left after the pieces comes as one more.
    fn receiver(stream: &[u8], pieces: &[Piece]) -> Receiver<Pieces> {
        let mut rest = stream;
        let mut cut = Vec::new();
        for &piece in pieces {
            let (length, bytes_received) = match piece {
                Piece::New(length) => (length, length as u64),
                Piece::Ahead(length) => (length, 0),
            };
            let (bytes, after) = rest.split_at(length);
            cut.push((bytes.to_vec(), bytes_received));
            rest = after;
        }
        cut.push((rest.to_vec(), rest.len() as u64));
        let inflow = Pieces { left: cut.into_iter(), bytes_received: 0, closer: Closer::new(|| {}) };
        Receiver::new(inflow, Reassembly::new(64))
    }

    /// Two frames, `one` and `two`, and the end.
    fn two_frames() -> Vec<u8> {
        let mut stream = Vec::new();
        for frame in [&b"one"[..], b"two"] {
            stream.extend(length_word(frame, &[]).expect("short"));
            stream.extend(frame);
        }
        stream.extend(END_MARK.to_le_bytes());
        stream
    }

    /// What every call says until the end: a frame, or `None` for one that is still coming.
    fn told(receiver: &mut Receiver<Pieces>) -> Vec<Option<Vec<u8>>> {
        let mut told = Vec::new();
        loop {
            match receiver.receive() {
                Ok(Some(frame)) => told.push(Some(frame.to_vec())),
                Ok(None) => return told,
                Err(ReceiveError::Unfinished { after: Duration::ZERO }) => told.push(None),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn every_piece_that_leaves_a_frame_unfinished_is_told_once() {
        // Within the first length word, within its frame, and then its end together with the start of the next frame.
        let mut receiver = receiver(&two_frames(), &[Piece::New(2), Piece::New(3), Piece::New(4)]);
        receiver.set_unfinished_interval(Duration::ZERO);
        assert_eq!(told(&mut receiver), [None, None, Some(b"one".to_vec()), Some(b"two".to_vec())]);
    }

    #[test]
    fn nothing_is_told_of_what_was_read_ahead() {
        // The start of the second frame was read with the first one: only what comes of it later is news.
        let mut receiver = receiver(&two_frames(), &[Piece::New(8), Piece::Ahead(2), Piece::New(1)]);
        receiver.set_unfinished_interval(Duration::ZERO);
        assert_eq!(told(&mut receiver), [Some(b"one".to_vec()), None, Some(b"two".to_vec())]);
    }

    #[test]
    fn unfinished_frames_are_told_to_nobody_who_did_not_ask_or_before_the_interval() {
        for interval in [None, Some(Duration::from_secs(3600))] {
            let mut receiver = receiver(&two_frames(), &[Piece::New(2), Piece::New(3), Piece::New(4)]);
            receiver.unfinished_interval = interval;
            assert_eq!(told(&mut receiver), [Some(b"one".to_vec()), Some(b"two".to_vec())]);
        }
    }
}

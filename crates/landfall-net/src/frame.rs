//! Owns the cut between a stream of bytes and frames: `u32` length, little endian, then that many bytes.
//!
//! It never reads or writes a socket, and never looks inside a frame.

use std::ops::Range;

use landfall_core::limits::CHUNK_BYTES_MAX;

use crate::transport::{ReceiveError, SendError};

/// Longest frame, without its length word: a whole chunk, and a header around it.
pub const FRAME_BYTES_MAX: u32 = CHUNK_BYTES_MAX + FRAME_HEADER_BYTES_MAX;

/// Room in a frame for what stands around a chunk.
const FRAME_HEADER_BYTES_MAX: u32 = 64 * 1024;

/// Length of the word before every frame.
pub(crate) const LENGTH_BYTES: usize = 4;

/// The length word that ends a stream.
///
/// A stream that stops without it was cut: a socket that closes looks the same for a peer that finished and for one
/// that was killed.
pub(crate) const END_MARK: u32 = u32::MAX;

const _: () = assert!(FRAME_BYTES_MAX < END_MARK);

/// The length word of a frame made of `head` and `body`.
pub(crate) fn length_word(head: &[u8], body: &[u8]) -> Result<[u8; LENGTH_BYTES], SendError> {
    let length = head.len() as u64 + body.len() as u64;
    match u32::try_from(length) {
        Ok(word) if word <= FRAME_BYTES_MAX => Ok(word.to_le_bytes()),
        _ => Err(SendError::TooLong { length }),
    }
}

/// Collects bytes until a whole frame stands in one piece.
///
/// Bytes go in through [`Reassembly::room`] and [`Reassembly::filled`]; frames come out as ranges of one buffer, so
/// nothing is copied but the part of a frame that a full buffer cut off.
pub(crate) struct Reassembly {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What the collected bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A frame: see [`Reassembly::frame`].
    Frame(Range<usize>),
    /// The peer finished.
    End,
    /// At least this many bytes are missing.
    Missing(usize),
}

impl Reassembly {
    /// An empty buffer of `capacity_bytes`; a longer frame makes it grow to that frame, never beyond the limit.
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self { buffer: vec![0; capacity_bytes], start: 0, end: 0 }
    }

    /// Takes the next frame off the collected bytes.
    pub(crate) fn step(&mut self) -> Result<Step, ReceiveError> {
        let available = self.end - self.start;
        let Some(word) = self.buffer[self.start..self.end].first_chunk() else {
            return Ok(Step::Missing(LENGTH_BYTES - available));
        };
        let length = u32::from_le_bytes(*word);
        if length == END_MARK {
            return Ok(Step::End);
        }
        if length > FRAME_BYTES_MAX {
            return Err(ReceiveError::TooLong { length });
        }
        let whole = LENGTH_BYTES + length as usize;
        if available < whole {
            return Ok(Step::Missing(whole - available));
        }
        let frame = self.start + LENGTH_BYTES..self.start + whole;
        self.start += whole;
        Ok(Step::Frame(frame))
    }

    /// The bytes of a frame that [`Reassembly::step`] just found.
    pub(crate) fn frame(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Free room for at least `bytes_min` more bytes; it ends every range handed out before.
    pub(crate) fn room(&mut self, bytes_min: usize) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        // Little room left means many small reads, so the remainder moves before the buffer is quite full.
        let wanted = bytes_min.max(self.buffer.len() / 2);
        if self.buffer.len() - self.end < wanted && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < bytes_min {
            self.buffer.resize(self.end + bytes_min, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `bytes` of the room now hold bytes of the stream.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        assert!(self.end <= self.buffer.len(), "more bytes than room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for frame in frames {
            stream.extend(length_word(frame, &[]).expect("a frame within the limit"));
            stream.extend(frame);
        }
        stream.extend(END_MARK.to_le_bytes());
        stream
    }

    /// Feeds `stream` in pieces whose lengths come from `next_piece`, and returns the frames before the end.
    fn reassemble(mut stream: &[u8], capacity: usize, mut next_piece: impl FnMut() -> usize) -> Vec<Vec<u8>> {
        let mut reassembly = Reassembly::new(capacity);
        let mut frames = Vec::new();
        loop {
            match reassembly.step().expect("lengths within the limit") {
                Step::Frame(range) => frames.push(reassembly.frame(range).to_vec()),
                Step::End => return frames,
                Step::Missing(bytes_min) => {
                    let room = reassembly.room(bytes_min);
                    let piece = next_piece().clamp(1, room.len()).min(stream.len());
                    assert!(piece > 0, "the stream ended inside a frame");
                    room[..piece].copy_from_slice(&stream[..piece]);
                    reassembly.filled(piece);
                    stream = &stream[piece..];
                }
            }
        }
    }

    /// A small generator, so that every failure is repeatable from its seed.
    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        for seed in 0..200 {
            let mut next = numbers(seed);
            let frames: Vec<Vec<u8>> = (0..next() % 20)
                .map(|_| {
                    let length = if next().is_multiple_of(4) { next() % 9_000 } else { next() % 40 };
                    (0..length).map(|_| next() as u8).collect()
                })
                .collect();
            let capacity = (next() % 5_000) as usize;
            let piece_bytes_max = 1 + next() % 3_000;
            let actual = reassemble(&stream_of(&frames), capacity, || (next() % piece_bytes_max) as usize);
            assert!(actual == frames, "seed {seed}");
        }
    }

    #[test]
    fn takes_the_longest_frame_and_refuses_one_byte_more_before_allocating() {
        let longest = vec![7; FRAME_BYTES_MAX as usize];
        assert!(reassemble(&stream_of(std::slice::from_ref(&longest)), 64, || usize::MAX) == [longest]);

        for length in [FRAME_BYTES_MAX + 1, u32::MAX - 1] {
            let mut reassembly = Reassembly::new(64);
            reassembly.room(LENGTH_BYTES)[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            reassembly.filled(LENGTH_BYTES);
            assert!(matches!(reassembly.step(), Err(ReceiveError::TooLong { length: found }) if found == length));
            assert_eq!(reassembly.buffer.len(), 64);
        }
    }

    #[test]
    fn length_words_are_frozen_and_limited() {
        assert_eq!(length_word(&[1; 3], &[2; 0x1234]).expect("short"), [0x37, 0x12, 0, 0]);
        let body = vec![0; FRAME_BYTES_MAX as usize];
        assert!(
            matches!(length_word(&[0], &body), Err(SendError::TooLong { length }) if length == u64::from(FRAME_BYTES_MAX) + 1)
        );
    }
}

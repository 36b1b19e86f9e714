//! Owns the codec with a memory: one zstd frame for each direction of a connection, of which every item is a flushed piece.
//!
//! An item says only what the items before it have not said, so both sides take each exactly once and in order. It knows no
//! connection, and nothing of what it gives is ever stored.

use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, compress_bound};

use super::CodecError;
use crate::limits::{CHUNK_BYTES_MAX, STREAM_OVERHEAD_BYTES_MAX, STREAM_WINDOW_BYTES_LOG};

/// The encoding side of a stream. Its context (about 2 MiB) is made for the first item.
#[derive(Default)]
pub struct StreamEncoder {
    zstd: Option<CCtx<'static>>,
}

impl StreamEncoder {
    /// A stream that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces `out` with the next item, which holds `plain`: at least one byte. Both sides remember it, so it must be sent.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.clear();
        if plain.len() > CHUNK_BYTES_MAX as usize {
            return Err(CodecError::TooLong { bytes: plain.len() as u64 });
        }
        if plain.is_empty() {
            return Err(CodecError::StreamLost { reason: "an item of a stream holds something" });
        }
        out.reserve(compress_bound(plain.len()) + STREAM_OVERHEAD_BYTES_MAX as usize);
        let zstd = self.zstd.get_or_insert_with(context);
        let (mut input, mut output) = (InBuffer::around(plain), OutBuffer::around(out));
        let unflushed = zstd.compress_stream2(&mut output, &mut input, ZSTD_EndDirective::ZSTD_e_flush);
        assert_eq!(unflushed, Ok(0), "the output holds the longest form");
        Ok(())
    }
}

fn context() -> CCtx<'static> {
    let mut zstd = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(1),
        CParameter::WindowLog(STREAM_WINDOW_BYTES_LOG),
        CParameter::HashLog(HASH_LOG),
        CParameter::MinMatch(MATCH_BYTES),
        // The frame is never ended, and the hash of each chunk says more than a checksum.
        CParameter::ContentSizeFlag(false),
    ] {
        zstd.set_parameter(parameter).expect("all are in zstd's range");
    }
    zstd
}

/// The decoding side of a stream. Its context (about 95 KiB, and a window's length) is made for the first item: a connection that is sent raw
/// chunks only has none.
#[derive(Default)]
pub struct StreamDecoder {
    zstd: Option<DCtx<'static>>,
    /// An item failed: nothing after it can be decoded.
    is_lost: bool,
}

impl StreamDecoder {
    /// A stream that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory of its context, in bytes: none before the first item.
    pub fn memory_bytes(&self) -> usize {
        self.zstd.as_ref().map_or(0, DCtx::sizeof)
    }

    /// Replaces `out` with the plaintext of the next item, which is exactly `plain_bytes` long; on an error `out` is empty, and
    /// every later item is an error too.
    ///
    /// The result is unverified: an item that another should have come before may decode to other bytes, which have another hash.
    pub fn decode(&mut self, encoded: &[u8], plain_bytes: u32, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let decoded = if self.is_lost {
            Err("an item before it failed")
        } else if plain_bytes == 0 || plain_bytes > CHUNK_BYTES_MAX {
            Err("it has a length that no item has")
        } else {
            self.decode_next(encoded, plain_bytes as usize, out)
        };
        decoded.map_err(|reason| {
            out.clear();
            self.is_lost = true;
            CodecError::StreamLost { reason }
        })
    }

    fn decode_next(&mut self, encoded: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
        // One byte more than declared, so that whatever holds more is found out, and no more than that is ever written.
        out.resize(length + 1, 0);
        let zstd = self.zstd.get_or_insert_with(decoding_context);
        let mut input = InBuffer::around(encoded);
        let mut output = OutBuffer::around(&mut out[..]);
        loop {
            let before = (input.pos, output.pos());
            match zstd.decompress_stream(&mut output, &mut input) {
                Ok(0) => return Err("it ends the stream"),
                Ok(_) => {}
                Err(_) => return Err("it is no zstd, or its window is larger than agreed"),
            }
            if input.pos == encoded.len() && output.pos() <= length || (input.pos, output.pos()) == before {
                break;
            }
        }
        let written = output.pos();
        if input.pos < encoded.len() || written != length {
            return Err("it decodes to another length than declared");
        }
        out.truncate(length);
        Ok(())
    }
}

fn decoding_context() -> DCtx<'static> {
    let mut zstd = DCtx::create();
    zstd.set_parameter(DParameter::WindowLogMax(STREAM_WINDOW_BYTES_LOG)).expect("it is in zstd's range");
    zstd
}

impl std::fmt::Debug for StreamEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEncoder").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder").field("is_lost", &self.is_lost).finish_non_exhaustive()
    }
}

/// Entries of the table that finds repetitions, as a power of two: 256 KiB.
const HASH_LOG: u32 = 16;
const MATCH_BYTES: u32 = 6;

#[cfg(test)]
mod tests;

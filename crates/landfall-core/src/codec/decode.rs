//! Owns the decoding side: nothing that a peer or a disk says makes it write more than the declared plaintext.

use zstd_safe::DCtx;

use super::{Codec, CodecError, patch};
use crate::limits::CHUNK_BYTES_MAX;

/// Decodes chunks. It keeps its buffers and contexts (about 0.5 MiB), so each thread has its own.
pub struct Decoder {
    zstd: DCtx<'static>,
    patch: patch::Reader,
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Self {
        Self { zstd: DCtx::create(), patch: patch::Reader::new() }
    }

    /// Replaces `out` with the plaintext of `encoded`, which is exactly `plain_bytes` long; on an error `out` is empty.
    ///
    /// The result is unverified: it becomes a chunk only through [`crate::Chunk::verify`]. What `out` held before is not
    /// cleared first, so a reused buffer costs nothing.
    pub fn decode(
        &mut self,
        codec: Codec,
        encoded: &[u8],
        plain_bytes: u32,
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        if plain_bytes > CHUNK_BYTES_MAX {
            out.clear();
            return Err(CodecError::TooLong { bytes: u64::from(plain_bytes) });
        }
        let length = plain_bytes as usize;
        let decoded = match codec {
            Codec::Raw => decode_raw(encoded, length, out),
            Codec::Lz4 => decode_lz4(encoded, length, out),
            Codec::Zstd => decode_zstd(&mut self.zstd, encoded, None, length, out),
            Codec::ZstdPatch => match base {
                Some(base) => self.patch.read(encoded, base, length, out),
                None => {
                    out.clear();
                    return Err(CodecError::NoBase);
                }
            },
        };
        decoded.map_err(|reason| {
            out.clear();
            CodecError::Malformed { codec, reason }
        })
    }
}

fn decode_raw(encoded: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if encoded.len() != length {
        return Err("they are not as long as declared");
    }
    out.clear();
    out.extend_from_slice(encoded);
    Ok(())
}

fn decode_lz4(encoded: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.resize(length, 0);
    match lz4_flex::block::decompress_into(encoded, out) {
        Ok(written) if written == length => Ok(()),
        Ok(_) => Err("they decode to less than declared"),
        Err(_) => Err("they are not an LZ4 block of the declared length"),
    }
}

/// Decodes exactly one frame; the output never grows beyond what it has room for.
pub(super) fn decode_zstd(
    context: &mut DCtx<'static>,
    frame: &[u8],
    prefix: Option<&[u8]>,
    length: usize,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    out.clear();
    out.reserve(length);
    if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err("they are not exactly one zstd frame");
    }
    let decoded = match prefix {
        Some(prefix) => context.decompress_using_dict(out, frame, prefix),
        None => context.decompress(out, frame),
    };
    match decoded {
        Ok(written) if written == length => Ok(()),
        Ok(_) => Err("they decode to another length than declared"),
        Err(_) => Err("they are not a zstd frame of the declared length"),
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

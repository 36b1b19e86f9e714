//! Owns the encoding side: reusable contexts, so that a chunk costs no allocation.

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use zstd_safe::{CCtx, CParameter, compress_bound};

use super::{Codec, CodecError, Copied, patch};
use crate::limits::CHUNK_BYTES_MAX;

/// Encodes chunks. It keeps its buffers and compression contexts (about 1 MiB), so each thread has its own.
pub struct Encoder {
    zstd: CCtx<'static>,
    lz4: CompressTable,
    patch: patch::Writer,
}

impl Encoder {
    /// An encoder for bytes on their way: zstd at level 1, with a larger table than it takes for chunks of 64 KiB, which leaves 3 % less
    /// in the same time.
    pub fn new() -> Self {
        let mut encoder = Self::with_zstd_level(1);
        for parameter in [CParameter::HashLog(HASH_LOG_ON_THE_WAY), CParameter::MinMatch(MATCH_BYTES_ON_THE_WAY)] {
            encoder.zstd.set_parameter(parameter).expect("both are in zstd's range");
        }
        encoder
    }

    /// An encoder with another zstd level: 3 to 19 for bytes that rest and are read often.
    pub fn with_zstd_level(level: i32) -> Self {
        let mut zstd = CCtx::create();
        let level = level.clamp(zstd_safe::min_c_level(), zstd_safe::max_c_level());
        zstd.set_parameter(CParameter::CompressionLevel(level)).expect("zstd accepts every level in its range");
        Self { zstd, lz4: CompressTable::large(), patch: patch::Writer::new() }
    }

    /// Replaces `out` with the encoded form of `plain`. Only [`Codec::ZstdPatch`] looks at `base`, and it needs one.
    pub fn encode(
        &mut self,
        codec: Codec,
        plain: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        out.clear();
        check_lengths(plain, base.unwrap_or_default())?;
        match codec {
            Codec::Raw => out.extend_from_slice(plain),
            Codec::Lz4 => self.encode_lz4(plain, out),
            Codec::Zstd => self.encode_zstd(plain, out),
            Codec::ZstdPatch => self.patch.write(plain, base.ok_or(CodecError::NoBase)?, out),
        }
        Ok(())
    }

    /// Replaces `out` with the patch that makes `plain` of `base`, of which it is known what was copied, in ascending order. It is right
    /// whatever `copied` says, only longer where that is wrong.
    pub fn encode_copied(
        &mut self,
        plain: &[u8],
        base: &[u8],
        copied: &[Copied],
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        out.clear();
        check_lengths(plain, base)?;
        self.patch.write_copied(plain, base, copied, out);
        Ok(())
    }

    fn encode_lz4(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        out.resize(get_maximum_output_size(plain.len()), 0);
        let length = compress_into_with_table(plain, out, &mut self.lz4).expect("the output holds the longest form");
        out.truncate(length);
    }

    fn encode_zstd(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(compress_bound(plain.len()));
        self.zstd.compress2(out, plain).expect("the output holds the longest form");
    }
}

fn check_lengths(plain: &[u8], base: &[u8]) -> Result<(), CodecError> {
    let too_long = |bytes: &[u8]| bytes.len() > CHUNK_BYTES_MAX as usize;
    match [plain, base].into_iter().find(|bytes| too_long(bytes)) {
        Some(long) => Err(CodecError::TooLong { bytes: long.len() as u64 }),
        None => Ok(()),
    }
}

/// Entries of the table that finds repetitions, as a power of two: 128 KiB, which stay in the cache of a core.
const HASH_LOG_ON_THE_WAY: u32 = 15;
const MATCH_BYTES_ON_THE_WAY: u32 = 6;

impl Codec {
    /// Does a form of `encoded` bytes earn what its decoding costs?
    pub fn is_worth_it(self, plain_bytes: usize, encoded_bytes: usize) -> bool {
        match self {
            Self::Raw => true,
            Self::Lz4 | Self::Zstd => encoded_bytes + plain_bytes / 16 < plain_bytes,
            Self::ZstdPatch => encoded_bytes <= plain_bytes / 2,
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

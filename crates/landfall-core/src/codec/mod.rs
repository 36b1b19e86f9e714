//! Owns how the bytes of a chunk travel and rest: raw, compressed, or as a patch against bytes that both sides hold.
//!
//! Encoding belongs to the hop: it never changes a chunk's name, and whoever decodes checks the plaintext against that name.
//! So nothing here has to be trusted, only bounded. This module never stores or sends anything.

mod automatic;
mod compose;
mod decode;
mod encode;
mod patch;
mod policy;
mod probe;
mod stream;
mod wire;
mod within;

pub use automatic::Automatic;
pub use compose::compose_patches;
pub use decode::Decoder;
pub use encode::Encoder;
pub use policy::{Base, ChunkFacts, CodecPolicy, Compressible, EncodeFacts, Fixed, LinkFacts};
pub use probe::looks_incompressible;
pub use stream::{StreamDecoder, StreamEncoder};
pub use wire::{WireCodec, WireEncoder};
pub use within::{CodecSet, Within};

/// How the bytes of a chunk are encoded by themselves, where they rest and where they travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One LZ4 block.
    Lz4 = 1,
    /// One zstd frame.
    Zstd = 2,
    /// What differs from a base that both sides hold: see `docs/format.md`.
    ZstdPatch = 3,
}

impl Codec {
    /// Every codec, in the order of their bytes.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Lz4, Self::Zstd, Self::ZstdPatch];

    /// Reads the byte that frames carry.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            3 => Some(Self::ZstdPatch),
            _ => None,
        }
    }
}

/// Bytes of a plaintext that stand in its base too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Where they stand in the plaintext.
    pub at: u32,
    /// Where they stand in the base.
    pub from: u32,
    /// How many they are.
    pub bytes: u32,
}

/// Why bytes were not encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The plaintext is, or is declared to be, longer than a chunk may be. Whoever declared it is broken.
    #[error("a plaintext of {bytes} bytes is longer than a chunk may be")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// A patch needs its base, and none was given: ask again for the chunk without one.
    #[error("a patch needs the base it was made against")]
    NoBase,
    /// The bytes do not decode to the declared length: whoever sent them is broken, or used another base.
    #[error("malformed {codec:?} bytes: {reason}")]
    Malformed {
        /// What they claim to be.
        codec: Codec,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// The stream of a connection is out of step, and nothing of it can be decoded any more: end the connection.
    #[error("the stream of the connection is lost: {reason}")]
    StreamLost {
        /// What is wrong with the item.
        reason: &'static str,
    },
}

/// The bytes every zstd frame begins with; frames inside a patch go without.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The part of a base that zstd takes as prefix, on both sides.
///
/// zstd reads a prefix that begins with the magic of its own dictionaries as one, so such a base goes without its first byte.
fn zstd_prefix(base: &[u8]) -> &[u8] {
    match base {
        [0x37, 0xa4, 0x30, 0xec, ..] => &base[1..],
        _ => base,
    }
}

#[cfg(test)]
mod tests;

//! Owns how the payloads of one connection are encoded: each by itself, or as the next item of the connection's stream.
//!
//! What rests names a [`Codec`]. Only what travels names a [`WireCodec`], so an item of a stream cannot be stored or passed on.

use super::policy::{Base, ChunkFacts, CodecPolicy, Compressible};
use super::{Codec, CodecError, Encoder, StreamEncoder, looks_incompressible};

/// How the payload of an item is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WireCodec {
    /// By itself, as chunks rest too.
    Alone(Codec),
    /// As the next item of the one zstd stream of its connection and direction: only who decoded all items before it can decode it.
    ZstdStream,
}

impl WireCodec {
    /// Every codec of an item, in the order of their bytes.
    pub const ALL: [Self; 5] = [
        Self::Alone(Codec::Raw),
        Self::Alone(Codec::Lz4),
        Self::Alone(Codec::Zstd),
        Self::Alone(Codec::ZstdPatch),
        Self::ZstdStream,
    ];

    /// The byte that items carry, and the number that a hello names it by.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Alone(codec) => codec as u8,
            Self::ZstdStream => ZSTD_STREAM,
        }
    }

    /// Reads the byte that items carry.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match (byte, Codec::from_byte(byte)) {
            (ZSTD_STREAM, _) => Some(Self::ZstdStream),
            (_, Some(codec)) => Some(Self::Alone(codec)),
            (_, None) => None,
        }
    }
}

impl From<Codec> for WireCodec {
    fn from(codec: Codec) -> Self {
        Self::Alone(codec)
    }
}

/// No frame at rest may ever carry it.
const ZSTD_STREAM: u8 = 4;
const _: () = assert!(Codec::from_byte(ZSTD_STREAM).is_none());

/// Encodes what one connection sends, in the order in which it is sent.
#[derive(Debug, Default)]
pub struct WireEncoder {
    alone: Encoder,
    stream: StreamEncoder,
}

impl WireEncoder {
    /// An encoder whose stream has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces `out` with the encoded form of `plain`. What goes into the stream must be sent, whatever became of it.
    pub fn encode(
        &mut self,
        codec: WireCodec,
        plain: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        match codec {
            WireCodec::Alone(codec) => self.alone.encode(codec, plain, base, out),
            WireCodec::ZstdStream => self.stream.encode(plain, out),
        }
    }

    /// Replaces `out` with the encoded form of `plain` that `policy` chooses, and says which it is.
    ///
    /// A patch that saves less than half is dropped and the policy asked again as if there were no base; a compressed form that
    /// saves nothing worth its decoding is dropped for the raw one. An item of the stream is never dropped.
    pub fn encode_by(
        &mut self,
        policy: &dyn CodecPolicy,
        plain: &[u8],
        base: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<WireCodec, CodecError> {
        let mut chunk = ChunkFacts {
            base: if base.is_some() { Base::Held } else { Base::Absent },
            compressible: if looks_incompressible(plain) { Compressible::Unlikely } else { Compressible::Likely },
        };
        let mut codec = choose(policy, chunk, plain);
        self.encode(codec, plain, base, out)?;
        if codec == Codec::ZstdPatch.into() && !is_worth_it(codec, plain, out) {
            chunk.base = Base::Absent;
            codec = choose(policy, chunk, plain);
            self.encode(codec, plain, base, out)?;
        }
        if !is_worth_it(codec, plain, out) {
            codec = Codec::Raw.into();
            self.encode(codec, plain, None, out)?;
        }
        Ok(codec)
    }
}

/// Nothing to send is nothing for a stream.
fn choose(policy: &dyn CodecPolicy, chunk: ChunkFacts, plain: &[u8]) -> WireCodec {
    match policy.choose(chunk) {
        WireCodec::ZstdStream if plain.is_empty() => Codec::Raw.into(),
        codec => codec,
    }
}

fn is_worth_it(codec: WireCodec, plain: &[u8], encoded: &[u8]) -> bool {
    match codec {
        WireCodec::Alone(codec) => codec.is_worth_it(plain.len(), encoded.len()),
        WireCodec::ZstdStream => true,
    }
}

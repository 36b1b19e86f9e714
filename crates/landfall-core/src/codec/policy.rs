//! Owns the choice of a codec from measured facts. It has no clock and measures nothing itself.

use std::time::Duration;

use super::{Codec, WireCodec};

/// Chooses how each chunk is encoded on its way to one peer.
pub trait CodecPolicy: Send {
    /// The codec to try for a chunk. Never a patch unless its base is held.
    fn choose(&self, chunk: ChunkFacts) -> WireCodec;

    /// Takes note of what the link did since the last call.
    fn handle_link(&mut self, link: LinkFacts);

    /// Takes note of what an encoding cost and gave.
    fn handle_encoded(&mut self, encoded: EncodeFacts);
}

impl<P: CodecPolicy + ?Sized> CodecPolicy for Box<P> {
    fn choose(&self, chunk: ChunkFacts) -> WireCodec {
        (**self).choose(chunk)
    }

    fn handle_link(&mut self, link: LinkFacts) {
        (**self).handle_link(link);
    }

    fn handle_encoded(&mut self, encoded: EncodeFacts) {
        (**self).handle_encoded(encoded);
    }
}

/// What is known of a chunk before it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkFacts {
    /// Do both sides hold bytes that it may be a patch against?
    pub base: Base,
    /// What the probe says: see [`super::looks_incompressible`].
    pub compressible: Compressible,
}

/// Whether both sides hold a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Both do.
    Held,
    /// There is none.
    Absent,
}

/// What a probe of a few bytes says about compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compressible {
    /// It may save something.
    Likely,
    /// It will most likely save nothing.
    Unlikely,
}

/// What a link did over a span of time in which there was always something to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkFacts {
    /// Encoded bytes that were handed to the link.
    pub sent_bytes: u64,
    /// Length of the span.
    pub elapsed: Duration,
    /// How long of it the sender waited for the link to take more.
    pub blocked: Duration,
    /// Cores of the sender's machine that had nothing to do, on average.
    pub spare_cores: f64,
}

/// What one or more encodings with one codec cost and gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeFacts {
    /// How they were encoded.
    pub codec: WireCodec,
    /// Plaintext that went in.
    pub plain_bytes: u64,
    /// Bytes that came out.
    pub encoded_bytes: u64,
    /// Time of one core; zero for what was encoded before.
    pub took: Duration,
}

/// Always the same codec, however fast the link; chunks without a base, where a patch was wanted, go raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed(pub WireCodec);

impl CodecPolicy for Fixed {
    fn choose(&self, chunk: ChunkFacts) -> WireCodec {
        match (self.0, chunk.base) {
            (WireCodec::Alone(Codec::ZstdPatch), Base::Absent) => Codec::Raw.into(),
            (codec, _) => codec,
        }
    }

    fn handle_link(&mut self, _: LinkFacts) {}

    fn handle_encoded(&mut self, _: EncodeFacts) {}
}

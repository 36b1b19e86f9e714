//! Owns the bounds of a choice: whoever decodes says which codecs it knows, and no other is ever used.

use super::{Base, ChunkFacts, Codec, CodecPolicy, EncodeFacts, LinkFacts, WireCodec};

/// Codecs that a peer can decode. Everybody can read raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecSet(u8);

impl CodecSet {
    /// Every codec of this version.
    pub const ALL: Self = Self(0b1_1111);

    /// The codecs that a peer named by their numbers. Numbers that nobody here knows say nothing.
    pub fn of_numbers(numbers: &[u32]) -> Self {
        let known = numbers.iter().filter_map(|&number| WireCodec::from_byte(u8::try_from(number).ok()?));
        Self(known.fold(bit(Codec::Raw.into()), |set, codec| set | bit(codec)))
    }

    /// Can the peer decode it?
    pub fn contains(self, codec: impl Into<WireCodec>) -> bool {
        self.0 & bit(codec.into()) != 0
    }
}

fn bit(codec: WireCodec) -> u8 {
    1 << codec.to_byte()
}

/// A policy that chooses only what a peer can decode.
#[derive(Debug, Clone)]
pub struct Within<P> {
    policy: P,
    known: CodecSet,
}

impl<P: CodecPolicy> Within<P> {
    /// Bounds `policy` by what the peer knows.
    pub fn new(policy: P, known: CodecSet) -> Self {
        Self { policy, known }
    }

    /// What the peer knows.
    pub fn known(&self) -> CodecSet {
        self.known
    }
}

impl<P: CodecPolicy> CodecPolicy for Within<P> {
    fn choose(&self, mut chunk: ChunkFacts) -> WireCodec {
        if !self.known.contains(Codec::ZstdPatch) {
            chunk.base = Base::Absent;
        }
        let codec = self.policy.choose(chunk);
        if self.known.contains(codec) { codec } else { self.next_best(codec) }
    }

    fn handle_link(&mut self, link: LinkFacts) {
        self.policy.handle_link(link);
    }

    fn handle_encoded(&mut self, encoded: EncodeFacts) {
        self.policy.handle_encoded(encoded);
    }
}

impl<P> Within<P> {
    /// Where one compression was to be used, another is better than none.
    fn next_best(&self, codec: WireCodec) -> WireCodec {
        let others: &[Codec] = match codec {
            WireCodec::ZstdStream => &[Codec::Zstd, Codec::Lz4],
            WireCodec::Alone(Codec::Lz4) => &[Codec::Zstd],
            WireCodec::Alone(Codec::Zstd) => &[Codec::Lz4],
            WireCodec::Alone(Codec::Raw | Codec::ZstdPatch) => &[],
        };
        let known = others.iter().find(|&&other| self.known.contains(other));
        known.map_or(Codec::Raw.into(), |&other| other.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Compressible, Fixed};
    use super::*;

    #[track_caller]
    fn check(known: &[u32], wanted: impl Into<WireCodec>, expected: impl Into<WireCodec>) {
        let (wanted, expected) = (wanted.into(), expected.into());
        let policy = Within::new(Fixed(wanted), CodecSet::of_numbers(known));
        let chosen = policy.choose(ChunkFacts { base: Base::Held, compressible: Compressible::Likely });
        assert_eq!(chosen, expected, "{wanted:?} within {known:?}");
    }

    #[test]
    fn chooses_only_what_the_peer_named() {
        for codec in WireCodec::ALL {
            check(&[0, 1, 2, 3, 4], codec, codec);
            check(&[], codec, Codec::Raw);
            check(&[0, 5, 900], codec, Codec::Raw);
        }
        check(&[0, 1], Codec::Zstd, Codec::Lz4);
        check(&[0, 2], Codec::Lz4, Codec::Zstd);
        check(&[0, 1, 2], Codec::ZstdPatch, Codec::Raw);
        check(&[3], Codec::ZstdPatch, Codec::ZstdPatch);
        check(&[0, 1, 2, 3], WireCodec::ZstdStream, Codec::Zstd);
        check(&[0, 1], WireCodec::ZstdStream, Codec::Lz4);
        check(&[4], Codec::Zstd, Codec::Raw);
    }
}

//! Owns the bytes of one frame: a header that names a chunk, and the chunk as it is stored.
//!
//! It never decodes a payload. Layout: `docs/format.md`.

use bytes::Bytes;
use landfall_core::limits::CHUNK_BYTES_MAX;
use landfall_core::{ChunkId, Domain};

/// The codec byte of a chunk that is stored as it is. All other values belong to the caller.
pub const CODEC_RAW: u8 = 0;
/// Longest payload of a frame: an encoded form that is longer than any plaintext saves nothing.
pub const PAYLOAD_BYTES_MAX: u32 = CHUNK_BYTES_MAX;

/// The form in which a chunk is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// How `bytes` were made; opaque to the store, except that [`CODEC_RAW`] is the plaintext itself.
    pub codec: u8,
    /// The chunk that is needed to decode `bytes`: garbage collection keeps it as long as this one.
    pub base: Option<ChunkId>,
    /// What goes to disk.
    pub bytes: &'a [u8],
}

/// A chunk in the form in which it is stored. Its checksum was right; its hash was not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFrame {
    /// The domain in which the chunk has its id.
    pub domain: Domain,
    /// How `bytes` were made.
    pub codec: u8,
    /// The chunk that is needed to decode `bytes`.
    pub base: Option<ChunkId>,
    /// Length of the plaintext.
    pub plain_bytes: u32,
    /// The payload as it was stored.
    pub bytes: Bytes,
}

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) id: ChunkId,
    pub(crate) domain: Domain,
    pub(crate) codec: u8,
    pub(crate) base: Option<ChunkId>,
    pub(crate) plain_bytes: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
}

/// Where a frame stands. Its header's checksum covers this, so that bytes of a pack that were shipped as content, or
/// written to a wrong place, are never taken for a frame of this pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FramePlace {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
}

impl FrameHeader {
    pub(crate) fn header_bytes(&self) -> u32 {
        if self.base.is_some() { HEADER_BYTES_MAX } else { HEADER_BYTES_MIN }
    }

    /// Length of the whole frame.
    pub(crate) fn frame_bytes(&self) -> u32 {
        self.header_bytes() + self.payload_bytes
    }

    pub(crate) fn write(&self, place: FramePlace, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(FRAME_MAGIC);
        out.extend([self.domain as u8, self.codec, u8::from(self.base.is_some()), 0]);
        out.extend(self.plain_bytes.to_le_bytes());
        out.extend(self.payload_bytes.to_le_bytes());
        out.extend(self.payload_crc.to_le_bytes());
        out.extend(self.id.as_bytes());
        if let Some(base) = self.base {
            out.extend(base.as_bytes());
        }
        out.extend(header_crc(&out[start..], place).to_le_bytes());
    }

    /// Reads a header from the start of `bytes`; `None` if there is no whole and right one for this place.
    pub(crate) fn read(bytes: &[u8], place: FramePlace) -> Option<Self> {
        let fixed: &[u8; BASE_AT] = bytes.first_chunk()?;
        if fixed[..4] != FRAME_MAGIC || fixed[6] > 1 || fixed[7] != 0 {
            return None;
        }
        let base = match fixed[6] {
            0 => None,
            _ => Some(id_at(bytes, BASE_AT)?),
        };
        let crc_at = if base.is_some() { BASE_AT + ChunkId::BYTES } else { BASE_AT };
        if u32_at(bytes, crc_at)? != header_crc(&bytes[..crc_at], place) {
            return None;
        }
        let header = Self {
            id: id_at(bytes, ID_AT)?,
            domain: Domain::from_byte(fixed[4])?,
            codec: fixed[5],
            base,
            plain_bytes: u32_at(bytes, 8)?,
            payload_bytes: u32_at(bytes, 12)?,
            payload_crc: u32_at(bytes, 16)?,
        };
        (header.plain_bytes <= CHUNK_BYTES_MAX && header.payload_bytes <= PAYLOAD_BYTES_MAX).then_some(header)
    }
}

/// Reads a whole frame; `None` if any of its bytes is not what was written.
pub(crate) fn read_frame(bytes: Bytes, place: FramePlace) -> Option<(FrameHeader, StoredFrame)> {
    let header = FrameHeader::read(&bytes, place)?;
    let start = header.header_bytes() as usize;
    if bytes.len() != header.frame_bytes() as usize || crc32c::crc32c(&bytes[start..]) != header.payload_crc {
        return None;
    }
    let frame = StoredFrame {
        domain: header.domain,
        codec: header.codec,
        base: header.base,
        plain_bytes: header.plain_bytes,
        bytes: bytes.slice(start..),
    };
    Some((header, frame))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn id_at(bytes: &[u8], at: usize) -> Option<ChunkId> {
    Some(ChunkId::from_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn header_crc(header: &[u8], place: FramePlace) -> u32 {
    let crc = crc32c::crc32c(header);
    let crc = crc32c::crc32c_append(crc, &place.pack.to_le_bytes());
    crc32c::crc32c_append(crc, &place.offset.to_le_bytes())
}

pub(crate) const FRAME_MAGIC: [u8; 4] = *b"LFf1";
const ID_AT: usize = 20;
const BASE_AT: usize = ID_AT + ChunkId::BYTES;
/// Header of a frame without a base.
pub(crate) const HEADER_BYTES_MIN: u32 = BASE_AT as u32 + 4;
/// Header of a frame with a base.
pub(crate) const HEADER_BYTES_MAX: u32 = HEADER_BYTES_MIN + ChunkId::BYTES as u32;
/// Longest frame.
pub(crate) const FRAME_BYTES_MAX: u32 = HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: FramePlace = FramePlace { pack: 3, offset: 20 };

    fn frame(base: Option<ChunkId>) -> Vec<u8> {
        let payload = b"payload";
        let header = FrameHeader {
            id: ChunkId::of(Domain::Node, payload),
            domain: Domain::Node,
            codec: 2,
            base,
            plain_bytes: 99,
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        };
        let mut bytes = Vec::new();
        header.write(PLACE, &mut bytes);
        assert_eq!(FrameHeader::read(&bytes, PLACE), Some(header));
        bytes.extend(payload);
        bytes
    }

    fn reads(bytes: &[u8], place: FramePlace) -> bool {
        read_frame(Bytes::copy_from_slice(bytes), place).is_some()
    }

    #[test]
    fn reads_what_it_wrote_at_its_place_only() {
        for base in [None, Some(ChunkId::from_bytes([7; 32]))] {
            let bytes = frame(base);
            assert!(reads(&bytes, PLACE));
            assert!(!reads(&bytes, FramePlace { pack: 4, ..PLACE }));
            assert!(!reads(&bytes, FramePlace { offset: 21, ..PLACE }));
        }
    }

    #[test]
    fn refuses_every_flipped_bit_and_every_other_length() {
        for mut bytes in [frame(None), frame(Some(ChunkId::from_bytes([7; 32])))] {
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!reads(&bytes, PLACE), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            (0..bytes.len()).for_each(|end| assert!(!reads(&bytes[..end], PLACE), "cut at {end}"));
            bytes.push(0);
            assert!(!reads(&bytes, PLACE));
        }
    }

    #[test]
    fn refuses_a_length_beyond_the_limit() {
        let mut bytes = Vec::new();
        let header = FrameHeader {
            id: ChunkId::from_bytes([1; 32]),
            domain: Domain::Data,
            codec: 0,
            base: None,
            plain_bytes: 0,
            payload_bytes: PAYLOAD_BYTES_MAX + 1,
            payload_crc: 0,
        };
        header.write(PLACE, &mut bytes);
        assert_eq!(FrameHeader::read(&bytes, PLACE), None);
    }
}

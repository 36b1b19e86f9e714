//! Owns the bytes of one frame: a header that binds a record to its place and to the frame before it, and the payload.
//!
//! It never knows what a payload says. Layout: `docs/format.md`.

use bytes::Bytes;
use landfall_core::snapshot::Position;

use crate::frame::{u32_at, u64_at};

use super::segment::Place;

/// Longest payload of a record.
pub const LOG_PAYLOAD_BYTES_MAX: u32 = 2 * 1024 * 1024;

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place in the order. Indices grow from record to record, gaps are legal; epochs never shrink.
    pub position: Position,
    /// What the payload is; opaque to the log.
    pub kind: u8,
    /// The content, at most [`LOG_PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// The checksum of a frame's or a segment's header. The next frame carries it, so what a cut or a failed write left
/// behind never continues another history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(pub(super) u32);

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameRole {
    /// It carries a record.
    Record = 0,
    /// It only says how much of the segment was durable: written when a log is opened or closed.
    Receipt = 1,
}

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) role: FrameRole,
    pub(super) kind: u8,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    /// Of the frame before, or of the segment's header.
    pub(super) link: Link,
    /// The segment was durable up to here before this frame was written: what is wrong before it is damage, not a
    /// write that a crash tore.
    pub(super) durable_end: u32,
    pub(super) position: Position,
}

impl FrameHeader {
    pub(super) fn of(record: &LogRecord, link: Link, durable_end: u32) -> Self {
        Self {
            role: FrameRole::Record,
            kind: record.kind,
            payload_bytes: record.payload.len() as u32,
            payload_crc: crc32c::crc32c(&record.payload),
            link,
            durable_end,
            position: record.position,
        }
    }

    pub(super) fn receipt(position: Position, link: Link, durable_end: u32) -> Self {
        Self { role: FrameRole::Receipt, kind: 0, payload_bytes: 0, payload_crc: 0, link, durable_end, position }
    }

    /// Length of the whole frame.
    pub(super) fn frame_bytes(&self) -> u32 {
        FRAME_HEADER_BYTES + self.payload_bytes
    }

    pub(super) fn write(&self, place: Place, out: &mut Vec<u8>) -> Link {
        let start = out.len();
        out.extend(FRAME_MAGIC);
        out.extend([self.role as u8, self.kind, 0, 0]);
        for field in [self.payload_bytes, self.payload_crc, self.link.0, self.durable_end] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.position.epoch.to_le_bytes());
        out.extend(self.position.index.to_le_bytes());
        let link = header_link(&out[start..], place);
        out.extend(link.0.to_le_bytes());
        link
    }

    /// Reads a header from the start of `bytes`; `None` if there is no whole and right one for this place.
    pub(super) fn read(bytes: &[u8], place: Place) -> Option<(Self, Link)> {
        let fixed: &[u8; FRAME_HEADER_BYTES as usize] = bytes.first_chunk()?;
        let link = Link(u32_at(fixed, CRC_AT)?);
        if fixed[..4] != FRAME_MAGIC || fixed[6..8] != [0, 0] || link != header_link(&fixed[..CRC_AT], place) {
            return None;
        }
        let header = Self {
            role: match fixed[4] {
                0 => FrameRole::Record,
                1 => FrameRole::Receipt,
                _ => return None,
            },
            kind: fixed[5],
            payload_bytes: u32_at(fixed, 8)?,
            payload_crc: u32_at(fixed, 12)?,
            link: Link(u32_at(fixed, 16)?),
            durable_end: u32_at(fixed, 20)?,
            position: Position { epoch: u64_at(fixed, 24)?, index: u64_at(fixed, 32)? },
        };
        (header.payload_bytes <= LOG_PAYLOAD_BYTES_MAX).then_some((header, link))
    }
}

fn header_link(header: &[u8], place: Place) -> Link {
    let crc = crc32c::crc32c(header);
    let crc = crc32c::crc32c_append(crc, &place.segment.0.to_le_bytes());
    Link(crc32c::crc32c_append(crc, &place.offset.to_le_bytes()))
}

pub(super) const FRAME_MAGIC: [u8; 4] = *b"LFl1";
const CRC_AT: usize = 40;
/// Length of a frame without its payload.
pub(super) const FRAME_HEADER_BYTES: u32 = CRC_AT as u32 + 4;
/// Longest frame.
pub(super) const FRAME_BYTES_MAX: u32 = FRAME_HEADER_BYTES + LOG_PAYLOAD_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::super::segment::SegmentNumber;
    use super::*;

    const PLACE: Place = Place { segment: SegmentNumber(3), offset: 40 };

    fn header(payload_bytes: u32) -> (FrameHeader, Vec<u8>) {
        let header = FrameHeader {
            role: FrameRole::Record,
            kind: 7,
            payload_bytes,
            payload_crc: 9,
            link: Link(11),
            durable_end: 40,
            position: Position { epoch: 2, index: 5 },
        };
        let mut bytes = Vec::new();
        header.write(PLACE, &mut bytes);
        (header, bytes)
    }

    #[test]
    fn reads_what_it_wrote_at_its_place_only() {
        let (header, bytes) = header(100);
        assert_eq!(FrameHeader::read(&bytes, PLACE).map(|(header, _)| header), Some(header));
        assert_eq!(FrameHeader::read(&bytes, Place { offset: 41, ..PLACE }), None);
        assert_eq!(FrameHeader::read(&bytes, Place { segment: SegmentNumber(4), ..PLACE }), None);
    }

    #[test]
    fn refuses_every_flipped_bit_and_every_cut() {
        let (_, mut bytes) = header(100);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::read(&bytes, PLACE), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        (0..bytes.len()).for_each(|end| assert_eq!(FrameHeader::read(&bytes[..end], PLACE), None));
    }

    #[test]
    fn refuses_a_length_beyond_the_limit() {
        assert_eq!(FrameHeader::read(&header(LOG_PAYLOAD_BYTES_MAX + 1).1, PLACE), None);
    }
}

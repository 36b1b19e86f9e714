//! Owns what a segment is: its number, its file's name, and the header that binds it to the segment before.
//!
//! It never reads or writes a file. Layout: `docs/format.md`.

use landfall_core::snapshot::Position;

use crate::frame::{u32_at, u64_at};

use super::record::Link;

/// Segments are numbered from 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentNumber(pub(super) u32);

impl SegmentNumber {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) fn file_name(self) -> String {
        format!("{:08x}.{EXTENSION}", self.0)
    }

    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
        let number = Self(u32::from_str_radix(digits, 16).ok()?);
        (number.file_name() == name).then_some(number)
    }
}

/// A place in the log's files. A place in a later segment is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: SegmentNumber,
    pub(super) offset: u32,
}

/// A segment as the log remembers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    /// Every record in the segment is above this one, every record in earlier segments is not.
    pub(super) previous: Option<Position>,
    /// Of its header.
    pub(super) link: Link,
    /// Where its frames end.
    pub(super) end: u32,
}

impl Segment {
    /// A segment without frames.
    pub(super) fn from_header(header: &SegmentHeader) -> Self {
        let link = header.link();
        Self { number: header.number, previous: header.previous, link, end: SEGMENT_HEADER_BYTES }
    }

    /// Whether records at or above `index` may stand here, for all that this segment knows.
    pub(super) fn may_hold(&self, index: u64) -> bool {
        self.previous.is_none_or(|previous| previous.index < index)
    }

    /// Whether no record of an earlier segment is above `index`.
    pub(super) fn begins_within(&self, index: u64) -> bool {
        self.previous.is_none_or(|previous| previous.index <= index)
    }
}

/// What a segment's file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: SegmentNumber,
    /// Length of the file before; 0 if there was none.
    pub(super) previous_end: u32,
    /// The last position before this segment.
    pub(super) previous: Option<Position>,
}

impl SegmentHeader {
    /// The link that the first frame carries.
    pub(super) fn link(&self) -> Link {
        Link(u32_at(&self.to_bytes(), CRC_AT).unwrap_or_default())
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let position = self.previous.unwrap_or_default();
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        out.extend(SEGMENT_MAGIC);
        out.extend(self.number.0.to_le_bytes());
        out.extend(self.previous_end.to_le_bytes());
        out.extend([u8::from(self.previous.is_some()), 0, 0, 0]);
        out.extend(position.epoch.to_le_bytes());
        out.extend(position.index.to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads the header of segment `number`; `None` if it is not what was written.
    pub(super) fn read(bytes: &[u8; SEGMENT_HEADER_BYTES as usize], number: SegmentNumber) -> Option<Self> {
        let position = Position { epoch: u64_at(bytes, 20)?, index: u64_at(bytes, 28)? };
        let header = Self { number, previous_end: u32_at(bytes, 12)?, previous: (bytes[16] == 1).then_some(position) };
        (header.to_bytes() == bytes).then_some(header)
    }
}

const EXTENSION: &str = "log";
const SEGMENT_MAGIC: [u8; 8] = *b"LFSEGM01";
const CRC_AT: usize = 36;
/// Length of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: u32 = CRC_AT as u32 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_written_and_no_flipped_bit_passes() {
        for previous in [None, Some(Position { epoch: 3, index: 9 })] {
            let header = SegmentHeader { number: SegmentNumber(2), previous_end: 77, previous };
            let mut bytes: [u8; SEGMENT_HEADER_BYTES as usize] = header.to_bytes().try_into().unwrap();
            assert_eq!(SegmentHeader::read(&bytes, SegmentNumber(2)), Some(header));
            assert_eq!(SegmentHeader::read(&bytes, SegmentNumber(3)), None);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(SegmentHeader::read(&bytes, SegmentNumber(2)), None, "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn only_names_that_it_would_give_are_segments() {
        assert_eq!(SegmentNumber::from_file_name("0000001a.log"), Some(SegmentNumber(26)));
        for name in ["12.log", "0000001A.log", "00000012.log.new", "+0000012.log", "00000012.pack", "purged"] {
            assert_eq!(SegmentNumber::from_file_name(name), None, "{name}");
        }
    }
}

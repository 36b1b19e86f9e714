//! Owns the footer of a finished pack: what its frames are and where they stand.

use std::io;

use landfall_core::{ChunkId, Domain};

use crate::frame::{FRAME_BYTES_MAX, FrameHeader, HEADER_BYTES_MIN, id_at, u32_at};
use crate::vfs::VfsFile;

use super::{FRAMES_PER_PACK_MAX, PACK_FILE_BYTES_MAX, PACK_HEADER_BYTES, PackClass, PackNumber};

/// The table of contents of a pack, in the order of the file. The place of an entry is the frame's ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) number: PackNumber,
    pub(crate) class: PackClass,
    /// Where the frames end and the footer begins.
    pub(crate) frames_end: u32,
    pub(crate) entries: Vec<FooterEntry>,
    /// Ordinal and base of every patch.
    pub(crate) bases: Vec<(u32, ChunkId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FooterEntry {
    pub(crate) id: ChunkId,
    pub(crate) offset: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) domain: Domain,
    pub(crate) codec: u8,
    pub(crate) has_base: bool,
}

impl FooterEntry {
    pub(crate) fn new(offset: u32, header: &FrameHeader) -> Self {
        Self {
            id: header.id,
            offset,
            frame_bytes: header.frame_bytes(),
            domain: header.domain,
            codec: header.codec,
            has_base: header.base.is_some(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.id.as_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.frame_bytes.to_le_bytes());
        out.extend([self.domain as u8, self.codec, u8::from(self.has_base), 0]);
    }

    fn read(bytes: &[u8], frames_end: u32) -> Option<Self> {
        let entry = Self {
            id: id_at(bytes, 0)?,
            offset: u32_at(bytes, 32)?,
            frame_bytes: u32_at(bytes, 36)?,
            domain: Domain::from_byte(*bytes.get(40)?)?,
            codec: *bytes.get(41)?,
            has_base: *bytes.get(42)? == 1,
        };
        let is_inside = entry.offset >= PACK_HEADER_BYTES
            && (HEADER_BYTES_MIN..=FRAME_BYTES_MAX).contains(&entry.frame_bytes)
            && entry.offset.checked_add(entry.frame_bytes)? <= frames_end;
        is_inside.then_some(entry)
    }
}

impl Footer {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let bytes = footer_bytes(self.entries.len() as u32, self.bases.len() as u32);
        let mut out = Vec::with_capacity(bytes as usize);
        for entry in &self.entries {
            entry.write(&mut out);
        }
        for (ordinal, base) in &self.bases {
            out.extend(ordinal.to_le_bytes());
            out.extend(base.as_bytes());
        }
        out.extend(FOOTER_MAGIC);
        out.extend(self.number.0.to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        out.extend((self.bases.len() as u32).to_le_bytes());
        out.extend(self.frames_end.to_le_bytes());
        out.extend([self.class as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend(blake3::hash(&out).as_bytes());
        out
    }

    /// Reads the footer of pack `number`; `None` if the file has no whole and right one.
    pub(crate) fn load(file: &dyn VfsFile, number: PackNumber) -> io::Result<Option<Self>> {
        let file_bytes = file.bytes()?;
        if file_bytes > PACK_FILE_BYTES_MAX || file_bytes < u64::from(PACK_HEADER_BYTES + TAIL_BYTES) {
            return Ok(None);
        }
        let mut tail = [0; TAIL_BYTES as usize];
        file.read_at(file_bytes - u64::from(TAIL_BYTES), &mut tail)?;
        let Some(counts) = TailCounts::read(&tail, number, file_bytes) else { return Ok(None) };
        let mut body = vec![0; (file_bytes - u64::from(counts.frames_end)) as usize];
        file.read_at(u64::from(counts.frames_end), &mut body)?;
        Ok(counts.read_body(number, &body))
    }

    /// Length of the pack with this footer.
    pub(crate) fn file_bytes(&self) -> u32 {
        self.frames_end + footer_bytes(self.entries.len() as u32, self.bases.len() as u32) as u32
    }
}

/// The tail of a footer, checked against the length of the file before anything is allocated.
struct TailCounts {
    class: PackClass,
    entries: u32,
    bases: u32,
    frames_end: u32,
}

impl TailCounts {
    fn read(tail: &[u8; TAIL_BYTES as usize], number: PackNumber, file_bytes: u64) -> Option<Self> {
        if tail[..8] != FOOTER_MAGIC || u32_at(tail, 8)? != number.0 {
            return None;
        }
        let counts = Self {
            class: PackClass::from_byte(tail[24])?,
            entries: u32_at(tail, 12)?,
            bases: u32_at(tail, 16)?,
            frames_end: u32_at(tail, 20)?,
        };
        let is_possible = counts.entries <= FRAMES_PER_PACK_MAX
            && counts.bases <= counts.entries
            && u64::from(counts.frames_end) + footer_bytes(counts.entries, counts.bases) == file_bytes;
        is_possible.then_some(counts)
    }

    fn read_body(&self, number: PackNumber, body: &[u8]) -> Option<Footer> {
        let (hashed, hash) = body.split_last_chunk::<32>()?;
        if blake3::hash(hashed) != *hash {
            return None;
        }
        let (entries, rest) = body.split_at(self.entries as usize * ENTRY_BYTES);
        let bases = &rest[..self.bases as usize * BASE_BYTES];
        Some(Footer {
            number,
            class: self.class,
            frames_end: self.frames_end,
            entries: entries
                .chunks_exact(ENTRY_BYTES)
                .map(|bytes| FooterEntry::read(bytes, self.frames_end))
                .collect::<Option<_>>()?,
            bases: bases
                .chunks_exact(BASE_BYTES)
                .map(|bytes| Some((u32_at(bytes, 0)?, id_at(bytes, 4)?)))
                .collect::<Option<_>>()?,
        })
    }
}

pub(super) const fn footer_bytes(entries: u32, bases: u32) -> u64 {
    entries as u64 * ENTRY_BYTES as u64 + bases as u64 * BASE_BYTES as u64 + TAIL_BYTES as u64
}

const FOOTER_MAGIC: [u8; 8] = *b"LFPKEND1";
const ENTRY_BYTES: usize = 44;
const BASE_BYTES: usize = 36;
const TAIL_BYTES: u32 = 64;

//! Owns reading a pack without its footer: the frames that are whole, and where bytes are not what was written.

use landfall_core::ChunkId;

use crate::frame::{FRAME_MAGIC, FrameHeader, FramePlace};

use super::{PACK_HEADER_BYTES, PackNumber};

/// What a pack still holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Offset and header of every frame whose checksums are right, in the order of the file.
    pub(crate) frames: Vec<(u32, FrameHeader)>,
    /// Offset of everything that is broken *before* the last whole frame, and the chunk, if its header is right.
    pub(crate) damaged: Vec<(u32, Option<ChunkId>)>,
}

/// Walks `content` from frame to frame; behind broken bytes it looks for the next frame.
///
/// What stands behind the last whole frame is no damage: a pack that was being written ends anywhere.
pub(crate) fn scan(content: &[u8], number: PackNumber) -> Scan {
    let mut scan = Scan::default();
    let mut broken = Vec::new();
    let mut at = PACK_HEADER_BYTES as usize;
    while at < content.len() {
        match read_at(content, at, number) {
            Found::Whole(header) => {
                scan.damaged.append(&mut broken);
                scan.frames.push((at as u32, header));
                at += header.frame_bytes() as usize;
            }
            Found::Broken(header) => {
                broken.push((at as u32, Some(header.id)));
                at += header.frame_bytes() as usize;
            }
            Found::Nothing => {
                broken.push((at as u32, None));
                at = next_header(content, at + 1, number);
            }
        }
    }
    scan
}

enum Found {
    Whole(FrameHeader),
    /// The header is right, the payload is not.
    Broken(FrameHeader),
    Nothing,
}

fn read_at(content: &[u8], at: usize, number: PackNumber) -> Found {
    let Some(header) = header_at(content, at, number) else { return Found::Nothing };
    let start = at + header.header_bytes() as usize;
    match content.get(start..start + header.payload_bytes as usize) {
        Some(payload) if crc32c::crc32c(payload) == header.payload_crc => Found::Whole(header),
        _ => Found::Broken(header),
    }
}

fn header_at(content: &[u8], at: usize, number: PackNumber) -> Option<FrameHeader> {
    FrameHeader::read(&content[at..], FramePlace { pack: number.0, offset: at as u32 })
}

fn next_header(content: &[u8], from: usize, number: PackNumber) -> usize {
    (from..content.len())
        .find(|at| content[*at..].starts_with(&FRAME_MAGIC) && header_at(content, *at, number).is_some())
        .unwrap_or(content.len())
}

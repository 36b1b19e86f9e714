//! Owns the bytes of a pack: its header, its footer, and what can still be read when the footer is gone.
//!
//! It knows no other pack. Layout: `docs/format.md`.

mod footer;
mod scan;
mod tail;
mod writer;

use std::fmt;
use std::io;

use landfall_core::Domain;

use crate::frame::FRAME_BYTES_MAX;
use crate::vfs::VfsFile;

pub(crate) use footer::{Footer, FooterEntry};
pub(crate) use scan::{Scan, scan};
pub(crate) use tail::Tail;
pub(crate) use writer::{NewFrame, PackWriter, Sealed};

/// The number of a pack. Numbers only grow: the higher one of two packs that hold a chunk is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackNumber(pub(crate) u32);

impl PackNumber {
    pub(crate) fn file_name(self) -> String {
        format!("{self}.pack")
    }

    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".pack").filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl fmt::Display for PackNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What kind of chunks a pack holds. Tree nodes stand apart, so that walking a tree reads few packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PackClass {
    Data = 0,
    Nodes = 1,
}

impl PackClass {
    pub(crate) const ALL: [Self; 2] = [Self::Data, Self::Nodes];

    pub(crate) fn of(domain: Domain) -> Self {
        match domain {
            Domain::Data => Self::Data,
            Domain::Node | Domain::Manifest => Self::Nodes,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Nodes),
            _ => None,
        }
    }
}

/// Says what the file is. Nothing depends on it: frames and footer carry the number in their checksums.
pub(crate) fn pack_header(number: PackNumber, class: PackClass) -> Vec<u8> {
    let mut header = Vec::with_capacity(PACK_HEADER_BYTES as usize);
    header.extend(PACK_MAGIC);
    header.extend(number.0.to_le_bytes());
    header.extend([class as u8, 0, 0, 0]);
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

/// Reads a whole pack file.
pub(crate) fn read_whole(file: &dyn VfsFile) -> io::Result<Vec<u8>> {
    let bytes = file.bytes()?;
    if bytes > PACK_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a pack of {bytes} bytes is not ours")));
    }
    let mut content = vec![0; bytes as usize];
    file.read_at(0, &mut content)?;
    Ok(content)
}

const PACK_MAGIC: [u8; 8] = *b"LFPACK01";
pub(crate) const PACK_HEADER_BYTES: u32 = 20;
/// A pack is closed at this many frames, whatever their length, so that its footer stays small.
pub(crate) const FRAMES_PER_PACK_MAX: u32 = 64 * 1024;
/// Largest target that [`crate::StoreOptions::pack_bytes_target`] may set.
pub const PACK_BYTES_TARGET_MAX: u32 = 256 * 1024 * 1024;
/// Longest file that is taken for a pack.
pub(crate) const PACK_FILE_BYTES_MAX: u64 = PACK_BYTES_TARGET_MAX as u64
    + FRAME_BYTES_MAX as u64
    + footer::footer_bytes(FRAMES_PER_PACK_MAX, FRAMES_PER_PACK_MAX);
const _: () = assert!(PACK_FILE_BYTES_MAX < u32::MAX as u64);

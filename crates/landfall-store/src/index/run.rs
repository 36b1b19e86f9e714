//! Owns a run: a file of the index, sorted by id, that never changes, and the small part of it that stays in memory.
//!
//! A lookup costs the filter and, if that does not exclude the id, the read of one page: the first eight bytes of every
//! page's first id are kept in memory. Layout: `docs/format.md`.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use landfall_core::ChunkId;

use crate::frame::{id_at, u32_at, u64_at};
use crate::pack::{FRAMES_PER_PACK_MAX, PackClass, PackNumber};
use crate::vfs::{OpenMode, Vfs, VfsFile};

use super::Location;
use super::filter::{BLOCK_BYTES, Filter};

/// The number of a run. Numbers only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunNumber(pub(crate) u32);

impl RunNumber {
    pub(crate) fn file_name(self) -> String {
        format!("{:08x}.run", self.0)
    }

    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".run").filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// What a run says about a pack that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunPack {
    pub(crate) number: PackNumber,
    pub(crate) class: PackClass,
    pub(crate) frames: u32,
    pub(crate) bases: u32,
    pub(crate) file_bytes: u32,
}

/// An open run.
pub(crate) struct Run {
    pub(crate) number: RunNumber,
    pub(crate) entries: u64,
    pub(crate) packs: Vec<RunPack>,
    file: Arc<dyn VfsFile>,
    page_count: u32,
    /// The first eight bytes of the first id of every page.
    fences: Vec<u64>,
    filter: Filter,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({}, {} entries, {} packs)", self.number.0, self.entries, self.packs.len())
    }
}

/// Why a run gave no answer.
#[derive(Debug)]
pub(crate) enum RunError {
    /// Its bytes are not what was written: build it again from the packs.
    Damaged,
    Io(io::Error),
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => Self::Damaged,
            _ => Self::Io(error),
        }
    }
}

impl Run {
    /// Opens a run and checks everything but its pages, which are checked when they are read.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, number: RunNumber) -> Result<Self, RunError> {
        let file = vfs.open(path, OpenMode::Read)?;
        let file_bytes = file.bytes()?;
        let tail_at = file_bytes.checked_sub(TAIL_BYTES as u64).ok_or(RunError::Damaged)?;
        let mut tail = [0; TAIL_BYTES];
        file.read_at(tail_at, &mut tail)?;
        let tail = Tail::read(&tail, file_bytes).ok_or(RunError::Damaged)?;
        let mut kept = vec![0; (tail_at - tail.pages_bytes()) as usize];
        file.read_at(tail.pages_bytes(), &mut kept)?;
        tail.open(number, file, &kept).ok_or(RunError::Damaged)
    }

    pub(crate) fn may_hold(&self, id: ChunkId) -> bool {
        self.filter.may_hold(id)
    }

    /// Looks for `id` on the pages that could hold it: one, unless ids share their first eight bytes.
    pub(crate) fn find(&self, id: ChunkId) -> Result<Option<Location>, RunError> {
        let prefix = prefix_of(id);
        let first = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1);
        // One page for all: this is asked for every chunk, and moving four kilobytes about costs as much as reading them.
        let mut bytes = [0; PAGE_BYTES];
        for page in first..self.fences.len() {
            if self.fences[page] > prefix {
                break;
            }
            self.read_page(page as u32, &mut bytes)?;
            if let Some(found) = find_in_page(&bytes, id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(crate) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// The entries of one page, sorted by id.
    pub(crate) fn page(&self, page: u32) -> Result<Vec<(ChunkId, Location)>, RunError> {
        let mut bytes = [0; PAGE_BYTES];
        self.read_page(page, &mut bytes)?;
        entries_of(&bytes).iter().map(|entry| read_entry(entry)).collect::<Option<_>>().ok_or(RunError::Damaged)
    }

    /// Reads a page and checks it.
    fn read_page(&self, page: u32, bytes: &mut [u8; PAGE_BYTES]) -> Result<(), RunError> {
        self.file.read_at(u64::from(page) * PAGE_BYTES as u64, bytes)?;
        if is_page(bytes, page) { Ok(()) } else { Err(RunError::Damaged) }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let kept = size_of_val(self.fences.as_slice()) + size_of_val(self.packs.as_slice());
        self.filter.memory_bytes() + kept as u64
    }
}

/// Writes a run from entries that come sorted by id.
pub(crate) struct RunWriter {
    file: Arc<dyn VfsFile>,
    buffer: Vec<u8>,
    written_bytes: u64,
    page: Vec<u8>,
    fences: Vec<u64>,
    filter: Filter,
    entries: u64,
}

impl RunWriter {
    /// Starts a run of at most `entries_max` entries in an empty file.
    pub(crate) fn new(file: Arc<dyn VfsFile>, entries_max: u64) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES + PAGE_BYTES),
            written_bytes: 0,
            page: Vec::with_capacity(PAGE_BYTES),
            fences: Vec::new(),
            filter: Filter::for_entries(entries_max),
            entries: 0,
        }
    }

    pub(crate) fn push(&mut self, id: ChunkId, location: Location) -> io::Result<()> {
        if self.page.is_empty() {
            self.fences.push(prefix_of(id));
        }
        self.filter.insert(id);
        self.entries += 1;
        self.page.extend(id.as_bytes());
        self.page.extend(location.pack.0.to_le_bytes());
        self.page.extend(location.offset.to_le_bytes());
        self.page.extend(location.frame_bytes.to_le_bytes());
        let patch_bit = if location.has_base { HAS_BASE_BIT } else { 0 };
        self.page.extend((location.ordinal | patch_bit).to_le_bytes());
        if self.page.len() == ENTRIES_PER_PAGE * ENTRY_BYTES { self.end_page() } else { Ok(()) }
    }

    /// Writes what stays in memory when the run is open, and syncs the file.
    pub(crate) fn finish(mut self, packs: &[RunPack]) -> io::Result<()> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        let start = self.buffer.len();
        self.buffer.extend(self.fences.iter().flat_map(|fence| fence.to_le_bytes()));
        self.filter.write(&mut self.buffer);
        packs.iter().for_each(|pack| write_pack(pack, &mut self.buffer));
        let kept_crc = crc32c::crc32c(&self.buffer[start..]);
        let tail = Tail {
            page_count: self.fences.len() as u32,
            filter_blocks: self.filter.block_count(),
            pack_count: packs.len() as u32,
            entries: self.entries,
            kept_crc,
        };
        tail.write(&mut self.buffer);
        self.flush()?;
        self.file.sync_data()
    }

    fn end_page(&mut self) -> io::Result<()> {
        let entries = (self.page.len() / ENTRY_BYTES) as u32;
        let number = self.fences.len() as u32 - 1;
        self.page.resize(PAGE_BYTES - 16, 0);
        self.page.extend(entries.to_le_bytes());
        self.page.extend(number.to_le_bytes());
        self.page.extend([0; 4]);
        self.page.extend(crc32c::crc32c(&self.page).to_le_bytes());
        self.buffer.append(&mut self.page);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.written_bytes, &self.buffer)?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The end of the file: how much of everything stands before it.
struct Tail {
    page_count: u32,
    filter_blocks: u32,
    pack_count: u32,
    entries: u64,
    kept_crc: u32,
}

impl Tail {
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(RUN_MAGIC);
        out.extend(self.page_count.to_le_bytes());
        out.extend(self.filter_blocks.to_le_bytes());
        out.extend(self.pack_count.to_le_bytes());
        out.extend(self.kept_crc.to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend([0; 4]);
        out.extend(crc32c::crc32c(&out[start..]).to_le_bytes());
    }

    fn read(tail: &[u8; TAIL_BYTES], file_bytes: u64) -> Option<Self> {
        let is_whole = tail[..8] == RUN_MAGIC && u32_at(tail, 36)? == crc32c::crc32c(&tail[..36]);
        let tail = Self {
            page_count: u32_at(tail, 8)?,
            filter_blocks: u32_at(tail, 12)?,
            pack_count: u32_at(tail, 16)?,
            kept_crc: u32_at(tail, 20)?,
            entries: u64_at(tail, 24)?,
        };
        let is_possible = tail.pages_bytes() + tail.kept_bytes() + TAIL_BYTES as u64 == file_bytes;
        (is_whole && is_possible).then_some(tail)
    }

    fn pages_bytes(&self) -> u64 {
        u64::from(self.page_count) * PAGE_BYTES as u64
    }

    fn fences_bytes(&self) -> u64 {
        u64::from(self.page_count) * 8
    }

    fn filter_bytes(&self) -> u64 {
        u64::from(self.filter_blocks) * BLOCK_BYTES as u64
    }

    fn kept_bytes(&self) -> u64 {
        self.fences_bytes() + self.filter_bytes() + u64::from(self.pack_count) * PACK_BYTES as u64
    }

    fn open(&self, number: RunNumber, file: Arc<dyn VfsFile>, kept: &[u8]) -> Option<Run> {
        if crc32c::crc32c(kept) != self.kept_crc {
            return None;
        }
        let (fences, rest) = kept.split_at_checked(self.fences_bytes() as usize)?;
        let (filter, packs) = rest.split_at_checked(self.filter_bytes() as usize)?;
        Some(Run {
            number,
            entries: self.entries,
            packs: packs.chunks_exact(PACK_BYTES).map(read_pack).collect::<Option<_>>()?,
            file,
            page_count: self.page_count,
            fences: fences.chunks_exact(8).map(|bytes| u64_at(bytes, 0)).collect::<Option<_>>()?,
            filter: Filter::read(filter)?,
        })
    }
}

fn is_page(bytes: &[u8; PAGE_BYTES], number: u32) -> bool {
    u32_at(bytes, PAGE_BYTES - 4) == Some(crc32c::crc32c(&bytes[..PAGE_BYTES - 4]))
        && u32_at(bytes, PAGE_BYTES - 12) == Some(number)
        && entry_count(bytes) <= ENTRIES_PER_PAGE
}

fn entry_count(bytes: &[u8; PAGE_BYTES]) -> usize {
    u32_at(bytes, PAGE_BYTES - 16).map_or(0, |count| count as usize)
}

/// The entries of a page that was checked.
fn entries_of(bytes: &[u8; PAGE_BYTES]) -> &[[u8; ENTRY_BYTES]] {
    let (entries, _) = bytes.as_chunks();
    &entries[..entry_count(bytes)]
}

fn find_in_page(bytes: &[u8; PAGE_BYTES], id: ChunkId) -> Option<Location> {
    let entries = entries_of(bytes);
    let found = entries.binary_search_by(|entry| entry[..ChunkId::BYTES].cmp(id.as_bytes())).ok()?;
    read_entry(&entries[found]).map(|(_, location)| location)
}

fn read_entry(bytes: &[u8]) -> Option<(ChunkId, Location)> {
    let ordinal = u32_at(bytes, 44)?;
    let location = Location {
        pack: PackNumber(u32_at(bytes, 32)?),
        offset: u32_at(bytes, 36)?,
        frame_bytes: u32_at(bytes, 40)?,
        ordinal: ordinal & !HAS_BASE_BIT,
        has_base: ordinal & HAS_BASE_BIT != 0,
    };
    Some((id_at(bytes, 0)?, location))
}

fn write_pack(pack: &RunPack, out: &mut Vec<u8>) {
    for field in [pack.number.0, pack.class as u32, pack.frames, pack.bases, pack.file_bytes] {
        out.extend(field.to_le_bytes());
    }
}

fn read_pack(bytes: &[u8]) -> Option<RunPack> {
    let frames = u32_at(bytes, 8)?;
    Some(RunPack {
        number: PackNumber(u32_at(bytes, 0)?),
        class: PackClass::from_byte(u8::try_from(u32_at(bytes, 4)?).ok()?)?,
        frames: (frames <= FRAMES_PER_PACK_MAX).then_some(frames)?,
        bases: u32_at(bytes, 12)?,
        file_bytes: u32_at(bytes, 16)?,
    })
}

fn prefix_of(id: ChunkId) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|byte| id.as_bytes()[byte]))
}

const RUN_MAGIC: [u8; 8] = *b"LFRUN001";
const PAGE_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 48;
const ENTRIES_PER_PAGE: usize = (PAGE_BYTES - 16) / ENTRY_BYTES;
const PACK_BYTES: usize = 20;
const TAIL_BYTES: usize = 40;
const BUFFER_BYTES: usize = 256 * 1024;
const HAS_BASE_BIT: u32 = 1 << 31;
const _: () = assert!(FRAMES_PER_PACK_MAX <= HAS_BASE_BIT);

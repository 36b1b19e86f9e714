//! Owns the outer form of the small files that Landfall keeps beside the files it ships: checksummed blocks that are
//! written once, in order, and read from either end in flat memory.
//!
//! It never knows what a block holds. The form is frozen in `docs/format.md`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use landfall_core::files::{FilePath, Mtime};
use rustix::fs::{Mode, OFlags};

/// The first bytes of a file: what it is and in which version.
pub(super) type Magic = [u8; 8];

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is none")]
    Absent,
    /// The operating system does not give it.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It was cut off or altered, or another version wrote it.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes a file of blocks. Until [`Self::commit`] the old file of that name stands.
pub(super) struct BlockWriter {
    directory: OwnedFd,
    name: PathBuf,
    file: File,
    pending: Vec<u8>,
    records: u64,
}

impl BlockWriter {
    /// Begins a file that will have `name` in `directory` (or relative to [`rustix::fs::CWD`]).
    pub(super) fn create(directory: impl AsFd, name: &Path, magic: &Magic, header: &[u8]) -> io::Result<Self> {
        let directory = rustix::fs::openat(directory, parent_of(name), DIRECTORY, Mode::empty())?;
        let name = PathBuf::from(name.file_name().ok_or(rustix::io::Errno::INVAL)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&directory, temporary(&name), flags, Mode::from(0o600))?);
        file.write_all(magic)?;
        file.write_all(&seal(header))?;
        Ok(Self { directory, name, file, pending: Vec::new(), records: 0 })
    }

    /// Adds one record; `encode` appends it to the block.
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        encode(&mut self.pending);
        self.records += 1;
        if self.pending.len() >= BLOCK_BYTES_TARGET {
            self.flush()?;
        }
        Ok(())
    }

    /// Does the next record begin a block?
    pub(super) fn at_block_start(&self) -> bool {
        self.pending.is_empty()
    }

    /// Makes the file durable and lets it replace the old one. The directory is the caller's to sync.
    pub(super) fn commit(mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        self.file.write_all(&encode_end(self.records))?;
        self.file.sync_data()?;
        rustix::fs::renameat(&self.directory, temporary(&self.name), &self.directory, &self.name)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&seal(&self.pending))?;
        self.pending.clear();
        Ok(())
    }
}

/// Reads a file of blocks from its beginning.
pub(super) struct BlockReader {
    input: BufReader<File>,
    header: Bytes,
    ended: bool,
}

impl BlockReader {
    /// Opens the file `name` of `directory` (or relative to [`rustix::fs::CWD`]).
    pub(super) fn open(directory: impl AsFd, name: &Path, magic: &Magic) -> Result<Self, ReadError> {
        let mut input = BufReader::with_capacity(BLOCK_BYTES_TARGET, open(directory, name)?);
        let mut actual = Magic::default();
        read_exact(&mut input, &mut actual)?;
        if actual != *magic {
            return Err(ReadError::Damaged("it does not begin as this version begins it"));
        }
        let header = read_block(&mut input)?.ok_or(ReadError::Damaged("it has no header"))?;
        Ok(Self { input, header, ended: false })
    }

    /// The header that the writer gave.
    pub(super) fn header(&self) -> &Bytes {
        &self.header
    }

    /// Gives no further block.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// The next block, or nothing at the end, where `records` are compared with what was written.
    pub(super) fn next_block(&mut self, records: u64) -> Result<Option<Bytes>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let block = read_block(&mut self.input).inspect_err(|_| self.ended = true)?;
        if block.is_none() {
            self.ended = true;
            let mut count = [0; 8];
            read_exact(&mut self.input, &mut count)?;
            if u64::from_le_bytes(count) != records {
                return Err(ReadError::Damaged("it holds another number of records than its end says"));
            }
        }
        Ok(block)
    }
}

/// Reads a file of blocks from its end.
pub(super) struct ReverseBlockReader {
    file: File,
    /// Where the block that was read last begins.
    end: u64,
    first: u64,
}

impl ReverseBlockReader {
    /// Opens a file that [`BlockReader`] accepts.
    pub(super) fn open(directory: impl AsFd, name: &Path, magic: &Magic) -> Result<Self, ReadError> {
        let header = BlockReader::open(&directory, name, magic)?.header;
        let mut file = open(directory, name)?;
        let length = file.seek(SeekFrom::End(0)).map_err(ReadError::Unreadable)?;
        let first = (magic.len() + header.len() + BLOCK_OVERHEAD_BYTES) as u64;
        let end = length.checked_sub(END_BYTES as u64).filter(|end| *end >= first);
        Ok(Self { file, end: end.ok_or(ReadError::Damaged("it is cut off"))?, first })
    }

    /// The block before the one read last, or nothing at the beginning.
    pub(super) fn next_block(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.end == self.first {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(self.end - 4)).map_err(ReadError::Unreadable)?;
        let mut length = [0; 4];
        read_exact(&mut self.file, &mut length)?;
        let whole = u64::from(u32::from_le_bytes(length)) + BLOCK_OVERHEAD_BYTES as u64;
        let start = self.end.checked_sub(whole).filter(|start| *start >= self.first);
        self.end = start.ok_or(ReadError::Damaged("a block has an impossible length"))?;
        self.file.seek(SeekFrom::Start(self.end)).map_err(ReadError::Unreadable)?;
        read_block(&mut self.file)
    }
}

/// Appends a number, seven bits to a byte, the lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front.
pub(super) fn get_varint(bytes: &mut Bytes) -> Result<u64, ReadError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| ReadError::Damaged("it ends inside a number"))?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ReadError::Damaged("a number is too long"))
}

/// Appends a length and as many bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a length and as many bytes off the front.
pub(super) fn get_bytes(bytes: &mut Bytes) -> Result<Bytes, ReadError> {
    let length = get_varint(bytes)?;
    if length > bytes.len() as u64 {
        return Err(ReadError::Damaged("a field is longer than its block"));
    }
    Ok(bytes.split_to(length as usize))
}

/// Appends a time.
pub(super) fn put_time(out: &mut Vec<u8>, time: Mtime) {
    out.put_i64_le(time.seconds);
    out.put_u32_le(time.nanos);
}

/// Takes a time off the front.
pub(super) fn get_time(bytes: &mut Bytes) -> Result<Mtime, ReadError> {
    let cut = |_| ReadError::Damaged("it ends inside a time");
    Ok(Mtime { seconds: bytes.try_get_i64_le().map_err(cut)?, nanos: bytes.try_get_u32_le().map_err(cut)? })
}

/// Checks a path that was read.
pub(super) fn path_from(bytes: impl Into<Bytes>) -> Result<FilePath, ReadError> {
    FilePath::new(bytes).map_err(|_| ReadError::Damaged("a path is not allowed"))
}

fn open(directory: impl AsFd, name: &Path) -> Result<File, ReadError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        Err(rustix::io::Errno::NOENT) => Err(ReadError::Absent),
        Err(error) => Err(ReadError::Unreadable(error.into())),
    }
}

/// One block, or nothing where the end mark stands.
fn read_block(input: &mut impl Read) -> Result<Option<Bytes>, ReadError> {
    let mut prefix = [0; 8];
    read_exact(input, &mut prefix)?;
    let (length_bytes, mut crc) = prefix.split_at(4);
    let (length, crc) = ((&mut &length_bytes[..]).get_u32_le(), crc.get_u32_le());
    if length == END {
        return if crc == END_CRC { Ok(None) } else { Err(ReadError::Damaged("the end has a wrong checksum")) };
    }
    if length as usize > BLOCK_BYTES_MAX {
        return Err(ReadError::Damaged("a block has an impossible length"));
    }
    let mut block = vec![0; length as usize];
    read_exact(input, &mut block)?;
    let mut length_again = [0; 4];
    read_exact(input, &mut length_again)?;
    if length_again != length_bytes || checksum(length_bytes, &block) != crc {
        return Err(ReadError::Damaged("a block has a wrong checksum"));
    }
    Ok(Some(block.into()))
}

fn read_exact(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), ReadError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Damaged("it is cut off"),
        _ => ReadError::Unreadable(error),
    })
}

/// Wraps a block: its length, the checksum of length and content, the content, and the length again for who reads backwards.
fn seal(block: &[u8]) -> Vec<u8> {
    assert!(block.len() <= BLOCK_BYTES_MAX, "a block of {} bytes", block.len());
    let length = (block.len() as u32).to_le_bytes();
    [&length[..], &checksum(&length, block).to_le_bytes(), block, &length].concat()
}

fn encode_end(records: u64) -> Vec<u8> {
    [&END.to_le_bytes()[..], &END_CRC.to_le_bytes(), &records.to_le_bytes()].concat()
}

fn checksum(length: &[u8], block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), block)
}

fn parent_of(name: &Path) -> &Path {
    name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary(name: &Path) -> PathBuf {
    name.with_added_extension("new")
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A block closes once it is this long.
const BLOCK_BYTES_TARGET: usize = 64 * 1024;
/// Longest record: a path and all its extended attributes.
pub(super) const RECORD_BYTES_MAX: usize = 512 * 1024;
/// Longest block: one that was just short of its target and then took the longest record.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_TARGET + RECORD_BYTES_MAX;
/// Length, checksum and length again.
const BLOCK_OVERHEAD_BYTES: usize = 12;
/// Stands where a block's length would, before the number of records.
const END: u32 = u32::MAX;
/// Stands where a block's checksum would.
const END_CRC: u32 = u32::from_le_bytes(*b"end.");
const END_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    const MAGIC: &Magic = b"LFtest01";

    fn write(path: &Path, records: u32) {
        let mut writer = BlockWriter::create(CWD, path, MAGIC, b"header").unwrap();
        for n in 0..records {
            writer.push(|out| out.extend_from_slice(&n.to_be_bytes())).unwrap();
        }
        writer.commit().unwrap();
    }

    #[test]
    fn reads_the_same_blocks_from_either_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks");
        for records in [0, 1, 50_000] {
            write(&path, records);
            let mut reader = BlockReader::open(CWD, &path, MAGIC).unwrap();
            let mut forward = Vec::new();
            while let Some(block) = reader.next_block(u64::from(records)).unwrap() {
                forward.push(block);
            }
            let mut reader = ReverseBlockReader::open(CWD, &path, MAGIC).unwrap();
            let mut backward = Vec::new();
            while let Some(block) = reader.next_block().unwrap() {
                backward.push(block);
            }
            backward.reverse();
            assert_eq!(forward, backward);
            assert_eq!(forward.concat().len(), 4 * records as usize);
        }
    }

    #[test]
    fn refuses_another_kind_of_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks");
        write(&path, 1);
        assert!(matches!(BlockReader::open(CWD, &path, b"LFother1"), Err(ReadError::Damaged(_))));
        assert!(matches!(BlockReader::open(CWD, &path.join("none"), MAGIC), Err(ReadError::Unreadable(_))));
        assert!(matches!(BlockReader::open(CWD, &directory.path().join("x"), MAGIC), Err(ReadError::Absent)));
    }
}

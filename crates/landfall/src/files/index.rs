//! Owns the stat index: what every file of a directory looked like to `lstat` when its content was last known.
//!
//! The index is a cache. It never says what a file holds, only that it need not be read again; a damaged one is ignored,
//! with the reason, and everything is read again. Its form is frozen in `docs/format-files.md`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};
use landfall_core::ChunkId;
use landfall_core::files::{FilePath, Mtime};
use rustix::fs::{Mode, OFlags, RenameFlags, Stat};

/// What `lstat` says about a path: if none of it changed, neither did the content.
///
/// The device is left out: its number may change when the machine starts again, while the directory stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Kind of file and permission bits, as `st_mode` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// When the content last changed.
    pub mtime: Mtime,
    /// When anything but the time of the last read changed. No program can set it.
    pub ctime: Mtime,
}

impl FileStat {
    /// Takes what a system call returned.
    pub fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            inode: stat.st_ino,
            mtime: Mtime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            ctime: Mtime { seconds: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 },
        }
    }

    /// Did the last change happen long enough before `taken` that a later one must have another `ctime`?
    ///
    /// A file may change twice within one tick of the file system's clock, the second time after it was read. Whoever
    /// reuses a record asks this first, with [`IndexHeader::taken`], and reads the file again if the answer is no (git
    /// calls such an entry racily clean).
    pub fn is_settled(&self, taken: Mtime) -> bool {
        let coarse = self.ctime.nanos == 0;
        let tick = if coarse { COARSE_TICK } else { FINE_TICK };
        nanos_since_epoch(self.ctime) + (tick.as_nanos() as i128) < nanos_since_epoch(taken)
    }
}

/// The time of day, in the form that files carry.
pub fn wall_clock() -> Mtime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Mtime { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// What an index is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// The snapshot that holds the content of the files.
    pub manifest: ChunkId,
    /// The time of day before the first file was looked at.
    pub taken: Mtime,
}

/// What one path looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRecord {
    /// The path, relative to the directory.
    pub path: FilePath,
    /// What stood there.
    pub stat: FileStat,
}

/// Writes an index, one record at a time, in flat memory. Until [`Self::commit`] the old index stands.
pub struct IndexWriter {
    directory: OwnedFd,
    name: PathBuf,
    file: File,
    block: BlockBuilder,
    records: u64,
}

impl IndexWriter {
    /// Begins an index that will have `name` in `directory` (or relative to [`rustix::fs::CWD`]).
    pub fn create(directory: impl AsFd, name: &Path, header: &IndexHeader) -> io::Result<Self> {
        let directory = rustix::fs::openat(directory, parent_of(name), DIRECTORY, Mode::empty())?;
        let name = PathBuf::from(name.file_name().ok_or(rustix::io::Errno::INVAL)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&directory, temporary(&name), flags, Mode::from(0o600))?);
        file.write_all(&encode_header(header))?;
        Ok(Self { directory, name, file, block: BlockBuilder::default(), records: 0 })
    }

    /// Adds a record.
    ///
    /// # Panics
    /// If `path` does not come after the one before it.
    pub fn push(&mut self, path: &FilePath, stat: &FileStat) -> io::Result<()> {
        self.block.push(path, stat);
        self.records += 1;
        if self.block.bytes.len() >= BLOCK_BYTES_TARGET {
            self.file.write_all(&self.block.take())?;
        }
        Ok(())
    }

    /// Makes the index durable and lets it replace the old one.
    pub fn commit(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.file.write_all(&self.block.take())?;
        }
        self.file.write_all(&encode_end(self.records))?;
        self.file.sync_data()?;
        let (from, to) = (temporary(&self.name), &self.name);
        rustix::fs::renameat_with(&self.directory, from, &self.directory, to, RenameFlags::empty())?;
        Ok(())
    }
}

/// Reads an index, one record at a time, in flat memory and in key order.
pub struct IndexReader {
    input: BufReader<File>,
    header: IndexHeader,
    block: Bytes,
    last: Option<FilePath>,
    records: u64,
    ended: bool,
    peeked: Option<IndexRecord>,
}

impl IndexReader {
    /// Opens the index `name` of `directory` (or relative to [`rustix::fs::CWD`]).
    pub fn open(directory: impl AsFd, name: &Path) -> Result<Self, IndexError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Err(IndexError::Absent),
            Err(error) => return Err(IndexError::Unreadable(error.into())),
        };
        let mut input = BufReader::with_capacity(BLOCK_BYTES_TARGET, file);
        let mut header = [0; HEADER_BYTES];
        read_exact(&mut input, &mut header)?;
        let header = decode_header(&header)?;
        Ok(Self { input, header, block: Bytes::new(), last: None, records: 0, ended: false, peeked: None })
    }

    /// What the index is about.
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// The next record, or nothing at the end. After an error the index has ended; what it gave before is sound.
    pub fn next_record(&mut self) -> Result<Option<IndexRecord>, IndexError> {
        if let Some(record) = self.peeked.take() {
            return Ok(Some(record));
        }
        let next = self.read_record();
        if next.is_err() {
            self.ended = true;
        }
        next
    }

    /// What `path` looked like, if the index knows it. Paths are asked for in ascending order: each call drops the records
    /// before `path`.
    pub fn find(&mut self, path: &FilePath) -> Result<Option<FileStat>, IndexError> {
        while let Some(record) = self.next_record()? {
            if record.path < *path {
                continue;
            }
            if record.path == *path {
                return Ok(Some(record.stat));
            }
            self.peeked = Some(record);
            break;
        }
        Ok(None)
    }

    fn read_record(&mut self) -> Result<Option<IndexRecord>, IndexError> {
        if self.block.is_empty() && !self.ended {
            self.read_block()?;
        }
        if self.ended {
            return Ok(None);
        }
        let record = decode_record(&mut self.block, self.last.as_ref())?;
        self.last = Some(record.path.clone());
        self.records += 1;
        Ok(Some(record))
    }

    fn read_block(&mut self) -> Result<(), IndexError> {
        let mut prefix = [0; BLOCK_PREFIX_BYTES];
        read_exact(&mut self.input, &mut prefix)?;
        let (mut prefix, length_bytes) = (&prefix[..], [prefix[0], prefix[1], prefix[2], prefix[3]]);
        let (length, crc) = (prefix.get_u32_le(), prefix.get_u32_le());
        if length == END {
            return self.read_end(crc);
        }
        if length == 0 || length as usize > BLOCK_BYTES_MAX {
            return Err(IndexError::Damaged("a block has an impossible length"));
        }
        let mut block = vec![0; length as usize];
        read_exact(&mut self.input, &mut block)?;
        if crc32c::crc32c_append(crc32c::crc32c(&length_bytes), &block) != crc {
            return Err(IndexError::Damaged("a block has a wrong checksum"));
        }
        self.block = block.into();
        Ok(())
    }

    fn read_end(&mut self, crc: u32) -> Result<(), IndexError> {
        let mut count = [0; 8];
        read_exact(&mut self.input, &mut count)?;
        if crc32c::crc32c_append(crc32c::crc32c(&END.to_le_bytes()), &count) != crc {
            return Err(IndexError::Damaged("the end has a wrong checksum"));
        }
        if u64::from_le_bytes(count) != self.records {
            return Err(IndexError::Damaged("it holds another number of records than its end says"));
        }
        self.ended = true;
        Ok(())
    }
}

/// Why an index cannot be used. It is a cache: read every file again.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is none yet.
    #[error("there is no index")]
    Absent,
    /// The file cannot be read.
    #[error("the index cannot be read")]
    Unreadable(#[source] io::Error),
    /// The file was cut off or altered, or another version wrote it.
    #[error("the index is damaged: {0}")]
    Damaged(&'static str),
}

/// Records that share one checksum. The first path of a block is whole, so a block can be read without the one before.
#[derive(Default)]
struct BlockBuilder {
    bytes: Vec<u8>,
    /// The last path of this block, or of the block before if this one is empty.
    last: Option<FilePath>,
}

impl BlockBuilder {
    fn push(&mut self, path: &FilePath, stat: &FileStat) {
        assert!(self.last.as_ref().is_none_or(|last| last < path), "{path} does not come after {:?}", self.last);
        let shared = match &self.last {
            Some(last) if !self.is_empty() => shared_prefix(last.as_bytes(), path.as_bytes()),
            _ => 0,
        };
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, (path.as_bytes().len() - shared) as u64);
        self.bytes.extend_from_slice(&path.as_bytes()[shared..]);
        put_stat(&mut self.bytes, stat);
        self.last = Some(path.clone());
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self) -> Vec<u8> {
        let length = (self.bytes.len() as u32).to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &self.bytes);
        let framed = [&length[..], &crc.to_le_bytes(), &self.bytes].concat();
        self.bytes.clear();
        framed
    }
}

fn put_stat(out: &mut Vec<u8>, stat: &FileStat) {
    for number in [u64::from(stat.mode), u64::from(stat.uid), u64::from(stat.gid), stat.size, stat.inode] {
        put_varint(out, number);
    }
    for time in [stat.mtime, stat.ctime] {
        out.put_i64_le(time.seconds);
        out.put_u32_le(time.nanos);
    }
}

fn decode_record(block: &mut Bytes, last: Option<&FilePath>) -> Result<IndexRecord, IndexError> {
    let path = decode_path(block, last)?;
    let mut narrow = || u32::try_from(get_varint(block)?).map_err(|_| IndexError::Damaged("a number is too large"));
    let (mode, uid, gid) = (narrow()?, narrow()?, narrow()?);
    let (size, inode) = (get_varint(block)?, get_varint(block)?);
    let (mtime, ctime) = (get_time(block)?, get_time(block)?);
    Ok(IndexRecord { path, stat: FileStat { mode, uid, gid, size, inode, mtime, ctime } })
}

fn decode_path(block: &mut Bytes, last: Option<&FilePath>) -> Result<FilePath, IndexError> {
    let (shared, suffix) = (get_varint(block)?, get_varint(block)?);
    let known = last.map_or(&[][..], |last| last.as_bytes());
    if shared > known.len() as u64 || suffix > block.len() as u64 {
        return Err(IndexError::Damaged("a path is longer than what it is made of"));
    }
    let path = [&known[..shared as usize], &block.split_to(suffix as usize)].concat();
    let path = FilePath::new(path).map_err(|_| IndexError::Damaged("a path is not allowed"))?;
    if last.is_some_and(|last| *last >= path) {
        return Err(IndexError::Damaged("paths are out of order"));
    }
    Ok(path)
}

fn encode_header(header: &IndexHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(header.manifest.as_bytes());
    out.put_i64_le(header.taken.seconds);
    out.put_u32_le(header.taken.nanos);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out
}

fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<IndexHeader, IndexError> {
    let (content, mut crc) = bytes.split_at(HEADER_BYTES - 4);
    if !content.starts_with(MAGIC) {
        return Err(IndexError::Damaged("it is not an index of this version"));
    }
    if crc32c::crc32c(content) != crc.get_u32_le() {
        return Err(IndexError::Damaged("the header has a wrong checksum"));
    }
    let mut rest = Bytes::copy_from_slice(&content[MAGIC.len()..]);
    let mut manifest = [0; ChunkId::BYTES];
    rest.copy_to_slice(&mut manifest);
    Ok(IndexHeader { manifest: ChunkId::from_bytes(manifest), taken: get_time(&mut rest)? })
}

fn encode_end(records: u64) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&END.to_le_bytes()), &records.to_le_bytes());
    [&END.to_le_bytes()[..], &crc.to_le_bytes(), &records.to_le_bytes()].concat()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(bytes: &mut Bytes) -> Result<u64, IndexError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| IndexError::Damaged("it ends inside a number"))?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(IndexError::Damaged("a number is too long"))
}

fn get_time(bytes: &mut Bytes) -> Result<Mtime, IndexError> {
    let cut = |_| IndexError::Damaged("it ends inside a time");
    Ok(Mtime { seconds: bytes.try_get_i64_le().map_err(cut)?, nanos: bytes.try_get_u32_le().map_err(cut)? })
}

fn read_exact(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), IndexError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => IndexError::Damaged("it is cut off"),
        _ => IndexError::Unreadable(error),
    })
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn nanos_since_epoch(time: Mtime) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn parent_of(name: &Path) -> &Path {
    name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary(name: &Path) -> PathBuf {
    name.with_added_extension("new")
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const MAGIC: &[u8; 8] = b"LFindex1";
const HEADER_BYTES: usize = MAGIC.len() + ChunkId::BYTES + 12 + 4;
const BLOCK_PREFIX_BYTES: usize = 8;
/// A block closes once it is this long.
const BLOCK_BYTES_TARGET: usize = 64 * 1024;
/// Longest block that is read: the target and one record with the longest path.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_TARGET + 8 * 1024;
const _: () = assert!(BLOCK_BYTES_TARGET + FilePath::BYTES_MAX + 100 <= BLOCK_BYTES_MAX);
/// Stands where a block's length would, before the number of records.
const END: u32 = u32::MAX;
/// Longest tick of the kernel's coarse clock (100 Hz), doubled.
const FINE_TICK: Duration = Duration::from_millis(20);
/// File systems without fractions of a second count in steps of up to two.
const COARSE_TICK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::CWD;

    use super::*;

    const HEADER: IndexHeader =
        IndexHeader { manifest: ChunkId::from_bytes([7; 32]), taken: Mtime { seconds: 1_700_000_000, nanos: 5 } };

    fn stat(seed: u64) -> FileStat {
        let time = |seconds| Mtime { seconds, nanos: (seed % 1_000_000_000) as u32 };
        FileStat {
            mode: 0o100644,
            uid: 1000,
            gid: seed as u32,
            size: seed << 20,
            inode: seed,
            mtime: time(-1),
            ctime: time(9),
        }
    }

    fn write(path: &Path, records: &[(FilePath, FileStat)]) {
        let mut writer = IndexWriter::create(CWD, path, &HEADER).unwrap();
        for (path, stat) in records {
            writer.push(path, stat).unwrap();
        }
        writer.commit().unwrap();
    }

    fn read(path: &Path) -> (Vec<(FilePath, FileStat)>, Result<(), IndexError>) {
        let mut records = Vec::new();
        let mut reader = match IndexReader::open(CWD, path) {
            Ok(reader) => reader,
            Err(error) => return (records, Err(error)),
        };
        loop {
            match reader.next_record() {
                Ok(Some(record)) => records.push((record.path, record.stat)),
                Ok(None) => return (records, Ok(())),
                Err(error) => return (records, Err(error)),
            }
        }
    }

    fn numbered(count: u64) -> Vec<(FilePath, FileStat)> {
        (0..count).map(|n| (FilePath::new(format!("dir/file-{n:08}")).unwrap(), stat(n))).collect()
    }

    #[test]
    fn gives_back_what_was_written_over_many_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let records = numbered(10_000);
        write(&path, &records);
        let (read, end) = read(&path);
        assert!(end.is_ok());
        assert_eq!(read, records);
        assert_eq!(*IndexReader::open(CWD, &path).unwrap().header(), HEADER);
        assert!(!dir.path().join("index.new").exists());
    }

    #[test]
    fn finds_paths_in_ascending_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let records: Vec<_> = numbered(5_000).into_iter().step_by(3).collect();
        write(&path, &records);
        let mut reader = IndexReader::open(CWD, &path).unwrap();
        for (n, (path, stat)) in numbered(5_000).into_iter().enumerate() {
            let expected = (n % 3 == 0).then_some(stat);
            assert_eq!(reader.find(&path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn a_damaged_index_says_so_and_gives_only_sound_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let records = numbered(2_000);
        write(&path, &records);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(997) {
            let mut altered = whole.clone();
            altered[at] ^= 0x20;
            std::fs::write(&path, &altered).unwrap();
            check_damaged(&path, &records);
            std::fs::write(&path, &whole[..at]).unwrap();
            check_damaged(&path, &records);
        }
    }

    #[track_caller]
    fn check_damaged(path: &Path, records: &[(FilePath, FileStat)]) {
        let (read, end) = read(path);
        assert!(matches!(end, Err(IndexError::Damaged(_))), "{end:?}");
        assert!(records.starts_with(&read));
    }

    #[test]
    fn an_absent_index_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(&dir.path().join("index")).1, Err(IndexError::Absent)));
    }

    #[test]
    #[should_panic(expected = "does not come after")]
    fn refuses_records_out_of_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = IndexWriter::create(CWD, &dir.path().join("index"), &HEADER).unwrap();
        writer.push(&FilePath::new("b").unwrap(), &stat(1)).unwrap();
        writer.push(&FilePath::new("a").unwrap(), &stat(1)).unwrap();
    }

    #[track_caller]
    fn check_settled(ctime: Mtime, taken: Mtime, expected: bool) {
        let stat = FileStat { ctime, ..stat(1) };
        assert_eq!(stat.is_settled(taken), expected, "{ctime:?} {taken:?}");
    }

    #[test]
    fn a_change_within_a_tick_of_the_index_is_not_settled() {
        let at = |seconds, millis: u32| Mtime { seconds, nanos: millis * 1_000_000 };
        check_settled(at(10, 500), at(10, 510), false);
        check_settled(at(10, 500), at(10, 521), true);
        check_settled(at(10, 500), at(9, 0), false);
        check_settled(at(10, 0), at(11, 900), false);
        check_settled(at(10, 0), at(12, 1), true);
    }

    #[test]
    fn the_encoding_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let paths = ["a", "a-b", "a/b"].map(|path| FilePath::new(path).unwrap());
        write(&path, &paths.into_iter().zip([stat(1), stat(2), stat(300)]).collect::<Vec<_>>());
        let hex: String = std::fs::read(&path).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = concat!(
        "4c46696e64657831070707070707070707070707070707070707070707070707070707070707070700f1536500000000050000003b102411",
        "760000008283cc9c",
        "000161a48302e8070180804001ffffffffffffffff01000000090000000000000001000000",
        "01022d62a48302e8070280808001",
        "02ffffffffffffffff020000000900000000000000020000",
        "0001022f62a48302e807ac028080809601ac02ffffffffffffffff2c01000009000000000000002c010000",
        "ffffffff9678bb240300000000000000",
    );

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_records_survive(paths in proptest::collection::btree_set("[a-c/]{0,6}", 0..40), seed in any::<u64>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index");
            let paths = paths.into_iter().filter_map(|path| FilePath::new(path).ok());
            let records: Vec<_> = paths.map(|path| (path, stat(seed))).collect();
            write(&path, &records);
            prop_assert_eq!(read(&path).0, records);
        }
    }
}

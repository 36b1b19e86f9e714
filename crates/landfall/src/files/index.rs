//! Owns the stat index: what every file of a directory looked like to `lstat` when its content was last known.
//!
//! The index is a cache. It never says what a file holds, only that it need not be read again; a damaged one is ignored,
//! with the reason, and everything is read again. Its form is frozen in `docs/format.md`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use landfall_core::ChunkId;
use landfall_core::files::{FilePath, Mtime};
use rustix::fs::Stat;

use super::block::{
    BlockReader, BlockWriter, Magic, get_bytes, get_time, get_varint, path_from, put_bytes, put_time, put_varint,
};

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
    /// What no file ever looks like.
    pub(super) const UNKNOWN: Self = Self {
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        inode: 0,
        mtime: Mtime { seconds: 0, nanos: 0 },
        ctime: Mtime { seconds: 0, nanos: 0 },
    };

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
    blocks: BlockWriter,
    last: Option<FilePath>,
}

impl IndexWriter {
    /// Begins an index that will have `name` in `directory` (or relative to [`rustix::fs::CWD`]).
    pub fn create(directory: impl AsFd, name: &Path, header: &IndexHeader) -> io::Result<Self> {
        let mut encoded = header.manifest.as_bytes().to_vec();
        put_time(&mut encoded, header.taken);
        Ok(Self { blocks: BlockWriter::create(directory, name, MAGIC, &encoded)?, last: None })
    }

    /// Adds a record.
    ///
    /// # Panics
    /// If `path` does not come after the one before it.
    pub fn push(&mut self, path: &FilePath, stat: &FileStat) -> io::Result<()> {
        assert!(self.last.as_ref().is_none_or(|last| last < path), "{path} does not come after {:?}", self.last);
        let shared = match &self.last {
            Some(last) if !self.blocks.at_block_start() => shared_prefix(last.as_bytes(), path.as_bytes()),
            _ => 0,
        };
        self.last = Some(path.clone());
        self.blocks.push(|out| {
            put_varint(out, shared as u64);
            put_bytes(out, &path.as_bytes()[shared..]);
            put_stat(out, stat);
        })
    }

    /// Makes the index durable and lets it replace the old one.
    pub fn commit(self) -> io::Result<()> {
        self.blocks.commit()
    }
}

/// Reads an index, one record at a time, in flat memory and in key order.
pub struct IndexReader {
    blocks: BlockReader,
    header: IndexHeader,
    block: Bytes,
    last: Option<FilePath>,
    records: u64,
    peeked: Option<IndexRecord>,
}

impl IndexReader {
    /// Opens the index `name` of `directory` (or relative to [`rustix::fs::CWD`]).
    pub fn open(directory: impl AsFd, name: &Path) -> Result<Self, IndexError> {
        let blocks = BlockReader::open(directory, name, MAGIC)?;
        let header = decode_header(blocks.header().clone())?;
        Ok(Self { blocks, header, block: Bytes::new(), last: None, records: 0, peeked: None })
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
        if self.block.is_empty() {
            match self.blocks.next_block(self.records)? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
        }
        let record = decode_record(&mut self.block, self.last.as_ref()).inspect_err(|_| {
            self.block.clear();
            self.blocks.end();
        })?;
        self.last = Some(record.path.clone());
        self.records += 1;
        Ok(Some(record))
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
            self.put_back(record);
            break;
        }
        Ok(None)
    }

    /// Lets the next call give `record`, which the last one gave, again.
    pub(super) fn put_back(&mut self, record: IndexRecord) {
        self.peeked = Some(record);
    }
}

/// Why an index cannot be used. It is a cache: read every file again.
pub use super::block::ReadError as IndexError;

fn put_stat(out: &mut Vec<u8>, stat: &FileStat) {
    for number in [u64::from(stat.mode), u64::from(stat.uid), u64::from(stat.gid), stat.size, stat.inode] {
        put_varint(out, number);
    }
    put_time(out, stat.mtime);
    put_time(out, stat.ctime);
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
    let (shared, suffix) = (get_varint(block)?, get_bytes(block)?);
    let known = last.map_or(&[][..], |last| last.as_bytes());
    if shared > known.len() as u64 {
        return Err(IndexError::Damaged("a path shares more than there is"));
    }
    let path = path_from([&known[..shared as usize], &suffix].concat())?;
    if last.is_some_and(|last| *last >= path) {
        return Err(IndexError::Damaged("paths are out of order"));
    }
    Ok(path)
}

fn decode_header(mut header: Bytes) -> Result<IndexHeader, IndexError> {
    let mut manifest = [0; ChunkId::BYTES];
    header.try_copy_to_slice(&mut manifest).map_err(|_| IndexError::Damaged("its header is too short"))?;
    Ok(IndexHeader { manifest: ChunkId::from_bytes(manifest), taken: get_time(&mut header)? })
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn nanos_since_epoch(time: Mtime) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

const MAGIC: &Magic = b"LFindex1";
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

    /// Magic; the header; three records; the end.
    const GOLDEN: &str = concat!(
        "4c46696e64657831",
        "2c00000033578978070707070707070707070707070707070707070707070707070707070707070700f1536500000000050000002c000000",
        "760000008283cc9c000161a48302e8070180804001ffffffffffffffff01000000090000000000000001000000",
        "01022d62a48302e807028080800102ffffffffffffffff02000000090000000000000002000000",
        "01022f62a48302e807ac028080809601ac02ffffffffffffffff2c01000009000000000000002c01000076000000",
        "ffffffff656e642e0300000000000000",
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

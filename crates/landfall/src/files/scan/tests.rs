use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use landfall_core::files::{
    Content, FileKey, FileKind, FilePath, Meta, Mtime, Xattr, decode_meta, decode_xattrs, encode_meta,
};
use landfall_core::tree::{Builder, ChunkRef, MemoryNodes, Root, Salt, Value};
use landfall_core::{Chunk, ChunkId};
use tempfile::TempDir;

use super::*;
use crate::files::index::{IndexHeader, IndexWriter, wall_clock};

/// A chunk that was handed to the sink.
struct Taken {
    key: FileKey,
    bytes: Bytes,
    previous: Option<ChunkRef>,
}

/// Keeps all chunks, and does something at each.
struct Chunks<F> {
    taken: Mutex<BTreeMap<ChunkId, Taken>>,
    at_each: F,
}

impl<F: Fn(&FileKey) + Sync> ChunkSink for Chunks<F> {
    type Error = &'static str;

    fn chunk(&self, key: &FileKey, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), &'static str> {
        (self.at_each)(key);
        let bytes = Bytes::copy_from_slice(chunk.bytes());
        self.taken.lock().unwrap().insert(chunk.id(), Taken { key: key.clone(), bytes, previous });
        Ok(())
    }
}

/// Keeps all entries, builds the tree and writes the index.
struct Entries {
    entries: Vec<(Bytes, Value)>,
    stats: Vec<FilePath>,
    nodes: MemoryNodes,
    builder: Builder,
    index: IndexWriter,
}

impl EntrySink for Entries {
    type Error = &'static str;

    fn entry(&mut self, key: &[u8], value: &Value) -> Result<(), &'static str> {
        self.entries.push((Bytes::copy_from_slice(key), value.clone()));
        self.builder.push(key, value, &mut self.nodes).map_err(|_| "the tree refuses it")
    }

    fn stat(&mut self, path: &FilePath, stat: &FileStat) -> Result<(), &'static str> {
        self.stats.push(path.clone());
        self.index.push(path, stat).map_err(|_| "the index refuses it")
    }
}

/// A directory that is scanned again and again.
struct Scanned {
    directory: TempDir,
    control: TempDir,
    changing: ChangingFiles,
    last: Option<Outcome>,
}

struct Outcome {
    report: Report,
    root: Root,
    entries: Vec<(Bytes, Value)>,
    stats: Vec<FilePath>,
    nodes: MemoryNodes,
    chunks: BTreeMap<ChunkId, Taken>,
}

impl Scanned {
    fn new() -> Self {
        let (directory, control) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Self { directory, control, changing: ChangingFiles::Refuse, last: None }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that last changed long ago, as far as a test can say so: its `ctime` is now.
    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn scan(&mut self) -> &Outcome {
        self.try_scan(wall_clock(), |_| {}).unwrap();
        self.last.as_ref().unwrap()
    }

    /// Scans as if long after everything was written, so that the next scan trusts what this one saw.
    fn scan_settled(&mut self) -> &Outcome {
        let now = wall_clock();
        self.try_scan(Mtime { seconds: now.seconds + 3600, ..now }, |_| {}).unwrap();
        self.last.as_ref().unwrap()
    }

    fn try_scan(&mut self, taken: Mtime, at_each: impl Fn(&FileKey) + Sync) -> Result<(), Stopped<&'static str>> {
        let handle = File::open(self.directory.path()).unwrap();
        let control = File::open(self.control.path()).unwrap();
        let header = IndexHeader { manifest: ChunkId::from_bytes([0; 32]), taken };
        let index = IndexWriter::create(&control, Path::new("index"), &header).unwrap();
        let builder = Builder::new(Salt::PUBLIC);
        let (entries, stats, nodes) = (Vec::new(), Vec::new(), MemoryNodes::default());
        let mut entries = Entries { entries, stats, nodes, builder, index };
        let chunks = Chunks { taken: Mutex::default(), at_each };
        let previous = self.last.as_ref().map(|last| Previous {
            root: last.root,
            nodes: &last.nodes,
            index: IndexReader::open(&control, Path::new("index")).ok(),
        });
        let threads = NonZeroUsize::new(3).unwrap();
        let scan = Scan { directory: handle.as_fd(), changing: self.changing, threads, previous };
        let report = super::scan(scan, &chunks, &mut entries)?;
        let Entries { entries, stats, mut nodes, builder, index } = entries;
        index.commit().unwrap();
        let root = builder.finish(&mut nodes);
        let mut chunks = chunks.taken.into_inner().unwrap();
        let old = self.last.take().map(|last| last.chunks).unwrap_or_default();
        let known: Vec<_> = chunks.keys().copied().collect();
        assert!(known.iter().all(|id| chunks[id].previous.is_none_or(|previous| previous.id != *id)));
        for (id, taken) in old {
            chunks.entry(id).or_insert(taken);
        }
        self.last = Some(Outcome { report, root, entries, stats, nodes, chunks });
        Ok(())
    }
}

impl Outcome {
    fn value(&self, key: FileKey) -> Option<&Value> {
        let key = key.encode();
        self.entries.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    fn meta(&self, path: &str) -> Meta {
        let path = FilePath::new(path.to_owned()).unwrap();
        decode_meta(&self.value(FileKey::Meta(path)).expect("the path is in the tree").inline).unwrap()
    }

    /// Puts a file together from its entries.
    fn content(&self, path: &str) -> Vec<u8> {
        let path = FilePath::new(path.to_owned()).unwrap();
        let value = self.value(FileKey::Meta(path.clone())).expect("the path is in the tree");
        let FileKind::File { size, content } = decode_meta(&value.inline).unwrap().kind else { panic!("not a file") };
        let chunk = |chunk: ChunkRef| {
            let bytes = &self.chunks[&chunk.id].bytes;
            assert_eq!(bytes.len(), chunk.bytes as usize);
            bytes
        };
        match content {
            Content::Inline(bytes) => return bytes.to_vec(),
            Content::Whole => return chunk(value.chunk.unwrap()).to_vec(),
            Content::Pages | Content::ContentDefined => {}
        }
        let mut bytes = vec![0; size as usize];
        for (key, value) in &self.entries {
            if let FileKey::Content { path: of, offset } = FileKey::decode(key).unwrap()
                && of == path
            {
                let chunk = chunk(value.chunk.unwrap());
                bytes[offset as usize..][..chunk.len()].copy_from_slice(chunk);
            }
        }
        bytes
    }

    fn keys(&self) -> Vec<FileKey> {
        self.entries.iter().map(|(key, _)| FileKey::decode(key).unwrap()).collect()
    }
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut hash = *ChunkId::of(landfall_core::Domain::Data, &[seed]).as_bytes();
    while bytes.len() < length {
        bytes.extend_from_slice(&hash);
        hash = *ChunkId::of(landfall_core::Domain::Data, &hash).as_bytes();
    }
    bytes.truncate(length);
    bytes
}

/// The slow and obvious way: everything in memory, sorted at the end.
fn model(directory: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut paths = vec![PathBuf::new()];
    let mut entries = Vec::new();
    while let Some(path) = paths.pop() {
        let full = directory.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        let kind = if stat.is_dir() {
            paths.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            FileKind::Directory
        } else if stat.is_symlink() {
            FileKind::Symlink(fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec().into())
        } else {
            let content = Content::Inline(fs::read(&full).unwrap().into());
            FileKind::File { size: stat.len(), content }
        };
        let mtime = Mtime { seconds: stat.mtime(), nanos: stat.mtime_nsec() as u32 };
        let meta = Meta { kind, mode: stat.mode() & 0o7777, uid: stat.uid(), gid: stat.gid(), mtime };
        let key = FileKey::Meta(FilePath::new(path.as_os_str().as_bytes().to_vec()).unwrap());
        entries.push((key.encode(), encode_meta(&meta)));
    }
    entries.sort();
    entries
}

#[test]
fn the_order_is_that_of_a_sorted_model_for_any_names() {
    let mut scanned = Scanned::new();
    for name in
        ["a/x", "a-b", "a/x-1", "b!", "b/-/deep/er", "b/-0", "b0", "z", "A", "\u{fc}/\u{fc}", "a.d/q", "a b", "a/x.d/y"]
    {
        scanned.write(name, name);
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe\n");
    scanned.write(odd, "not UTF-8");
    fs::create_dir(scanned.path("empty")).unwrap();
    symlink("nowhere/at all", scanned.path("link")).unwrap();
    fs::set_permissions(scanned.path("z"), fs::Permissions::from_mode(0o4751)).unwrap();
    let expected = model(scanned.directory.path());
    let outcome = scanned.scan();
    let actual: Vec<_> = outcome.entries.iter().map(|(key, value)| (key.to_vec(), value.inline.to_vec())).collect();
    assert!(actual == expected, "{actual:?}\n{expected:?}");
    assert!(outcome.stats.is_sorted());
    assert_eq!(outcome.stats.len(), expected.len());
    assert_eq!(outcome.report.skipped.count, 0);
}

#[test]
fn many_small_files_come_out_in_order() {
    let mut scanned = Scanned::new();
    for index in 0..700 {
        scanned.write(format!("d{}/f{index}", index % 37), noise(index as u8, index * 7));
    }
    let outcome = scanned.scan();
    assert!(outcome.entries.is_sorted_by(|(left, _), (right, _)| left < right));
    assert_eq!((outcome.report.files, outcome.report.directories), (700, 38));
    assert_eq!(outcome.report.bytes, (0..700).sum::<u64>() * 7);
    for index in [0, 1, 36, 300, 699] {
        assert_eq!(outcome.content(&format!("d{}/f{index}", index % 37)), noise(index as u8, index * 7));
    }
}

#[track_caller]
fn check_content(length: usize, expected: &Content) {
    let mut scanned = Scanned::new();
    let bytes = noise(1, length);
    scanned.write("file", &bytes);
    let outcome = scanned.scan();
    assert!(outcome.content("file") == bytes, "{length} bytes were changed");
    let FileKind::File { size, content } = outcome.meta("file").kind else { panic!("not a file") };
    assert_eq!(size, length as u64);
    assert_eq!(std::mem::discriminant(&content), std::mem::discriminant(expected), "{length} bytes");
}

#[test]
fn files_of_every_length_are_kept_whole() {
    for length in [0, 1, 1983, 1984] {
        check_content(length, &Content::Inline(Bytes::new()));
    }
    for length in [1985, 65536, 131_072] {
        check_content(length, &Content::Whole);
    }
    for length in [131_073, 1_048_575, 1_048_577, 5_000_001, 16_777_217] {
        check_content(length, &Content::ContentDefined);
    }
    for length in [135_168, 1_048_576, 1_052_672, 16_777_216] {
        check_content(length, &Content::Pages);
    }
}

#[test]
fn content_is_cut_as_if_it_were_read_at_once() {
    let mut scanned = Scanned::new();
    let bytes = noise(9, 7_654_321);
    scanned.write("file", &bytes);
    let outcome = scanned.scan();
    let (mut cutter, mut at, mut expected) = (landfall_core::chunker::Cutter::content_defined(), 0, Vec::new());
    while let Some(length) = cutter.next_cut(&bytes[at..], landfall_core::chunker::Rest::IsEmpty) {
        expected.push((at as u64, length as u32));
        at += length;
    }
    let actual = outcome.entries.iter().filter_map(|(key, value)| match FileKey::decode(key).unwrap() {
        FileKey::Content { offset, .. } => Some((offset, value.chunk.unwrap().bytes)),
        _ => None,
    });
    assert_eq!(actual.collect::<Vec<_>>(), expected);
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let mut scanned = Scanned::new();
    let large = noise(3, 3_000_000);
    scanned.write("dir/large", &large);
    scanned.write("small", "small");
    scanned.write("whole", noise(4, 10_000));
    let first = scanned.scan_settled();
    assert_eq!((first.report.files_read, first.report.files), (3, 3));
    let root = first.root;
    scanned.write("new", "new");
    let second = scanned.scan_settled();
    assert_eq!((second.report.files_read, second.report.bytes_read), (1, 3));
    assert_eq!(second.content("dir/large"), large);
    assert_eq!(second.report.previous_lost, None);
    fs::remove_file(scanned.path("new")).unwrap();
    let mtime = fs::metadata(scanned.path("small")).unwrap().modified().unwrap();
    File::open(scanned.directory.path()).unwrap().set_modified(mtime).unwrap();
    let third = scanned.scan_settled();
    assert_eq!(third.report.files_read, 0);
    assert_eq!(third.entries.len() as u64, root.entries);
}

#[test]
fn a_file_of_another_time_or_length_is_read_again() {
    let mut scanned = Scanned::new();
    let file = scanned.write("file", "one");
    scanned.scan_settled();
    // The time of the content can be set back, the time of the change cannot.
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "two").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
    let second = scanned.scan_settled();
    assert_eq!(second.content("file"), b"two");
    assert_eq!(second.report.files_read, 1);
}

#[test]
fn a_file_that_changed_too_shortly_before_the_last_scan_is_read_again() {
    let mut scanned = Scanned::new();
    let file = scanned.write("file", "one");
    let stat = fs::metadata(&file).unwrap();
    let taken = Mtime { seconds: stat.ctime(), nanos: stat.ctime_nsec() as u32 };
    scanned.try_scan(taken, |_| {}).unwrap();
    let second = scanned.scan_settled();
    assert_eq!(second.report.files_read, 1);
    assert_eq!(scanned.scan_settled().report.files_read, 0);
}

#[test]
fn without_its_nodes_the_previous_scan_only_costs_time() {
    let mut scanned = Scanned::new();
    let bytes = noise(5, 400_000);
    scanned.write("file", &bytes);
    let root = scanned.scan_settled().root;
    scanned.last.as_mut().unwrap().nodes = MemoryNodes::default();
    let second = scanned.scan();
    assert_eq!(second.root, root);
    assert_eq!(second.report.files_read, 1);
    assert!(second.report.previous_lost.is_some());
}

#[test]
fn only_changed_chunks_are_handed_on_with_what_they_replace() {
    let mut scanned = Scanned::new();
    let pages = noise(6, 40 * 65536);
    let file = scanned.write("pages", &pages);
    let whole = scanned.write("whole", noise(7, 50_000));
    let first = scanned.scan_settled();
    let old = |key: FileKey| first.value(key).unwrap().chunk.unwrap().id;
    let (pages_path, whole_path) = (FilePath::new("pages").unwrap(), FilePath::new("whole").unwrap());
    let old_page = old(FileKey::Content { path: pages_path.clone(), offset: 17 * 65536 });
    let old_whole = old(FileKey::Meta(whole_path.clone()));
    File::options().write(true).open(&file).unwrap().write_all_at(b"changed", 17 * 65536 + 99).unwrap();
    fs::write(&whole, noise(8, 50_000)).unwrap();
    let handed = Mutex::new(Vec::new());
    scanned.try_scan(wall_clock(), |key| handed.lock().unwrap().push(key.clone())).unwrap();
    let mut handed = handed.into_inner().unwrap();
    handed.sort_by_key(FileKey::encode);
    let changed = FileKey::Content { path: pages_path, offset: 17 * 65536 };
    assert_eq!(handed, [changed.clone(), FileKey::Meta(whole_path.clone())]);
    let last = scanned.last.as_ref().unwrap();
    let previous = |key: &FileKey| last.chunks.values().find(|taken| taken.key == *key && taken.previous.is_some());
    assert_eq!(previous(&changed).unwrap().previous.unwrap().id, old_page);
    assert_eq!(previous(&FileKey::Meta(whole_path)).unwrap().previous.unwrap().id, old_whole);
}

#[test]
fn an_insertion_changes_only_the_chunks_around_it() {
    let mut scanned = Scanned::new();
    let mut bytes = noise(10, 6_000_001);
    scanned.write("file", &bytes);
    let known: Vec<_> = scanned.scan().chunks.keys().copied().collect();
    bytes.splice(2_000_000..2_000_000, *b"inserted");
    scanned.write("file", &bytes);
    let second = scanned.scan();
    assert!(second.content("file") == bytes);
    let new = second.chunks.keys().filter(|id| !known.contains(id)).count();
    assert!((1..=4).contains(&new), "{new} new chunks");
}

#[test]
fn zeros_and_holes_have_no_chunks_and_the_same_tree() {
    let roots = [false, true].map(|sparse| {
        let mut scanned = Scanned::new();
        let file = scanned.write("file", "");
        let handle = File::options().write(true).open(&file).unwrap();
        let length = 64 * 1024 * 1024;
        handle.set_len(length).unwrap();
        if !sparse {
            handle.write_all_at(&vec![0; 9_000_000], 0).unwrap();
        }
        handle.write_all_at(b"data", 33_000_000).unwrap();
        handle.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        File::open(scanned.directory.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let outcome = scanned.scan();
        assert_eq!(outcome.chunks.len(), 1);
        assert_eq!(outcome.content("file"), fs::read(&file).unwrap());
        if sparse {
            assert!(outcome.report.bytes_read <= 2 << 20, "{} bytes were read", outcome.report.bytes_read);
        }
        outcome.root
    });
    assert_eq!(roots[0], roots[1]);
}

#[test]
fn a_file_of_nothing_but_a_hole_keeps_its_length() {
    let mut scanned = Scanned::new();
    let file = scanned.write("file", "");
    File::options().write(true).open(&file).unwrap().set_len(10 << 20).unwrap();
    let content = Content::Pages;
    assert_eq!(scanned.scan().meta("file").kind, FileKind::File { size: 10 << 20, content });
    assert_eq!(scanned.scan().keys().len(), 2);
}

#[test]
fn further_names_of_a_file_point_at_the_first() {
    let mut scanned = Scanned::new();
    let first = scanned.write("b/first", "content");
    fs::create_dir(scanned.path("a")).unwrap();
    fs::hard_link(&first, scanned.path("b.second")).unwrap();
    fs::hard_link(&first, scanned.path("z")).unwrap();
    let outcome = scanned.scan();
    assert_eq!(outcome.content("b.second"), b"content");
    let first = FileKind::HardLink(FilePath::new("b.second").unwrap());
    assert_eq!((outcome.meta("b/first").kind, outcome.meta("z").kind), (first.clone(), first));
    assert_eq!((outcome.report.files, outcome.report.hard_links, outcome.report.files_read), (1, 2, 1));
}

#[test]
fn what_cannot_be_kept_is_reported() {
    let mut scanned = Scanned::new();
    let _socket = std::os::unix::net::UnixListener::bind(scanned.path("socket")).unwrap();
    let handle = File::open(scanned.directory.path()).unwrap();
    rustix::fs::mkfifoat(&handle, "pipe", rustix::fs::Mode::RWXU).unwrap();
    symlink("x".repeat(3000), scanned.path("long")).unwrap();
    scanned.write("kept", "kept");
    let outcome = scanned.scan();
    let skipped: Vec<_> =
        outcome.report.skipped.first.iter().map(|skipped| (skipped.path.as_slice(), skipped.reason)).collect();
    let expected: [(&[u8], _); 3] =
        [(b"long", SkipReason::TargetTooLong), (b"pipe", SkipReason::Pipe), (b"socket", SkipReason::Socket)];
    for one in expected {
        assert!(skipped.contains(&one), "{one:?} is missing in {skipped:?}");
    }
    assert_eq!(outcome.report.skipped.count, 3);
    assert_eq!(outcome.keys().len(), 2);
}

#[test]
fn extended_attributes_are_kept() {
    let mut scanned = Scanned::new();
    let file = scanned.write("dir/file", "content");
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
    };
    if set(&file, "user.b", b"2").is_err() {
        // This file system has none.
        return;
    }
    set(&file, "user.a", b"1").unwrap();
    set(&scanned.path("dir"), "user.long", &[7; 3000]).unwrap();
    let outcome = scanned.scan();
    let key = |path: &str| FileKey::Xattrs(FilePath::new(path.to_owned()).unwrap());
    let xattr = |name: &'static str, value: &'static str| Xattr { name: name.into(), value: value.into() };
    let on_file = decode_xattrs(&outcome.value(key("dir/file")).unwrap().inline).unwrap();
    assert_eq!(on_file, [xattr("user.a", "1"), xattr("user.b", "2")]);
    let chunk = outcome.value(key("dir")).unwrap().chunk.unwrap();
    let on_directory = decode_xattrs(&outcome.chunks[&chunk.id].bytes).unwrap();
    assert_eq!(on_directory[0].value.len(), 3000);
}

#[test]
fn landfalls_own_directory_is_left_out_at_the_top_only() {
    let mut scanned = Scanned::new();
    scanned.write(".landfall/index", "ours");
    scanned.write("sub/.landfall/file", "theirs");
    let outcome = scanned.scan();
    assert_eq!(outcome.content("sub/.landfall/file"), b"theirs");
    assert_eq!(outcome.keys().len(), 4);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    if rustix::process::geteuid().is_root() {
        // Nothing is unreadable to root: a directory in the place of a file stands for it.
        return check_unreadable_as_root();
    }
    let mut scanned = Scanned::new();
    let file = scanned.write("dir/secret", "secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let refused = scanned.try_scan(wall_clock(), |_| {}).unwrap_err();
    let Stopped::Scan(ScanError::Unreadable { path, .. }) = refused else { panic!("{refused}") };
    assert_eq!(path, FilePath::new("dir/secret").unwrap());
}

/// Immutable to nobody, but no file either: reading a directory's handle as a file fails for everybody.
fn check_unreadable_as_root() {
    let scanned = Scanned::new();
    let handle = File::open(scanned.directory.path()).unwrap();
    let path = FilePath::new("dir/secret").unwrap();
    let refused = super::target::read_at(&handle, &path, &mut [0; 10], 0).unwrap_err();
    assert_eq!(refused.to_string(), "cannot read 'dir/secret': Is a directory (os error 21)");
}

/// A file that grows when its first chunk is handed on, `times` times.
fn check_growing(name: &str, length: usize, times: usize, changing: ChangingFiles) -> Result<Scanned, ScanError> {
    let mut scanned = Scanned::new();
    scanned.changing = changing;
    let file = scanned.write(name, noise(11, length));
    let left = Mutex::new(times);
    let grown = scanned.try_scan(wall_clock(), |key| {
        let mut left = left.lock().unwrap();
        if *left > 0 && matches!(key, FileKey::Content { offset: 0, .. }) {
            *left -= 1;
            File::options().append(true).open(&file).unwrap().write_all(b"more").unwrap();
        }
    });
    match grown {
        Ok(()) => Ok(scanned),
        Err(Stopped::Scan(error)) => Err(error),
        Err(Stopped::Sink(error)) => panic!("{error}"),
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    for length in [300_001, 4096 * 500] {
        let scanned = check_growing("log", length, 2, ChangingFiles::Refuse).unwrap();
        let outcome = scanned.last.as_ref().unwrap();
        assert!(outcome.content("log") == fs::read(scanned.path("log")).unwrap());
        assert_eq!(outcome.report.changing.count, 0);
    }
}

#[test]
fn a_file_that_never_rests_is_refused_by_name() {
    let Err(ScanError::Changing { path }) = check_growing("log", 300_001, 100, ChangingFiles::Refuse) else {
        panic!("it was taken")
    };
    assert_eq!(path, FilePath::new("log").unwrap());
}

#[test]
fn a_file_that_never_rests_may_be_accepted_and_is_read_again_by_the_next_scan() {
    let mut scanned = check_growing("log", 300_001, 100, ChangingFiles::Accept).unwrap();
    let outcome = scanned.last.as_ref().unwrap();
    assert_eq!(outcome.report.changing.first, [FilePath::new("log").unwrap()]);
    let now = fs::read(scanned.path("log")).unwrap();
    let taken = outcome.content("log");
    assert!(now.starts_with(&taken) && taken.len() >= 300_001);
    let second = scanned.scan_settled();
    assert_eq!(second.report.files_read, 1);
    assert!(second.content("log") == now);
}

#[test]
fn a_file_that_is_removed_during_the_scan_is_reported() {
    let mut scanned = Scanned::new();
    scanned.write("a", noise(12, 1_000_001));
    for index in 0..2000 {
        scanned.write(format!("b{index:04}"), "small");
    }
    let last = scanned.path("b1999");
    scanned.try_scan(wall_clock(), |_| fs::remove_file(&last).unwrap_or_default()).unwrap();
    let outcome = scanned.last.as_ref().unwrap();
    let files = outcome.report.files - outcome.report.skipped.count;
    let root = 1;
    assert_eq!(outcome.keys().len() as u64, root + files + outcome.root.chunk_refs);
    assert!(outcome.keys().iter().all(|key| key.path().name() != b"b1999"));
}

#[test]
fn a_sink_that_refuses_stops_the_scan() {
    struct Refusing;
    impl ChunkSink for Refusing {
        type Error = &'static str;
        fn chunk(&self, _: &FileKey, _: &Chunk, _: Option<ChunkRef>) -> Result<(), &'static str> {
            Err("the disk is full")
        }
    }
    struct Ignoring;
    impl EntrySink for Ignoring {
        type Error = &'static str;
        fn entry(&mut self, _: &[u8], _: &Value) -> Result<(), &'static str> {
            Ok(())
        }
        fn stat(&mut self, _: &FilePath, _: &FileStat) -> Result<(), &'static str> {
            Ok(())
        }
    }
    let scanned = Scanned::new();
    scanned.write("content-defined", noise(1, 20_000_001));
    scanned.write("pages", noise(1, 20 << 20));
    let handle = File::open(scanned.directory.path()).unwrap();
    let threads = NonZeroUsize::new(3).unwrap();
    let scan = Scan { directory: handle.as_fd(), changing: ChangingFiles::Refuse, threads, previous: None };
    let stopped = super::scan(scan, &Refusing, &mut Ignoring).unwrap_err();
    assert!(matches!(stopped, Stopped::Sink("the disk is full")));
}

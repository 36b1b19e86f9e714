//! A simple scan, until the fast one lands.
#![allow(missing_docs)]
use super::index::{FileStat, IndexReader};
use bytes::Bytes;
use landfall_core::chunker::{Cutter, Rest, decide_content, is_zero};
use landfall_core::files::*;
use landfall_core::tree::{ChunkRef, Nodes, Root, TreeError, Value};
use landfall_core::{Chunk, Domain};
use landfall_store::StoreError;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangingFiles {
    Refuse,
    Accept,
}
pub struct Previous<'a> {
    pub index: IndexReader,
    pub root: Root,
    pub nodes: &'a dyn Nodes,
}
pub struct ScanOptions<'a> {
    pub directory: &'a std::path::Path,
    pub changing: ChangingFiles,
}
#[derive(Default)]
pub struct ScanReport {
    pub bytes_read: u64,
    pub files_unchanged: u64,
    pub skipped: Vec<(FilePath, String)>,
    pub torn: Vec<FilePath>,
}
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Index(#[from] std::io::Error),
    #[error(transparent)]
    Path(#[from] BadPath),
}
pub enum Place {
    Content { path: FilePath, offset: u64 },
    Xattrs { path: FilePath },
}
pub trait ScanSink: Sync {
    fn chunk(&self, place: &Place, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), ScanError>;
}
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: &'a Value,
    pub stat: Option<(&'a FilePath, &'a FileStat)>,
}
pub fn scan(
    o: &ScanOptions<'_>,
    previous: Option<Previous<'_>>,
    sink: &dyn ScanSink,
    out: &mut dyn FnMut(Entry<'_>) -> Result<(), ScanError>,
) -> Result<ScanReport, ScanError> {
    let mut s = S { o, previous, sink, out, report: ScanReport::default() };
    s.one(FilePath::root(), o.directory.to_owned())?;
    s.dir(FilePath::root(), o.directory.to_owned())?;
    Ok(s.report)
}
struct S<'a, 'b> {
    o: &'a ScanOptions<'a>,
    previous: Option<Previous<'b>>,
    sink: &'a dyn ScanSink,
    out: &'a mut dyn FnMut(Entry<'_>) -> Result<(), ScanError>,
    report: ScanReport,
}
impl S<'_, '_> {
    fn dir(&mut self, at: FilePath, on_disk: PathBuf) -> Result<(), ScanError> {
        use std::os::unix::ffi::OsStrExt;
        let mut items = Vec::new();
        for e in std::fs::read_dir(&on_disk).map_err(|source| ScanError::Io { path: on_disk.clone(), source })? {
            let e = e?;
            let name = e.file_name();
            if at.is_root() && name.as_bytes() == b".landfall" {
                continue;
            }
            items.push(([name.as_bytes(), b"\0"].concat(), e.path()));
            if e.file_type()?.is_dir() {
                items.push(([name.as_bytes(), b"/"].concat(), e.path()));
            }
        }
        items.sort();
        for (n, p) in items {
            let path = at.join(&n[..n.len() - 1])?;
            if n.ends_with(b"/") {
                self.dir(path, p)?;
            } else {
                self.one(path, p)?;
            }
        }
        Ok(())
    }
    fn one(&mut self, path: FilePath, on_disk: PathBuf) -> Result<(), ScanError> {
        use std::os::unix::ffi::OsStringExt;
        let st = rustix::fs::lstat(&on_disk).map_err(|e| ScanError::Io { path: on_disk.clone(), source: e.into() })?;
        let stat = FileStat::of(&st);
        let mut meta = Meta {
            kind: FileKind::Directory,
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            mtime: stat.mtime,
        };
        let key = FileKey::Meta(path.clone()).encode();
        let t = rustix::fs::FileType::from_raw_mode(st.st_mode);
        let mut contents = Vec::new();
        let mut whole = None;
        if t == rustix::fs::FileType::Symlink {
            meta.kind = FileKind::Symlink(std::fs::read_link(&on_disk)?.into_os_string().into_vec().into());
        } else if t == rustix::fs::FileType::RegularFile {
            let size = st.st_size as u64;
            let f = std::fs::File::open(&on_disk)?;
            let mut head = vec![0; (size as usize).min(4096)];
            f.read_exact_at(&mut head, 0)?;
            let content = decide_content(size, &Bytes::from(head), None);
            let mut cutter = Cutter::of(&content);
            if let Some(cutter) = &mut cutter {
                let mut buf: Vec<u8> = Vec::new();
                let mut at = 0u64;
                let mut read = 0u64;
                while at < size {
                    while read < size && buf.len() < 1 << 20 {
                        let n = ((size - read) as usize).min(1 << 20);
                        let l = buf.len();
                        buf.resize(l + n, 0);
                        f.read_exact_at(&mut buf[l..], read)?;
                        read += n as u64;
                    }
                    let cut = cutter
                        .next_cut(&buf, if read >= size { Rest::IsEmpty } else { Rest::MayFollow })
                        .unwrap_or(buf.len());
                    let rest = buf.split_off(cut);
                    let chunk = Chunk::new(Domain::Data, std::mem::replace(&mut buf, rest).into());
                    let r = ChunkRef { id: chunk.id(), bytes: chunk.bytes().len() as u32 };
                    if content == Content::Whole {
                        whole = Some(r);
                        self.sink.chunk(&Place::Content { path: path.clone(), offset: at }, &chunk, None)?;
                    } else if !is_zero(chunk.bytes()) {
                        let k = FileKey::Content { path: path.clone(), offset: at }.encode();
                        let old = match &self.previous {
                            Some(p) => landfall_core::tree::get(p.nodes, &p.root, &k)?.and_then(|v| v.chunk),
                            None => None,
                        };
                        if old != Some(r) {
                            self.sink.chunk(&Place::Content { path: path.clone(), offset: at }, &chunk, old)?;
                        }
                        contents.push((k, Value { inline: Bytes::new(), chunk: Some(r) }));
                    }
                    at += cut as u64;
                }
                self.report.bytes_read += size;
            }
            meta.kind = FileKind::File { size, content };
        }
        let value = Value { inline: encode_meta(&meta).into(), chunk: whole };
        (self.out)(Entry { key: &key, value: &value, stat: Some((&path, &stat)) })?;
        for (k, v) in contents {
            (self.out)(Entry { key: &k, value: &v, stat: None })?;
        }
        let _ = (self.o, Bound::<()>::Unbounded);
        Ok(())
    }
}

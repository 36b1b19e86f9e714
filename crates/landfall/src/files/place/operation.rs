//! Owns the steps by which a directory becomes another: plain data, in key order, that can be written down, read from either
//! end, and carried out twice with the effect of once.

use std::os::fd::AsFd;
use std::path::Path;

use bytes::{Buf, Bytes};
use landfall_core::ChunkId;
use landfall_core::files::{Content, FileKind, FilePath, Meta, decode_meta, encode_meta};

use crate::files::block::{
    BlockReader, BlockWriter, Magic, RECORD_BYTES_MAX, ReadError, ReverseBlockReader, get_bytes, get_varint, path_from,
    put_bytes, put_varint,
};

/// One step. Every path that a snapshot changes has one or more, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes the path what `meta` says: a staged file takes its place, a directory, symlink or hard link is made.
    Put {
        /// The path.
        path: FilePath,
        /// What will stand there. Content that is inline is staged like any other and not kept here.
        meta: Meta,
    },
    /// Changes owner, mode and time of what stands at the path; the content stays.
    Alter {
        /// The path.
        path: FilePath,
        /// What it will be. Its kind tells a directory from anything else.
        meta: Meta,
    },
    /// Makes the extended attributes of the path exactly these.
    Xattrs {
        /// The path.
        path: FilePath,
        /// Names and values.
        xattrs: Vec<(Bytes, Bytes)>,
    },
    /// Removes the file, symlink or empty directory at the path.
    Remove {
        /// The path.
        path: FilePath,
    },
    /// Gives a directory back the mode and time that it had before its entries changed. Plans hold it without being told.
    RestoreDirectory {
        /// The directory.
        path: FilePath,
        /// What it was.
        meta: Meta,
    },
    /// Changes nothing, but the path's inode is about to change: the index must look again. Plans hold it without being told.
    Refresh {
        /// The path.
        path: FilePath,
    },
}

impl Operation {
    /// The path that the step is about.
    pub fn path(&self) -> &FilePath {
        match self {
            Self::Put { path, .. }
            | Self::Alter { path, .. }
            | Self::Xattrs { path, .. }
            | Self::Remove { path }
            | Self::RestoreDirectory { path, .. }
            | Self::Refresh { path } => path,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Put { .. } => PUT,
            Self::Alter { .. } => ALTER,
            Self::Xattrs { .. } => XATTRS,
            Self::Remove { .. } => REMOVE,
            Self::RestoreDirectory { .. } => RESTORE_DIRECTORY,
            Self::Refresh { .. } => REFRESH,
        });
        put_bytes(out, self.path().as_bytes());
        match self {
            Self::Put { meta, .. } | Self::Alter { meta, .. } | Self::RestoreDirectory { meta, .. } => {
                put_bytes(out, &encode_meta(&without_content(meta)));
            }
            Self::Xattrs { xattrs, .. } => {
                put_varint(out, xattrs.len() as u64);
                for (name, value) in xattrs {
                    put_bytes(out, name);
                    put_bytes(out, value);
                }
            }
            Self::Remove { .. } | Self::Refresh { .. } => {}
        }
    }

    fn decode(block: &mut Bytes) -> Result<Self, ReadError> {
        let tag = block.try_get_u8().map_err(|_| ReadError::Damaged("it ends inside a step"))?;
        let path = path_from(get_bytes(block)?)?;
        Ok(match tag {
            PUT => Self::Put { path, meta: get_meta(block)? },
            ALTER => Self::Alter { path, meta: get_meta(block)? },
            RESTORE_DIRECTORY => Self::RestoreDirectory { path, meta: get_meta(block)? },
            XATTRS => Self::Xattrs { path, xattrs: get_xattrs(block)? },
            REMOVE => Self::Remove { path },
            REFRESH => Self::Refresh { path },
            _ => return Err(ReadError::Damaged("a step is of no known kind")),
        })
    }

    /// Would the step be longer than a plan can hold?
    pub(super) fn is_too_long(&self) -> bool {
        let Self::Xattrs { xattrs, .. } = self else { return false };
        let length: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        length + FilePath::BYTES_MAX + 16 > RECORD_BYTES_MAX
    }
}

/// Writes a plan in flat memory.
pub(super) struct PlanWriter(BlockWriter);

impl PlanWriter {
    pub(super) fn create(directory: impl AsFd, name: &str) -> std::io::Result<Self> {
        Ok(Self(BlockWriter::create(directory, Path::new(name), MAGIC, &[])?))
    }

    /// A plan that is only right for a directory that holds the snapshot `manifest`.
    pub(super) fn create_after(directory: impl AsFd, name: &str, manifest: ChunkId) -> std::io::Result<Self> {
        Ok(Self(BlockWriter::create(directory, Path::new(name), MAGIC, manifest.as_bytes())?))
    }

    pub(super) fn push(&mut self, operation: &Operation) -> std::io::Result<()> {
        self.0.push(|out| operation.encode(out))
    }

    pub(super) fn commit(self) -> std::io::Result<()> {
        self.0.commit()
    }
}

/// Reads a plan from its beginning.
pub(super) struct PlanReader {
    blocks: BlockReader,
    block: Bytes,
    steps: u64,
}

impl PlanReader {
    pub(super) fn open(directory: impl AsFd, name: &str) -> Result<Self, ReadError> {
        Ok(Self { blocks: BlockReader::open(directory, Path::new(name), MAGIC)?, block: Bytes::new(), steps: 0 })
    }

    /// The snapshot that a directory must hold for the plan to be right, if the plan names one.
    pub(super) fn after(&self) -> Option<ChunkId> {
        ChunkId::from_slice(self.blocks.header())
    }

    pub(super) fn next_step(&mut self) -> Result<Option<Operation>, ReadError> {
        if self.block.is_empty() {
            match self.blocks.next_block(self.steps)? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
        }
        self.steps += 1;
        Operation::decode(&mut self.block).map(Some)
    }
}

/// Reads a plan from its end.
pub(super) struct ReversePlanReader {
    blocks: ReverseBlockReader,
    steps: Vec<Operation>,
}

impl ReversePlanReader {
    pub(super) fn open(directory: impl AsFd, name: &str) -> Result<Self, ReadError> {
        Ok(Self { blocks: ReverseBlockReader::open(directory, Path::new(name), MAGIC)?, steps: Vec::new() })
    }

    pub(super) fn next_step(&mut self) -> Result<Option<Operation>, ReadError> {
        if self.steps.is_empty() {
            let Some(mut block) = self.blocks.next_block()? else { return Ok(None) };
            while !block.is_empty() {
                self.steps.push(Operation::decode(&mut block)?);
            }
        }
        Ok(self.steps.pop())
    }
}

/// The content is staged beside the plan; here it would only be carried twice.
fn without_content(meta: &Meta) -> Meta {
    let kind = match &meta.kind {
        FileKind::File { size, content: Content::Inline(_) } => FileKind::File { size: *size, content: Content::Whole },
        kind => kind.clone(),
    };
    Meta { kind, ..*meta }
}

fn get_meta(block: &mut Bytes) -> Result<Meta, ReadError> {
    decode_meta(&get_bytes(block)?).map_err(|error| ReadError::Damaged(error.0))
}

fn get_xattrs(block: &mut Bytes) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
    let count = get_varint(block)?;
    if count > block.len() as u64 {
        return Err(ReadError::Damaged("there are more attributes than bytes"));
    }
    (0..count).map(|_| Ok((get_bytes(block)?, get_bytes(block)?))).collect()
}

const MAGIC: &Magic = b"LFplan01";
const PUT: u8 = 1;
const ALTER: u8 = 2;
const XATTRS: u8 = 3;
const REMOVE: u8 = 4;
const RESTORE_DIRECTORY: u8 = 5;
const REFRESH: u8 = 6;

#[cfg(test)]
mod tests {
    use landfall_core::files::Mtime;

    use super::*;

    fn path(path: &'static str) -> FilePath {
        FilePath::new(path).unwrap()
    }

    fn every_kind_of_step() -> Vec<Operation> {
        let meta = |kind| Meta { kind, mode: 0o640, uid: 1000, gid: 300, mtime: Mtime { seconds: -1, nanos: 5 } };
        let file = FileKind::File { size: 3, content: Content::Whole };
        let xattrs = vec![("user.a".into(), "1".into()), ("user.b".into(), Bytes::new())];
        vec![
            Operation::RestoreDirectory { path: path(""), meta: meta(FileKind::Directory) },
            Operation::Put { path: path("a"), meta: meta(file) },
            Operation::Xattrs { path: path("a"), xattrs },
            Operation::Alter { path: path("b"), meta: meta(FileKind::Symlink("t".into())) },
            Operation::Remove { path: path("c") },
            Operation::Refresh { path: path("d") },
        ]
    }

    fn write(directory: &std::path::Path, steps: &[Operation]) {
        let mut writer = PlanWriter::create(std::fs::File::open(directory).unwrap(), "plan").unwrap();
        for step in steps {
            writer.push(step).unwrap();
        }
        writer.commit().unwrap();
    }

    #[track_caller]
    fn check_read(steps: &[Operation]) {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), steps);
        let at = std::fs::File::open(directory.path()).unwrap();
        let mut reader = PlanReader::open(&at, "plan").unwrap();
        let forward: Vec<_> = std::iter::from_fn(|| reader.next_step().unwrap()).collect();
        assert_eq!(forward, steps);
        let mut reader = ReversePlanReader::open(&at, "plan").unwrap();
        let mut backward: Vec<_> = std::iter::from_fn(|| reader.next_step().unwrap()).collect();
        backward.reverse();
        assert_eq!(backward, steps);
    }

    #[test]
    fn a_plan_reads_the_same_from_either_end() {
        check_read(&[]);
        check_read(&every_kind_of_step());
        let many = (0..20_000).map(|n| Operation::Remove { path: FilePath::new(format!("f{n:06}")).unwrap() });
        check_read(&many.collect::<Vec<_>>());
    }

    #[test]
    fn content_is_not_carried_twice() {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::Inline(Bytes::from_static(b"bytes"));
        let kind = FileKind::File { size: 5, content };
        let meta = Meta { kind, mode: 0o600, uid: 0, gid: 0, mtime: Mtime::default() };
        write(directory.path(), &[Operation::Put { path: path("a"), meta }]);
        let at = std::fs::File::open(directory.path()).unwrap();
        let Some(Operation::Put { meta, .. }) = PlanReader::open(&at, "plan").unwrap().next_step().unwrap() else {
            panic!("no step");
        };
        assert_eq!(meta.kind, FileKind::File { size: 5, content: Content::Whole });
    }

    #[test]
    fn the_encoding_is_frozen() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &every_kind_of_step());
        let bytes = std::fs::read(directory.path().join("plan")).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    /// Magic; the empty header; the six steps; the end.
    const GOLDEN: &str = concat!(
        "4c46706c616e3031",
        "00000000c74b674800000000",
        "61000000a2c604ee",
        "05001301a001e807ac02ffffffffffffffff05000000",
        "0101611405a001e807ac02ffffffffffffffff0500000003",
        "030161",
        "0206757365722e61013106757365722e6200",
        "0201621402a001e807ac02ffffffffffffffff0500000074",
        "040163",
        "060164",
        "61000000",
        "ffffffff656e642e0600000000000000",
    );
}

//! Owns the encoding of keys and metadata of a file tree. Equal directories have equal bytes, so every form has exactly
//! one encoding and a decoder refuses all others.

use bytes::{Buf, Bytes};

use super::path::{BadPath, FilePath};
use crate::limits::INLINE_FILE_BYTES_MAX;

/// What a key of a file tree names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileKey {
    /// The metadata of a path: path ‖ 0x00.
    Meta(FilePath),
    /// The content of a file from `offset` on: path ‖ 0x00 ‖ offset, big endian.
    Content {
        /// The file.
        path: FilePath,
        /// Where in the file the chunk begins, in bytes.
        offset: u64,
    },
    /// The extended attributes of a path, if it has any: path ‖ 0x00 ‖ `x`.
    Xattrs(FilePath),
}

impl FileKey {
    /// The key's bytes. In key order a file's metadata comes first, then its content by offset, then its attributes,
    /// and every directory comes before what is inside it.
    pub fn encode(&self) -> Vec<u8> {
        let path = self.path().as_bytes();
        let mut key = Vec::with_capacity(path.len() + 9);
        key.extend_from_slice(path);
        key.push(0);
        match self {
            Self::Meta(_) => {}
            Self::Content { offset, .. } => key.extend_from_slice(&offset.to_be_bytes()),
            Self::Xattrs(_) => key.push(XATTRS_TAG),
        }
        key
    }

    /// Reads a key from a tree that came from outside.
    pub fn decode(key: &Bytes) -> Result<Self, BadPath> {
        let malformed = || BadPath { path: key.clone(), reason: "it is not a key of a file tree" };
        let end = key.iter().position(|&byte| byte == 0).ok_or_else(malformed)?;
        let path = FilePath::new(key.slice(..end))?;
        match &key[end + 1..] {
            [] => Ok(Self::Meta(path)),
            [XATTRS_TAG] => Ok(Self::Xattrs(path)),
            offset => {
                let offset = u64::from_be_bytes(offset.try_into().map_err(|_| malformed())?);
                Ok(Self::Content { path, offset })
            }
        }
    }

    /// The path that the key belongs to.
    pub fn path(&self) -> &FilePath {
        match self {
            Self::Meta(path) | Self::Xattrs(path) | Self::Content { path, .. } => path,
        }
    }
}

/// Sorts after every offset below 2^62, so attributes follow the content.
const XATTRS_TAG: u8 = b'x';

/// When content last changed, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 10^9.
    pub nanos: u32,
}

/// Everything about a path but its content and its extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// What stands at the path.
    pub kind: FileKind,
    /// Permission bits, set-id bits and the sticky bit: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content last changed.
    pub mtime: Mtime,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symlink; the target is data and never followed.
    Symlink(Bytes),
    /// Another name of the file at this path, which is the first of its names in key order.
    HardLink(FilePath),
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Where its bytes are.
        content: Content,
    },
}

/// Where the bytes of a file are. Decided once per file and kept, so that snapshots of one file share their chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the metadata entry itself: at most [`INLINE_FILE_BYTES_MAX`].
    Inline(Bytes),
    /// In one chunk, which the metadata entry refers to.
    Whole,
    /// In chunks of [`crate::limits::PAGE_CHUNK_BYTES`], aligned: page stores.
    Pages,
    /// In chunks that the content itself delimits.
    ContentDefined,
}

/// Why bytes are not the metadata of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metadata is malformed: {0}")]
pub struct MetaError(pub &'static str);

const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;
const FILE_INLINE: u8 = 4;
const FILE_WHOLE: u8 = 5;
const FILE_PAGES: u8 = 6;
const FILE_CONTENT_DEFINED: u8 = 7;

/// The value bytes of a metadata entry.
pub fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.push(match &meta.kind {
        FileKind::Directory => DIRECTORY,
        FileKind::Symlink(_) => SYMLINK,
        FileKind::HardLink(_) => HARD_LINK,
        FileKind::File { content: Content::Inline(_), .. } => FILE_INLINE,
        FileKind::File { content: Content::Whole, .. } => FILE_WHOLE,
        FileKind::File { content: Content::Pages, .. } => FILE_PAGES,
        FileKind::File { content: Content::ContentDefined, .. } => FILE_CONTENT_DEFINED,
    });
    out.extend_from_slice(&(meta.mode as u16).to_le_bytes());
    put_varint(&mut out, u64::from(meta.uid));
    put_varint(&mut out, u64::from(meta.gid));
    out.extend_from_slice(&meta.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&meta.mtime.nanos.to_le_bytes());
    match &meta.kind {
        FileKind::Directory => {}
        FileKind::Symlink(target) => out.extend_from_slice(target),
        FileKind::HardLink(first) => out.extend_from_slice(first.as_bytes()),
        FileKind::File { content: Content::Inline(bytes), .. } => out.extend_from_slice(bytes),
        FileKind::File { size, .. } => put_varint(&mut out, *size),
    }
    out
}

/// Reads the value bytes of a metadata entry that came from outside.
pub fn decode_meta(bytes: &Bytes) -> Result<Meta, MetaError> {
    let mut rest = bytes.clone();
    if rest.len() < 3 {
        return Err(MetaError("it is shorter than a header"));
    }
    let tag = rest.get_u8();
    let mode = u32::from(rest.get_u16_le());
    if mode > 0o7777 {
        return Err(MetaError("the mode has bits beyond 07777"));
    }
    let uid = get_varint_u32(&mut rest)?;
    let gid = get_varint_u32(&mut rest)?;
    if rest.len() < 12 {
        return Err(MetaError("it ends inside the time"));
    }
    let mtime = Mtime { seconds: rest.get_i64_le(), nanos: rest.get_u32_le() };
    if mtime.nanos >= 1_000_000_000 {
        return Err(MetaError("nanoseconds reach a whole second"));
    }
    let kind = decode_kind(tag, &mut rest)?;
    Ok(Meta { kind, mode, uid, gid, mtime })
}

fn decode_kind(tag: u8, rest: &mut Bytes) -> Result<FileKind, MetaError> {
    let content = match tag {
        DIRECTORY if rest.is_empty() => return Ok(FileKind::Directory),
        SYMLINK if !rest.is_empty() && !rest.contains(&0) => return Ok(FileKind::Symlink(rest.clone())),
        HARD_LINK => {
            let first = FilePath::new(rest.clone()).map_err(|_| MetaError("a hard link to a refused path"))?;
            return Ok(FileKind::HardLink(first));
        }
        FILE_INLINE if rest.len() <= INLINE_FILE_BYTES_MAX as usize => {
            let content = Content::Inline(rest.clone());
            return Ok(FileKind::File { size: rest.len() as u64, content });
        }
        FILE_WHOLE => Content::Whole,
        FILE_PAGES => Content::Pages,
        FILE_CONTENT_DEFINED => Content::ContentDefined,
        _ => return Err(MetaError("it has an unknown kind, or a kind with the wrong content")),
    };
    let size = get_varint(rest)?;
    if !rest.is_empty() {
        return Err(MetaError("bytes follow its end"));
    }
    if size > i64::MAX as u64 {
        return Err(MetaError("the file is longer than any file system keeps"));
    }
    Ok(FileKind::File { size, content })
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(bytes: &mut Bytes) -> Result<u64, MetaError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if bytes.is_empty() {
            return Err(MetaError("it ends inside a number"));
        }
        let byte = bytes.get_u8();
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(MetaError("a number does not fit 64 bits"));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                return Err(MetaError("a number is longer than it needs to be"));
            }
            return Ok(value);
        }
    }
    Err(MetaError("a number does not fit 64 bits"))
}

fn get_varint_u32(bytes: &mut Bytes) -> Result<u32, MetaError> {
    u32::try_from(get_varint(bytes)?).map_err(|_| MetaError("an owner does not fit 32 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arbitrary_meta() -> impl Strategy<Value = Meta> {
        let content = prop_oneof![Just(Content::Whole), Just(Content::Pages), Just(Content::ContentDefined)];
        let kind = prop_oneof![
            Just(FileKind::Directory),
            "[a-z/.]{1,40}".prop_map(|target| FileKind::Symlink(target.into())),
            "[a-z]{1,20}".prop_map(|path| FileKind::HardLink(FilePath::new(path).unwrap())),
            (0..=i64::MAX as u64, content).prop_map(|(size, content)| FileKind::File { size, content }),
            proptest::collection::vec(any::<u8>(), 0..64)
                .prop_map(|bytes| FileKind::File { size: bytes.len() as u64, content: Content::Inline(bytes.into()) }),
        ];
        (kind, 0..0o10000u32, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32).prop_map(
            |(kind, mode, uid, gid, seconds, nanos)| Meta { kind, mode, uid, gid, mtime: Mtime { seconds, nanos } },
        )
    }

    proptest! {
        #[test]
        fn metadata_survives_its_encoding(meta in arbitrary_meta()) {
            prop_assert_eq!(decode_meta(&encode_meta(&meta).into()), Ok(meta));
        }

        #[test]
        fn what_decodes_has_exactly_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(meta) = decode_meta(&bytes.clone().into()) {
                prop_assert_eq!(encode_meta(&meta), bytes);
            }
        }

        #[test]
        fn keys_survive_their_encoding(path in "[a-z]{1,8}(/[a-z]{1,8}){0,3}", offset in 0..(1u64 << 62)) {
            let path = FilePath::new(path).unwrap();
            for key in [FileKey::Meta(path.clone()), FileKey::Content { path: path.clone(), offset }, FileKey::Xattrs(path)] {
                prop_assert_eq!(FileKey::decode(&key.encode().into()), Ok(key));
            }
        }
    }

    #[test]
    fn keys_of_a_file_are_in_the_order_in_which_it_is_built() {
        let path = || FilePath::new("a").unwrap();
        let keys = [
            FileKey::Meta(path()),
            FileKey::Content { path: path(), offset: 0 },
            FileKey::Content { path: path(), offset: (1 << 62) - 1 },
            FileKey::Xattrs(path()),
            FileKey::Meta(FilePath::new("a-b").unwrap()),
            FileKey::Meta(FilePath::new("a/b").unwrap()),
        ];
        assert!(keys.iter().map(FileKey::encode).is_sorted());
    }
}

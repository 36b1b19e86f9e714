//! Owns what a snapshot says of itself: whose state it is, where in the order of changes it stands, and the roots of its
//! sections. Its encoding is canonical: the same snapshot has the same bytes and so the same id on every member.

use std::fmt;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes};

use crate::chunk::{Chunk, ChunkId, Domain};
use crate::limits::{KEY_BYTES_MAX, STATE_NAME_BYTES_MAX};
use crate::tree::{Root, Salt};

/// Most sections of one state.
pub const SECTIONS_MAX: usize = 512;

/// The name of a state: what a joiner asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateName(String);

impl StateName {
    /// Checks a name: letters, digits, `-`, `_` and `.`, not beginning with a dot, at most 128 bytes.
    pub fn new(name: impl Into<String>) -> Result<Self, BadStateName> {
        let name = name.into();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty()
            || name.len() > STATE_NAME_BYTES_MAX as usize
            || name.starts_with('.')
            || !name.bytes().all(legal)
        {
            return Err(BadStateName { name });
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateName({})", self.0)
    }
}

/// A text that is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a state name: use 1 to 128 letters, digits, '-', '_' and '.', not beginning with a dot")]
pub struct BadStateName {
    /// What was given.
    pub name: String,
}

/// A place in the total order of changes. Positions increase; gaps are legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Grows when the right to write changes hands.
    pub epoch: u64,
    /// Grows with every change within all epochs.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.index)
    }
}

/// The hash chain over all records up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LogHash(pub [u8; 32]);

impl LogHash {
    /// The chain after one more record: every record is linked to the one before it.
    pub fn after(self, position: Position, record: &[u8]) -> Self {
        let mut hasher = LOG_HASHER.clone();
        hasher.update(&self.0).update(&position.epoch.to_le_bytes()).update(&position.index.to_le_bytes());
        hasher.update(record);
        Self(*hasher.finalize().as_bytes())
    }
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SectionKind {
    /// A directory, as a file tree.
    Files = 1,
    /// Keys and values of a service.
    Keyed = 2,
}

/// How early a joiner needs a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SectionPriority {
    /// Nothing can be served without it.
    Vital = 1,
    /// The bulk of the state.
    Bulk = 2,
    /// Can be rebuilt; shipped last.
    Cache = 3,
}

/// The keys that a section may hold: from `start` on, up to but without `end`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key of the range.
    pub start: Bytes,
    /// The first key beyond the range; nothing where it has no end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Whether `key` may be held.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }
}

/// A part of a state with a tree of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, unique in the state.
    pub name: StateName,
    /// What it holds.
    pub kind: SectionKind,
    /// How early a joiner needs it.
    pub priority: SectionPriority,
    /// The keys it may hold.
    pub range: KeyRange,
    /// The key of its boundary hash.
    pub salt: Salt,
    /// Its tree.
    pub root: Root,
}

/// Everything that a snapshot is, in a few hundred bytes. Its id names the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whose state this is.
    pub state: StateName,
    /// Where in the order of changes it stands.
    pub position: Position,
    /// The hash chain of the log at that position.
    pub log_hash: LogHash,
    /// Its sections, ordered by name.
    pub sections: Vec<Section>,
}

/// Hash of a state's content: equal content, equal root, whatever the history.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateRoot([u8; 32]);

impl StateRoot {
    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for StateRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for StateRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateRoot({self})")
    }
}

/// Why bytes are not a manifest or a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A newer member wrote them: update this one.
    #[error("snapshot format {found} is not known here (this member knows {FORMAT}): update this member")]
    UnknownFormat {
        /// The format that the bytes name.
        found: u8,
    },
    /// They are damaged, or whoever made them is broken.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

impl Manifest {
    /// The hash of formats, names, ranges, roots and counts of all sections; nothing of the history.
    pub fn state_root(&self) -> StateRoot {
        let mut content = Vec::with_capacity(128 * self.sections.len() + 2);
        content.put_u8(FORMAT);
        content.put_u32_le(self.sections.len() as u32);
        for section in &self.sections {
            put_section(&mut content, section);
        }
        let mut hasher = STATE_ROOT_HASHER.clone();
        hasher.update(&content);
        StateRoot(*hasher.finalize().as_bytes())
    }

    /// The one encoding of this manifest, as the chunk that names the snapshot.
    pub fn to_chunk(&self) -> Chunk {
        let mut out = Vec::with_capacity(128 * self.sections.len() + 128);
        out.put_u8(FORMAT);
        put_short_bytes(&mut out, self.state.as_str().as_bytes());
        out.put_u64_le(self.position.epoch);
        out.put_u64_le(self.position.index);
        out.put_slice(&self.log_hash.0);
        out.put_u32_le(self.sections.len() as u32);
        for section in &self.sections {
            put_section(&mut out, section);
        }
        Chunk::new(Domain::Manifest, out.into())
    }

    /// The id of the snapshot.
    pub fn id(&self) -> ChunkId {
        self.to_chunk().id()
    }

    /// Reads bytes that were verified in the manifest domain.
    pub fn decode(bytes: &Bytes) -> Result<Self, SnapshotError> {
        let mut rest = bytes.clone();
        let format = take(&mut rest, 1)?.get_u8();
        if format != FORMAT {
            return Err(SnapshotError::UnknownFormat { found: format });
        }
        let state = take_name(&mut rest)?;
        let mut fixed = take(&mut rest, 16 + 32 + 4)?;
        let position = Position { epoch: fixed.get_u64_le(), index: fixed.get_u64_le() };
        let mut log_hash = LogHash::default();
        fixed.copy_to_slice(&mut log_hash.0);
        let count = fixed.get_u32_le() as usize;
        if count > SECTIONS_MAX {
            return Err(SnapshotError::Malformed("more sections than any state has"));
        }
        let sections = (0..count).map(|_| take_section(&mut rest)).collect::<Result<Vec<_>, _>>()?;
        if !rest.is_empty() {
            return Err(SnapshotError::Malformed("bytes follow the last section"));
        }
        if !sections.is_sorted_by(|a, b| a.name < b.name) {
            return Err(SnapshotError::Malformed("sections are not in order of their names"));
        }
        Ok(Self { state, position, log_hash, sections })
    }

    /// Bytes of all inline values and all chunks of the state.
    pub fn payload_bytes(&self) -> u64 {
        self.sections.iter().map(|section| section.root.payload_bytes).sum()
    }
}

/// A claim by the writer of a state: "the newest snapshot is this one". It counts only with the writer's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose head it is.
    pub state: StateName,
    /// The newest snapshot.
    pub snapshot: ChunkId,
    /// Its position; heads never go back.
    pub position: Position,
    /// The snapshot before it.
    pub previous: Option<ChunkId>,
}

impl Head {
    /// The bytes that the writer signs.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_u8(FORMAT);
        put_short_bytes(&mut out, self.state.as_str().as_bytes());
        out.put_slice(self.snapshot.as_bytes());
        out.put_u64_le(self.position.epoch);
        out.put_u64_le(self.position.index);
        out.put_u8(u8::from(self.previous.is_some()));
        if let Some(previous) = &self.previous {
            out.put_slice(previous.as_bytes());
        }
        out
    }

    /// Reads a head from outside. Its signature is checked by whoever knows the certificates.
    pub fn decode(bytes: &Bytes) -> Result<Self, SnapshotError> {
        let mut rest = bytes.clone();
        let format = take(&mut rest, 1)?.get_u8();
        if format != FORMAT {
            return Err(SnapshotError::UnknownFormat { found: format });
        }
        let state = take_name(&mut rest)?;
        let snapshot = take_id(&mut rest)?;
        let mut fixed = take(&mut rest, 17)?;
        let position = Position { epoch: fixed.get_u64_le(), index: fixed.get_u64_le() };
        let previous = match fixed.get_u8() {
            0 => None,
            1 => Some(take_id(&mut rest)?),
            _ => return Err(SnapshotError::Malformed("neither a previous snapshot nor none")),
        };
        if !rest.is_empty() {
            return Err(SnapshotError::Malformed("bytes follow the head"));
        }
        Ok(Self { state, snapshot, position, previous })
    }
}

fn put_section(out: &mut Vec<u8>, section: &Section) {
    put_short_bytes(out, section.name.as_str().as_bytes());
    out.put_u8(section.kind as u8);
    out.put_u8(section.priority as u8);
    put_short_bytes(out, &section.range.start);
    out.put_u8(u8::from(section.range.end.is_some()));
    if let Some(end) = &section.range.end {
        put_short_bytes(out, end);
    }
    out.put_slice(&section.salt.0);
    out.put_slice(section.root.id.as_bytes());
    out.put_u8(section.root.level);
    out.put_u64_le(section.root.entries);
    out.put_u64_le(section.root.payload_bytes);
    out.put_u64_le(section.root.chunk_refs);
}

fn take_section(rest: &mut Bytes) -> Result<Section, SnapshotError> {
    let name = take_name(rest)?;
    let mut tags = take(rest, 2)?;
    let kind = match tags.get_u8() {
        1 => SectionKind::Files,
        2 => SectionKind::Keyed,
        _ => return Err(SnapshotError::Malformed("unknown kind of section")),
    };
    let priority = match tags.get_u8() {
        1 => SectionPriority::Vital,
        2 => SectionPriority::Bulk,
        3 => SectionPriority::Cache,
        _ => return Err(SnapshotError::Malformed("unknown priority of a section")),
    };
    let start = take_short_bytes(rest)?;
    let end = match take(rest, 1)?.get_u8() {
        0 => None,
        1 => Some(take_short_bytes(rest)?),
        _ => return Err(SnapshotError::Malformed("a range neither with nor without an end")),
    };
    let mut salt = Salt([0; 16]);
    take(rest, 16)?.copy_to_slice(&mut salt.0);
    let id = take_id(rest)?;
    let mut counts = take(rest, 1 + 3 * 8)?;
    let root = Root {
        id,
        level: counts.get_u8(),
        entries: counts.get_u64_le(),
        payload_bytes: counts.get_u64_le(),
        chunk_refs: counts.get_u64_le(),
    };
    Ok(Section { name, kind, priority, range: KeyRange { start, end }, salt, root })
}

fn put_short_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u16_le(u16::try_from(bytes.len()).expect("names and keys are shorter than 64 KiB"));
    out.put_slice(bytes);
}

fn take_short_bytes(rest: &mut Bytes) -> Result<Bytes, SnapshotError> {
    let length = take(rest, 2)?.get_u16_le();
    if u32::from(length) > KEY_BYTES_MAX {
        return Err(SnapshotError::Malformed("a name or key longer than any"));
    }
    take(rest, usize::from(length))
}

fn take_name(rest: &mut Bytes) -> Result<StateName, SnapshotError> {
    let bytes = take_short_bytes(rest)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SnapshotError::Malformed("a name that is not text"))?;
    StateName::new(text).map_err(|_| SnapshotError::Malformed("a refused name"))
}

fn take_id(rest: &mut Bytes) -> Result<ChunkId, SnapshotError> {
    let mut id = [0; ChunkId::BYTES];
    take(rest, ChunkId::BYTES)?.copy_to_slice(&mut id);
    Ok(ChunkId::from_bytes(id))
}

fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, SnapshotError> {
    if rest.len() < length {
        return Err(SnapshotError::Malformed("it ends too early"));
    }
    Ok(rest.split_to(length))
}

/// The only format of manifests and heads so far.
const FORMAT: u8 = 1;

static STATE_ROOT_HASHER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("landfall 2026 state root"));
static LOG_HASHER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("landfall 2026 log chain"));

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let root =
            Root { id: ChunkId::of(Domain::Node, b"root"), level: 1, entries: 12, payload_bytes: 3456, chunk_refs: 7 };
        let section = |name: &str, range| Section {
            name: StateName::new(name).unwrap(),
            kind: SectionKind::Files,
            priority: SectionPriority::Bulk,
            range,
            salt: Salt::PUBLIC,
            root,
        };
        let half = KeyRange { start: Bytes::from_static(b"a"), end: Some(Bytes::from_static(b"m")) };
        Manifest {
            state: StateName::new("orders").unwrap(),
            position: Position { epoch: 3, index: 42 },
            log_hash: LogHash::default().after(Position { epoch: 3, index: 42 }, b"mark"),
            sections: vec![section("cache", half), section("data", KeyRange::default())],
        }
    }

    #[test]
    fn survives_its_encoding() {
        let chunk = manifest().to_chunk();
        assert_eq!(Manifest::decode(chunk.bytes()), Ok(manifest()));
    }

    #[test]
    fn the_encoding_is_frozen() {
        assert_eq!(manifest().id().to_string(), "b5581205612d8ac42e4c18fc660b0fa004ad24d70f8509c4d0413b732b3a07f5");
        assert_eq!(
            manifest().state_root().to_string(),
            "c6b18810482e4e56d12b9696a96a27700f647a1d06c13f81adca6efcac6626a3"
        );
    }

    #[test]
    fn the_state_root_forgets_the_history() {
        let mut later = manifest();
        later.position.index += 1;
        later.log_hash = later.log_hash.after(later.position, b"again");
        assert_eq!(later.state_root(), manifest().state_root());
        assert_ne!(later.id(), manifest().id());
    }

    #[test]
    fn refuses_every_truncation_and_every_unknown_format() {
        let bytes = manifest().to_chunk().into_bytes();
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes.slice(..length)).is_err(), "{length}");
        }
        let mut newer = bytes.to_vec();
        newer[0] = 9;
        assert_eq!(Manifest::decode(&newer.into()), Err(SnapshotError::UnknownFormat { found: 9 }));
    }

    #[test]
    fn refuses_sections_out_of_order() {
        let mut swapped = manifest();
        swapped.sections.swap(0, 1);
        assert!(Manifest::decode(swapped.to_chunk().bytes()).is_err());
    }

    #[test]
    fn a_head_survives_its_encoding() {
        for previous in [None, Some(ChunkId::of(Domain::Manifest, b"before"))] {
            let head =
                Head { state: manifest().state, snapshot: manifest().id(), position: manifest().position, previous };
            let bytes = Bytes::from(head.encode());
            assert_eq!(Head::decode(&bytes), Ok(head));
            assert!(Head::decode(&bytes.slice(..bytes.len() - 1)).is_err());
        }
    }

    #[test]
    fn refuses_names_that_are_paths() {
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä"] {
            assert!(StateName::new(name).is_err(), "{name}");
        }
        assert!(StateName::new("orders-2.eu_west").is_ok());
    }
}

//! Owns the names of content and the proof that bytes match their name.
//!
//! It never stores or sends a chunk; it only says what a chunk is.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::limits::CHUNK_BYTES_MAX;

/// The name of a chunk: the BLAKE3-256 hash of its plaintext, within its domain.
///
/// Compression and patches belong to the hop, never to the name: stored, sent and received forms of a chunk may
/// differ, its id does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; ChunkId::BYTES]);

impl ChunkId {
    /// Length of an id on disk and on the wire.
    pub const BYTES: usize = 32;

    /// Takes an id that was read from a disk, a peer or a parent node. The id itself carries no proof.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The id of `plaintext` in `domain`.
    pub fn of(domain: Domain, plaintext: &[u8]) -> Self {
        let hash = match domain {
            Domain::Data => blake3::hash(plaintext),
            Domain::Node => blake3::keyed_hash(&NODE_KEY, plaintext),
            Domain::Manifest => blake3::keyed_hash(&MANIFEST_KEY, plaintext),
        };
        Self(*hash.as_bytes())
    }

    /// Takes an id from a field of a message or record, if the field is as long as an id.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id as a field of a message or record.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The raw bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The first eight hexadecimal digits: enough for a person, never enough for a decision.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({})", self.short())
    }
}

/// Why a text is not a chunk id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a chunk id: 64 hexadecimal digits are needed")]
pub struct ParseChunkIdError {
    text: String,
}

impl FromStr for ChunkId {
    type Err = ParseChunkIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ParseChunkIdError { text: text.to_owned() })
    }
}

/// What kind of bytes a hash stands for.
///
/// Each domain hashes differently, so nobody can craft a data chunk that is also a valid tree node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Domain {
    /// Content of a file or a large value. Its id is the plain BLAKE3 hash, so `b3sum` gives the same digits.
    Data = 0,
    /// A tree node.
    Node = 1,
    /// A snapshot manifest.
    Manifest = 2,
}

impl Domain {
    /// Reads the byte that frames carry.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Node),
            2 => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// Bytes proven to match their id. Unverified bytes have no way into a store or a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    id: ChunkId,
    domain: Domain,
    bytes: Bytes,
}

impl Chunk {
    /// Names bytes that this member made itself.
    ///
    /// # Panics
    /// If `bytes` is longer than [`CHUNK_BYTES_MAX`]: the caller cuts, this names.
    pub fn new(domain: Domain, bytes: Bytes) -> Self {
        assert!(bytes.len() <= CHUNK_BYTES_MAX as usize, "a chunk of {} bytes", bytes.len());
        Self { id: ChunkId::of(domain, &bytes), domain, bytes }
    }

    /// Checks bytes that came from outside: a peer, a disk, an archive.
    pub fn verify(id: ChunkId, domain: Domain, bytes: Bytes) -> Result<Self, HashMismatch> {
        let actual = ChunkId::of(domain, &bytes);
        if actual != id {
            return Err(HashMismatch { expected: id, actual });
        }
        Ok(Self { id, domain, bytes })
    }

    /// The name that the bytes were proven to have.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The domain in which the name holds.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// The plaintext.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The proof without the ownership.
    pub fn as_proven(&self) -> Proven<'_> {
        Proven { id: self.id, domain: self.domain, bytes: &self.bytes }
    }

    /// Gives up the proof and keeps the plaintext.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Borrowed bytes proven to match their id: a chunk on its way to where it will be kept, without a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proven<'a> {
    id: ChunkId,
    domain: Domain,
    bytes: &'a [u8],
}

impl<'a> Proven<'a> {
    /// Checks bytes that came from outside: a peer, a disk, an archive.
    pub fn verify(id: ChunkId, domain: Domain, bytes: &'a [u8]) -> Result<Self, HashMismatch> {
        let actual = ChunkId::of(domain, bytes);
        if actual != id {
            return Err(HashMismatch { expected: id, actual });
        }
        Ok(Self { id, domain, bytes })
    }

    /// The domain in which the name holds.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// The plaintext.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The same proof with bytes of its own.
    pub fn to_chunk(self) -> Chunk {
        Chunk { id: self.id, domain: self.domain, bytes: Bytes::copy_from_slice(self.bytes) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({}, {:?}, {} B)", self.id.short(), self.domain, self.bytes.len())
    }
}

/// Bytes that are not what their name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes hash to {actual}, not to {expected}")]
pub struct HashMismatch {
    /// The id that was asked for.
    pub expected: ChunkId,
    /// The id of the bytes that came.
    pub actual: ChunkId,
}

static NODE_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key("landfall 2026 tree node", &[]));
static MANIFEST_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key("landfall 2026 snapshot manifest", &[]));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifies_only_bytes_that_match_their_id_in_their_domain() {
        let chunk = Chunk::new(Domain::Data, Bytes::from_static(b"state"));
        assert_eq!(Chunk::verify(chunk.id(), Domain::Data, Bytes::from_static(b"state")), Ok(chunk.clone()));
        assert!(Chunk::verify(chunk.id(), Domain::Data, Bytes::from_static(b"State")).is_err());
        assert!(Chunk::verify(chunk.id(), Domain::Node, Bytes::from_static(b"state")).is_err());
    }

    #[test]
    fn ids_of_every_domain_are_frozen() {
        let id = |domain| ChunkId::of(domain, b"landfall").to_string();
        assert_eq!(id(Domain::Data), blake3::hash(b"landfall").to_hex().as_str());
        assert_eq!(id(Domain::Node), "ec5725e750d86e9e4c075554b45e96113f59efdf025b8e24c991232b622532b5");
        assert_eq!(id(Domain::Manifest), "271bffa2e360f07b2fa0fff823704b168238fb2bf42953df67cd90e190b0f8c8");
    }

    #[test]
    fn reads_the_text_that_it_prints() {
        let id = ChunkId::of(Domain::Data, b"x");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<ChunkId>().is_err());
    }
}

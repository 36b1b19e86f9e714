//! Owns making a patch of a node against the one whose place it takes. It never stores one.

use bytes::Bytes;
use landfall_core::codec::{Codec, Copied, Encoder};
use landfall_core::{Chunk, ChunkId};
use landfall_store::SoundBase;

/// A node whose place another takes.
pub(crate) struct Replaced<'a> {
    pub(crate) id: ChunkId,
    pub(crate) bytes: &'a Bytes,
    /// What the other has of it, as far as that is known.
    pub(crate) copied: &'a [Copied],
    /// Whether a patch can be put on it, if that is known.
    pub(crate) kept: Option<SoundBase<'a>>,
}

/// What making patches needs, used again from node to node.
#[derive(Default)]
pub(crate) struct Patching {
    encoder: Encoder,
    patch: Vec<u8>,
}

impl Patching {
    /// The patch that makes `node` of the old one, if there may be one and it saves at least half.
    pub(super) fn make(&mut self, node: &Chunk, old: &Replaced<'_>) -> Option<&[u8]> {
        if old.kept.is_some_and(|base| !base.bears_a_patch()) {
            return None;
        }
        let made = match old.copied {
            [] => self.encoder.encode(Codec::ZstdPatch, node.bytes(), Some(old.bytes), &mut self.patch),
            copied => self.encoder.encode_copied(node.bytes(), old.bytes, copied, &mut self.patch),
        };
        made.ok().filter(|()| Codec::ZstdPatch.is_worth_it(node.bytes().len(), self.patch.len()))?;
        Some(&self.patch)
    }
}

//! What several tests of the store share: chunks by number, manifests that are lists, and reading as the engine reads.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::vfs::faulty::FaultyVfs;
use landfall_store::{
    Below, OpenError, Reach, Reference, Sealing, Store, StoreError, StoreOptions, StoredFrame, Undecodable, UnixMillis,
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_000);

/// A codec of these tests: the payload is what follows the bytes of the base.
pub(crate) const CODEC_APPEND: u8 = 9;

pub(crate) fn small_options() -> StoreOptions {
    StoreOptions { pack_bytes_target: 4_000, young_entries_max: 16, sealing: Sealing::Inline }
}

pub(crate) fn open(vfs: &FaultyVfs) -> Result<Store, OpenError> {
    Store::open(Arc::new(vfs.clone()), Path::new("store"), small_options())
}

pub(crate) fn chunk(number: u64) -> Chunk {
    let bytes: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(40 + number as usize * 37 % 900).collect();
    Chunk::new(Domain::Data, Bytes::from(bytes))
}

pub(crate) fn list_of(chunks: &[Chunk]) -> Chunk {
    let ids: Vec<u8> = chunks.iter().flat_map(|chunk| *chunk.id().as_bytes()).collect();
    Chunk::new(Domain::Manifest, Bytes::from(ids))
}

/// A manifest in these tests is a list of ids of data chunks.
pub(crate) struct Lists;

impl Reach for Lists {
    fn references(&self, _: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable> {
        let (ids, _) = frame.bytes.as_chunks::<{ ChunkId::BYTES }>();
        found.extend(ids.iter().map(|id| Reference { id: ChunkId::from_bytes(*id), below: Below::Nothing }));
        Ok(())
    }
}

/// Reads a chunk as the engine does: decode, then verify.
pub(crate) fn get(store: &Store, id: ChunkId) -> Result<Option<Chunk>, StoreError> {
    let Some(frame) = store.get_encoded(id)? else { return Ok(None) };
    let mut plain = Vec::new();
    if frame.codec == CODEC_APPEND {
        let base = frame.base.expect("a patch names its base");
        let Some(base) = get(store, base)? else { return Ok(None) };
        plain.extend(base.bytes());
    }
    plain.extend(&frame.bytes);
    Ok(Some(Chunk::verify(id, frame.domain, plain.into()).expect("the store served bytes of another chunk")))
}

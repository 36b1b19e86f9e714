//! Owns what becomes of the chunks that a scan finds: content that is kept goes into packs, as patches where that pays.

use std::sync::Mutex;

use landfall_core::Chunk;
use landfall_core::codec::{Codec, Decoder, Encoder};
use landfall_core::tree::ChunkRef;
use landfall_store::{Encoded, Store, StoreError};

use crate::content::PackedContent;
use crate::files::scan::{Place, ScanError, ScanSink};

/// Keeps every chunk.
pub(super) struct PackSink<'a> {
    store: &'a Store,
    /// One for each thread that scans at once.
    coders: Mutex<Vec<Coder>>,
}

#[derive(Default)]
struct Coder {
    encoder: Encoder,
    decoder: Decoder,
    base: Vec<u8>,
    patch: Vec<u8>,
}

impl<'a> PackSink<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, coders: Mutex::default() }
    }

    fn keep(&self, coder: &mut Coder, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), StoreError> {
        match previous {
            Some(previous) if self.keep_as_patch(coder, chunk, previous)? => Ok(()),
            _ => self.store.put(chunk),
        }
    }

    /// Stores the chunk as what differs from the one that stood at its place before: the very patch that a joiner will want.
    fn keep_as_patch(&self, coder: &mut Coder, chunk: &Chunk, previous: ChunkRef) -> Result<bool, StoreError> {
        let packs = PackedContent::new(self.store);
        let Ok(frame) = packs.frame(previous.id) else { return Ok(false) };
        if packs.plain(&frame, &mut coder.decoder, &mut coder.base).is_err() {
            return Ok(false);
        }
        let encoded = coder.encoder.encode(Codec::ZstdPatch, chunk.bytes(), Some(&coder.base), &mut coder.patch);
        if encoded.is_err() || !Codec::ZstdPatch.is_worth_it(chunk.bytes().len(), coder.patch.len()) {
            return Ok(false);
        }
        let form = Encoded { codec: Codec::ZstdPatch as u8, base: Some(previous.id), bytes: &coder.patch };
        match self.store.put_encoded(chunk, form) {
            Ok(()) => Ok(true),
            // It hangs on too many patches already: a whole chunk ends the chain.
            Err(StoreError::BaseUnusable { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl ScanSink for PackSink<'_> {
    fn chunk(&self, _: &Place, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), ScanError> {
        let mut coder = self.coders.lock().expect("no panic under the lock").pop().unwrap_or_default();
        let kept = self.keep(&mut coder, chunk, previous);
        self.coders.lock().expect("no panic under the lock").push(coder);
        Ok(kept?)
    }
}

/// Leaves content where it is. Only what no file holds, long extended attributes, is kept.
pub(super) struct InPlaceSink<'a> {
    store: &'a Store,
}

impl<'a> InPlaceSink<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store }
    }
}

impl ScanSink for InPlaceSink<'_> {
    fn chunk(&self, place: &Place, chunk: &Chunk, _: Option<ChunkRef>) -> Result<(), ScanError> {
        match place {
            Place::Xattrs { .. } => Ok(self.store.put(chunk)?),
            Place::Content { .. } => Ok(()),
        }
    }
}

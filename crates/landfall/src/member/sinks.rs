//! Owns what becomes of what a scan finds: content that is kept goes into packs, as patches where that pays; entries become a tree
//! and an index.

use std::sync::Mutex;

use landfall_core::Chunk;
use landfall_core::codec::{Codec, Decoder, Encoder};
use landfall_core::files::{FileKey, FilePath};
use landfall_core::tree::{Builder, ChunkRef, Root, Salt, Value};
use landfall_store::{Encoded, Store, StoreError};

use super::error::TakeError;
use crate::content::PackedContent;
use crate::files::index::{FileStat, IndexWriter};
use crate::files::scan::{ChunkSink, EntrySink};
use crate::nodes::{NodeCache, StoringSink};

/// Which content goes into packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it.
    Everything,
    /// Only long extended attributes: all else stays in its file.
    WhatNoFileHolds,
}

/// Takes the chunks that are new.
pub(super) struct NewChunks<'a> {
    store: &'a Store,
    kept: Kept,
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

impl<'a> NewChunks<'a> {
    pub(super) fn new(store: &'a Store, kept: Kept) -> Self {
        Self { store, kept, coders: Mutex::default() }
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

impl ChunkSink for NewChunks<'_> {
    type Error = TakeError;

    fn chunk(&self, key: &FileKey, chunk: &Chunk, previous: Option<ChunkRef>) -> Result<(), TakeError> {
        if self.kept == Kept::WhatNoFileHolds && !matches!(key, FileKey::Xattrs(_)) {
            return Ok(());
        }
        let mut coder = self.coders.lock().expect("no panic under the lock").pop().unwrap_or_default();
        let kept = self.keep(&mut coder, chunk, previous);
        self.coders.lock().expect("no panic under the lock").push(coder);
        Ok(kept?)
    }
}

/// Takes the entries, in key order.
pub(super) struct NewEntries<'a> {
    builder: Builder,
    nodes: StoringSink<'a>,
    index: IndexWriter,
}

impl<'a> NewEntries<'a> {
    pub(super) fn new(nodes: &'a NodeCache, index: IndexWriter) -> Self {
        Self { builder: Builder::new(Salt::PUBLIC), nodes: StoringSink::new(nodes), index }
    }

    /// The tree, all of whose nodes are kept now, and the index, which is not named yet.
    pub(super) fn finish(mut self) -> Result<(Root, IndexWriter), TakeError> {
        let root = self.builder.finish(&mut self.nodes);
        self.nodes.finish()?;
        Ok((root, self.index))
    }
}

impl EntrySink for NewEntries<'_> {
    type Error = TakeError;

    fn entry(&mut self, key: &[u8], value: &Value) -> Result<(), TakeError> {
        Ok(self.builder.push(key, value, &mut self.nodes)?)
    }

    fn stat(&mut self, path: &FilePath, stat: &FileStat) -> Result<(), TakeError> {
        self.index.push(path, stat).map_err(TakeError::Index)
    }
}

//! Owns what of a keyed state is on this machine: its nodes, and the chunks that are its long values. It never asks a peer.

use std::sync::Arc;

use bytes::Bytes;
use landfall_core::join::Holdings;
use landfall_core::keyed::Chunks;
use landfall_core::tree::{Node, Nodes, TreeError};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::{Store, StoreError};

use crate::content::{ContentError, PackedContent};
use crate::nodes::{FirstFailure, NodeCache, with_decoder};

/// The nodes and chunks that are here.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) store: Arc<Store>,
    pub(super) nodes: Arc<NodeCache>,
}

impl Here {
    /// What is here, for one reader.
    pub(super) fn reader(&self) -> HereReader<'_> {
        HereReader { here: self, failure: FirstFailure::default() }
    }

    /// The plaintext of a chunk, or nothing if it is not here.
    pub(super) fn read_chunk(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        let packs = PackedContent::new(&self.store);
        let mut plain = Vec::new();
        let decode = |frame| with_decoder(|decoder| packs.plain(&frame, decoder, &mut plain));
        let read = packs.frame(id).and_then(decode);
        match read {
            Ok(()) => {}
            Err(ContentError::Missing | ContentError::Store(StoreError::Damaged(_))) => return Ok(None),
            Err(ContentError::Store(error)) => return Err(error),
            Err(ContentError::Damaged(_)) => plain.clear(),
        }
        match Chunk::verify(id, Domain::Data, plain.into()) {
            Ok(chunk) => Ok(Some(chunk.into_bytes())),
            // It counts as absent from now on, and is fetched again.
            Err(_) => self.store.forget(id).map(|()| None),
        }
    }
}

/// What is here as one reader sees it, who is told if the store fails under it.
pub(super) struct HereReader<'a> {
    here: &'a Here,
    failure: FirstFailure,
}

impl HereReader<'_> {
    /// An error if the store failed under this reader since it was last asked: what it missed need not be absent.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.failure.check()
    }
}

impl Nodes for HereReader<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.failure.noting(self.here.nodes.get(id))
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.failure.noting(self.here.nodes.get_read(id))
    }
}

impl Chunks for HereReader<'_> {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.failure.noting(self.here.read_chunk(id))
    }
}

impl Holdings for HereReader<'_> {
    fn has_chunk(&self, id: ChunkId) -> bool {
        self.failure.noting(self.here.store.contains(id).map(Some)).unwrap_or(false)
    }
}

//! Owns what of a keyed state is on this machine: its nodes, and the chunks that are its long values. It never asks a peer.

use std::sync::Arc;

use bytes::Bytes;
use landfall_core::keyed::Chunks;
use landfall_core::tree::{Node, Nodes, TreeError};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::{Store, StoreError};

use crate::content::{ContentError, PackedContent};
use crate::nodes::{NodeCache, with_decoder};

/// The nodes and chunks that are here.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) store: Arc<Store>,
    pub(super) nodes: Arc<NodeCache>,
}

impl Here {
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

impl Nodes for Here {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.nodes.node(id)
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.nodes.read(id)
    }
}

impl Chunks for Here {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.read_chunk(id).unwrap_or_else(|failure| {
            self.nodes.note_failure(failure);
            None
        })
    }
}

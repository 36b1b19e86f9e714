//! Owns what a transfer asks its sources for, and what was asked. Whom to ask is the transfer's to say.

use std::sync::Arc;

use bytes::Bytes;
use landfall_core::ChunkId;
use landfall_core::transfer::{Lane, RequestId, Want};
use landfall_core::tree::{Leaf, NodeWant};
use landfall_core::wire::{Fetch, FetchWhat, Message, NodeRequest, UnitRequest};

use super::Session;
use crate::fetch::landing::Landing;

/// A request that has not been answered.
pub(super) struct Request<P> {
    pub(super) lane: Lane,
    pub(super) asked: Asked<P>,
}

/// What a request asked for: what its items must be, and where they go.
pub(super) enum Asked<P> {
    Nodes(Vec<NodeWant>),
    Chunks(Vec<AskedChunk<P>>),
}

pub(super) struct AskedChunk<P> {
    pub(super) id: ChunkId,
    pub(super) bytes: u32,
    pub(super) base: Option<ChunkId>,
    pub(super) place: P,
}

impl<L: Landing> Session<L> {
    pub(super) fn fetch_nodes(&self, request: RequestId, lane: Lane, wants: Vec<NodeWant>) {
        let nodes = NodeRequest {
            ids: wants.iter().map(|want| want.id.to_bytes()).collect(),
            bases: wants.iter().map(|want| want.base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect(),
        };
        self.note_asked(request, lane, Asked::Nodes(wants));
        self.say(lane, &Message::Fetch(Fetch { request: request.0, what: Some(FetchWhat::Nodes(nodes)) }));
    }

    pub(super) fn fetch_chunks(&self, request: RequestId, lane: Lane, leaf: ChunkId, wants: &[Want]) {
        let chunks = match self.asked_chunks(leaf, wants) {
            Ok(chunks) => chunks,
            Err(failure) => return self.fail(failure),
        };
        let unit = UnitRequest {
            leaf: leaf.to_bytes(),
            entries: wants.iter().map(|want| want.entry).collect(),
            bases: match wants.iter().any(|want| want.base.is_some()) {
                true => wants.iter().map(|want| want.base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect(),
                false => Vec::new(),
            },
        };
        self.note_asked(request, lane, Asked::Chunks(chunks));
        self.say(lane, &Message::Fetch(Fetch { request: request.0, what: Some(FetchWhat::Unit(unit)) }));
    }

    fn note_asked(&self, request: RequestId, lane: Lane, asked: Asked<L::Place>) {
        self.driver().requests.insert(request, Arc::new(Request { lane, asked }));
    }

    fn asked_chunks(&self, leaf: ChunkId, wants: &[Want]) -> Result<Vec<AskedChunk<L::Place>>, L::Failure> {
        let bytes = self.landing.nodes().get(leaf)?.ok_or_else(|| self.landing.node_lost(leaf))?;
        let leaf = Leaf::read(leaf, bytes)?;
        let chunk = |want: &Want| {
            let (key, value) = leaf.entry(want.entry as usize).ok_or_else(|| self.landing.no_such_chunk())?;
            let chunk = value.chunk.ok_or_else(|| self.landing.no_such_chunk())?;
            let place = self.landing.place_of(&key, &value)?;
            Ok(AskedChunk { id: chunk.id, bytes: chunk.bytes, base: want.base, place })
        };
        wants.iter().map(chunk).collect()
    }
}

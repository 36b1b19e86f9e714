//! Owns what comes of requests: it is decoded, checked against its name, handed to where it lands, and told to the transfer.

use landfall_core::codec::{Codec, Decoder};
use landfall_core::transfer::{Arrival, Lane, PeerId, RequestId};
use landfall_core::tree::NodeWant;
use landfall_core::wire::{Item, ItemBody};
use landfall_core::{Chunk, ChunkId, Domain, Proven};

use super::Session;
use super::requests::{Asked, AskedChunk};
use crate::fetch::landing::{Kept, Landing};

/// Contexts and buffers of one lane's thread.
pub(crate) struct Workbench {
    decoder: Decoder,
    base: Vec<u8>,
    /// For nodes by themselves: whoever keeps one keeps this memory, which must not be that of a long chunk.
    node: Vec<u8>,
    plain: Vec<u8>,
}

impl Workbench {
    pub(crate) fn new() -> Self {
        Self { decoder: Decoder::new(), base: Vec::new(), node: Vec::new(), plain: Vec::new() }
    }
}

/// An item that answers no want: the peer breaks the protocol.
#[derive(Debug)]
pub(crate) struct BadItem;

impl<L: Landing> Session<L> {
    /// Takes one item that came on `lane`, where its payload was `travelled` bytes long.
    pub(crate) fn take_item(
        &self,
        lane: Lane,
        item: &Item<'_, Codec>,
        travelled: usize,
        bench: &mut Workbench,
    ) -> Result<(), BadItem> {
        let request = RequestId(item.request);
        let driver = self.driver();
        // A request that ended meanwhile, or a chunk that came from elsewhere.
        let Some(open) = driver.requests.get(&request).cloned() else { return Ok(()) };
        if open.lane != lane {
            return Err(BadItem);
        }
        if !driver.transfer.is_wanted(request, item.want) {
            drop(driver);
            self.tell(|transfer, now| transfer.handle_arrival(request, item.want, Arrival::Stored, now));
            return Ok(());
        }
        drop(driver);
        let is_for_chunks = matches!(open.asked, Asked::Chunks(_));
        let arrival = match &open.asked {
            Asked::Nodes(wants) => {
                let want = wants.get(item.want as usize).ok_or(BadItem)?;
                self.take_node(lane.peer, want, &item.body, bench)
            }
            Asked::Chunks(chunks) => {
                let chunk = chunks.get(item.want as usize).ok_or(BadItem)?;
                self.take_chunk(lane.peer, chunk, &item.body, travelled, bench)
            }
        };
        match arrival {
            // Nothing is asked for because of one chunk, and hardly anything because of a leaf without any: the end of its request is soon enough
            // to look.
            Ok(arrival)
                if is_for_chunks && arrival == Arrival::Stored || matches!(arrival, Arrival::Chunkless { .. }) =>
            {
                let now = self.clock.now();
                self.driver().transfer.handle_arrival(request, item.want, arrival, now);
            }
            Ok(arrival) => self.tell(|transfer, now| transfer.handle_arrival(request, item.want, arrival, now)),
            Err(failure) => self.fail(failure),
        }
        Ok(())
    }

    /// The source says that a request has been answered.
    pub(crate) fn end_request(&self, lane: Lane, request: RequestId) -> Result<(), BadItem> {
        let mut driver = self.driver();
        match driver.requests.get(&request) {
            Some(open) if open.lane != lane => return Err(BadItem),
            Some(_) => driver.requests.remove(&request),
            None => None,
        };
        drop(driver);
        self.tell(|transfer, now| transfer.handle_request_ended(request, now));
        Ok(())
    }

    fn take_node(
        &self,
        peer: PeerId,
        want: &NodeWant,
        body: &ItemBody<'_, Codec>,
        bench: &mut Workbench,
    ) -> Result<Arrival, L::Failure> {
        let ItemBody::Chunk(form) = body else { return Ok(Arrival::Missing) };
        // What did not come as a patch needs no base.
        let base = want.base.filter(|_| form.codec == Codec::ZstdPatch);
        if let Some(base) = base
            && !self.landing.nodes().read_in_passing(base, &mut bench.decoder, &mut bench.base)?
        {
            return Ok(Arrival::Baseless);
        }
        let base_bytes = base.map(|_| &bench.base[..]);
        let decoded = bench.decoder.decode(form.codec, form.payload, form.plain_bytes, base_bytes, &mut bench.node);
        if decoded.is_err() {
            return Ok(Arrival::Corrupt);
        }
        let Ok(node) = Chunk::verify(want.id, Domain::Node, std::mem::take(&mut bench.node).into()) else {
            return Ok(Arrival::Corrupt);
        };
        let kept = self.landing.put_node(want, &node, form)?;
        let node = node.into_bytes();
        self.status.note_node(peer, node.len());
        let arrival = match kept {
            Kept::Unseen => Arrival::Stored,
            Kept::Chunkless => Arrival::Chunkless { leaf_bytes: node.len() as u32 },
        };
        // The next one is decoded into the same memory, unless somebody keeps it.
        bench.node = node.try_into_mut().map(Vec::from).unwrap_or_default();
        Ok(arrival)
    }

    fn take_chunk(
        &self,
        peer: PeerId,
        asked: &AskedChunk<L::Place>,
        body: &ItemBody<'_, Codec>,
        travelled: usize,
        bench: &mut Workbench,
    ) -> Result<Arrival, L::Failure> {
        let form = match body {
            ItemBody::Chunk(form) => form,
            ItemBody::Missing => return Ok(Arrival::Missing),
            ItemBody::Damaged => {
                self.status.note_damaged(peer, &asked.place);
                return Ok(Arrival::Missing);
            }
        };
        let base = match (form.codec, asked.base) {
            (Codec::ZstdPatch, Some(base)) => {
                if !self.landing.read_base(&asked.place, base, &mut bench.base)? {
                    return self.landing.base_gone(&asked.place).map(|()| Arrival::Baseless);
                }
                Some((base, &bench.base[..]))
            }
            _ => None,
        };
        let base_bytes = base.map(|(_, bytes)| bytes);
        let plain = match form.codec {
            // What came as it is goes on as it is, from the connection's own buffer.
            Codec::Raw => Some(form.payload),
            codec => {
                let decoded = bench.decoder.decode(codec, form.payload, form.plain_bytes, base_bytes, &mut bench.plain);
                decoded.is_ok().then_some(&bench.plain[..])
            }
        };
        let plain = plain.filter(|plain| plain.len() == asked.bytes as usize);
        let Some(chunk) = plain.and_then(|plain| Proven::verify(asked.id, Domain::Data, plain).ok()) else {
            // A base that is not what it was makes wrong bytes of a right patch: then the peer is not to blame.
            if base.is_some_and(|(id, bytes)| ChunkId::of(Domain::Data, bytes) != id) {
                return self.landing.base_gone(&asked.place).map(|()| Arrival::Baseless);
            }
            self.status.note_corrupt(peer, &asked.place);
            return Ok(Arrival::Corrupt);
        };
        self.landing.put(&asked.place, chunk)?;
        self.status.note_chunk(peer, form.codec, chunk.bytes().len(), travelled);
        Ok(Arrival::Stored)
    }
}

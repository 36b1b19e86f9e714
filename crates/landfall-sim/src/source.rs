//! Owns the serving side of a member: offers, and items out of its store, one at a time so that a cancel can still help.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use landfall_core::codec::{Base, ChunkFacts, Codec, CodecPolicy, EncodeFacts, Encoder, LinkFacts};
use landfall_core::offer::{BaseFacts, BaseKnown, OfferFacts, plans};
use landfall_core::tree::Leaf;
use landfall_core::wire::{
    Ask, Fetch, FetchWhat, Hello, Item, ItemBody, ItemForm, Message, Offer, Refusal, RefusalReason, VERSION_MAX,
    VERSION_MIN, WANTS_PER_REQUEST_MAX,
};
use landfall_core::{Chunk, ChunkId, Domain, snapshot::Manifest};

use crate::disk::{Disk, ReadError};
use crate::network::ConnectionId;
use crate::random::Random;

/// What a member owes to its joiners.
pub(crate) struct Serving {
    queues: BTreeMap<ConnectionId, VecDeque<Request>>,
    encoder: Encoder,
    encoded: Vec<u8>,
}

/// A request that has not been answered whole.
struct Request {
    fetch: Fetch,
    next_want: u32,
}

impl Serving {
    /// Nothing is owed.
    pub(crate) fn new() -> Self {
        Self { queues: BTreeMap::new(), encoder: Encoder::new(), encoded: Vec::new() }
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.queues.remove(&connection);
    }

    /// Takes a request. Says what to answer if it is none that a joiner sends.
    pub(crate) fn take_fetch(&mut self, connection: ConnectionId, fetch: Fetch) -> Result<(), Refusal> {
        let wants = match &fetch.what {
            Some(FetchWhat::Nodes(nodes)) => nodes.ids.len(),
            Some(FetchWhat::Unit(unit)) => unit.entries.len(),
            // Simulated states are directories.
            Some(FetchWhat::Path(_) | FetchWhat::Chunks(_)) | None => 0,
        };
        if wants == 0 || wants > WANTS_PER_REQUEST_MAX {
            return Err(Refusal::new(RefusalReason::Protocol, "a request for nothing, or for too much"));
        }
        self.queues.entry(connection).or_default().push_back(Request { fetch, next_want: 0 });
        Ok(())
    }

    /// The rest of a request is no longer needed.
    pub(crate) fn take_cancel(&mut self, connection: ConnectionId, request: u32) {
        let queue = self.queues.entry(connection).or_default();
        if let Some(open) = queue.iter_mut().find(|open| open.fetch.request == request) {
            open.next_want = open.wants();
        }
    }

    /// The next frame that is owed on a connection.
    pub(crate) fn next_frame(
        &mut self,
        connection: ConnectionId,
        disk: &Disk,
        lies: Option<&mut Random>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(queue) = self.queues.get_mut(&connection) else { return Ok(None) };
        let Some(open) = queue.front_mut() else { return Ok(None) };
        let request = open.fetch.request;
        if open.next_want == open.wants() {
            queue.pop_front();
            return Ok(Some(Message::Done { request }.encode()));
        }
        let want = open.next_want;
        open.next_want += 1;
        let Some((id, base)) = named(&open.fetch, want, disk)? else {
            return Ok(Some(item(request, want, ItemBody::Missing)));
        };
        let Some(chunk) = disk.read(id)? else { return Ok(Some(item(request, want, ItemBody::Missing))) };
        let base = base.map(|base| disk.read(base)).transpose()?.flatten();
        let frame = self.encode(request, want, &chunk, base.as_ref());
        Ok(Some(match lies {
            Some(random) => lie(frame, random),
            None => frame,
        }))
    }

    fn encode(&mut self, request: u32, want: u32, chunk: &Chunk, base: Option<&Chunk>) -> Vec<u8> {
        let base = base.filter(|base| base.domain() == chunk.domain()).map(Chunk::bytes);
        let base = base.map(Bytes::as_ref);
        let codec = self.encoder.encode_by(&InTurn { want }, chunk.bytes(), base, &mut self.encoded);
        let (codec, payload) = match codec {
            Ok(codec) => (codec, &self.encoded[..]),
            Err(_) => (Codec::Raw, &chunk.bytes()[..]),
        };
        item(request, want, ItemBody::Chunk(ItemForm { codec, plain_bytes: chunk.bytes().len() as u32, payload }))
    }
}

/// A patch where there is a base, else every codec in turn.
struct InTurn {
    want: u32,
}

impl CodecPolicy for InTurn {
    fn choose(&self, chunk: ChunkFacts) -> Codec {
        match chunk.base {
            Base::Held => Codec::ZstdPatch,
            Base::Absent => [Codec::Raw, Codec::Lz4, Codec::Zstd][self.want as usize % 3],
        }
    }

    fn handle_link(&mut self, _: LinkFacts) {}

    fn handle_encoded(&mut self, _: EncodeFacts) {}
}

impl Request {
    fn wants(&self) -> u32 {
        match &self.fetch.what {
            Some(FetchWhat::Nodes(nodes)) => nodes.ids.len() as u32,
            Some(FetchWhat::Unit(unit)) => unit.entries.len() as u32,
            Some(FetchWhat::Path(_) | FetchWhat::Chunks(_)) | None => 0,
        }
    }
}

/// What a want names, and the base against which a patch may be made.
fn named(fetch: &Fetch, want: u32, disk: &Disk) -> Result<Option<(ChunkId, Option<ChunkId>)>, ReadError> {
    let want = want as usize;
    Ok(match &fetch.what {
        Some(FetchWhat::Nodes(nodes)) => ChunkId::from_slice(&nodes.ids[want])
            .map(|id| (id, nodes.bases.get(want).and_then(|id| ChunkId::from_slice(id)))),
        Some(FetchWhat::Unit(unit)) => {
            let Some(leaf) = ChunkId::from_slice(&unit.leaf) else { return Ok(None) };
            let leaf = disk.read(leaf)?.and_then(|leaf| Leaf::parse(leaf.bytes()).ok());
            let entry = leaf.and_then(|leaf| leaf.entry(unit.entries[want] as usize));
            let chunk = entry.and_then(|(_, value)| value.chunk);
            chunk.map(|chunk| (chunk.id, unit.bases.get(want).and_then(|id| ChunkId::from_slice(id))))
        }
        Some(FetchWhat::Path(_) | FetchWhat::Chunks(_)) | None => None,
    })
}

fn item(request: u32, want: u32, body: ItemBody<'_>) -> Vec<u8> {
    Message::Item(Item { request, want, body }).encode()
}

/// What a liar sends instead.
fn lie(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(5) {
        // Other bytes of the same length, and with them now and then another head.
        0 | 1 => {
            let place = random.below(frame.len() as u64) as usize;
            frame[place] ^= 1 << random.below(8);
        }
        2 => frame.truncate(random.below(frame.len() as u64 + 1) as usize),
        3 => frame.extend_from_slice(&random.bytes(20)),
        _ => frame = random.bytes(frame.len()),
    }
    frame
}

/// Answers an ask: with an offer of the snapshot that is wanted, if it is here.
pub(crate) fn answer_ask(ask: &Ask, disk: &Disk) -> Result<Message<'static>, ReadError> {
    let refusal = || Message::Refusal(Refusal::new(RefusalReason::NoSnapshot, "not here"));
    let Some(wanted) = ask.snapshot_wanted.as_ref().and_then(|id| ChunkId::from_slice(id)) else {
        return Ok(refusal());
    };
    let Some(chunk) = disk.read(wanted)?.filter(|chunk| chunk.domain() == Domain::Manifest) else {
        return Ok(refusal());
    };
    let Ok(manifest) = Manifest::decode(chunk.bytes()) else { return Ok(refusal()) };
    let held = ask.snapshots_held.iter().filter_map(|id| ChunkId::from_slice(id));
    let bases = held.map(|snapshot| base_facts(snapshot, wanted, disk)).collect::<Result<Vec<_>, _>>()?;
    let plan = plans(&OfferFacts {
        state_bytes: manifest.payload_bytes(),
        tree_levels: manifest.sections.iter().map(|section| u32::from(section.root.level) + 1).max().unwrap_or(0),
        bases,
        link: Default::default(),
    })[0];
    Ok(Message::Offer(Box::new(Offer {
        manifest: chunk.into_bytes(),
        base: plan.base.map(ChunkId::to_bytes),
        strategy: plan.strategy as u32,
        expected_bytes: plan.expected_bytes,
        ..Offer::default()
    })))
}

fn base_facts(snapshot: ChunkId, wanted: ChunkId, disk: &Disk) -> Result<BaseFacts, ReadError> {
    let known = match disk.read(snapshot)? {
        Some(_) if snapshot == wanted => BaseKnown::Newest,
        Some(_) => BaseKnown::TreeAndChunks { changed_bytes: 1 },
        None => BaseKnown::Nothing,
    };
    Ok(BaseFacts { snapshot, known })
}

/// What every member says first.
pub(crate) fn hello() -> Message<'static> {
    Message::Hello(Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        features: 0,
        codecs: Codec::ALL.iter().map(|&codec| codec as u32).collect(),
        software: "landfall-sim".to_owned(),
    })
}

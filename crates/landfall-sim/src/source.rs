//! Owns the serving side of a member: offers, and items out of its store, one at a time so that a cancel can still help.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use landfall_core::codec::{Base, ChunkFacts, Codec, CodecPolicy, EncodeFacts, LinkFacts, WireCodec, WireEncoder};
use landfall_core::offer::{BaseFacts, BaseKnown, OfferFacts, plans};
use landfall_core::tree::{Leaf, Nodes, Root, get};
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
    /// The trees that it holds: paths are answered in these.
    roots: BTreeMap<ChunkId, Root>,
    /// What each connection was sent, its encoder remembers.
    encoders: BTreeMap<ConnectionId, WireEncoder>,
    encoded: Vec<u8>,
}

/// A request that has not been answered whole.
struct Request {
    fetch: Fetch,
    next_want: u32,
    /// What is on the way to a key, once it was looked for: nodes, then the value; nothing where something is missing.
    way: Option<Vec<Option<ChunkId>>>,
}

impl Serving {
    /// Nothing is owed.
    pub(crate) fn new() -> Self {
        Self { queues: BTreeMap::new(), roots: BTreeMap::new(), encoders: BTreeMap::new(), encoded: Vec::new() }
    }

    /// Answers paths in the trees of a snapshot from now on.
    pub(crate) fn hold(&mut self, manifest: &Manifest) {
        self.roots.extend(manifest.sections.iter().map(|section| (section.root.id, section.root)));
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.queues.remove(&connection);
        self.encoders.remove(&connection);
    }

    /// Takes a request. Says what to answer if it is none that a joiner sends.
    pub(crate) fn take_fetch(&mut self, connection: ConnectionId, fetch: Fetch) -> Result<(), Refusal> {
        let wants = match &fetch.what {
            Some(FetchWhat::Nodes(nodes)) => nodes.ids.len(),
            Some(FetchWhat::Unit(unit)) => unit.entries.len(),
            Some(FetchWhat::Path(_)) => 1,
            Some(FetchWhat::Chunks(chunks)) => chunks.ids.len(),
            None => 0,
        };
        if wants == 0 || wants > WANTS_PER_REQUEST_MAX {
            return Err(Refusal::new(RefusalReason::Protocol, "a request for nothing, or for too much"));
        }
        self.queues.entry(connection).or_default().push_back(Request { fetch, next_want: 0, way: None });
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
        open.look_for_way(&self.roots, disk)?;
        let request = open.fetch.request;
        if open.next_want == open.wants() {
            queue.pop_front();
            return Ok(Some(Message::Done { request }.encode()));
        }
        let want = open.next_want;
        open.next_want += 1;
        let Some((id, base)) = open.named(want, disk)? else {
            return Ok(Some(item(request, want, ItemBody::Missing)));
        };
        let Some(chunk) = disk.read(id)? else { return Ok(Some(item(request, want, ItemBody::Missing))) };
        let base = base.map(|base| disk.read(base)).transpose()?.flatten();
        let encoder = self.encoders.entry(connection).or_default();
        let (codec, payload) = encode(encoder, want, &chunk, base.as_ref(), &mut self.encoded);
        let form = ItemForm { codec, plain_bytes: chunk.bytes().len() as u32, payload };
        let frame = item(request, want, ItemBody::Chunk(form));
        Ok(Some(match lies {
            Some(random) => lie(frame, random),
            None => frame,
        }))
    }
}

/// A chunk as it goes out, and how it is encoded.
fn encode<'a>(
    encoder: &mut WireEncoder,
    want: u32,
    chunk: &'a Chunk,
    base: Option<&Chunk>,
    encoded: &'a mut Vec<u8>,
) -> (WireCodec, &'a [u8]) {
    let base = base.filter(|base| base.domain() == chunk.domain()).map(|base| &base.bytes()[..]);
    match encoder.encode_by(&InTurn { want }, chunk.bytes(), base, encoded) {
        Ok(codec) => (codec, encoded),
        Err(_) => (Codec::Raw.into(), chunk.bytes()),
    }
}

const WITHOUT_BASE: [WireCodec; 4] =
    [WireCodec::Alone(Codec::Raw), WireCodec::Alone(Codec::Lz4), WireCodec::Alone(Codec::Zstd), WireCodec::ZstdStream];

/// A patch where there is a base, else every codec in turn.
struct InTurn {
    want: u32,
}

impl CodecPolicy for InTurn {
    fn choose(&self, chunk: ChunkFacts) -> WireCodec {
        match chunk.base {
            Base::Held => Codec::ZstdPatch.into(),
            Base::Absent => WITHOUT_BASE[self.want as usize % WITHOUT_BASE.len()],
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
            Some(FetchWhat::Path(_)) => self.way.as_ref().map_or(1, |way| way.len() as u32),
            Some(FetchWhat::Chunks(chunks)) => chunks.ids.len() as u32,
            None => 0,
        }
    }

    /// Finds what a path names, the first time.
    fn look_for_way(&mut self, roots: &BTreeMap<ChunkId, Root>, disk: &Disk) -> Result<(), ReadError> {
        let (Some(FetchWhat::Path(path)), None) = (&self.fetch.what, &self.way) else { return Ok(()) };
        let found = NodesOnTheWay { disk, found: RefCell::default(), failure: RefCell::default() };
        let root = ChunkId::from_slice(&path.root).and_then(|id| roots.get(&id));
        let reached = root.map(|root| get(&found, root, &path.key));
        if let Some(error) = found.failure.into_inner() {
            return Err(error);
        }
        let nodes = found.found.into_inner().into_iter().skip(path.levels_held as usize);
        let mut way: Vec<Option<ChunkId>> = nodes.map(Some).collect();
        match reached {
            Some(Ok(value)) => way.extend(value.and_then(|value| value.chunk).map(|chunk| Some(chunk.id))),
            None | Some(Err(_)) => way.push(None),
        }
        self.way = Some(way);
        Ok(())
    }

    /// What a want names, and the base against which a patch may be made.
    fn named(&self, want: u32, disk: &Disk) -> Result<Option<(ChunkId, Option<ChunkId>)>, ReadError> {
        let want = want as usize;
        Ok(match &self.fetch.what {
            Some(FetchWhat::Nodes(nodes)) => ChunkId::from_slice(&nodes.ids[want])
                .map(|id| (id, nodes.bases.get(want).and_then(|id| ChunkId::from_slice(id)))),
            Some(FetchWhat::Unit(unit)) => {
                let Some(leaf) = ChunkId::from_slice(&unit.leaf) else { return Ok(None) };
                let leaf = disk.read(leaf)?.and_then(|leaf| Leaf::parse(leaf.bytes()).ok());
                let entry = leaf.and_then(|leaf| leaf.entry(unit.entries[want] as usize));
                let chunk = entry.and_then(|(_, value)| value.chunk);
                chunk.map(|chunk| (chunk.id, unit.bases.get(want).and_then(|id| ChunkId::from_slice(id))))
            }
            Some(FetchWhat::Path(_)) => self.way.as_ref().and_then(|way| way[want]).map(|id| (id, None)),
            Some(FetchWhat::Chunks(chunks)) => ChunkId::from_slice(&chunks.ids[want]).map(|id| (id, None)),
            None => None,
        })
    }
}

/// Nodes from a disk, written down.
struct NodesOnTheWay<'a> {
    disk: &'a Disk,
    found: RefCell<Vec<ChunkId>>,
    failure: RefCell<Option<ReadError>>,
}

impl Nodes for NodesOnTheWay<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        match self.disk.read(id) {
            Ok(node) => {
                let node = node.filter(|node| node.domain() == Domain::Node)?;
                self.found.borrow_mut().push(id);
                Some(node.into_bytes())
            }
            Err(error) => {
                self.failure.replace(Some(error));
                None
            }
        }
    }
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
        codecs: WireCodec::ALL.map(|codec| u32::from(codec.to_byte())).to_vec(),
        software: "landfall-sim".to_owned(),
    })
}

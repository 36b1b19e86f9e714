//! Owns the pulling side of a member: it carries out what a transfer commands, over the virtual network and into the real store.
//!
//! It decides nothing; what happens to its messages is the world's business, so it leaves them in an outbox.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use landfall_core::codec::{Codec, Decoder};
use landfall_core::keyed::Sections;
use landfall_core::snapshot::Manifest;
use landfall_core::transfer::{
    Arrival, Command, DropReason, Lane, Outcome, PeerCost, PeerId, RequestId, Transfer, TreePair, Want,
};
use landfall_core::tree::{Leaf, NodeWant, Nodes};
use landfall_core::wire::{Fetch, FetchWhat, Item, ItemBody, ItemForm, ItemReader, Message, NodeRequest, UnitRequest};
use landfall_core::{Chunk, ChunkId, Domain, Time};
use landfall_store::{Encoded, Session};

use crate::checks::{Violation, Watch, WatchedArrival, broken};
use crate::disk::Disk;
use crate::network::{ConnectionId, MemberId};
use crate::scenario::Storing;
use crate::trouble::Trouble;

/// One attempt to get one snapshot.
pub(crate) struct Pull {
    /// Told apart from attempts before.
    pub(crate) number: u64,
    /// Which of the published snapshots it is for.
    pub(crate) version: usize,
    /// The snapshot.
    pub(crate) snapshot: ChunkId,
    base: Option<Manifest>,
    sections: Sections,
    storing: Storing,
    repeated: Repeated,
    transfer: Option<Transfer>,
    peers: BTreeMap<MemberId, Lanes>,
    requests: BTreeMap<RequestId, Vec<Asked>>,
    watch: Watch,
    nodes: NodeCache,
    decoder: Decoder,
    /// What the world is to do.
    pub(crate) outbox: Vec<Effect>,
    /// Chunks stored since the last sync.
    pub(crate) puts_unsynced: u64,
    /// The last chunk that came, and its length.
    pub(crate) last_came: Option<(ChunkId, u64)>,
    _session: Session,
}

/// The connections to one source.
#[derive(Debug, Default)]
struct Lanes {
    connections: BTreeMap<u32, ConnectionId>,
    readers: BTreeMap<u32, ItemReader>,
    offers: u32,
}

/// What a want asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: ChunkId,
    domain: Domain,
    bytes: Option<u32>,
    base: Option<ChunkId>,
}

/// What a pull wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a frame.
    Send(ConnectionId, Vec<u8>),
    /// Break every connection to a source.
    Drop(MemberId, DropReason),
    /// Look at a leaf, and tell.
    Inspect(ChunkId),
}

/// Chunks that may well come more than once.
#[derive(Debug, Clone)]
pub(crate) enum Repeated {
    /// Those that the trees refer to more than once.
    These(BTreeSet<ChunkId>),
    /// Any: what is here may have come another way.
    Any,
}

impl Repeated {
    fn has(&self, id: ChunkId) -> bool {
        match self {
            Self::These(ids) => ids.contains(&id),
            Self::Any => true,
        }
    }
}

/// What a pull is for.
pub(crate) struct Goal {
    /// Which of the published snapshots.
    pub(crate) version: usize,
    /// The snapshot.
    pub(crate) snapshot: ChunkId,
    /// The snapshot of which all that is wanted is held, if any.
    pub(crate) base: Option<Manifest>,
    /// What of it is wanted.
    pub(crate) sections: Sections,
    /// Chunks that may well come more than once.
    pub(crate) repeated: Repeated,
    /// In which form to store what comes.
    pub(crate) storing: Storing,
}

impl Pull {
    /// Begins, with what an earlier attempt left.
    pub(crate) fn begin(number: u64, goal: Goal, disk: &Disk, now: Time) -> Result<Option<Self>, Trouble> {
        let Some(store) = disk.store() else { return Ok(None) };
        let mut pull = Self {
            number,
            version: goal.version,
            snapshot: goal.snapshot,
            base: goal.base,
            sections: goal.sections,
            storing: goal.storing,
            repeated: goal.repeated,
            transfer: None,
            peers: BTreeMap::new(),
            requests: BTreeMap::new(),
            watch: Watch::default(),
            nodes: NodeCache::default(),
            decoder: Decoder::new(),
            outbox: Vec::new(),
            puts_unsynced: 0,
            last_came: None,
            _session: store.begin_session(),
        };
        if let Some(manifest) = disk.read(pull.snapshot)? {
            pull.begin_transfer(&manifest, disk, now)?;
        }
        Ok(Some(pull))
    }

    /// The transfer's trees are known.
    fn begin_transfer(&mut self, manifest: &Chunk, disk: &Disk, now: Time) -> Result<(), Trouble> {
        disk.put(manifest, None)?;
        if let Some(store) = disk.store() {
            // What came so far must outlive garbage collection, also after a crash.
            store.pin("target", self.snapshot)?;
        }
        let manifest = Manifest::decode(manifest.bytes()).map_err(|error| Violation(error.to_string()))?;
        let base = |name| self.base.iter().flat_map(|base| &base.sections).find(|base| base.name == name);
        let trees = manifest
            .sections
            .iter()
            .filter(|section| self.sections.has(&section.name))
            .map(|section| TreePair { base: base(section.name.clone()).map(|base| base.root), target: section.root });
        self.transfer = Some(Transfer::new(trees.collect(), now));
        Ok(())
    }

    /// A connection was opened.
    pub(crate) fn connected(&mut self, source: MemberId, lane: u32, connection: ConnectionId) {
        let lanes = self.peers.entry(source).or_default();
        lanes.connections.insert(lane, connection);
        lanes.readers.insert(lane, ItemReader::new());
    }

    /// Is there a connection to the source?
    pub(crate) fn is_connected(&self, source: MemberId) -> bool {
        self.peers.contains_key(&source)
    }

    /// A source is gone. Names the connections to it that are left.
    pub(crate) fn lose(&mut self, source: MemberId, now: Time) -> Vec<ConnectionId> {
        let Some(lanes) = self.peers.remove(&source) else { return Vec::new() };
        let peer = PeerId(source as u32);
        self.watch.peer_gone(peer);
        if let Some(transfer) = &mut self.transfer {
            transfer.handle_peer_lost(peer, now);
        }
        lanes.connections.into_values().collect()
    }

    /// A source offered the snapshot on one of `lanes` connections.
    pub(crate) fn take_offer(
        &mut self,
        source: MemberId,
        manifest: &Bytes,
        lanes: u32,
        disk: &Disk,
        now: Time,
    ) -> Result<(), Trouble> {
        let manifest = Chunk::verify(self.snapshot, Domain::Manifest, manifest.clone())
            .map_err(|_| Trouble::Peer("an offer of another snapshot"))?;
        if self.transfer.is_none() {
            self.begin_transfer(&manifest, disk, now)?;
        }
        let Some(at) = self.peers.get_mut(&source) else { return Ok(()) };
        at.offers += 1;
        if at.offers == lanes {
            let peer = PeerId(source as u32);
            let cost = if source == 0 { PeerCost::WRITER } else { PeerCost::NEAR };
            self.watch.peer_joined(peer);
            let transfer = self.transfer.as_mut().expect("just begun");
            transfer.handle_peer_joined(peer, lanes, cost, now);
        }
        Ok(())
    }

    /// An item came from a source on one of its lanes. All of them are read in order, also those that nobody waits for.
    pub(crate) fn take_item(
        &mut self,
        (source, lane): (MemberId, u32),
        item: Item<'_>,
        disk: &Disk,
        now: Time,
    ) -> Result<&'static str, Trouble> {
        let reader = self.peers.get_mut(&source).and_then(|lanes| lanes.readers.remove(&lane));
        let mut reader = reader.ok_or(Trouble::Peer("an item on no lane"))?;
        let item = reader.read(item).map_err(|_| Trouble::Peer("a stream that is lost"))?;
        let told = self.take_read(&item, disk, now);
        if let Some(lanes) = self.peers.get_mut(&source) {
            lanes.readers.insert(lane, reader);
        }
        told
    }

    fn take_read(&mut self, item: &Item<'_, Codec>, disk: &Disk, now: Time) -> Result<&'static str, Trouble> {
        let request = RequestId(item.request);
        let Some(asked) = self.requests.get(&request) else { return Ok("late") };
        let asked = *asked.get(item.want as usize).ok_or(Trouble::Peer("an item that nobody asked for"))?;
        let (arrival, seen) = match &item.body {
            ItemBody::Chunk(form) => self.take_chunk(asked, form, disk)?,
            ItemBody::Missing | ItemBody::Damaged => (Arrival::Missing, WatchedArrival::Nothing),
        };
        self.watch.arrived(request, item.want, seen)?;
        let transfer = self.transfer.as_mut().expect("a request has a transfer");
        transfer.handle_arrival(request, item.want, arrival, now);
        Ok(match arrival {
            Arrival::Stored => "stored",
            Arrival::Chunkless { .. } => "chunkless",
            Arrival::Missing => "missing",
            Arrival::Corrupt => "corrupt",
            Arrival::Baseless => "baseless",
        })
    }

    fn take_chunk(
        &mut self,
        asked: Asked,
        form: &ItemForm<'_, Codec>,
        disk: &Disk,
    ) -> Result<(Arrival, WatchedArrival), Trouble> {
        let corrupt = (Arrival::Corrupt, WatchedArrival::Nothing);
        let base = match asked.base.filter(|_| form.codec == Codec::ZstdPatch) {
            Some(base) => disk.read(base)?,
            None => None,
        };
        if form.codec == Codec::ZstdPatch && asked.base.is_some() && base.is_none() {
            return Ok((Arrival::Baseless, WatchedArrival::Nothing));
        }
        if asked.bytes.is_some_and(|bytes| bytes != form.plain_bytes) {
            return Ok(corrupt);
        }
        let mut plain = Vec::new();
        let base_bytes = base.as_ref().map(|base| &base.bytes()[..]);
        let decoded = self.decoder.decode(form.codec, form.payload, form.plain_bytes, base_bytes, &mut plain);
        let proven = decoded.ok().and_then(|()| Chunk::verify(asked.id, asked.domain, plain.into()).ok());
        let Some(chunk) = proven else { return Ok(corrupt) };
        // What was unreadable because the base of its patch is damaged is here again once that base is.
        let may_return = disk.may_be_damaged || self.repeated.has(asked.id);
        let was_here = !may_return && disk.read(asked.id)?.is_some();
        let as_sent = Encoded { codec: form.codec as u8, base: base.map(|base| base.id()), bytes: form.payload };
        disk.put(&chunk, (self.storing == Storing::AsSent).then_some(as_sent))?;
        self.puts_unsynced += 1;
        self.last_came = Some((chunk.id(), chunk.bytes().len() as u64));
        let mut arrival = Arrival::Stored;
        if chunk.domain() == Domain::Node {
            // Either way: keyed states look into leaves as they come, files do not.
            if refers_to_nothing(&chunk) && chunk.id().as_bytes()[0].is_multiple_of(2) {
                arrival = Arrival::Chunkless { leaf_bytes: chunk.bytes().len() as u32 };
            }
            self.nodes.0.borrow_mut().insert(chunk.id(), chunk.into_bytes());
        }
        Ok((arrival, if was_here { WatchedArrival::Again } else { WatchedArrival::New }))
    }

    /// A source says that a request has been answered.
    pub(crate) fn take_done(&mut self, request: RequestId, now: Time) {
        self.requests.remove(&request);
        self.watch.request_ended(request);
        if let Some(transfer) = &mut self.transfer {
            transfer.handle_request_ended(request, now);
        }
    }

    /// Looks at a leaf and tells the transfer what is not here.
    pub(crate) fn inspect(&mut self, leaf: ChunkId, disk: &Disk) -> Result<(), Trouble> {
        let wants = self.wants(leaf, disk)?;
        self.watch.inspected();
        if let Some(transfer) = &mut self.transfer {
            transfer.handle_inspected(leaf, wants);
        }
        Ok(())
    }

    fn wants(&mut self, leaf_id: ChunkId, disk: &Disk) -> Result<Vec<Want>, Trouble> {
        let Some(bytes) = self.node(leaf_id, disk)? else { return broken(format!("leaf {leaf_id} is gone"))? };
        let leaf = Leaf::parse(&bytes).map_err(|error| Violation(error.to_string()))?;
        let mut wants = Vec::new();
        for (entry, key, value) in leaf.entries() {
            let Some(chunk) = value.chunk else { continue };
            if disk.read(chunk.id)?.is_none() {
                let base = self.base_of(&key, disk)?;
                wants.push(Want { entry: entry as u32, bytes: chunk.bytes, base });
            }
        }
        Ok(wants)
    }

    /// The chunk that stands at the same key in the base.
    fn base_of(&self, key: &Bytes, disk: &Disk) -> Result<Option<ChunkId>, Trouble> {
        let nodes = CachedNodes { cache: &self.nodes, disk };
        for section in self.base.iter().flat_map(|base| &base.sections) {
            let found = landfall_core::tree::get(&nodes, &section.root, key).ok().flatten();
            if let Some(chunk) = found.and_then(|value| value.chunk)
                && disk.read(chunk.id)?.is_some()
            {
                return Ok(Some(chunk.id));
            }
        }
        Ok(None)
    }

    fn node(&self, id: ChunkId, disk: &Disk) -> Result<Option<Bytes>, Trouble> {
        let cached = self.nodes.0.borrow().get(&id).cloned();
        match cached {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(disk.read(id)?.map(Chunk::into_bytes)),
        }
    }

    /// Carries out everything that the transfer commands.
    pub(crate) fn pump(&mut self, disk: &Disk, now: Time) -> Result<Outcome, Trouble> {
        while let Some(transfer) = &mut self.transfer {
            let nodes = CachedNodes { cache: &self.nodes, disk };
            let Some(command) = transfer.poll_command(&nodes, now) else { return Ok(transfer.outcome()) };
            self.watch.command(&command)?;
            self.carry_out(command, disk)?;
        }
        Ok(Outcome::Running)
    }

    /// Tells the transfer the time.
    pub(crate) fn wake(&mut self, now: Time) {
        if let Some(transfer) = &mut self.transfer {
            transfer.handle_timeout(now);
        }
    }

    /// When the transfer must be told the time.
    pub(crate) fn wakes_at(&self, now: Time) -> Option<Time> {
        self.transfer.as_ref()?.poll_timeout(now)
    }

    fn carry_out(&mut self, command: Command, disk: &Disk) -> Result<(), Trouble> {
        match command {
            Command::FetchNodes { request, lane, wants } => self.fetch_nodes(request, lane, &wants),
            Command::FetchChunks { request, lane, leaf, wants } => {
                return self.fetch_chunks(request, lane, leaf, &wants, disk);
            }
            Command::Cancel { request, lane } => self.say(lane, &Message::Cancel { request: request.0 }),
            Command::Inspect { leaf, .. } => self.outbox.push(Effect::Inspect(leaf)),
            Command::DropPeer { peer, reason } => {
                self.watch.peer_gone(peer);
                self.outbox.push(Effect::Drop(peer.0 as MemberId, reason));
            }
        }
        Ok(())
    }

    fn fetch_nodes(&mut self, request: RequestId, lane: Lane, wants: &[NodeWant]) {
        let asked = |want: &NodeWant| Asked { id: want.id, domain: Domain::Node, bytes: None, base: want.base };
        self.requests.insert(request, wants.iter().map(asked).collect());
        let nodes = NodeRequest {
            ids: wants.iter().map(|want| id_bytes(Some(want.id))).collect(),
            bases: wants.iter().map(|want| id_bytes(want.base)).collect(),
        };
        self.say(lane, &Message::Fetch(Fetch { request: request.0, what: Some(FetchWhat::Nodes(nodes)) }));
    }

    fn fetch_chunks(
        &mut self,
        request: RequestId,
        lane: Lane,
        leaf_id: ChunkId,
        wants: &[Want],
        disk: &Disk,
    ) -> Result<(), Trouble> {
        let bytes = self.node(leaf_id, disk)?.ok_or_else(|| Violation(format!("leaf {leaf_id} is gone")))?;
        let leaf = Leaf::parse(&bytes).map_err(|error| Violation(error.to_string()))?;
        let mut asked = Vec::new();
        for want in wants {
            let chunk = leaf.entry(want.entry as usize).and_then(|(_, value)| value.chunk);
            let chunk = chunk.ok_or_else(|| Violation(format!("{want:?} is no chunk of leaf {leaf_id}")))?;
            asked.push(Asked { id: chunk.id, domain: Domain::Data, bytes: Some(want.bytes), base: want.base });
        }
        self.requests.insert(request, asked);
        let unit = UnitRequest {
            leaf: id_bytes(Some(leaf_id)),
            entries: wants.iter().map(|want| want.entry).collect(),
            bases: wants.iter().map(|want| id_bytes(want.base)).collect(),
        };
        self.say(lane, &Message::Fetch(Fetch { request: request.0, what: Some(FetchWhat::Unit(unit)) }));
        Ok(())
    }

    fn say(&mut self, lane: Lane, message: &Message<'_>) {
        let lanes = self.peers.get(&(lane.peer.0 as MemberId));
        if let Some(&connection) = lanes.and_then(|lanes| lanes.connections.get(&lane.index)) {
            self.outbox.push(Effect::Send(connection, message.encode()));
        }
    }

    /// Figures for the log.
    pub(crate) fn progress(&self) -> String {
        self.transfer.as_ref().map_or_else(String::new, |transfer| format!("{:?}", transfer.progress()))
    }
}

/// A leaf whose values all stand in it.
fn refers_to_nothing(node: &Chunk) -> bool {
    Leaf::parse(node.bytes()).is_ok_and(|leaf| leaf.chunks().next().is_none())
}

fn id_bytes(id: Option<ChunkId>) -> Bytes {
    id.map_or_else(Bytes::new, ChunkId::to_bytes)
}

/// Nodes that were read or fetched.
#[derive(Default)]
struct NodeCache(RefCell<BTreeMap<ChunkId, Bytes>>);

struct CachedNodes<'a> {
    cache: &'a NodeCache,
    disk: &'a Disk,
}

impl Nodes for CachedNodes<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        if let Some(bytes) = self.cache.0.borrow().get(&id) {
            return Some(bytes.clone());
        }
        let bytes = self.disk.read(id).ok()??.into_bytes();
        self.cache.0.borrow_mut().insert(id, bytes.clone());
        Some(bytes)
    }
}

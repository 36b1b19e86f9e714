//! Owns the world of a story: the trees that sources hold, what each source lacks, and a driver that does as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;

use super::super::*;
use crate::tree::{Leaf, MemoryNodes, NodeSink, NodeWant, Root, children};
use crate::{Chunk, Domain};

/// How a story's trees look.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) trees: usize,
    pub(super) leaves: usize,
    pub(super) chunks: usize,
    pub(super) chunk_bytes: u32,
    /// Leaves that the base has in another form; nothing where there is no base.
    pub(super) changed: Option<BTreeSet<usize>>,
    pub(super) alike: Alike,
}

/// Whether all trees of a story have the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alike {
    Yes,
    No,
}

/// What a source does with the next want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It sends what it holds.
    Truth,
    /// It sends other bytes.
    Lie,
    /// It says that it has nothing.
    Deny,
    /// It sends a patch on what can no longer be read here.
    Patch,
}

/// One transfer, its sources, and the driver between them.
pub(super) struct World {
    pub(super) transfer: Transfer,
    pub(super) now: Time,
    pub(super) told: String,
    /// How many commands the driver carries out after each step.
    pub(super) commands_max: usize,
    /// Leaves that the driver looks at, where a story lets it take its time.
    pub(super) inspecting: Option<Vec<ChunkId>>,
    /// Nodes at every source.
    source: MemoryNodes,
    /// Nodes at the joiner.
    here: MemoryNodes,
    /// Chunks at the joiner.
    chunks_here: BTreeSet<ChunkId>,
    names: BTreeMap<ChunkId, String>,
    peers: BTreeMap<String, StoryPeer>,
    asked: BTreeMap<RequestId, Asked>,
    outcome: Outcome,
}

struct StoryPeer {
    id: PeerId,
    lacks: BTreeSet<String>,
}

struct Asked {
    lane: Lane,
    ids: Vec<ChunkId>,
    domain: Domain,
    answered: u32,
}

impl World {
    pub(super) fn new(shape: &Shape) -> Self {
        let mut made = Made::default();
        let trees = (0..shape.trees).map(|tree| made.tree_pair(shape, tree)).collect();
        Self {
            transfer: Transfer::new(trees, Time::ZERO),
            now: Time::ZERO,
            told: String::new(),
            commands_max: usize::MAX,
            inspecting: None,
            source: made.source,
            here: made.here,
            chunks_here: BTreeSet::new(),
            names: made.names,
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            outcome: Outcome::Running,
        }
    }

    pub(super) fn join(&mut self, name: &str, lanes: u32, cost: PeerCost) {
        let id = PeerId(u32::from(name.as_bytes()[0] - b'a'));
        self.peers.entry(name.to_owned()).or_insert(StoryPeer { id, lacks: BTreeSet::new() });
        self.transfer.handle_peer_joined(id, lanes, cost, self.now);
    }

    pub(super) fn lose(&mut self, name: &str) {
        let id = self.peers[name].id;
        self.asked.retain(|_, asked| asked.lane.peer != id);
        self.transfer.handle_peer_lost(id, self.now);
    }

    pub(super) fn receive(&mut self, name: &str, bytes: u32) {
        self.transfer.handle_bytes(self.peers[name].id, u64::from(bytes), self.now);
    }

    pub(super) fn lack(&mut self, name: &str, what: &str) {
        self.peers.get_mut(name).unwrap().lacks.insert(what.to_owned());
    }

    /// The source answers its next `count` wants, the last of them after `span`.
    pub(super) fn answer(&mut self, name: &str, count: usize, answer: Answer, span: Duration) {
        let begun = self.now;
        for at in 1..=count {
            self.pass(begun + span * at as u32 / count as u32);
            let Some(request) = self.oldest(name) else { return };
            self.answer_want(name, request, answer);
            self.carry_out();
        }
    }

    /// How many wants the source has not answered.
    pub(super) fn open(&self, name: &str) -> usize {
        let id = self.peers[name].id;
        let of_peer = self.asked.values().filter(|asked| asked.lane.peer == id);
        of_peer.map(|asked| asked.ids.len() - asked.answered as usize).sum()
    }

    /// The source says that it is done with its oldest request, whatever it answered.
    pub(super) fn end(&mut self, name: &str) {
        let request = self.oldest(name).expect("a request to end");
        self.asked.remove(&request);
        self.transfer.handle_request_ended(request, self.now);
    }

    /// The driver has looked at the leaf that it began to look at first.
    pub(super) fn inspected(&mut self) {
        let leaf = self.inspecting.as_mut().expect("a driver that takes its time").remove(0);
        self.transfer.handle_inspected(leaf, self.wants(leaf));
    }

    /// Lets time pass as a driver does: no deadline is missed.
    pub(super) fn pass(&mut self, until: Time) {
        while let Some(at) = self.transfer.poll_timeout(self.now).filter(|&at| at <= until) {
            assert!(at > self.now || self.now == until, "a deadline in the past keeps the driver busy for ever");
            self.now = at;
            self.transfer.handle_timeout(at);
            let told = self.told.len();
            self.carry_out();
            if self.told.len() > told {
                self.told.insert_str(told, &format!("at {at}:\n"));
            }
            if at == until {
                break;
            }
        }
        self.now = until;
    }

    /// Carries out every command, and notes each in the story.
    pub(super) fn carry_out(&mut self) {
        for _ in 0..self.commands_max {
            let Some(command) = self.transfer.poll_command(&self.here, self.now) else { break };
            self.carry_out_one(command);
        }
        let outcome = self.transfer.outcome();
        if outcome != self.outcome {
            match &outcome {
                Outcome::Running => self.tell("running"),
                Outcome::Complete => self.tell("complete"),
                Outcome::Stuck(stuck) => self.tell(&format!("stuck: {}", self.named(stuck))),
            }
            self.outcome = outcome;
        }
    }

    pub(super) fn tell(&mut self, line: &str) {
        writeln!(self.told, "{line}").unwrap();
    }

    fn carry_out_one(&mut self, command: Command) {
        match command {
            Command::FetchNodes { request, lane, wants } => {
                assert!(!wants.is_empty(), "a request for nothing");
                let listed: Vec<_> = wants.iter().map(|want| self.node_want(want)).collect();
                self.tell(&format!("{} <- r{} nodes {}", self.lane(lane), request.0, listed.join(" ")));
                let ids = wants.iter().map(|want| want.id).collect();
                self.asked.insert(request, Asked { lane, ids, domain: Domain::Node, answered: 0 });
            }
            Command::FetchChunks { request, lane, leaf, wants } => {
                assert!(!wants.is_empty(), "a request for nothing");
                let entries = ranges(wants.iter().map(|want| want.entry));
                let based = if wants.iter().any(|want| want.base.is_some()) { " on their bases" } else { "" };
                let line =
                    format!("{} <- r{} chunks {}[{entries}]{based}", self.lane(lane), request.0, self.names[&leaf]);
                self.tell(&line);
                let ids = self.chunk_ids(leaf, &wants);
                self.asked.insert(request, Asked { lane, ids, domain: Domain::Data, answered: 0 });
            }
            Command::Cancel { request, lane } => {
                self.tell(&format!("{} <- cancel r{}", self.lane(lane), request.0));
                self.asked.remove(&request);
                self.transfer.handle_request_ended(request, self.now);
            }
            Command::Inspect { leaf, .. } => {
                self.tell(&format!("inspect {}", self.names[&leaf]));
                match &mut self.inspecting {
                    Some(inspecting) => inspecting.push(leaf),
                    None => self.transfer.handle_inspected(leaf, self.wants(leaf)),
                }
            }
            Command::DropPeer { peer, reason } => {
                self.tell(&format!("drop {}: {reason}", self.peer(peer)));
                self.asked.retain(|_, asked| asked.lane.peer != peer);
            }
        }
    }

    fn answer_want(&mut self, name: &str, request: RequestId, answer: Answer) {
        let asked = self.asked.get_mut(&request).unwrap();
        let want = asked.answered;
        let (id, domain, last) = (asked.ids[want as usize], asked.domain, want as usize + 1 == asked.ids.len());
        asked.answered += 1;
        let held = !self.peers[name].lacks.contains(&self.names[&id]);
        let arrival = match answer {
            Answer::Lie => Arrival::Corrupt,
            Answer::Patch => Arrival::Baseless,
            Answer::Truth if held => Arrival::Stored,
            Answer::Truth | Answer::Deny => Arrival::Missing,
        };
        if arrival == Arrival::Stored {
            self.store(id, domain);
        }
        self.transfer.handle_arrival(request, want, arrival, self.now);
        if last && self.asked.remove(&request).is_some() {
            self.transfer.handle_request_ended(request, self.now);
        }
    }

    fn store(&mut self, id: ChunkId, domain: Domain) {
        match domain {
            Domain::Node => self.here.put(Chunk::verify(id, domain, self.source.node(id).unwrap()).unwrap()),
            _ => drop(self.chunks_here.insert(id)),
        }
    }

    fn oldest(&self, name: &str) -> Option<RequestId> {
        let id = self.peers[name].id;
        self.asked.iter().find(|(_, asked)| asked.lane.peer == id).map(|(&request, _)| request)
    }

    /// The chunks of a leaf that are not here.
    fn wants(&self, leaf: ChunkId) -> Vec<Want> {
        let leaf = Leaf::parse(&self.here.node(leaf).unwrap()).unwrap();
        let chunks = leaf.entries().filter_map(|(entry, _, value)| Some((entry as u32, value.chunk?)));
        let missing = chunks.filter(|(_, chunk)| !self.chunks_here.contains(&chunk.id));
        missing.map(|(entry, chunk)| Want { entry, bytes: chunk.bytes, base: None }).collect()
    }

    fn chunk_ids(&self, leaf: ChunkId, wants: &[Want]) -> Vec<ChunkId> {
        let leaf = Leaf::parse(&self.here.node(leaf).unwrap()).unwrap();
        wants.iter().map(|want| leaf.entry(want.entry as usize).unwrap().1.chunk.unwrap().id).collect()
    }

    fn lane(&self, lane: Lane) -> String {
        format!("{}.{}", self.peer(lane.peer), lane.index)
    }

    fn peer(&self, id: PeerId) -> &str {
        self.peers.iter().find(|(_, peer)| peer.id == id).map(|(name, _)| name).unwrap()
    }

    fn node_want(&self, want: &NodeWant) -> String {
        match want.base {
            Some(base) => format!("{}<{}", self.names[&want.id], self.names[&base]),
            None => self.names[&want.id].clone(),
        }
    }

    /// A message with ids replaced by the names that the story uses.
    fn named(&self, stuck: &Stuck) -> String {
        let message = stuck.to_string();
        self.names.iter().fold(message, |message, (id, name)| message.replace(&id.to_string(), name))
    }
}

/// Nodes with made-up content, and their names.
#[derive(Default)]
struct Made {
    source: MemoryNodes,
    here: MemoryNodes,
    names: BTreeMap<ChunkId, String>,
}

impl Made {
    /// A tree's root is called `root`, its leaves `L0`, `L1` and so on, their chunks `L0.0`; the root of a tree with one leaf
    /// is that leaf. What only the base has is called `oL0`, what belongs to the second tree `t1L0`.
    fn tree_pair(&mut self, shape: &Shape, tree: usize) -> TreePair {
        let prefix = if tree == 0 || shape.alike == Alike::Yes { String::new() } else { format!("t{tree}") };
        let base = shape.changed.as_ref().map(|changed| {
            let (root, nodes) = self.tree(shape, &prefix, |leaf| if changed.contains(&leaf) { "o" } else { "" });
            for node in nodes {
                self.here.put(node);
            }
            root
        });
        let (target, nodes) = self.tree(shape, &prefix, |_| "");
        for node in nodes {
            self.source.put(node);
        }
        TreePair { base, target }
    }

    fn tree(&mut self, shape: &Shape, prefix: &str, version: impl Fn(usize) -> &'static str) -> (Root, Vec<Chunk>) {
        let leaf = |leaf: usize| format!("{prefix}{}L{leaf}", version(leaf));
        let mut nodes: Vec<Chunk> = (0..shape.leaves).map(|at| self.leaf(shape, at, &leaf(at))).collect();
        if let [_, _, ..] = nodes[..] {
            let root = inner(&nodes, shape);
            let versions: BTreeSet<_> = (0..shape.leaves).map(&version).collect();
            let name = format!("{prefix}{}root", versions.last().unwrap());
            self.names.entry(root.id()).or_insert(name);
            nodes.push(root);
        }
        let entries = (shape.leaves * shape.chunks) as u64;
        let root = Root {
            id: nodes.last().unwrap().id(),
            level: u8::from(nodes.len() > 1),
            entries,
            payload_bytes: entries * u64::from(shape.chunk_bytes),
            chunk_refs: entries,
        };
        (root, nodes)
    }

    fn leaf(&mut self, shape: &Shape, leaf: usize, name: &str) -> Chunk {
        let mut bytes = header(0, shape.chunks);
        for chunk in 0..shape.chunks {
            let chunk_name = format!("{name}.{chunk}");
            let id = ChunkId::of(Domain::Data, chunk_name.as_bytes());
            let key = key(leaf, chunk);
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend(0x8000_u16.to_le_bytes());
            bytes.extend(key);
            bytes.extend(id.as_bytes());
            bytes.extend(shape.chunk_bytes.to_le_bytes());
            self.names.insert(id, chunk_name);
        }
        let node = Chunk::new(Domain::Node, bytes.into());
        assert!(children(node.bytes()).is_ok());
        self.names.insert(node.id(), name.to_owned());
        node
    }
}

/// The root above `leaves`, byte by byte: the builder would choose leaves of its own.
fn inner(leaves: &[Chunk], shape: &Shape) -> Chunk {
    let mut bytes = header(1, leaves.len());
    for (at, leaf) in leaves.iter().enumerate() {
        let key = key(at, 0);
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend(key);
        bytes.extend(leaf.id().as_bytes());
        bytes.extend((shape.chunks as u64).to_le_bytes());
        bytes.extend((shape.chunks as u64 * u64::from(shape.chunk_bytes)).to_le_bytes());
        bytes.extend((shape.chunks as u64).to_le_bytes());
    }
    Chunk::new(Domain::Node, bytes.into())
}

fn header(level: u8, entries: usize) -> Vec<u8> {
    let [low, high] = (entries as u16).to_le_bytes();
    vec![1, level, low, high]
}

fn key(leaf: usize, chunk: usize) -> Bytes {
    format!("{leaf:04}/{chunk:04}").into()
}

/// Numbers in order as `0-3,5`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

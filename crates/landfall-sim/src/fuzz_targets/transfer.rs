//! Owns the target of the transfer: whatever facts come in whatever order, it keeps its promises, and twice the same.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_core::transfer::{Arrival, Command, Lane, Outcome, PeerCost, PeerId, RequestId, Transfer, TreePair, Want};
use landfall_core::tree::{Leaf, MemoryNodes, NodeSink, Nodes};
use landfall_core::{ChunkId, Time};

use crate::checks::{Watch, WatchedArrival};
use crate::content::{Model, Published};
use crate::random::Random;
use crate::scenario::ContentShape;

/// A sequence of facts, two bytes each. Then every fact is a good one, and the transfer must come to an end.
pub fn transfer_events(bytes: &[u8]) {
    let commands = Play::new(bytes).run(bytes);
    assert_eq!(commands, Play::new(bytes).run(bytes), "the same facts, other commands");
}

/// One transfer, and the world that feeds it.
struct Play {
    transfer: Transfer,
    watch: Watch,
    now: Time,
    source: MemoryNodes,
    here: MemoryNodes,
    open: BTreeMap<RequestId, Open>,
    inspecting: Vec<ChunkId>,
    commands: Vec<String>,
}

struct Open {
    lane: Lane,
    nodes: Vec<ChunkId>,
    wants: u32,
    next: u32,
}

impl Play {
    fn new(bytes: &[u8]) -> Self {
        let shape = ContentShape {
            entries: u64::from(bytes.first().copied().unwrap_or_default()),
            chunk_bytes_max: 300,
            inline_per_mille: 600,
            edits: 10,
        };
        let mut model = Model::new(shape, Random::new(7));
        let (old, (source, mut here)) = (model.publish(), (MemoryNodes::default(), MemoryNodes::default()));
        model.edit();
        let new = model.publish();
        let has_base = bytes.get(1).is_some_and(|byte| byte % 2 == 1);
        let mut play_source = source;
        nodes_of(&new, &mut play_source);
        if has_base {
            nodes_of(&old, &mut here);
        }
        let pairs = new.manifest.sections.iter().zip(&old.manifest.sections);
        let trees = pairs.map(|(new, old)| TreePair { base: has_base.then_some(old.root), target: new.root });
        Self {
            transfer: Transfer::new(trees.collect(), Time::ZERO),
            watch: Watch::busy(),
            now: Time::ZERO,
            source: play_source,
            here,
            open: BTreeMap::new(),
            inspecting: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn run(mut self, bytes: &[u8]) -> Vec<String> {
        for fact in bytes.chunks_exact(2).skip(1) {
            self.happen(fact[0], fact[1]);
            self.carry_out(usize::from(fact[1] >> 4));
        }
        self.heal();
        self.commands
    }

    fn happen(&mut self, kind: u8, detail: u8) {
        let peer = PeerId(u32::from(detail % 4));
        match kind % 10 {
            0 => self.join(peer, 1 + u32::from(detail >> 6)),
            1 => self.lose(peer),
            2 => self.pass(Duration::from_millis(u64::from(detail) * 200)),
            3 => self.inspected(usize::from(detail)),
            4 => self.end(usize::from(detail)),
            5 => self.answer(usize::from(detail), Arrival::Corrupt),
            6 => self.answer(usize::from(detail), Arrival::Missing),
            7 => self.answer(usize::from(detail), Arrival::Baseless),
            _ => self.answer(usize::from(detail), Arrival::Stored),
        }
    }

    /// From now on there is one good source and nothing goes wrong.
    fn heal(&mut self) {
        for peer in 0..4 {
            self.lose(PeerId(peer));
        }
        self.join(PeerId(9), 1);
        for _ in 0..FACTS_MAX {
            self.carry_out(usize::MAX);
            match self.transfer.outcome() {
                Outcome::Complete | Outcome::Stuck(_) => return,
                Outcome::Running => {}
            }
            if self.inspecting.is_empty() {
                self.answer(0, Arrival::Stored);
            } else {
                self.inspected(0);
            }
        }
        panic!("it does not come to an end: {:?}", self.transfer.progress());
    }

    fn join(&mut self, peer: PeerId, lanes: u32) {
        self.lose(peer);
        self.watch.peer_joined(peer);
        self.transfer.handle_peer_joined(peer, lanes, PeerCost::NEAR, self.now);
    }

    fn lose(&mut self, peer: PeerId) {
        self.watch.peer_gone(peer);
        self.open.retain(|_, open| open.lane.peer != peer);
        self.transfer.handle_peer_lost(peer, self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        while let Some(at) = self.transfer.poll_timeout(self.now).filter(|&at| at <= self.now) {
            self.transfer.handle_timeout(self.now);
            self.carry_out(usize::MAX);
            let again = self.transfer.poll_timeout(self.now);
            assert!(again.is_none_or(|again| again > self.now), "{at} stays in the past");
        }
    }

    fn inspected(&mut self, choice: usize) {
        let Some(at) = choice.checked_rem(self.inspecting.len()) else { return };
        let leaf_id = self.inspecting.remove(at);
        let bytes = self.here.node(leaf_id).expect("an inspected leaf is here");
        let leaf = Leaf::parse(&bytes).expect("a leaf");
        let want = |(entry, _, value): (usize, _, landfall_core::tree::Value)| {
            Some(Want { entry: entry as u32, bytes: value.chunk?.bytes, base: None })
        };
        self.watch.inspected();
        self.transfer.handle_inspected(leaf_id, leaf.entries().filter_map(want).collect());
    }

    /// One of the open requests gets an answer to its next want, and ends with its last.
    fn answer(&mut self, choice: usize, arrival: Arrival) {
        let Some(at) = choice.checked_rem(self.open.len()) else { return };
        let (&request, open) = self.open.iter_mut().nth(at).expect("below the length");
        let want = open.next;
        open.next += 1;
        let mut chunkless_bytes = None;
        if arrival == Arrival::Stored
            && let Some(&node) = open.nodes.get(want as usize)
        {
            let bytes = self.source.node(node).expect("the source has every node");
            let is_chunkless = Leaf::parse(&bytes).is_ok_and(|leaf| leaf.chunks().next().is_none());
            chunkless_bytes = is_chunkless.then_some(bytes.len() as u32);
            self.here.put(landfall_core::Chunk::new(landfall_core::Domain::Node, bytes));
        }
        let is_last = open.next == open.wants;
        let seen = if arrival == Arrival::Stored { WatchedArrival::New } else { WatchedArrival::Nothing };
        self.watch.arrived(request, want, seen).expect("a promise");
        let arrival = match chunkless_bytes {
            Some(leaf_bytes) if choice.is_multiple_of(2) => Arrival::Chunkless { leaf_bytes },
            _ => arrival,
        };
        self.transfer.handle_arrival(request, want, arrival, self.now);
        if is_last {
            self.end_request(request);
        }
    }

    fn end(&mut self, choice: usize) {
        let Some(at) = choice.checked_rem(self.open.len()) else { return };
        let (&request, _) = self.open.iter().nth(at).expect("below the length");
        self.end_request(request);
    }

    fn end_request(&mut self, request: RequestId) {
        self.open.remove(&request);
        self.watch.request_ended(request);
        self.transfer.handle_request_ended(request, self.now);
    }

    fn carry_out(&mut self, commands_max: usize) {
        for _ in 0..commands_max.min(FACTS_MAX) {
            let Some(command) = self.transfer.poll_command(&self.here, self.now) else { return };
            self.watch.command(&command).unwrap_or_else(|broken| panic!("{}", broken.0));
            self.commands.push(format!("{command:?}"));
            match command {
                Command::FetchNodes { request, lane, wants } => {
                    let nodes: Vec<_> = wants.iter().map(|want| want.id).collect();
                    self.open.insert(request, Open { lane, wants: nodes.len() as u32, nodes, next: 0 });
                }
                Command::FetchChunks { request, lane, wants, .. } => {
                    let open = Open { lane, nodes: Vec::new(), wants: wants.len() as u32, next: 0 };
                    self.open.insert(request, open);
                }
                Command::Inspect { leaf, .. } => self.inspecting.push(leaf),
                Command::DropPeer { peer, .. } => {
                    self.watch.peer_gone(peer);
                    self.open.retain(|_, open| open.lane.peer != peer);
                }
                Command::Cancel { .. } => {}
            }
        }
    }
}

fn nodes_of(published: &Published, into: &mut MemoryNodes) {
    let nodes = published.chunks.iter().filter(|chunk| chunk.domain() == landfall_core::Domain::Node);
    nodes.for_each(|node| into.put(node.clone()));
}

/// More facts than any transfer of this size needs.
const FACTS_MAX: usize = 20_000;

//! Owns the choice of the next request: nodes before chunks, chunks in order, each where it is answered soonest, and late ones
//! twice.

use std::collections::BTreeSet;

use super::command::{Command, Lane, PeerId, RequestId, Stuck};
use super::ledger::UnitId;
use super::{HEDGE_AFTER, NODE_BYTES_EXPECTED, Request, RequestWork, Transfer};
use crate::Time;
use crate::chunk::ChunkId;
use crate::limits::UNIT_BYTES_TARGET;
use crate::tree::Nodes;

/// Nodes that one request asks for: about half a mebibyte.
pub(super) const NODES_PER_REQUEST_MAX: usize = 32;
/// One in this many bytes may be asked for twice.
const HEDGE_SHARE: u64 = 33;
/// A request is late when another peer could answer it this many times sooner.
const HEDGE_GAIN: u32 = 2;

/// What a request has not brought yet.
struct OpenWork {
    bytes: u64,
    /// Peers that lack some of it.
    lacking: BTreeSet<PeerId>,
}

impl Transfer {
    /// Fills the command queue with what can be asked now.
    pub(super) fn schedule(&mut self, nodes: &dyn Nodes, now: Time) {
        self.walk(nodes);
        while self.stuck.is_none() && self.ask_nodes(now) {}
        while self.stuck.is_none() && self.ask_chunks(now) {}
        while self.hedge(now) {}
    }

    fn walk(&mut self, nodes: &dyn Nodes) {
        if !self.ledger.has_room() {
            return;
        }
        if let Err(stuck) = self.frontier.advance(nodes) {
            self.stuck = Some(stuck);
            return;
        }
        while let Some((tree, leaf)) = self.frontier.next_inspection() {
            self.commands.push_back(Command::Inspect { tree, leaf });
        }
    }

    /// Asks for the nodes at the front of the queue. True if there may be more to ask.
    fn ask_nodes(&mut self, now: Time) -> bool {
        let Some(front) = self.frontier.front() else { return false };
        let (lacking, id) = (front.lacking.clone(), front.want.id);
        let Some(lane) = self.best_lane(&lacking, NODE_BYTES_EXPECTED) else {
            if self.nobody_is_left(&lacking) {
                self.stuck = Some(Stuck::NobodyHasNode(id));
            }
            return false;
        };
        let nodes = self.frontier.take_front(lane.peer, NODES_PER_REQUEST_MAX);
        self.ask_for_nodes(nodes, lane, now);
        true
    }

    fn ask_for_nodes(&mut self, nodes: Vec<ChunkId>, lane: Lane, now: Time) {
        let wants = nodes.iter().filter_map(|&node| self.frontier.node(node)).map(|work| work.want).collect();
        let request = self.open_request(lane, RequestWork::Nodes(nodes.clone()), now);
        for node in nodes {
            self.frontier.asked(node, request);
        }
        self.commands.push_back(Command::FetchNodes { request, lane, wants });
    }

    /// Asks for the unit at the front of the queue. True if there may be more to ask.
    fn ask_chunks(&mut self, now: Time) -> bool {
        let Some((_, unit)) = self.ledger.front() else { return false };
        let lacking = unit.lacking.clone();
        let Some(lane) = self.best_lane(&lacking, unit.open_bytes()) else {
            if self.nobody_is_left(&lacking) {
                let entry = unit.open().next().map_or(0, |at| unit.want(at).entry);
                self.stuck = Some(Stuck::NobodyHasChunk { leaf: unit.leaf, entry });
            }
            return false;
        };
        self.ledger.split_front(self.peers[&lane.peer].request_bytes_max());
        let (unit, _) = self.ledger.front().expect("a split leaves the front");
        self.ask_unit(unit, lane, now);
        true
    }

    fn ask_unit(&mut self, id: UnitId, lane: Lane, now: Time) {
        let unit = self.ledger.unit(id).expect("the caller found it");
        let leaf = unit.leaf;
        let places: Vec<usize> = unit.open().collect();
        let wants: Vec<_> = places.iter().map(|&at| unit.want(at)).collect();
        let bytes = wants.iter().map(|want| want.bytes).collect();
        let request = self.open_request(lane, RequestWork::Unit { unit: id, wants: places, bytes }, now);
        self.ledger.asked(id, request);
        self.commands.push_back(Command::FetchChunks { request, lane, leaf, wants });
    }

    /// Asks a second peer for the request that is latest, if one can be much faster. True if it did.
    fn hedge(&mut self, now: Time) -> bool {
        let allowance = self.ledger.bytes_done / HEDGE_SHARE + u64::from(UNIT_BYTES_TARGET);
        if self.peers.len() < 2 || self.bytes_hedged >= allowance {
            return false;
        }
        let late = self.requests.iter().filter_map(|(&id, request)| self.late(id, request, now));
        // Of requests that are equally late, the one that was asked last is answered last.
        let Some((_, id, lane)) = late.max() else { return false };
        let request = &self.requests[&id];
        self.bytes_hedged += self.open_work(request).map_or(0, |open| open.bytes);
        match &request.work {
            RequestWork::Nodes(_) => self.ask_for_nodes(self.open_nodes(request), lane, now),
            RequestWork::Unit { unit, .. } => self.ask_unit(*unit, lane, now),
        }
        true
    }

    /// If a request is late and another peer is free: how long it would take still, and where to ask again.
    fn late(&self, id: RequestId, request: &Request, now: Time) -> Option<(u64, RequestId, Lane)> {
        let silent = now.since(request.last_progress);
        if silent < HEDGE_AFTER && !self.is_last_work(&request.work) {
            return None;
        }
        let mut open = self.open_work(request)?;
        open.lacking.insert(request.lane.peer);
        let lane = self.best_lane(&open.lacking, open.bytes)?;
        let slow = &self.peers[&request.lane.peer];
        let quick = &self.peers[&lane.peer];
        let wait = slow.time_for(slow.bytes_waiting()).max(silent);
        let gains = quick.time_for(quick.bytes_waiting() + open.bytes) * HEDGE_GAIN < wait;
        gains.then_some((wait.as_nanos() as u64, id, lane))
    }

    /// Is it chunks, and is there nothing else that a free peer could be asked for?
    fn is_last_work(&self, work: &RequestWork) -> bool {
        matches!(work, RequestWork::Unit { .. }) && self.ledger.nothing_waits() && self.frontier.is_done()
    }

    /// What a request has not brought yet; nothing if a second one asks for it already.
    fn open_work(&self, request: &Request) -> Option<OpenWork> {
        match &request.work {
            RequestWork::Nodes(_) => {
                let nodes = self.open_nodes(request);
                let works: Vec<_> = nodes.iter().filter_map(|&node| self.frontier.node(node)).collect();
                let asked_once = !works.is_empty() && works.iter().all(|work| work.requests.len() == 1);
                let lacking = works.iter().flat_map(|work| &work.lacking).copied().collect();
                asked_once.then_some(OpenWork { bytes: works.len() as u64 * NODE_BYTES_EXPECTED, lacking })
            }
            RequestWork::Unit { unit, .. } => {
                let unit = self.ledger.unit(*unit).filter(|unit| unit.requests().len() == 1)?;
                Some(OpenWork { bytes: unit.open_bytes(), lacking: unit.lacking.clone() })
            }
        }
    }

    /// The nodes that a request asks for and that are not here.
    fn open_nodes(&self, request: &Request) -> Vec<ChunkId> {
        let RequestWork::Nodes(nodes) = &request.work else { return Vec::new() };
        let open = nodes.iter().zip(&request.answered).filter(|(_, answered)| !**answered);
        open.map(|(&node, _)| node).filter(|&node| self.frontier.node(node).is_some()).collect()
    }

    /// Where a request of `bytes` is answered soonest, among the peers that take one now.
    fn best_lane(&self, lacking: &BTreeSet<PeerId>, bytes: u64) -> Option<Lane> {
        let able = self.peers.iter().filter(|(id, _)| !lacking.contains(id));
        let free = able.filter_map(|(&id, peer)| {
            let index = peer.free_lane()?;
            Some((peer.score(bytes), Lane { peer: id, index }))
        });
        free.min().map(|(_, lane)| lane)
    }

    /// Does everybody lack it, and is nobody away who may come back with it?
    fn nobody_is_left(&self, lacking: &BTreeSet<PeerId>) -> bool {
        !self.peers.is_empty() && self.away.is_empty() && self.peers.keys().all(|peer| lacking.contains(peer))
    }

    fn open_request(&mut self, lane: Lane, work: RequestWork, now: Time) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let wants = match &work {
            RequestWork::Nodes(works) => works.len(),
            RequestWork::Unit { wants, .. } => wants.len(),
        };
        let bytes = (0..wants).map(|want| work.bytes(want)).sum();
        let peer = self.peers.get_mut(&lane.peer).expect("the lane was just chosen");
        peer.asked(lane, bytes, now);
        self.requests.insert(id, Request { lane, work, answered: vec![false; wants], last_progress: now });
        id
    }
}

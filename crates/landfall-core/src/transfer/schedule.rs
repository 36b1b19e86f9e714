//! Owns the choice of the next request: nodes before chunks, chunks in order, each where it is answered soonest, and late ones
//! twice.

use std::collections::BTreeSet;

use super::command::{Command, Lane, PeerId, RequestId, Stuck};
use super::ledger::UnitId;
use super::{HEDGE_AFTER, NODE_BYTES_EXPECTED, Request, RequestWork, Transfer};
use crate::Time;
use crate::limits::UNIT_BYTES_TARGET;
use crate::tree::Nodes;

/// Nodes that one request asks for: about half a mebibyte.
const NODES_PER_REQUEST_MAX: usize = 32;
/// One in this many bytes may be asked for twice.
const HEDGE_SHARE: u64 = 33;
/// A request is late when another peer could answer it this many times sooner.
const HEDGE_GAIN: u32 = 2;

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
        let mut works = Vec::new();
        while works.len() < NODES_PER_REQUEST_MAX
            && self.frontier.front().is_some_and(|work| !work.lacking.contains(&lane.peer))
        {
            works.extend(self.frontier.take_front());
        }
        let wants = works.iter().map(|work| work.want).collect();
        let request = self.open_request(lane, RequestWork::Nodes(works), now);
        self.commands.push_back(Command::FetchNodes { request, lane, wants });
        true
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
        let nothing_left = self.ledger.nothing_waits() && self.frontier.is_done();
        let allowance = self.ledger.bytes_done / HEDGE_SHARE + u64::from(UNIT_BYTES_TARGET);
        if self.peers.len() < 2 || self.bytes_hedged >= allowance {
            return false;
        }
        let late = self.requests.values().filter_map(|request| self.late_unit(request, nothing_left, now));
        let Some((_, unit, lane)) = late.max_by_key(|&(wait, unit, _)| (wait, std::cmp::Reverse(unit))) else {
            return false;
        };
        self.bytes_hedged += self.ledger.unit(unit).map_or(0, super::ledger::Unit::open_bytes);
        self.ask_unit(unit, lane, now);
        true
    }

    /// If a request is late and another peer is free: how long it would take still, its unit, and where to ask again.
    fn late_unit(&self, request: &Request, nothing_left: bool, now: Time) -> Option<(u64, UnitId, Lane)> {
        let RequestWork::Unit { unit: id, .. } = request.work else { return None };
        let unit = self.ledger.unit(id)?;
        let silent = now.since(request.last_progress) >= HEDGE_AFTER;
        if unit.requests().len() > 1 || !(silent || nothing_left) {
            return None;
        }
        let bytes = unit.open_bytes();
        let mut avoid = unit.lacking.clone();
        avoid.insert(request.lane.peer);
        let lane = self.best_lane(&avoid, bytes)?;
        let slow = &self.peers[&request.lane.peer];
        let quick = &self.peers[&lane.peer];
        let wait = slow.time_for(slow.bytes_waiting()).max(now.since(request.last_progress));
        let gains = quick.time_for(quick.bytes_waiting() + bytes) * HEDGE_GAIN < wait;
        gains.then_some((wait.as_nanos() as u64, id, lane))
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

    fn nobody_is_left(&self, lacking: &BTreeSet<PeerId>) -> bool {
        !self.peers.is_empty() && self.peers.keys().all(|peer| lacking.contains(peer))
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

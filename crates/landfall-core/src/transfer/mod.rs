//! Owns one transfer: which node and which chunk to ask of which peer, and what to do when a peer is slow, lost or lying.
//!
//! It holds no socket, file or clock. Facts come in through `handle_*`, with the time; work goes out through `poll_command`. The same
//! facts in the same order give the same commands.
//!
//! A driver owes it: every command carried out in order; one `handle_arrival` for each want of a request and then one
//! `handle_request_ended`, or one `handle_peer_lost`; nodes findable through [`Nodes`] before their arrival is told; and a call
//! of `handle_timeout` no later than `poll_timeout` says.

mod command;
mod frontier;
mod ledger;
mod peer;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::Time;
use crate::chunk::ChunkId;
use crate::tree::Nodes;

pub use command::{Arrival, Command, DropReason, Lane, Outcome, PeerId, RequestId, Stuck, Want};
pub use frontier::TreePair;
pub use peer::PeerCost;

use frontier::Frontier;
use ledger::{Ledger, UnitId};
use peer::Peer;

/// A peer with work that makes no progress for this long is dropped.
pub const STALL_MAX: Duration = Duration::from_secs(20);
/// A transfer without any peer for this long is stuck. Peers that left without delivering anything do not count.
///
/// What all peers that are here lack is waited for as long, if one that is away may have it.
pub const PEERLESS_MAX: Duration = Duration::from_secs(30);
/// After this much silence a second peer is asked for the same chunks.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// Chunks that do not match their hash before their sender is dropped.
const CORRUPT_MAX: u32 = 3;

/// Decides what to ask of whom until a set of trees and the chunks they name are here.
#[derive(Debug)]
pub struct Transfer {
    frontier: Frontier,
    ledger: Ledger,
    peers: BTreeMap<PeerId, Peer>,
    requests: BTreeMap<RequestId, Request>,
    next_request: u32,
    commands: VecDeque<Command>,
    /// Bytes of chunks that were asked for a second time.
    bytes_hedged: u64,
    /// Since when nobody is there to deliver. Who comes and goes without delivering anything changes nothing.
    peerless_since: Option<Time>,
    /// Peers that delivered something and left, and when: they may come back.
    away: BTreeMap<PeerId, Time>,
    /// Peers that sent too much that does not match its hash.
    liars: BTreeSet<PeerId>,
    stuck: Option<Stuck>,
}

/// What was asked of one lane and has not all come.
#[derive(Debug)]
struct Request {
    lane: Lane,
    work: RequestWork,
    /// For each want: has it been answered?
    answered: Vec<bool>,
    last_progress: Time,
}

impl Request {
    /// When to look next if another peer could be sooner: the longer the silence, the more of them can.
    fn next_look(&self, now: Time) -> Time {
        let looks = now.since(self.last_progress).as_nanos() / HEDGE_AFTER.as_nanos();
        self.last_progress + HEDGE_AFTER * (looks as u32 + 1)
    }
}

#[derive(Debug)]
enum RequestWork {
    Nodes(Vec<ChunkId>),
    /// A unit, and which of its wants were asked for.
    Unit {
        unit: UnitId,
        wants: Vec<usize>,
        bytes: Vec<u32>,
    },
}

impl RequestWork {
    /// Bytes that one want is expected to bring.
    fn bytes(&self, want: usize) -> u64 {
        match self {
            Self::Nodes(_) => NODE_BYTES_EXPECTED,
            Self::Unit { bytes, .. } => u64::from(bytes[want]),
        }
    }
}

/// What a node is expected to cost.
const NODE_BYTES_EXPECTED: u64 = 16 * 1024;

/// Figures of a transfer, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of chunks that are known to be wanted so far.
    pub bytes_wanted: u64,
    /// Bytes of chunks that came.
    pub bytes_done: u64,
    /// Bytes of chunks that came although they were here already.
    pub bytes_again: u64,
    /// Every wanted chunk is known: `bytes_wanted` will not grow.
    pub all_known: bool,
    /// Entries of the wanted trees, as far as these were walked, that are here because their bases have them.
    pub entries_held: u64,
    /// Entries in leaves that came without chunks and were not inspected.
    pub entries_passed: u64,
    /// Bytes of those leaves.
    pub leaf_bytes_passed: u64,
}

impl Transfer {
    /// A transfer of `trees`, the most urgent first.
    pub fn new(trees: Vec<TreePair>, now: Time) -> Self {
        Self {
            frontier: Frontier::new(trees),
            ledger: Ledger::default(),
            peers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            commands: VecDeque::new(),
            bytes_hedged: 0,
            peerless_since: Some(now),
            away: BTreeMap::new(),
            liars: BTreeSet::new(),
            stuck: None,
        }
    }

    /// A peer is being connected: what others lack is kept for it a while.
    pub fn handle_peer_expected(&mut self, peer: PeerId, now: Time) {
        if !self.peers.contains_key(&peer) {
            self.away.insert(peer, now);
        }
    }

    /// A peer will not come, or not come back.
    pub fn handle_peer_given_up(&mut self, peer: PeerId, now: Time) {
        self.handle_peer_lost(peer, now);
        self.away.remove(&peer);
    }

    /// A peer that holds the snapshot, or some of it, can be asked from now on. One that was dropped for lying stays dropped.
    pub fn handle_peer_joined(&mut self, peer: PeerId, lanes: u32, cost: PeerCost, now: Time) {
        if self.liars.contains(&peer) {
            return;
        }
        self.handle_peer_lost(peer, now);
        self.away.remove(&peer);
        self.peers.insert(peer, Peer::new(cost, lanes, now));
    }

    /// A peer is gone; what it was asked for is asked of others.
    pub fn handle_peer_lost(&mut self, peer: PeerId, now: Time) {
        let Some(lost) = self.peers.remove(&peer) else { return };
        if lost.has_delivered {
            self.away.insert(peer, now);
        }
        self.commands.retain(|command| command.peer() != Some(peer));
        let lost: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| request.lane.peer == peer).map(|(&id, _)| id).collect();
        // The oldest work goes back last, so that it stands first.
        for id in lost.into_iter().rev() {
            self.end_request(id);
        }
        self.ledger.forget_peer(peer);
        self.frontier.forget_peer(peer);
        if self.peers.is_empty() {
            self.peerless_since.get_or_insert(now);
        }
    }

    /// One want of a request was answered, with `bytes` of plaintext.
    pub fn handle_arrival(&mut self, request: RequestId, want: u32, arrival: Arrival, now: Time) {
        let Some(open) = self.requests.get_mut(&request) else { return };
        let want = want as usize;
        if open.answered.get(want).copied() != Some(false) {
            return;
        }
        open.answered[want] = true;
        open.last_progress = now;
        let (lane, bytes) = (open.lane, open.work.bytes(want));
        if let Some(peer) = self.peers.get_mut(&lane.peer) {
            peer.settled(lane, bytes);
            match arrival {
                Arrival::Stored | Arrival::Chunkless { .. } => peer.delivered(bytes, now),
                Arrival::Missing | Arrival::Corrupt | Arrival::Baseless => peer.answered(now),
            }
        }
        if matches!(arrival, Arrival::Stored | Arrival::Chunkless { .. }) {
            self.peerless_since = None;
        }
        self.settle(request, want, arrival);
        if arrival == Arrival::Corrupt {
            self.blame(lane.peer, now);
        }
    }

    /// Bytes came from a peer, in the middle of an item: a chunk takes long on a slow link.
    pub fn handle_bytes(&mut self, peer: PeerId, bytes: u64, now: Time) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.received(bytes, now);
        }
    }

    /// Was a peer dropped for good, because it sent too much that does not match its hash?
    pub fn is_banned(&self, peer: PeerId) -> bool {
        self.liars.contains(&peer)
    }

    /// Is a want of a request still open? If not, its bytes came from elsewhere and need not even be decoded.
    pub fn is_wanted(&self, request: RequestId, want: u32) -> bool {
        let want = want as usize;
        let Some(open) = self.requests.get(&request) else { return false };
        match &open.work {
            _ if open.answered.get(want).copied() != Some(false) => false,
            RequestWork::Nodes(ids) => self.frontier.node(ids[want]).is_some(),
            RequestWork::Unit { unit, wants, .. } => self.ledger.is_open(*unit, wants[want]),
        }
    }

    /// A peer says that every want of a request has been answered.
    pub fn handle_request_ended(&mut self, request: RequestId, now: Time) {
        let Some(open) = self.requests.get(&request) else { return };
        let lane = open.lane;
        let silent: Vec<u32> = (0..open.answered.len()).filter(|&at| !open.answered[at]).map(|at| at as u32).collect();
        for want in silent {
            self.handle_arrival(request, want, Arrival::Missing, now);
        }
        self.end_request(request);
        if let Some(peer) = self.peers.get_mut(&lane.peer) {
            peer.ended(lane);
        }
    }

    /// Chunks of a leaf that is being inspected are known to be wanted; more may follow.
    pub fn handle_wanted(&mut self, leaf: ChunkId, wants: Vec<Want>) {
        if self.frontier.is_inspecting(leaf) {
            self.ledger.add_leaf(leaf, wants);
        }
    }

    /// A leaf was compared with what is here: these chunks, too, are not.
    pub fn handle_inspected(&mut self, leaf: ChunkId, wants: Vec<Want>) {
        if self.frontier.inspected(leaf) {
            self.ledger.add_leaf(leaf, wants);
        }
    }

    /// Time passed: peers without progress are dropped, and work that is late is asked of another.
    pub fn handle_timeout(&mut self, now: Time) {
        let stalled: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.is_idle() && now.since(peer.last_progress) >= STALL_MAX)
            .map(|(&id, _)| id)
            .collect();
        for peer in stalled {
            self.drop_peer(peer, DropReason::Stalled, now);
        }
        self.away.retain(|_, since| now.since(*since) < PEERLESS_MAX);
        if self.peerless_deadline().is_some_and(|at| at <= now) {
            self.stuck = Some(Stuck::NoPeers);
        }
    }

    /// The next thing to do, or nothing until more is known.
    pub fn poll_command(&mut self, nodes: &dyn Nodes, now: Time) -> Option<Command> {
        if self.commands.is_empty() && self.stuck.is_none() {
            self.schedule(nodes, now);
        }
        self.commands.pop_front()
    }

    /// When `handle_timeout` must be called at the latest, and `poll_command` after it.
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let busy = self.peers.values().filter(|peer| !peer.is_idle());
        let stall = busy.map(|peer| peer.last_progress + STALL_MAX).min();
        let alone = self.peers.len() < 2;
        let hedge = self.requests.values().filter(|_| !alone).map(|request| request.next_look(now)).min();
        let gone = self.away.values().map(|&since| since + PEERLESS_MAX).min();
        [stall, hedge, gone, self.peerless_deadline()].into_iter().flatten().min()
    }

    /// How far the transfer is.
    pub fn outcome(&self) -> Outcome {
        match &self.stuck {
            Some(stuck) => Outcome::Stuck(stuck.clone()),
            None if self.frontier.is_done() && self.ledger.is_done() => Outcome::Complete,
            None => Outcome::Running,
        }
    }

    /// Figures so far.
    pub fn progress(&self) -> Progress {
        Progress {
            bytes_wanted: self.ledger.bytes_wanted,
            bytes_done: self.ledger.bytes_done,
            bytes_again: self.ledger.bytes_again,
            all_known: self.frontier.is_done(),
            entries_held: self.frontier.entries_held(),
            entries_passed: self.frontier.passed().entries,
            leaf_bytes_passed: self.frontier.passed().leaf_bytes,
        }
    }

    /// When the transfer gives up for want of peers, if none comes.
    fn peerless_deadline(&self) -> Option<Time> {
        // Without peers nothing is under way: all that is needed of them waits.
        let needs_peers = self.frontier.front().is_some() || self.ledger.front().is_some();
        let waits = self.peers.is_empty() && needs_peers && self.stuck.is_none();
        self.peerless_since.filter(|_| waits).map(|since| since + PEERLESS_MAX)
    }

    /// Notes what came of one want, and cancels what it made needless.
    fn settle(&mut self, request: RequestId, want: usize, arrival: Arrival) {
        let open = &self.requests[&request];
        let peer = open.lane.peer;
        let needless = match (&open.work, arrival) {
            (RequestWork::Nodes(nodes), Arrival::Stored) => self.frontier.node_arrived(nodes[want]),
            (RequestWork::Nodes(nodes), Arrival::Chunkless { leaf_bytes }) => {
                self.frontier.note_chunkless(nodes[want], leaf_bytes);
                self.frontier.node_arrived(nodes[want])
            }
            (RequestWork::Nodes(nodes), Arrival::Missing | Arrival::Corrupt) => {
                self.frontier.lacks(nodes[want], peer);
                self.frontier.request_ended(nodes[want], request);
                return;
            }
            (RequestWork::Nodes(nodes), Arrival::Baseless) => {
                self.frontier.forget_base(nodes[want]);
                self.frontier.request_ended(nodes[want], request);
                return;
            }
            (RequestWork::Unit { unit, wants, bytes }, Arrival::Stored | Arrival::Chunkless { .. }) => {
                self.ledger.arrived(*unit, wants[want], bytes[want]);
                self.ledger.take_if_whole(*unit).unwrap_or_default()
            }
            (RequestWork::Unit { unit, .. }, Arrival::Missing | Arrival::Corrupt) => {
                return self.ledger.lacks(*unit, peer);
            }
            (RequestWork::Unit { unit, wants, .. }, Arrival::Baseless) => {
                return self.ledger.forget_base(*unit, wants[want]);
            }
        };
        self.cancel(needless.into_iter().filter(|&other| other != request));
    }

    /// Counts a corrupt answer against its sender.
    fn blame(&mut self, peer: PeerId, now: Time) {
        let Some(sender) = self.peers.get_mut(&peer) else { return };
        sender.corrupt_count += 1;
        if sender.corrupt_count >= CORRUPT_MAX {
            self.liars.insert(peer);
            self.drop_peer(peer, DropReason::Corrupt, now);
        }
    }

    fn drop_peer(&mut self, peer: PeerId, reason: DropReason, now: Time) {
        self.handle_peer_lost(peer, now);
        self.away.remove(&peer);
        self.commands.push_back(Command::DropPeer { peer, reason });
    }

    /// Ends a request; what it did not bring waits again.
    fn end_request(&mut self, id: RequestId) {
        let Some(request) = self.requests.remove(&id) else { return };
        match request.work {
            RequestWork::Nodes(nodes) => {
                // The oldest goes back last, so that it stands first.
                let open = nodes.into_iter().zip(request.answered).filter(|(_, answered)| !answered);
                for (node, _) in open.collect::<Vec<_>>().into_iter().rev() {
                    self.frontier.request_ended(node, id);
                }
            }
            RequestWork::Unit { unit, .. } => self.ledger.request_ended(unit, id),
        }
    }

    /// Cancels those of the requests that can bring nothing new. Their lanes stay busy until the peers say that they ended.
    fn cancel(&mut self, requests: impl Iterator<Item = RequestId>) {
        for request in requests {
            let Some(open) = self.requests.get(&request).filter(|open| !self.is_needed(open)) else { continue };
            self.commands.push_back(Command::Cancel { request, lane: open.lane });
        }
    }

    /// Can anything come of the request that is not here?
    fn is_needed(&self, request: &Request) -> bool {
        match &request.work {
            RequestWork::Nodes(nodes) => {
                let mut open = nodes.iter().zip(&request.answered).filter(|(_, answered)| !**answered);
                open.any(|(&node, _)| self.frontier.node(node).is_some())
            }
            RequestWork::Unit { unit, .. } => self.ledger.unit(*unit).is_some(),
        }
    }
}

#[cfg(test)]
mod tests;

//! Owns which chunks of which leaves are wanted, asked for, and here.
//!
//! Work is shared out in units of about 4 MiB. A chunk is done once, whoever sends it first; what comes again is counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{PeerId, RequestId, Want};
use crate::chunk::ChunkId;
use crate::limits::UNIT_BYTES_TARGET;

/// Units that wait to be asked for before the walk over the trees pauses.
const UNITS_WAITING_MAX: usize = 64;

/// Names a unit within one transfer; units are numbered in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UnitId(u64);

/// A run of one leaf's chunk references.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) leaf: ChunkId,
    wants: Vec<Want>,
    done: Vec<bool>,
    /// The requests that ask for some of it now.
    requests: BTreeSet<RequestId>,
    /// Peers that lack some of it, or sent it damaged.
    pub(super) lacking: BTreeSet<PeerId>,
}

impl Unit {
    /// Places of the wants that are not here.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.wants.len()).filter(|&at| !self.done[at])
    }

    pub(super) fn want(&self, at: usize) -> Want {
        self.wants[at]
    }

    pub(super) fn open_bytes(&self) -> u64 {
        self.open().map(|at| u64::from(self.wants[at].bytes)).sum()
    }

    pub(super) fn requests(&self) -> &BTreeSet<RequestId> {
        &self.requests
    }

    /// Where to cut so that at most `bytes_max`, or one want, stand before the cut; both sides have wants that are open.
    fn split_place(&self, bytes_max: u64) -> Option<usize> {
        let mut bytes = 0;
        let mut is_beyond = |at: usize| {
            bytes += u64::from(self.wants[at].bytes);
            bytes > bytes_max
        };
        let mut open = self.open();
        let first = open.next()?;
        is_beyond(first);
        open.find(|&at| is_beyond(at))
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    units: BTreeMap<UnitId, Unit>,
    /// Units that nobody is asked for, soonest first.
    queue: VecDeque<UnitId>,
    next_unit: u64,
    pub(super) bytes_wanted: u64,
    pub(super) bytes_done: u64,
    pub(super) bytes_again: u64,
}

impl Ledger {
    /// Takes the wants of one leaf, in units.
    pub(super) fn add_leaf(&mut self, leaf: ChunkId, wants: Vec<Want>) {
        let mut unit = Vec::new();
        let mut unit_bytes = 0;
        for want in wants {
            unit_bytes += want.bytes;
            unit.push(want);
            if unit_bytes >= UNIT_BYTES_TARGET || unit.len() >= crate::wire::WANTS_PER_REQUEST_MAX {
                self.add_unit(leaf, std::mem::take(&mut unit));
                unit_bytes = 0;
            }
        }
        if !unit.is_empty() {
            self.add_unit(leaf, unit);
        }
    }

    fn add_unit(&mut self, leaf: ChunkId, wants: Vec<Want>) {
        self.bytes_wanted += wants.iter().map(|want| u64::from(want.bytes)).sum::<u64>();
        let id = self.insert(Unit {
            leaf,
            done: vec![false; wants.len()],
            wants,
            requests: BTreeSet::new(),
            lacking: BTreeSet::new(),
        });
        self.queue.push_back(id);
    }

    fn insert(&mut self, unit: Unit) -> UnitId {
        let id = UnitId(self.next_unit);
        self.next_unit += 1;
        self.units.insert(id, unit);
        id
    }

    /// Cuts the front unit so that about `bytes_max` of it are wanted still; the rest waits behind it.
    pub(super) fn split_front(&mut self, bytes_max: u64) {
        let Some(&front) = self.queue.front() else { return };
        let unit = self.units.get_mut(&front).expect("a queued unit exists");
        let Some(at) = unit.split_place(bytes_max) else { return };
        let rest = Unit {
            leaf: unit.leaf,
            wants: unit.wants.split_off(at),
            done: unit.done.split_off(at),
            requests: BTreeSet::new(),
            lacking: unit.lacking.clone(),
        };
        let rest = self.insert(rest);
        self.queue.insert(1, rest);
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < UNITS_WAITING_MAX
    }

    pub(super) fn front(&self) -> Option<(UnitId, &Unit)> {
        let &id = self.queue.front()?;
        Some((id, &self.units[&id]))
    }

    pub(super) fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(&id)
    }

    /// Notes that a request asks for the unit; it no longer waits.
    pub(super) fn asked(&mut self, id: UnitId, request: RequestId) {
        if self.queue.front() == Some(&id) {
            self.queue.pop_front();
        }
        if let Some(unit) = self.units.get_mut(&id) {
            unit.requests.insert(request);
        }
    }

    /// A chunk is here. True if it was not here before.
    pub(super) fn arrived(&mut self, id: UnitId, at: usize, bytes: u32) -> bool {
        let first = self.units.get(&id).is_some_and(|unit| !unit.done[at]);
        if !first {
            self.bytes_again += u64::from(bytes);
            return false;
        }
        let unit = self.units.get_mut(&id).expect("just seen");
        unit.done[at] = true;
        self.bytes_done += u64::from(bytes);
        true
    }

    /// Is a chunk of a unit not here yet?
    pub(super) fn is_open(&self, id: UnitId, at: usize) -> bool {
        self.units.get(&id).is_some_and(|unit| !unit.done[at])
    }

    /// A peer cannot give all of a unit.
    pub(super) fn lacks(&mut self, id: UnitId, peer: PeerId) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.lacking.insert(peer);
        }
    }

    /// What a chunk could be a patch on cannot be read.
    pub(super) fn forget_base(&mut self, id: UnitId, at: usize) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.wants[at].base = None;
        }
    }

    /// Forgets a unit that is whole, and names the requests that still ask for it.
    pub(super) fn take_if_whole(&mut self, id: UnitId) -> Option<BTreeSet<RequestId>> {
        if self.units.get(&id)?.open().next().is_some() {
            return None;
        }
        self.units.remove(&id).map(|unit| unit.requests)
    }

    /// A request ended. What nobody else is asked for waits again, in front: it is the oldest work.
    pub(super) fn request_ended(&mut self, id: UnitId, request: RequestId) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        unit.requests.remove(&request);
        if unit.requests.is_empty() {
            self.queue.push_front(id);
        }
    }

    /// A peer that was thought to lack things is gone: should it come back, it is asked anew.
    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        for unit in self.units.values_mut() {
            unit.lacking.remove(&peer);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.units.is_empty()
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.queue.is_empty()
    }
}

//! Owns what must always hold of one pull, seen from outside: it watches commands and arrivals and says what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::limits::UNIT_BYTES_TARGET;
use landfall_core::transfer::{Command, Lane, PeerId, RequestId};
use landfall_core::{ChunkId, limits::CHUNK_BYTES_MAX};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// Watches one transfer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    peers: BTreeSet<PeerId>,
    requests: BTreeMap<RequestId, Watched>,
    inspecting: usize,
    /// How many open requests ask for a chunk.
    asked: BTreeMap<Place, u32>,
    arrived: BTreeSet<Place>,
    bytes_arrived: u64,
    bytes_hedged: u64,
    /// Bytes of chunks that came although they were here.
    bytes_again: u64,
    pace: Pace,
}

/// When a driver carries out what is commanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pace {
    /// Before the next fact.
    #[default]
    Prompt,
    /// Later: a command may have been overtaken by a fact.
    Busy,
}

/// A chunk by its leaf and entry.
type Place = (ChunkId, u32);

#[derive(Debug)]
struct Watched {
    lane: Lane,
    /// What is asked for and has not been answered, with its length.
    open: BTreeMap<u32, (Option<Place>, u64)>,
}

impl Watch {
    /// Watches a transfer whose driver may be busy.
    pub(crate) fn busy() -> Self {
        Self { pace: Pace::Busy, ..Self::default() }
    }

    /// A peer can be asked.
    pub(crate) fn peer_joined(&mut self, peer: PeerId) {
        self.peers.insert(peer);
    }

    /// A peer is gone, or was dropped.
    pub(crate) fn peer_gone(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        let lost: Vec<RequestId> =
            self.requests.iter().filter(|(_, open)| open.lane.peer == peer).map(|(&id, _)| id).collect();
        for request in lost {
            self.request_ended(request);
        }
    }

    /// The transfer commands something.
    pub(crate) fn command(&mut self, command: &Command) -> Result<(), Violation> {
        if let Some(peer) = command.peer().filter(|peer| !self.peers.contains(peer)) {
            return broken(format!("{command:?} goes to {peer}, which is not here"));
        }
        match command {
            Command::FetchNodes { request, lane, wants } => {
                let open = (0..).zip(wants.iter().map(|_| (None, NODE_BYTES))).collect();
                self.ask(*request, *lane, open)
            }
            Command::FetchChunks { request, lane, leaf, wants } => {
                let open = wants.iter().map(|want| (Some((*leaf, want.entry)), u64::from(want.bytes)));
                self.ask(*request, *lane, (0..).zip(open).collect())
            }
            Command::Inspect { .. } => {
                self.inspecting += 1;
                check(self.inspecting <= INSPECTIONS_MAX, || {
                    format!("{} leaves are inspected at once", self.inspecting)
                })
            }
            Command::Cancel { .. } | Command::DropPeer { .. } => Ok(()),
        }
    }

    /// A leaf was inspected.
    pub(crate) fn inspected(&mut self) {
        self.inspecting -= 1;
    }

    /// A want was answered; `is_new` says whether a chunk came that was not here.
    pub(crate) fn arrived(&mut self, request: RequestId, want: u32, arrival: WatchedArrival) -> Result<(), Violation> {
        let Some(open) = self.requests.get_mut(&request) else { return Ok(()) };
        let Some((Some(place), bytes)) = open.open.remove(&want) else { return Ok(()) };
        self.unask(place);
        match arrival {
            WatchedArrival::Nothing => return Ok(()),
            WatchedArrival::New => self.bytes_arrived += bytes,
            WatchedArrival::Again => self.bytes_again += bytes,
        }
        self.arrived.insert(place);
        check(self.bytes_again <= self.bytes_hedged, || {
            format!("{} B came again, but only {} B were asked for twice", self.bytes_again, self.bytes_hedged)
        })
    }

    /// A request ended.
    pub(crate) fn request_ended(&mut self, request: RequestId) {
        let Some(open) = self.requests.remove(&request) else { return };
        for (place, _) in open.open.into_values() {
            if let Some(place) = place {
                self.unask(place);
            }
        }
    }

    fn ask(
        &mut self,
        request: RequestId,
        lane: Lane,
        open: BTreeMap<u32, (Option<Place>, u64)>,
    ) -> Result<(), Violation> {
        check(!open.is_empty(), || format!("{request:?} asks for nothing"))?;
        for &(place, bytes) in open.values() {
            let Some(place) = place else { continue };
            let overtaken = self.pace == Pace::Busy;
            check(overtaken || !self.arrived.contains(&place), || format!("{place:?} is asked for, and is here"))?;
            let asked = self.asked.entry(place).or_default();
            *asked += 1;
            check(*asked <= 2, || format!("{place:?} is asked of three peers at once"))?;
            if *asked == 2 {
                self.bytes_hedged += bytes;
            }
        }
        check(self.requests.insert(request, Watched { lane, open }).is_none(), || {
            format!("{request:?} is used twice")
        })?;
        let hedges_max = self.bytes_arrived / 33 + 2 * u64::from(UNIT_BYTES_TARGET + CHUNK_BYTES_MAX);
        check(self.bytes_hedged <= hedges_max, || format!("{} B are asked for twice", self.bytes_hedged))?;
        self.check_lane(lane)
    }

    fn check_lane(&self, lane: Lane) -> Result<(), Violation> {
        let on_lane = self.requests.values().filter(|open| open.lane == lane);
        let requests = on_lane.clone().count();
        let bytes: u64 = on_lane.flat_map(|open| open.open.values()).map(|(_, bytes)| bytes).sum();
        check(requests <= REQUESTS_PER_LANE_MAX, || format!("{requests} requests on {lane}"))?;
        check(bytes <= LANE_BYTES_MAX, || format!("{bytes} B are asked for on {lane}"))
    }

    fn unask(&mut self, place: Place) {
        if let Some(asked) = self.asked.get_mut(&place) {
            *asked = asked.saturating_sub(1);
        }
    }
}

/// What came of a want, as a watcher sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchedArrival {
    /// A chunk that was not here.
    New,
    /// A chunk that was here already.
    Again,
    /// No chunk.
    Nothing,
}

/// A violation unless `holds`.
pub(crate) fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { broken(what()) }
}

/// A violation.
pub(crate) fn broken<T>(what: String) -> Result<T, Violation> {
    Err(Violation(what))
}

const NODE_BYTES: u64 = 16 * 1024;
const INSPECTIONS_MAX: usize = 8;
const REQUESTS_PER_LANE_MAX: usize = 32;
/// Four units, and one more that began before the lane was full.
const LANE_BYTES_MAX: u64 = 5 * (UNIT_BYTES_TARGET + CHUNK_BYTES_MAX) as u64;

//! Owns what a transfer knows of one peer: its lanes, its rate, its mistakes.

use std::time::Duration;

use super::command::Lane;
use crate::Time;
use crate::limits::{REQUESTS_UNANSWERED_MAX, UNIT_BYTES_TARGET};

/// Most requests that wait on one lane.
const REQUESTS_PER_LANE_MAX: u32 = 32;
/// Bytes that wait on one lane at most, on however fast a link.
const LANE_BYTES_MAX: u64 = 4 * UNIT_BYTES_TARGET as u64;
/// Bytes that may wait on one lane at least, on however slow a link.
const LANE_BYTES_MIN: u64 = 512 * 1024;
/// A lane is kept this far ahead of what it delivers.
const LANE_AHEAD: Duration = Duration::from_millis(200);
/// What a peer is believed to deliver before it was measured, in bytes per second.
const RATE_ASSUMED: u64 = 100_000_000;
/// A rate is measured over at least this long.
const RATE_WINDOW: Duration = Duration::from_millis(50);

const _: () = assert!(REQUESTS_PER_LANE_MAX <= REQUESTS_UNANSWERED_MAX);

/// Bytes of unfinished items that count as progress. Less may be anything, such as the renewal of a lease.
const BYTES_PROGRESS_MIN: u64 = 16 * 1024;

/// How much dearer a peer is than a neighbour: the same host 1, the writer itself most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerCost(pub u32);

impl PeerCost {
    /// A relay nearby.
    pub const NEAR: Self = Self(10);
    /// The state's writer, which has a service to run.
    pub const WRITER: Self = Self(12);
}

/// One peer, as the scheduler sees it.
#[derive(Debug)]
pub(super) struct Peer {
    cost: PeerCost,
    lanes: Vec<LaneLoad>,
    rate: Rate,
    pub(super) corrupt_count: u32,
    pub(super) last_progress: Time,
    /// Bytes that came since then and are no whole item yet.
    bytes_unfinished: u64,
    /// It brought something of use.
    pub(super) has_delivered: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct LaneLoad {
    requests: u32,
    bytes: u64,
}

impl Peer {
    pub(super) fn new(cost: PeerCost, lanes: u32, now: Time) -> Self {
        let lanes = vec![LaneLoad::default(); lanes.max(1) as usize];
        Self {
            cost,
            lanes,
            rate: Rate::new(now),
            corrupt_count: 0,
            last_progress: now,
            bytes_unfinished: 0,
            has_delivered: false,
        }
    }

    /// The lane with the least to do that still takes a request of `bytes`.
    pub(super) fn free_lane(&self) -> Option<u32> {
        let window = self.lane_window();
        let (index, load) = self.lanes.iter().enumerate().min_by_key(|(_, load)| load.bytes)?;
        (load.requests < REQUESTS_PER_LANE_MAX && (load.requests == 0 || load.bytes < window)).then_some(index as u32)
    }

    /// Largest request that makes sense for the peer: a slow one gets less, so that it never holds up the end.
    pub(super) fn request_bytes_max(&self) -> u64 {
        (self.rate.bytes_per_second / 2).clamp(u64::from(UNIT_BYTES_TARGET) / 16, u64::from(UNIT_BYTES_TARGET))
    }

    /// When a request of `bytes` would be answered, weighed with the peer's cost.
    pub(super) fn score(&self, bytes: u64) -> u64 {
        self.nanos_for(self.bytes_waiting() + bytes).saturating_mul(u64::from(self.cost.0))
    }

    /// How long the peer needs for `bytes`.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_nanos(self.nanos_for(bytes))
    }

    /// Bytes that were asked for and have not come.
    pub(super) fn bytes_waiting(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.bytes).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.requests == 0)
    }

    pub(super) fn asked(&mut self, lane: Lane, bytes: u64, now: Time) {
        if self.is_idle() {
            self.rate.begin(now);
            self.progressed(now);
        }
        let load = &mut self.lanes[lane.index as usize];
        load.requests += 1;
        load.bytes += bytes;
    }

    /// Bytes of a request came, or will not come any more.
    pub(super) fn settled(&mut self, lane: Lane, bytes: u64) {
        let load = &mut self.lanes[lane.index as usize];
        load.bytes = load.bytes.saturating_sub(bytes);
    }

    pub(super) fn ended(&mut self, lane: Lane) {
        let load = &mut self.lanes[lane.index as usize];
        load.requests = load.requests.saturating_sub(1);
    }

    /// Bytes came that are of use.
    pub(super) fn delivered(&mut self, bytes: u64, now: Time) {
        self.progressed(now);
        self.has_delivered = true;
        self.rate.add(bytes, now);
    }

    /// An answer came without bytes that are of use: it shows that the peer lives, and says nothing of its rate.
    pub(super) fn answered(&mut self, now: Time) {
        self.progressed(now);
    }

    /// Bytes came that are no whole item yet. They say nothing of the rate: the item will.
    pub(super) fn received(&mut self, bytes: u64, now: Time) {
        self.bytes_unfinished += bytes;
        if self.bytes_unfinished >= BYTES_PROGRESS_MIN {
            self.progressed(now);
        }
    }

    fn progressed(&mut self, now: Time) {
        self.last_progress = now;
        self.bytes_unfinished = 0;
    }

    fn lane_window(&self) -> u64 {
        let per_lane = self.rate.bytes_per_second / self.lanes.len() as u64;
        let ahead = per_lane.saturating_mul(LANE_AHEAD.as_millis() as u64) / 1000;
        ahead.clamp(LANE_BYTES_MIN, LANE_BYTES_MAX)
    }

    fn nanos_for(&self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.bytes_per_second.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// Payload bytes per second, smoothed, measured only while there was something to wait for.
#[derive(Debug)]
struct Rate {
    bytes_per_second: u64,
    measured: bool,
    window_began: Time,
    window_bytes: u64,
}

impl Rate {
    fn new(now: Time) -> Self {
        Self { bytes_per_second: RATE_ASSUMED, measured: false, window_began: now, window_bytes: 0 }
    }

    fn begin(&mut self, now: Time) {
        self.window_began = now;
        self.window_bytes = 0;
    }

    fn add(&mut self, bytes: u64, now: Time) {
        self.window_bytes += bytes;
        let elapsed = now.since(self.window_began);
        if elapsed < RATE_WINDOW {
            return;
        }
        let sample = u128::from(self.window_bytes) * 1_000_000_000 / elapsed.as_nanos().max(1);
        let sample = u64::try_from(sample).unwrap_or(u64::MAX);
        self.bytes_per_second = if self.measured { (self.bytes_per_second * 3 + sample) / 4 } else { sample }.max(1);
        self.measured = true;
        self.begin(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::PeerId;
    use super::*;

    const LANE: Lane = Lane { peer: PeerId(0), index: 0 };

    #[test]
    fn a_lane_takes_work_until_its_window_is_full() {
        let mut peer = Peer::new(PeerCost::NEAR, 1, Time::ZERO);
        let mut requests = 0;
        while let Some(index) = peer.free_lane() {
            peer.asked(Lane { index, ..LANE }, u64::from(UNIT_BYTES_TARGET), Time::ZERO);
            requests += 1;
            assert!(requests < 100);
        }
        assert!(requests >= 2, "a lane must never run dry between two requests");
    }

    #[test]
    fn a_slow_peer_gets_small_requests() {
        let mut peer = Peer::new(PeerCost::NEAR, 1, Time::ZERO);
        let before = peer.request_bytes_max();
        peer.asked(LANE, 100_000, Time::ZERO);
        peer.delivered(100_000, Time::from_millis(1000));
        assert!(peer.request_bytes_max() < before);
        assert_eq!(peer.time_for(100_000), Duration::from_secs(1));
    }

    #[test]
    fn an_answer_without_bytes_says_nothing_of_the_rate() {
        let mut peer = Peer::new(PeerCost::NEAR, 1, Time::ZERO);
        peer.asked(LANE, 100_000, Time::ZERO);
        peer.delivered(100_000, Time::from_millis(1000));
        let before = peer.time_for(100_000);
        peer.answered(Time::from_millis(1001));
        assert_eq!((peer.time_for(100_000), peer.last_progress), (before, Time::from_millis(1001)));
    }

    #[test]
    fn idle_time_is_not_counted_against_a_peer() {
        let mut peer = Peer::new(PeerCost::NEAR, 1, Time::ZERO);
        let later = Time::from_millis(60_000);
        peer.asked(LANE, 10_000_000, later);
        peer.delivered(10_000_000, later + Duration::from_millis(100));
        assert_eq!(peer.time_for(100_000_000), Duration::from_secs(1));
    }
}

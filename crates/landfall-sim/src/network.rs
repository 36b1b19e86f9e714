//! Owns the virtual network: connections whose frames arrive in order, late, slowly, or not at all. It never looks into a frame.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use landfall_core::Time;

/// A member, by its number. The publisher is 0.
pub(crate) type MemberId = usize;

/// Names a connection; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub u64);

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Who asked for it.
    Joiner,
    /// Who answers.
    Source,
}

/// One connection from a joiner to a source.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Who asked for it.
    pub(crate) joiner: MemberId,
    /// Who answers.
    pub(crate) source: MemberId,
    /// Which of the joiner's connections to the source it is.
    pub(crate) lane: u32,
    to_source: Pipe,
    to_joiner: Pipe,
}

/// Frames on their way in one direction.
#[derive(Debug, Default)]
struct Pipe {
    frames: VecDeque<(Time, Vec<u8>)>,
    bytes: usize,
    /// Nothing arrives before this.
    not_before: Time,
    /// Somebody waits for the first frame.
    is_awaited: bool,
}

/// What a look at a direction of a connection gave.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A frame arrived.
    Frame(Vec<u8>),
    /// Look again then.
    NotBefore(Time),
    /// Nothing is on its way.
    Nothing,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    next: u64,
    latency: Duration,
    /// When each member has sent what it was given.
    sends_until: Vec<Time>,
    bytes_per_second: Vec<u64>,
    /// What each sends unless it is slow.
    bytes_per_second_sound: u64,
    /// Pairs that do not hear each other, and until when.
    partitions: BTreeMap<(MemberId, MemberId), Time>,
}

impl Network {
    /// A network without connections.
    pub(crate) fn new(members: usize, latency: Duration, bytes_per_second: u64) -> Self {
        Self {
            connections: BTreeMap::new(),
            next: 0,
            latency,
            sends_until: vec![Time::ZERO; members],
            bytes_per_second: vec![bytes_per_second; members],
            bytes_per_second_sound: bytes_per_second,
            partitions: BTreeMap::new(),
        }
    }

    /// What a member sends from now on.
    pub(crate) fn set_rate(&mut self, member: MemberId, bytes_per_second: u64) {
        self.bytes_per_second[member] = bytes_per_second.max(1);
    }

    /// A member sends as fast as it should.
    pub(crate) fn quicken(&mut self, member: MemberId) {
        self.set_rate(member, self.bytes_per_second_sound);
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.bytes_per_second.len()
    }

    /// Opens a connection.
    pub(crate) fn connect(&mut self, joiner: MemberId, source: MemberId, lane: u32) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let connection = Connection { joiner, source, lane, to_source: Pipe::default(), to_joiner: Pipe::default() };
        self.connections.insert(id, connection);
        id
    }

    /// A connection, while it is open.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// All open connections.
    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.connections.keys().copied().collect()
    }

    /// Open connections at whose ends `member` is.
    pub(crate) fn of(&self, member: MemberId) -> Vec<ConnectionId> {
        let at =
            self.connections.iter().filter(|(_, connection)| [connection.joiner, connection.source].contains(&member));
        at.map(|(&id, _)| id).collect()
    }

    /// Breaks a connection. What is on its way is lost.
    pub(crate) fn close(&mut self, id: ConnectionId) -> Option<Connection> {
        self.connections.remove(&id)
    }

    /// Two members do not hear each other until then.
    pub(crate) fn partition(&mut self, a: MemberId, b: MemberId, until: Time) {
        self.partitions.insert((a.min(b), a.max(b)), until);
    }

    /// Until when two members do not hear each other, if they do not.
    pub(crate) fn parted_until(&self, a: MemberId, b: MemberId, now: Time) -> Option<Time> {
        self.partitions.get(&(a.min(b), a.max(b))).copied().filter(|&until| until > now)
    }

    /// Everybody hears everybody, and sends as fast as it should.
    pub(crate) fn heal(&mut self) {
        self.partitions.clear();
        (0..self.members()).for_each(|member| self.quicken(member));
    }

    /// Whatever is on its way comes at least this much later.
    pub(crate) fn delay(&mut self, id: ConnectionId, until: Time) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.to_joiner.not_before = until;
            connection.to_source.not_before = until;
        }
    }

    /// Bytes on their way to `end`.
    pub(crate) fn bytes_to(&self, id: ConnectionId, end: End) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.pipe(end).bytes)
    }

    /// Sends a frame to `end`. Says when to look for it, if nobody looks yet.
    pub(crate) fn send(&mut self, id: ConnectionId, end: End, frame: Vec<u8>, now: Time) -> Option<Time> {
        let connection = self.connections.get_mut(&id)?;
        let sender = match end {
            End::Joiner => connection.source,
            End::Source => connection.joiner,
        };
        let nanos = frame.len() as u64 * 1_000_000_000 / self.bytes_per_second[sender];
        let sent = self.sends_until[sender].max(now) + Duration::from_nanos(nanos);
        self.sends_until[sender] = sent;
        let pipe = connection.pipe_mut(end);
        pipe.bytes += frame.len();
        pipe.frames.push_back((sent + self.latency, frame));
        if pipe.is_awaited {
            return None;
        }
        pipe.is_awaited = true;
        Some(pipe.next_at(now))
    }

    /// Looks for the next frame to `end`. After [`Delivery::Frame`], ask [`Self::look_next`] when to look again.
    pub(crate) fn receive(&mut self, id: ConnectionId, end: End, now: Time) -> Delivery {
        let Some(connection) = self.connections.get(&id) else { return Delivery::Nothing };
        if let Some(until) = self.parted_until(connection.joiner, connection.source, now) {
            return Delivery::NotBefore(until);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Delivery::Nothing };
        let pipe = connection.pipe_mut(end);
        pipe.is_awaited = false;
        if pipe.frames.is_empty() {
            return Delivery::Nothing;
        }
        let at = pipe.next_at(now);
        if at > now {
            pipe.is_awaited = true;
            return Delivery::NotBefore(at);
        }
        let (_, frame) = pipe.frames.pop_front().expect("not empty");
        pipe.bytes -= frame.len();
        Delivery::Frame(frame)
    }

    /// When to look for the next frame to `end`, if there is one.
    pub(crate) fn look_next(&mut self, id: ConnectionId, end: End, now: Time) -> Option<Time> {
        let pipe = self.connections.get_mut(&id)?.pipe_mut(end);
        if pipe.frames.is_empty() || pipe.is_awaited {
            return None;
        }
        pipe.is_awaited = true;
        Some(pipe.next_at(now))
    }
}

impl Connection {
    fn pipe(&self, end: End) -> &Pipe {
        match end {
            End::Joiner => &self.to_joiner,
            End::Source => &self.to_source,
        }
    }

    fn pipe_mut(&mut self, end: End) -> &mut Pipe {
        match end {
            End::Joiner => &mut self.to_joiner,
            End::Source => &mut self.to_source,
        }
    }
}

impl Pipe {
    /// When the first frame arrives. A pipe without frames has nothing to wait for.
    fn next_at(&self, now: Time) -> Time {
        self.frames.front().map_or(now, |&(at, _)| at).max(self.not_before)
    }
}

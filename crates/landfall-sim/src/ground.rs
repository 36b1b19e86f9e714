//! Owns what every run stands on, whatever its members are: the time and what happens when, the dice, the network, and the log of events.
//! It never says what an event does to a member.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_core::Time;
use landfall_store::vfs::faulty::Fault;

use crate::checks::Violation;
use crate::disk::Disk;
use crate::log::{EventLog, Trace};
use crate::network::{ConnectionId, MemberId, Network};
use crate::random::Random;
use crate::scenario::{DiskFaults, LinkFaults};

/// Time between two looks at the dice.
pub(crate) const DICE_EVERY: Duration = Duration::from_millis(100);
/// More events than any run needs.
const EVENTS_MAX: u64 = 1_000_000;

/// Whether things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// They do.
    Faults,
    /// They do no longer: everything must converge.
    Healing,
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// What was broken.
    pub violation: Violation,
    /// When.
    pub at: Time,
    /// The last events.
    pub tail: String,
}

/// What happens to two of the connections at a look at the dice.
pub(crate) struct LinkHarm {
    /// This one breaks.
    pub(crate) breaks: Option<ConnectionId>,
    /// This one is late, if any is.
    late: Option<ConnectionId>,
}

/// What a run stands on; `E` is what can happen in it.
pub(crate) struct Ground<E> {
    pub(crate) now: Time,
    queue: BTreeMap<(Time, u64), E>,
    events_made: u64,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) phase: Phase,
    pub(crate) log: EventLog,
    /// Faults that happened.
    pub(crate) faults: u64,
}

impl<E> Ground<E> {
    /// The beginning of a run; what is drawn from `random` from now on is drawn here.
    pub(crate) fn new(network: Network, random: Random, trace: Trace) -> Self {
        Self {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            events_made: 0,
            random,
            network,
            phase: Phase::Faults,
            log: EventLog::new(trace),
            faults: 0,
        }
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: E) {
        self.schedule_at(self.now + after, event);
    }

    pub(crate) fn schedule_at(&mut self, at: Time, event: E) {
        self.events_made += 1;
        self.queue.insert((at.max(self.now), self.events_made), event);
    }

    /// What happens next; it is that time now. Nothing if nothing ever happens any more.
    pub(crate) fn next(&mut self) -> Option<E> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Whether a run took longer than it may.
    pub(crate) fn is_too_long(&self, may_take: Duration) -> bool {
        self.now.since(Time::ZERO) > may_take || self.events_made > EVENTS_MAX
    }

    /// What to say of a run that broke a promise now.
    pub(crate) fn failure(&self, violation: Violation) -> Failure {
        Failure { violation, at: self.now, tail: self.log.tail() }
    }

    /// Any of the members.
    pub(crate) fn someone(&mut self) -> MemberId {
        self.random.below(self.network.members() as u64) as MemberId
    }

    /// Notes something that went wrong.
    pub(crate) fn note_fault(&mut self, event: std::fmt::Arguments<'_>) {
        self.faults += 1;
        self.log.note(self.now, event);
    }

    /// Draws which connection breaks, if one does, and which may be late. Whoever asked knows what it means to break one.
    pub(crate) fn draw_links(&mut self, faults: &LinkFaults) -> LinkHarm {
        let connections = self.network.ids();
        let one = |number: u64| connections.get(number as usize % connections.len().max(1)).copied();
        let (dropped, late) = (one(self.random.number()), one(self.random.number()));
        let breaks = self.random.chance(faults.drop_connection);
        LinkHarm { breaks: dropped.filter(|_| breaks), late }
    }

    /// Lets the rest happen to the network; `quicken` is the event after which a member is as fast as before.
    pub(crate) fn harm_links(
        &mut self,
        faults: &LinkFaults,
        harm: &LinkHarm,
        silence_ms_max: u64,
        quicken: impl FnOnce(MemberId) -> E,
    ) {
        if self.random.chance(faults.delay)
            && let Some(late) = harm.late
        {
            let until = self.now + self.random.millis(100, silence_ms_max);
            self.note_fault(format_args!("connection {} is silent until {until}", late.0));
            self.network.delay(late, until);
        }
        if self.random.chance(faults.partition) {
            let (a, b) = (self.someone(), self.someone());
            let until = self.now + self.random.millis(200, 30_000);
            self.note_fault(format_args!("{a} and {b} are parted until {until}"));
            self.network.partition(a, b, until);
        }
        if self.random.chance(faults.slow) {
            let member = self.someone();
            self.note_fault(format_args!("{member} is slow"));
            let rate = self.random.between(2_000, 40_000);
            self.network.set_rate(member, rate);
            let after = self.random.millis(500, 8000);
            self.schedule(after, quicken(member));
        }
    }

    /// Lets the disk of `member` fail; `free` is the event after which it has room again.
    pub(crate) fn harm_disk(&mut self, faults: &DiskFaults, member: MemberId, disk: &Disk, free: E) {
        let calls = self.random.between(1, 40);
        if self.random.chance(faults.crash_at_write) {
            self.note_fault(format_args!("the power of {member} goes at file call {calls}"));
            disk.vfs().fault_at(calls, Fault::CutPower);
        } else if self.random.chance(faults.error) {
            self.note_fault(format_args!("file call {calls} of {member} fails"));
            disk.vfs().fault_at(calls, Fault::Fail);
        }
        if self.random.chance(faults.full) {
            self.note_fault(format_args!("the disk of {member} is full"));
            disk.vfs().limit_bytes(Some(0));
            let after = self.random.millis(200, 3000);
            self.schedule(after, free);
        }
    }

    /// How far the clock of `member` jumps ahead.
    pub(crate) fn draw_clock_jump(&mut self, member: MemberId) -> Duration {
        let jump = self.random.millis(100, 60_000);
        self.note_fault(format_args!("the clock of {member} jumps by {jump:?}"));
        jump
    }

    /// From now on the network is sound.
    pub(crate) fn begin_healing(&mut self) {
        self.log.note(self.now, format_args!("healing begins"));
        self.phase = Phase::Healing;
        self.network.heal();
    }
}

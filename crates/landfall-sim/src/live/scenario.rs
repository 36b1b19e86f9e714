//! Owns what a seed means for live keyed states: who is there, what is written how fast, and which faults happen how often.

use std::time::Duration;

use crate::random::Random;
use crate::scenario::{DiskFaults, LinkFaults, Storing};

/// Everything that a run is drawn from. Printed with every failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveScenario {
    /// The seed it comes from.
    pub seed: u64,
    /// Members that are there from the beginning.
    pub founders: usize,
    /// Members that join.
    pub joiners: usize,
    /// Connections that a joiner opens to each source for the bulk.
    pub lanes: u32,
    /// What is written.
    pub content: LiveContent,
    /// Records in a second.
    pub writes_per_second: u64,
    /// Time between two marks.
    pub mark_every: Duration,
    /// Longest pause between two slices of a seal.
    pub seal_pause_max: Duration,
    /// Snapshots that a member keeps.
    pub snapshots_kept: usize,
    /// Records that a member keeps for joiners beyond its own needs.
    pub log_records_max: u64,
    /// Bytes of changes above the snapshot at which a joiner is given a newer one.
    pub overlay_bytes_max: u64,
    /// What a joiner stores of what comes.
    pub storing: Storing,
    /// One way on every link.
    pub latency: Duration,
    /// What a member sends, in bytes per second.
    pub bytes_per_second: u64,
    /// What goes wrong until healing begins.
    pub faults: LiveFaults,
    /// When healing begins.
    pub heal_after: Duration,
    /// Members that join some sections only, and hold no others.
    pub section_joiners: usize,
    /// A source that joiners hear of later than of the others.
    pub late_source: Option<LateSource>,
}

/// When joiners hear of the last of the founders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateSource {
    /// So long after a join began.
    pub after: Duration,
    /// What the other members that hold everything do then.
    pub others: Others,
}

/// What sources do when another is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They go on.
    Stay,
    /// They go down for a while.
    Leave,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveContent {
    /// Entries that are there before anybody joins.
    pub entries: u64,
    /// How many different keys there are.
    pub keys: u64,
    /// Longest of most values.
    pub short_bytes_max: u64,
    /// Longest of the others, which are chunks.
    pub long_bytes_max: u64,
    /// Out of a thousand values, how many are long.
    pub long_per_mille: u32,
}

/// Faults by name: out of a thousand looks at the dice, how many let it happen. There are ten looks in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveFaults {
    /// Of connections.
    pub links: LinkFaults,
    /// A member that is a liar lies; out of a thousand items.
    pub lie: u32,
    /// The power of a member goes.
    pub crash: u32,
    /// Of disks.
    pub disks: DiskFaults,
    /// The clock of a member jumps ahead.
    pub clock_jump: u32,
    /// A member collects garbage: no fault, but it happens at the worst time.
    pub collect: u32,
    /// A member stands still for long, and goes on as if nothing had been.
    pub pause: u32,
    /// A seal that runs is given up; its changes wait for the next one.
    pub give_up_seal: u32,
    /// A member lets every snapshot go but its newest.
    pub unpin: u32,
    /// A member cuts its log up to its newest snapshot, whoever still needs it.
    pub cut_log: u32,
    /// All members that hold everything go down for a while, but one.
    pub leave: u32,
    /// A joiner's state gets a wrong value, without anybody noticing.
    pub diverge: u32,
    /// The state of a member that votes gets a wrong value, where there are others to tell.
    pub diverge_voter: u32,
    /// The lease on the log is granted anew: whoever holds an older version is fenced off.
    pub fence: u32,
    /// The right to write changes hands, and records that are not decided are lost.
    pub overthrow: u32,
    /// Out of a thousand commit hooks, how many fail.
    pub hook: u32,
}

impl LiveScenario {
    /// What `seed` means.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x006c_6976_6520_7374);
        let faults = LiveFaults::new(&mut random);
        let founders = random.between(1, 3) as usize;
        Self {
            seed,
            founders,
            joiners: random.between(1, 2) as usize,
            lanes: random.between(1, 2) as u32,
            content: LiveContent::new(&mut random),
            writes_per_second: random.between(5, 60),
            mark_every: random.millis(500, 4000),
            seal_pause_max: if random.chance(300) { random.millis(500, 3000) } else { random.millis(2, 120) },
            snapshots_kept: random.between(1, 3) as usize,
            log_records_max: random.between(20, 400),
            overlay_bytes_max: random.between(10_000, 400_000),
            storing: if random.chance(500) { Storing::Plain } else { Storing::AsSent },
            latency: random.millis(1, 60),
            bytes_per_second: random.between(200_000, 4_000_000),
            faults,
            heal_after: random.millis(2000, 15_000),
            // What came later is drawn last: seeds that draw none of it are the runs that they were.
            section_joiners: usize::from(random.chance(350)),
            late_source: LateSource::new(&mut random, founders),
        }
    }
}

impl LateSource {
    fn new(random: &mut Random, founders: usize) -> Option<Self> {
        let is_late = random.chance(300) && founders > 1;
        let others = if random.chance(500) { Others::Leave } else { Others::Stay };
        is_late.then(|| Self { after: random.millis(50, 4000), others })
    }
}

impl LiveContent {
    fn new(random: &mut Random) -> Self {
        let (entries, long_per_mille) = match random.below(10) {
            0 => (random.below(5), 100),
            1 => (random.between(1500, 3000), 10),
            _ => (random.between(50, 800), random.below(120) as u32),
        };
        Self {
            entries,
            keys: entries + random.between(10, 400),
            short_bytes_max: random.between(10, 300),
            long_bytes_max: random.between(2500, 12_000),
            long_per_mille,
        }
    }
}

impl LiveFaults {
    /// Each fault is there in some of the seeds only, so that some see one alone and some see none.
    fn new(random: &mut Random) -> Self {
        if random.chance(80) {
            return Self::default();
        }
        let mut some =
            |per_mille_max: u64| if random.chance(400) { random.between(1, per_mille_max) as u32 } else { 0 };
        Self {
            links: LinkFaults::new(&mut some),
            lie: some(300),
            crash: some(40),
            disks: DiskFaults { crash_at_write: some(60), error: some(40), full: some(40) },
            clock_jump: some(40),
            collect: some(150),
            pause: some(30),
            give_up_seal: some(200),
            unpin: some(60),
            cut_log: some(60),
            leave: some(15),
            diverge: some(150),
            diverge_voter: some(30),
            fence: some(60),
            overthrow: some(60),
            hook: some(700),
        }
    }
}

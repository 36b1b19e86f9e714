//! Owns what a seed means: how many members there are, what they hold, how the links are, and which faults happen how often.

use std::time::Duration;

use crate::random::Random;

/// Everything that a run is drawn from. Printed with every failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The seed it comes from.
    pub seed: u64,
    /// Members, the publisher among them.
    pub members: usize,
    /// Members that hold the first snapshot from the start, the publisher among them.
    pub seeded: usize,
    /// Connections that a joiner opens to each source.
    pub lanes: u32,
    /// What is shipped.
    pub content: ContentShape,
    /// How often the publisher publishes after the first time.
    pub rounds: usize,
    /// What a joiner stores of what comes.
    pub storing: Storing,
    /// One way on every link.
    pub latency: Duration,
    /// What a member sends, in bytes per second.
    pub bytes_per_second: u64,
    /// What goes wrong until healing begins.
    pub faults: Faults,
    /// When healing begins.
    pub heal_after: Duration,
}

/// What is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentShape {
    /// Entries of the first snapshot.
    pub entries: u64,
    /// Longest chunk.
    pub chunk_bytes_max: u64,
    /// Out of a thousand entries, how many live inside the tree.
    pub inline_per_mille: u32,
    /// Entries that a round changes.
    pub edits: u64,
}

/// In which form a joiner stores what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storing {
    /// As plaintext.
    Plain,
    /// As it was sent, patches as patches.
    AsSent,
}

/// Faults of connections, counted like all [`Faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkFaults {
    /// A connection breaks.
    pub drop_connection: u32,
    /// Frames on a connection come later.
    pub delay: u32,
    /// Two members do not hear each other for a while.
    pub partition: u32,
    /// A member sends slowly for a while.
    pub slow: u32,
}

/// Faults of disks, counted like all [`Faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// The power of a member goes at one of its next file calls; what is written then is torn.
    pub crash_at_write: u32,
    /// One of the next file calls of a member fails.
    pub error: u32,
    /// The disk of a member is full for a while.
    pub full: u32,
}

/// Faults by name: out of a thousand looks at the dice, how many let it happen. There are ten looks in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Of connections.
    pub links: LinkFaults,
    /// A member that is a liar lies; out of a thousand items.
    pub lie: u32,
    /// The power of a member goes.
    pub crash: u32,
    /// Of disks.
    pub disks: DiskFaults,
    /// A bit flips on the way from the disk.
    pub flip_read: u32,
    /// A bit flips on the disk.
    pub flip_rest: u32,
    /// The clock of a member jumps ahead.
    pub clock_jump: u32,
    /// A member collects garbage: no fault, but it happens at the worst time.
    pub collect: u32,
}

impl Scenario {
    /// What `seed` means.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6c61_6e64_6661_6c6c);
        let members = random.between(2, 5) as usize;
        Self {
            seed,
            members,
            seeded: random.between(1, members as u64 - 1) as usize,
            lanes: random.between(1, 2) as u32,
            content: ContentShape::new(&mut random),
            rounds: random.below(3) as usize,
            storing: if random.chance(500) { Storing::Plain } else { Storing::AsSent },
            latency: random.millis(1, 60),
            bytes_per_second: random.between(50_000, 4_000_000),
            faults: Faults::new(&mut random),
            heal_after: random.millis(1000, 20_000),
        }
    }
}

impl ContentShape {
    fn new(random: &mut Random) -> Self {
        // Few long chunks, many short ones, next to nothing, or something between.
        let (entries, chunk_bytes_max) = match random.below(100) {
            0..=2 => (random.between(3, 250), 200_000),
            3..=6 => (random.between(500, 3000), 600),
            7..=12 => (random.below(3), random.between(10, 12_000)),
            _ => (random.between(3, 250), random.between(10, 12_000)),
        };
        Self { entries, chunk_bytes_max, inline_per_mille: random.below(900) as u32, edits: random.below(30) }
    }
}

impl LinkFaults {
    /// Each as often as `some` says, which is given how often it may happen at most.
    pub(crate) fn new(some: &mut impl FnMut(u64) -> u32) -> Self {
        Self { drop_connection: some(150), delay: some(150), partition: some(60), slow: some(60) }
    }
}

impl Faults {
    /// Each fault is there in half of the seeds only, so that some seeds see one alone and some see none.
    fn new(random: &mut Random) -> Self {
        if random.chance(80) {
            return Self::default();
        }
        let mut some =
            |per_mille_max: u64| if random.chance(500) { random.between(1, per_mille_max) as u32 } else { 0 };
        Self {
            links: LinkFaults::new(&mut some),
            lie: some(300),
            crash: some(30),
            disks: DiskFaults { crash_at_write: some(60), error: some(60), full: some(40) },
            flip_read: some(40),
            flip_rest: some(20),
            clock_jump: some(40),
            collect: some(100),
        }
    }
}

//! Owns how far a joiner has come, as facts for people, metrics and whoever waits.

use std::fmt;

use crate::Time;

/// A fact about a joiner. The first three come in order, the next three in any order after them, the last two need all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Milestone {
    /// Sources are being asked.
    Asked,
    /// An offer was accepted and its manifest verified.
    Planned,
    /// The vital sections are whole, the upper levels of the trees are here, the log is attached: it serves reads.
    Viable,
    /// What the source uses most is here.
    Warm,
    /// Every unit is here and durable.
    Complete,
    /// The log is applied to within the stated lag.
    CaughtUp,
    /// The state's root equals that of most members at a common position.
    Verified,
    /// The commit hook ran: it may vote, acknowledge, and be a source of heads.
    Promoted,
}

impl Milestone {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Asked,
        Self::Planned,
        Self::Viable,
        Self::Warm,
        Self::Complete,
        Self::CaughtUp,
        Self::Verified,
        Self::Promoted,
    ];

    /// Its name, for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Planned => "planned",
            Self::Viable => "viable",
            Self::Warm => "warm",
            Self::Complete => "complete",
            Self::CaughtUp => "caught up",
            Self::Verified => "verified",
            Self::Promoted => "promoted",
        }
    }
}

impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a milestone was reached, and at what cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// When.
    pub at: Time,
    /// Bytes that had been received until then.
    pub bytes: u64,
}

/// The milestones of one join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Milestones {
    reached: [Option<Reached>; Milestone::ALL.len()],
}

impl Milestones {
    pub(super) fn get(&self, milestone: Milestone) -> Option<Reached> {
        self.reached[milestone as usize]
    }

    /// Notes a milestone, unless it is reached already.
    pub(super) fn reach(&mut self, milestone: Milestone, reached: Reached) {
        self.reached[milestone as usize].get_or_insert(reached);
    }

    /// What was true of the old snapshot is not yet true of the new one.
    pub(super) fn lose(&mut self, milestone: Milestone) {
        self.reached[milestone as usize] = None;
    }
}

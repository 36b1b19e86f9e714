//! Owns which stage of a join may follow which, and what each stage waits for.

use std::collections::BTreeSet;

use super::command::{LeaseVersion, Part, RebaseCause, RollBackReason, Snapshot};
use crate::snapshot::Position;
use crate::{Pauses, Time};

/// Where a join stands. What only one stage knows stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// No offer was accepted yet.
    Asked,
    /// A snapshot is being fetched; nothing can be served.
    Planned(Filling),
    /// Reads are served; the rest comes in.
    Viable(Filling),
    /// All is here, and an audit must show that it is right.
    Verifying(Verifying),
    /// The commit hook runs.
    Verified(Hook),
    Promoted,
    RolledBack(RollBackReason),
}

/// What a joiner fills itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filling {
    /// The snapshot below the state, or to be.
    pub(super) snapshot: Snapshot,
    pub(super) waits_for: BTreeSet<Wait>,
    pub(super) rebase: Option<Rebase>,
}

/// What a joiner waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    Part(Part),
    Log,
    /// The log is applied to within the stated lag.
    Lag,
}

/// A snapshot on its way below a state that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rebase {
    pub(super) onto: Snapshot,
    pub(super) began: Time,
    /// A still newer one that came meanwhile.
    pub(super) next: Option<(Snapshot, RebaseCause)>,
}

/// An audit under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verifying {
    pub(super) snapshot: Snapshot,
    /// Audits of earlier positions say nothing.
    pub(super) position: Position,
    /// When to ask again, if nobody answered.
    pub(super) again_at: Option<Time>,
    /// How long to wait before that.
    pub(super) pauses: Pauses,
}

/// A commit hook under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) lease: LeaseVersion,
    pub(super) tries: u32,
    /// When to try again, if it failed.
    pub(super) again_at: Option<Time>,
}

impl Filling {
    /// Everything of `snapshot`, the log after it, and the way to its end.
    pub(super) fn all_of(snapshot: Snapshot) -> Self {
        let parts = [Part::Vital, Part::Upper, Part::Hot, Part::Rest].map(Wait::Part);
        let waits_for = parts.into_iter().chain([Wait::Log, Wait::Lag]).collect();
        Self { snapshot, waits_for, rebase: None }
    }

    pub(super) fn waits_for(&self, wait: Wait) -> bool {
        self.waits_for.contains(&wait)
    }

    /// Is all here that serving reads takes?
    pub(super) fn is_viable(&self) -> bool {
        ![Wait::Part(Part::Vital), Wait::Part(Part::Upper), Wait::Log].iter().any(|&wait| self.waits_for(wait))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.waits_for.is_empty() && self.rebase.is_none()
    }
}

impl Stage {
    /// The only place that says which stage may follow which.
    pub(super) fn may_become(&self, next: &Self) -> bool {
        match self {
            Self::Asked => matches!(next, Self::Planned(_) | Self::RolledBack(_)),
            Self::Planned(_) => matches!(next, Self::Viable(_) | Self::RolledBack(_)),
            Self::Viable(_) => matches!(next, Self::Verifying(_) | Self::RolledBack(_)),
            Self::Verifying(_) => matches!(next, Self::Viable(_) | Self::Verified(_) | Self::RolledBack(_)),
            Self::Verified(_) => matches!(next, Self::Promoted | Self::RolledBack(_)),
            Self::Promoted | Self::RolledBack(_) => false,
        }
    }
}

impl Rebase {
    /// The newest snapshot that is on its way or waits.
    pub(super) fn newest(&self) -> Snapshot {
        self.next.map_or(self.onto, |(next, _)| next)
    }
}

//! Owns the words that a join and its driver exchange. Plain data: printed, compared, dropped by a simulator.

use std::fmt;

use crate::ChunkId;
use crate::snapshot::Position;

/// A snapshot, and where in the order of changes it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: ChunkId,
    /// Its position.
    pub position: Position,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id.short(), self.position)
    }
}

/// The version of a lease: a holder with a lower one is fenced off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseVersion(pub u64);

impl fmt::Display for LeaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A part of a snapshot that is fetched as one piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The vital sections, whole.
    Vital,
    /// The upper levels of all other trees.
    Upper,
    /// The units that the source uses most.
    Hot,
    /// Every unit, durable.
    Rest,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vital => "vital sections",
            Self::Upper => "upper levels",
            Self::Hot => "hot units",
            Self::Rest => "rest",
        })
    }
}

/// Everything that a join can ask of the world. The driver obeys; it never decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take the log as a live stream of the records after a position, from whoever has it, and say where it began with
    /// `handle_log_attached`: later if the records before are gone everywhere.
    AttachLog {
        /// The first record that is needed is the next after it.
        after: Position,
    },
    /// Get the vital sections whole, and say so with `handle_here`.
    FetchVital {
        /// Of which snapshot.
        of: ChunkId,
    },
    /// Get the upper levels of all other trees, and say so with `handle_here`.
    FetchUpper {
        /// Of which snapshot.
        of: ChunkId,
    },
    /// Get the units that the source uses most, and say so with `handle_here`. The state serves reads from now on.
    FetchHot {
        /// Of which snapshot.
        of: ChunkId,
    },
    /// Get every unit, make all durable, and say so with `handle_here`.
    FetchRest {
        /// Of which snapshot.
        of: ChunkId,
    },
    /// Ask the sources for a snapshot that their logs still continue, and name it with `handle_newer_snapshot`.
    AskNewer {
        /// It must be newer than this.
        than: Position,
    },
    /// Put a snapshot below the state: get its upper levels, then swap; say so with `handle_rebased`. Where nobody has it any
    /// longer, or the state sealed a later one meanwhile, say `handle_rebase_failed`.
    Rebase {
        /// The snapshot.
        onto: Snapshot,
        /// Why.
        cause: RebaseCause,
    },
    /// Compare state roots and log hashes with all members at the first common position that is not below this one, and tell
    /// with `handle_audit`.
    Audit {
        /// The position.
        position: Position,
    },
    /// Find the keys that differ from a snapshot of the same position, and report them with member and position.
    ReportDifference {
        /// What most members sealed.
        theirs: Snapshot,
    },
    /// Run the commit hook, and tell with `handle_hook`. It may run more than once.
    RunCommitHook {
        /// Fences off whoever held the lease before.
        lease: LeaseVersion,
    },
    /// Give up: this member does not become one.
    RollBack {
        /// Why.
        reason: RollBackReason,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttachLog { after } => write!(f, "attach the log after {after}"),
            Self::FetchVital { of } => write!(f, "fetch the vital sections of {}", of.short()),
            Self::FetchUpper { of } => write!(f, "fetch the upper levels of {}", of.short()),
            Self::FetchHot { of } => write!(f, "fetch the hot units of {}", of.short()),
            Self::FetchRest { of } => write!(f, "fetch the rest of {}", of.short()),
            Self::AskNewer { than } => write!(f, "ask for a snapshot newer than {than}"),
            Self::Rebase { onto, cause } => write!(f, "re-base onto {onto}: {cause}"),
            Self::Audit { position } => write!(f, "audit at {position} or later"),
            Self::ReportDifference { theirs } => write!(f, "report what differs from {theirs}"),
            Self::RunCommitHook { lease } => write!(f, "run the commit hook with lease {lease}"),
            Self::RollBack { reason } => write!(f, "roll back: {reason}"),
        }
    }
}

/// Why a state gets another snapshot below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebaseCause {
    /// The log that the source keeps for this joiner nears its cap.
    LogCap,
    /// The log does not continue where the state stands.
    LogGap,
    /// The overlay nears its cap.
    OverlayCap,
    /// Nobody has the snapshot below the state any longer, and it is not all here.
    Gone,
    /// The others sealed at a mark, and this member cannot: it is half filled.
    Mark,
    /// An audit found a difference.
    Mismatch,
}

impl fmt::Display for RebaseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogCap => "the log nears its cap",
            Self::LogGap => "the log does not continue here",
            Self::OverlayCap => "the overlay nears its cap",
            Self::Gone => "nobody has the old one any longer",
            Self::Mark => "the others sealed",
            Self::Mismatch => "an audit found a difference",
        })
    }
}

/// What an audit found: how the roots of the other members compare with this one's at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The position at which all sealed.
    pub position: Position,
    /// Other members with the same state root and log hash.
    pub equal: u32,
    /// Other members with another.
    pub different: u32,
    /// What most of the other members sealed there; nothing if none answered.
    pub most: Option<Snapshot>,
}

/// What came of the commit hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookOutcome {
    /// It took effect.
    Done,
    /// It did not, or nobody knows.
    Failed,
}

/// What ends a join from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No source is left, and none came back in time.
    NoSources,
    /// The disk is full or broken.
    Disk,
    /// The snapshot matches its hashes and is malformed: its publisher is broken.
    BrokenSnapshot,
    /// A record cannot be read or applied: a newer version wrote it, or its writer is broken.
    BadRecord,
    /// Another member has this identity.
    IdentityTaken,
    /// Someone asked for it.
    Cancelled,
    /// The system gave no thread for it.
    NoThread,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSources => "no source is left",
            Self::Disk => "the disk failed",
            Self::BrokenSnapshot => "the snapshot is broken at its source",
            Self::BadRecord => "a record cannot be applied here",
            Self::IdentityTaken => "another member has this identity",
            Self::Cancelled => "it was cancelled",
            Self::NoThread => "the system gave no thread",
        })
    }
}

/// Why a joiner did not become a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RollBackReason {
    /// Audits found differences twice: this member's `apply` is not deterministic, or its disk lies.
    #[error("at {position} its state differs from {members} members again")]
    Diverged {
        /// Where the second difference was found.
        position: Position,
        /// Members with another root.
        members: u32,
    },
    /// The commit hook failed too often.
    #[error("the commit hook failed {tries} times")]
    HookFailed {
        /// How often it was tried.
        tries: u32,
    },
    /// Something outside ended it.
    #[error("{0}")]
    Failed(Failure),
}

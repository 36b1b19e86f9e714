//! Owns what the demo reads in `LANDFALL STATUS` and `LANDFALL AUDIT`.

use std::time::Duration;

use serde::Deserialize;

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct MemberStatus {
    pub(super) id: u64,
    pub(super) role: Role,
    pub(super) members: Vec<Listed>,
    pub(super) position: Position,
    /// The snapshot that it stands on.
    pub(super) sealed: Option<SealedFigures>,
    /// What it took from others when it joined, or fell far behind.
    pub(super) join: Option<JoinFigures>,
}

/// What a member is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Leader,
    Follower,
    Learner,
}

/// A member of the cluster, as another one sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Listed {
    pub(super) id: u64,
    pub(super) votes: bool,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Position {
    pub(super) index: u64,
}

/// A snapshot that a member stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct SealedFigures {
    /// Is all of it there?
    pub(super) whole: bool,
}

/// How far a member is with what it takes from others.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct JoinFigures {
    pub(super) reached: Vec<Reached>,
    /// Bytes that came because something could not wait.
    pub(super) fault_bytes: u64,
    /// Keys of the snapshot, and entries of what is derived from them.
    pub(super) entries_wanted: u64,
    /// Of them, those that are known to be here.
    pub(super) entries_here: u64,
    /// Bytes of the tree leaves that hold those.
    pub(super) leaf_bytes_here: u64,
    /// Bytes of tree nodes that came.
    pub(super) node_bytes: u64,
    pub(super) wire_received: u64,
    pub(super) sources: Vec<SourceFigures>,
    pub(super) failure: Option<String>,
}

/// A milestone, and when it was reached.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Reached {
    pub(super) milestone: String,
    pub(super) after_ms: u64,
    pub(super) bytes: u64,
}

/// What a source gave.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct SourceFigures {
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// All members' roots side by side.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Audit {
    pub(super) position: Position,
    pub(super) verdict: String,
    pub(super) members: Vec<Audited>,
}

/// What a member sealed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Audited {
    pub(super) id: u64,
    pub(super) root: Option<String>,
}

impl MemberStatus {
    /// Does it vote, as far as it knows?
    pub(super) fn votes(&self) -> bool {
        self.members.iter().any(|listed| listed.id == self.id && listed.votes)
    }

    /// Does it hold everything, as it would after a restart that had nothing left to fetch?
    pub(super) fn is_whole(&self) -> bool {
        self.sealed.is_some_and(|sealed| sealed.whole)
    }

    /// Members that vote.
    pub(super) fn voters(&self) -> usize {
        self.members.iter().filter(|listed| listed.votes).count()
    }
}

impl JoinFigures {
    /// When it reached a milestone, since it began.
    pub(super) fn reached(&self, milestone: &str) -> Option<Duration> {
        let reached = self.reached.iter().find(|reached| reached.milestone == milestone);
        reached.map(|reached| Duration::from_millis(reached.after_ms))
    }

    /// Is at least half of it here?
    pub(super) fn is_half_way(&self) -> bool {
        self.entries_wanted > 0 && self.entries_here * 2 >= self.entries_wanted
    }

    /// Bytes that came, for whatever reason.
    pub(super) fn bytes(&self) -> u64 {
        self.node_bytes + self.fault_bytes
    }
}

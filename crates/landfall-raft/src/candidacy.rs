//! Owns whether this member may lead: whether it votes, whether its state is what most others have, and what the leader says against its vote.
//!
//! It never asks for a vote, and never looks at the state.

use landfall::core::snapshot::Position;
use tokio::sync::watch;

use crate::consensus::Raft;
use crate::status::Vote;

/// Whether the state of a member is what most others have, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soundness {
    /// Nobody found otherwise.
    Sound,
    /// Most others sealed something else, and what they sealed is to take the place of the state. Until it has, the member does not lead, and
    /// its reads are wrong.
    Healing,
    /// It was healed, and most others sealed something else again: until it is started anew it follows, does not lead, and its reads are wrong.
    SteppedOut {
        /// Where it was found to differ again.
        position: Position,
        /// Members that sealed what most did there.
        members: u32,
    },
}

/// The leader does not let this member vote, though its join is at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteRefused {
    /// What it said last.
    pub reason: String,
    /// How often it refused so far. It is asked again, after longer and longer pauses.
    pub times: u32,
}

/// How often a member was healed since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Healings {
    None,
    /// More it never is.
    Once,
}

/// What is known of a member's fitness to lead.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    vote: Vote,
    soundness: Soundness,
    healings: Healings,
    refused: Option<VoteRefused>,
}

/// Tells raft whether this member may lead, and everybody who waits for it.
pub(crate) struct Candidacy {
    raft: Raft,
    standing: watch::Sender<Standing>,
}

impl Candidacy {
    /// A member of which nothing is known yet.
    pub(crate) fn new(raft: Raft) -> Self {
        let (vote, soundness, healings) = (Vote::DoesNotCount, Soundness::Sound, Healings::None);
        Self { raft, standing: watch::Sender::new(Standing { vote, soundness, healings, refused: None }) }
    }

    pub(crate) fn soundness(&self) -> Soundness {
        self.standing.borrow().soundness
    }

    pub(crate) fn healings(&self) -> Healings {
        self.standing.borrow().healings
    }

    /// What the leader says against its vote, if it refused it last.
    pub(crate) fn refused(&self) -> Option<VoteRefused> {
        self.standing.borrow().refused.clone()
    }

    /// What the membership says of this member.
    pub(crate) fn handle_membership(&self, vote: Vote) {
        self.change(|standing| standing.vote = vote);
    }

    /// Most others sealed something else.
    pub(crate) fn begin_healing(&self) {
        self.change(|standing| {
            if standing.soundness == Soundness::Sound {
                standing.soundness = Soundness::Healing;
            }
        });
    }

    /// The state is what most others sealed, and the log after it was applied again.
    pub(crate) fn handle_healed(&self) {
        self.change(|standing| standing.healings = Healings::Once);
        self.handle_agrees();
    }

    /// Most others sealed the same, healed or not: what differed may have been overwritten.
    pub(crate) fn handle_agrees(&self) {
        self.change(|standing| {
            if standing.soundness == Soundness::Healing {
                standing.soundness = Soundness::Sound;
            }
        });
    }

    /// Most others sealed something else again.
    pub(crate) fn step_out(&self, position: Position, members: u32) {
        self.change(|standing| standing.soundness = Soundness::SteppedOut { position, members });
    }

    /// The leader refused a vote once more.
    pub(crate) fn handle_refused(&self, reason: String) {
        self.change(|standing| {
            let before = standing.refused.as_ref().map_or(0, |refused| refused.times);
            standing.refused = Some(VoteRefused { reason, times: before + 1 });
        });
    }

    /// This member was given a vote.
    pub(crate) fn handle_vote(&self) {
        self.change(|standing| standing.refused = None);
    }

    /// Something to wait on: it changes whenever anything above does.
    pub(crate) fn changes(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Changes what is known, and what raft is told, together: of two that change it at once the later one counts.
    fn change(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_modify(|standing| {
            change(standing);
            let is_sound = standing.soundness == Soundness::Sound;
            self.raft.runtime_config().elect(is_sound && standing.vote == Vote::Counts);
            // The others elect somebody else once a leader is silent. It takes no commands either, so nothing else keeps them from it.
            self.raft.runtime_config().heartbeat(is_sound);
        });
    }
}

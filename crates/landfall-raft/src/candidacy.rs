//! Owns what stands against the vote of this member. It never asks for one, and never looks at the state.

use tokio::sync::watch;

/// The leader does not let this member vote, though its join is at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteRefused {
    /// What it said last.
    pub reason: String,
    /// How often it refused so far. It is asked again, after longer and longer pauses.
    pub times: u32,
}

/// What stands against a vote, for everybody who waits for it.
#[derive(Debug)]
pub(crate) struct Candidacy {
    refused: watch::Sender<Option<VoteRefused>>,
}

impl Candidacy {
    pub(crate) fn new() -> Self {
        Self { refused: watch::Sender::new(None) }
    }

    /// What the leader says against it, if it refused it last.
    pub(crate) fn refused(&self) -> Option<VoteRefused> {
        self.refused.borrow().clone()
    }

    /// The leader refused a vote once more.
    pub(crate) fn handle_refused(&self, reason: String) {
        self.refused.send_modify(|refused| {
            let before = refused.as_ref().map_or(0, |refused| refused.times);
            *refused = Some(VoteRefused { reason, times: before + 1 });
        });
    }

    /// This member votes.
    pub(crate) fn handle_vote(&self) {
        self.refused.send_if_modified(|refused| refused.take().is_some());
    }

    /// Something to wait on: it changes whenever anything above does.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<VoteRefused>> {
        self.refused.subscribe()
    }
}

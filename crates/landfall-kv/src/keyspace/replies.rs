//! Owns several replies that travel as one, as long as they are short enough together.

use crate::limits::REPLY_BYTES_MAX;
use crate::reply::{HEAD_BYTES_MAX, Reply};

/// Replies in order.
#[derive(Debug, Default)]
pub(super) struct Replies {
    replies: Vec<Reply>,
    bytes: usize,
}

/// Whether replies fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// All of them fit.
    Whole,
    /// With the last one they are too long.
    TooLong,
}

impl Replies {
    /// Adds one; says whether all of them still fit into a reply.
    pub(super) fn add(&mut self, reply: Reply) -> Fit {
        self.bytes += reply.bytes_max();
        self.replies.push(reply);
        if self.bytes + HEAD_BYTES_MAX > REPLY_BYTES_MAX { Fit::TooLong } else { Fit::Whole }
    }

    /// All of them as one.
    pub(super) fn together(self) -> Reply {
        Reply::Array(self.replies)
    }
}

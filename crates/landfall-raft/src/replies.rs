//! Owns the replies of the commands of one entry until they are handed out: kept only for whoever waits, and no more of them than fit together.
//!
//! Whether a reply is kept changes nothing of what its command did: that is the same on every member, and replies are this one's own.

use landfall::core::keyed::Refused;

use crate::service::ProposeError;

/// Bytes of replies that are kept of one entry. Its commands are short, but what they ask for may be long, and they share nothing but their time.
pub const REPLIES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Whether somebody waits for replies. They take memory, so nobody keeps them for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

/// What whoever proposed the commands of an entry hears, in their order.
#[derive(Debug)]
pub(crate) struct Replies<R> {
    wanted: Wanted,
    replies: Vec<Result<R, ProposeError>>,
    bytes: usize,
}

impl<R> Replies<R> {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, replies: Vec::new(), bytes: 0 }
    }

    /// A command took effect. The first reply is kept whatever its length: it is here already, and would be as long the next time.
    pub(crate) fn add(&mut self, reply: R, bytes: impl FnOnce(&R) -> usize) {
        if self.wanted == Wanted::No {
            return;
        }
        let together = self.bytes.saturating_add(bytes(&reply));
        let fits = together <= REPLIES_BYTES_MAX || self.bytes == 0;
        if fits {
            self.bytes = together;
        }
        self.replies.push(if fits { Ok(reply) } else { Err(ProposeError::ReplyDropped) });
    }

    /// A change was refused.
    pub(crate) fn add_refused(&mut self, refused: Refused) {
        if self.wanted == Wanted::Yes {
            self.replies.push(Err(ProposeError::Refused(refused)));
        }
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = Result<R, ProposeError>> {
        self.replies.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds replies of so many bytes; says of each whether it was kept.
    fn kept(lengths: &[usize]) -> Vec<bool> {
        let mut replies = Replies::new(Wanted::Yes);
        lengths.iter().for_each(|length| replies.add(*length, |length| *length));
        let checked = replies.into_iter().zip(lengths).map(|(reply, length)| match reply {
            Ok(reply) => {
                assert_eq!(reply, *length, "replies stay in order");
                true
            }
            Err(error) => {
                assert_eq!(error, ProposeError::ReplyDropped);
                false
            }
        });
        checked.collect()
    }

    #[test]
    fn a_reply_that_has_no_room_is_dropped_and_shorter_ones_after_it_are_kept() {
        const HALF: usize = REPLIES_BYTES_MAX / 2;
        assert_eq!(kept(&[HALF, HALF]), [true, true]);
        assert_eq!(kept(&[HALF, HALF + 1, 10]), [true, false, true]);
        assert_eq!(kept(&[HALF, usize::MAX, HALF, 1]), [true, false, true, false]);
    }

    #[test]
    fn a_command_alone_is_always_answered() {
        assert_eq!(kept(&[REPLIES_BYTES_MAX + 1, 1]), [true, false]);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let mut replies = Replies::new(Wanted::No);
        replies.add(7, |_| 8);
        assert_eq!(replies.into_iter().count(), 0);
    }
}

//! Owns what members say to each other: the messages of one conversation and their bytes.
//!
//! A frame is one message. Its first byte is the message's kind; control messages are protobuf, so that older members
//! skip fields they do not know; items, which carry the bulk, have a fixed header of their own. Nothing here sends.

mod item;
mod message;

pub use item::{ITEM_HEAD_BYTES, Item, ItemBody, ItemForm, ItemReader};
pub use message::{
    Ask, ChunkRequest, Fetch, FetchWhat, Hello, Lease, Message, NodeRequest, Offer, Open, PathRequest, Refusal,
    RefusalReason, SignedHead, TouchedKey, UnitRequest, Urgency,
};

/// Oldest protocol version that this member speaks.
pub const VERSION_MIN: u32 = 1;
/// Newest protocol version that this member speaks.
pub const VERSION_MAX: u32 = 1;
/// Longest control message.
pub const CONTROL_BYTES_MAX: usize = 1024 * 1024;
/// Most nodes or chunks that one request may name.
pub const WANTS_PER_REQUEST_MAX: usize = 4096;

/// Longest name of a service.
pub const SERVICE_NAME_BYTES_MAX: usize = 128;

/// Why a frame is not a message. The peer that sent it is broken or lying: drop it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame is empty, too short, or names no known kind.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// A control message is longer than any.
    #[error("a control message of {bytes} bytes, more than {CONTROL_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A control message is not protobuf.
    #[error("malformed message: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

/// Finds the newest version that two ranges have in common.
pub fn common_version(theirs_min: u32, theirs_max: u32) -> Option<u32> {
    let newest = VERSION_MAX.min(theirs_max);
    (newest >= VERSION_MIN.max(theirs_min)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_meet_where_the_ranges_overlap() {
        assert_eq!(common_version(1, 1), Some(1));
        assert_eq!(common_version(1, 7), Some(1));
        assert_eq!(common_version(2, 7), None);
        assert_eq!(common_version(0, 0), None);
    }
}

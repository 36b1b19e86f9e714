//! Owns every limit that members of one protocol must agree on, with its unit in its name.
//!
//! A limit that only one module cares about stands in that module.

/// Longest plaintext of one chunk.
pub const CHUNK_BYTES_MAX: u32 = 1024 * 1024;
/// Longest key of a tree.
pub const KEY_BYTES_MAX: u32 = 4 * 1024;
/// Longest value that lives inside a tree node; longer ones are one chunk beside it.
pub const INLINE_VALUE_BYTES_MAX: u32 = 2 * 1024;
/// Files up to this length live inside the tree: with their metadata, at most 64 bytes, they are an inline value.
pub const INLINE_FILE_BYTES_MAX: u32 = INLINE_VALUE_BYTES_MAX - 64;
/// Files up to this length are one chunk.
pub const WHOLE_FILE_BYTES_MAX: u32 = 128 * 1024;
/// Length of the chunks of a page store, and the alignment of their offsets.
pub const PAGE_CHUNK_BYTES: u32 = 64 * 1024;
/// Payload that sources share out as one piece: a run of one leaf's chunk references.
pub const UNIT_BYTES_TARGET: u32 = 4 * 1024 * 1024;
/// What a stream remembers, as a power of two: 1 MiB of the last plaintext, on both sides of each connection that has one.
pub const STREAM_WINDOW_BYTES_LOG: u32 = 20;
/// How much longer than its plaintext an item of a stream may be: the frame's head, and three bytes for each 128 KiB.
pub const STREAM_OVERHEAD_BYTES_MAX: u32 = 64;
/// Requests that a source lets wait on one connection; one more ends the conversation. Renewals of its lease count.
pub const REQUESTS_WAITING_MAX: u32 = 256;
/// Requests of one connection that a joiner leaves without their last answer; the rest is for renewals.
pub const REQUESTS_UNANSWERED_MAX: u32 = REQUESTS_WAITING_MAX / 2;
/// Longest name of a state.
pub const STATE_NAME_BYTES_MAX: u32 = 128;

const _: () = assert!(INLINE_FILE_BYTES_MAX < INLINE_VALUE_BYTES_MAX);
const _: () = assert!(WHOLE_FILE_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(PAGE_CHUNK_BYTES <= CHUNK_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX < UNIT_BYTES_TARGET);

//! Owns every limit of the service, with its unit.

/// Longest key. A tree's key holds 4 KiB, and the deadline index puts eight bytes before each key.
pub const KEY_BYTES_MAX: usize = 4 * 1024 - 8;
/// Longest value. A value is one chunk of 1 MiB together with its own header, and a write fits one log entry of 1 MiB
/// together with its key and what surrounds both.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024 - 8 * 1024;
/// Longest argument of a request: a byte more than any value would do, but a round number is easier to tell a user.
pub const ARGUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Most arguments of one request, its name included.
pub const ARGUMENTS_MAX: usize = 64 * 1024;
/// Longest request as it stands in the connection's buffer.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest request that is one line of text, and longest length line within a request.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// What the writes of one log entry may weigh together.
pub const WRITES_BYTES_MAX: usize = 1024 * 1024 - 2 * 1024;
/// Longest reply to one request. A command whose reply would be longer is refused, and changes nothing.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most commands queued between `MULTI` and `EXEC`.
pub const QUEUED_COMMANDS_MAX: usize = 16 * 1024;
/// Expired keys that one sweep removes.
pub const SWEPT_KEYS_MAX: usize = 1000;
/// How long a client session is remembered after its last command, in milliseconds of the log's time.
pub const SESSION_IDLE_MS_MAX: u64 = 60 * 60 * 1000;
/// Longest name of a client session.
pub const SESSION_NAME_BYTES_MAX: usize = 64;
/// Longest reply that a session keeps for a client who asks again.
pub const SESSION_REPLY_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < WRITES_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < ARGUMENT_BYTES_MAX && ARGUMENT_BYTES_MAX < REQUEST_BYTES_MAX);
/// Most clients connected at a time.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Answers that are gathered before they go out, even if more requests are here.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Most keys that one `SCAN` looks at, whatever it asks for.
pub const SCANNED_KEYS_MAX: usize = 10_000;
/// Most keys that `KEYS` answers, if they are short enough for one reply.
pub const LISTED_KEYS_MAX: usize = 1_000_000;
/// Keys that a walk looks at in one go: their values come with them, so this limits the memory that it takes.
pub const STRETCH_KEYS_MAX: usize = 64;
/// Walks that run at a time; who asks for one more waits.
pub const WALKS_AT_ONCE_MAX: usize = 4;
/// Room for answers that a connection keeps while its client is silent.
pub const OUTPUT_KEPT_BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;

// A stretch of `SCAN` always fits a reply.
const _: () = assert!(SCANNED_KEYS_MAX * (KEY_BYTES_MAX + 64) < REPLY_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < REPLY_BYTES_MAX);
// The writes of one pipeline that share a record, and their replies a limit, are always answered when they come alone.
const _: () = assert!(REPLY_BYTES_MAX < landfall_raft::REPLIES_BYTES_MAX);
/// Most walks through the keys that can be under way at a time; the oldest is forgotten first.
pub const CURSORS_MAX: usize = 4096;

//! Owns where content is cut into chunks, and which of the ways of cutting a file gets.
//!
//! Cut points are part of the protocol: two members that cut differently share no chunks. So every number here is frozen by
//! golden vectors. This module never reads a file and never hashes a chunk.

mod cut;
mod gear;
mod kind;

pub use cut::{Cutter, Rest};
pub use gear::{CUT_BYTES_MAX, CUT_BYTES_MEAN, CUT_BYTES_MIN};
pub use kind::{MAGIC_BYTES, decide_content, is_zero};

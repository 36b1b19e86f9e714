//! The pure logic of Landfall: what state is, how two copies of it differ, and who fetches what from whom.
//!
//! Nothing here waits: no I/O, no clock, no task, no randomness. Time and seeds are arguments, so the same events give
//! the same commands on every machine and in every simulation.
#![forbid(unsafe_code)]

mod chunk;
pub mod chunker;
pub mod codec;
pub mod files;
pub mod join;
pub mod keyed;
pub mod limits;
pub mod offer;
mod pauses;
pub mod snapshot;
mod time;
pub mod transfer;
pub mod tree;
pub mod wire;

pub use chunk::{Chunk, ChunkId, Domain, HashMismatch, ParseChunkIdError, Proven};
pub use pauses::Pauses;
pub use time::Time;

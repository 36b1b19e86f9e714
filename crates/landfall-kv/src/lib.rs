//! The parts of `landfall-kv`: a key-value service that speaks the Redis protocol, replicated by raft on Landfall. The
//! binary only reads its arguments and starts what is here.
//!
//! Bytes become requests in [`request`], requests become typed commands in [`command`], commands change or read the
//! state in [`keyspace`], which is pure, and [`reply`] turns what they answer into bytes again.

pub mod command;
pub mod glob;
pub mod keyspace;
pub mod limits;
pub mod replica;
pub mod reply;
pub mod request;
pub mod server;

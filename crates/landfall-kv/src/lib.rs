//! The parts of `landfall-kv`: a key-value service that speaks the Redis protocol, replicated by raft on Landfall. The
//! binary, like `landfall kv`, only reads [`Arguments`] and calls [`run`].
//!
//! Bytes become requests in [`request`], requests become typed commands in [`command`], commands change or read the
//! state in [`keyspace`], which is pure, and [`reply`] turns what they answer into bytes again. [`server`] owns the
//! sockets of clients, [`replica`] says what it needs of a member, [`member`] and [`service`] give it that with raft.

mod arguments;
pub mod command;
mod commit_hook;
pub mod fuzz_targets;
pub mod glob;
pub mod keyspace;
pub mod limits;
pub mod member;
pub mod replica;
pub mod reply;
pub mod request;
pub mod server;
pub mod service;
mod start;
mod status;

pub use arguments::Arguments;
pub use start::{Serving, run};

//! Owns the serving side: a state that is served here, and the conversations with those who fetch it.

mod answer;
mod conversation;
mod core_wait;
mod lease;
mod link_watch;
mod offering;
mod spare_cores;
mod state;
mod touched;

pub use answer::Encoding;
pub use conversation::ConnectionService;
pub(crate) use conversation::{ServingMember, converse, own_hello};
pub(crate) use state::{Content, LetGo, ServedState, ServedStates};

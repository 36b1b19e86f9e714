//! Ships the state of a running service to another machine: the engine and the public library.

mod background;
mod clock;
mod content;
mod fetch;
pub mod files;
mod history;
pub mod keyed;
pub mod member;
mod nodes;
pub mod pull;
pub mod restore;
mod source;

pub use landfall_core as core;
pub use landfall_net as net;

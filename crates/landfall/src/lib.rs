//! Ships the state of a running service to another machine: the engine and the public library.

pub mod files;

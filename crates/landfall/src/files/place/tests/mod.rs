//! Owns the proof that a pull leaves what the snapshot says, or what was there, and nothing else.

mod crash;
mod destination;
mod model;
mod primitives;
mod refusals;
mod update;

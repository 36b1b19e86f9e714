//! Owns the simulation of live keyed states: members that apply one order of records, seal at marks, and are joined while nobody stops
//! writing.
//!
//! The core (keyed state, join, transfer, trees), the store and the log are the real ones; the order of the records is an abstract one.
//! Nothing here decides what a member does where the core can.

mod auditing;
mod deed;
mod fate;
mod feeding;
mod fetched;
mod here;
mod joining;
mod late;
mod life;
mod line;
mod member;
mod model;
mod needs;
mod order;
mod partial;
mod reads;
mod scenario;
mod sealing;
mod traffic;
mod world;

pub(crate) use deed::{schema, state_name};
pub use scenario::{LateSource, LiveContent, LiveFaults, LiveScenario, Others};
pub use world::{LiveFigures, LiveWorld};

//! Many members in one process under one seed: the real core and the real store on a virtual network, disk and clock.
//!
//! A scenario is drawn from a seed, faults and all. Joiners pull the snapshots of a publisher from it and from each other while
//! connections break, powers go, disks fill and peers lie; checks run after every step. Then nothing goes wrong any more and
//! everybody must have everything. The same seed gives the same run. See `docs/testing.md`.
//!
//! For tests only: nothing here ships.
#![forbid(unsafe_code)]

mod checks;
mod content;
mod disk;
mod fate;
pub mod fuzz_targets;
mod ground;
mod life;
mod live;
mod log;
mod member;
mod network;
mod pull;
mod pulling;
mod random;
mod scenario;
mod source;
mod traffic;
mod trouble;
mod world;

pub use checks::Violation;
pub use ground::Failure;
pub use live::{LateSource, LiveContent, LiveFaults, LiveFigures, LiveScenario, LiveWorld, Others};
pub use log::Trace;
pub use random::Random;
pub use scenario::{ContentShape, DiskFaults, Faults, LinkFaults, Scenario, Storing};
pub use world::{Figures, World};

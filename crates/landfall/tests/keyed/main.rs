//! Keyed states are changed, sealed, served, and joined by other members, in one process, over loopback.

#[path = "../between/mod.rs"]
mod between;
mod carry;
mod damage;
mod gate;
mod ground;
mod heal;
mod history;
mod join;
mod kill;
mod records;
mod seal;
mod sections;
mod trouble;

//! Clusters of members in this process, on real disks and connections.

mod aftercare;
mod bad_luck;
mod bank;
#[path = "../../../landfall/tests/between/mod.rs"]
mod between;
mod fickle;
mod gate;
mod harness;
mod joining;
mod long_replies;
mod patience;
mod promotion;
mod slow_link;
mod three_members;

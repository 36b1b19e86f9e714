//! Raft members whose snapshots are pulled from everybody: openraft on Landfall.

mod ballot;
mod cadence;
mod consensus;
mod entry;
mod link;
mod message;
mod network;
mod owner;
mod reference;

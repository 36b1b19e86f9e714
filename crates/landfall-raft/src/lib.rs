//! Raft members whose snapshots are pulled from everybody: openraft on Landfall.

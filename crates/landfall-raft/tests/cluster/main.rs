//! Clusters of members in this process, on real disks and connections.

mod bank;
mod harness;
mod joining;
mod three_members;

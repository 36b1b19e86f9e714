//! Owns the stories: conversations with a transfer, as text files that a person can read, and the world in which they play.
//!
//! A story is a list of steps, each with what the transfer did. `UPDATE_GOLDEN=1` rewrites what it did; the diff is the review.

mod story;
mod world;

use std::path::{Path, PathBuf};

use super::*;
use crate::tree::{Builder, Leaf, MemoryNodes, NodeSink, Salt, Value};
use crate::{Chunk, Domain};

use world::World;

/// Tells a story again and compares it with the file.
#[track_caller]
fn check(name: &str) {
    let path = stories().join(format!("{name}.txt"));
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let actual = story::tell(&expected);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    } else {
        assert_eq!(actual, expected, "{} tells another story; UPDATE_GOLDEN=1 rewrites it", path.display());
    }
}

fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transfer/stories")
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_story_is_told() {
            let told = [$(stringify!($name)),*];
            for file in std::fs::read_dir(stories()).unwrap() {
                let path = file.unwrap().path();
                assert!(told.contains(&path.file_stem().unwrap().to_str().unwrap()), "{}", path.display());
            }
        }
    };
}

stories! {
    a_base_that_cannot_be_read_is_not_named_again
    a_corrupt_chunk_is_blamed_and_the_third_drops_the_peer
    a_delta_asks_only_for_what_changed
    a_good_source_that_is_away_is_waited_for
    a_good_source_that_stays_away_is_not_waited_for_long
    a_late_request_is_looked_at_again
    a_lost_source_of_nodes_is_asked_again_when_it_returns
    a_peer_dies_and_its_work_moves
    a_peer_that_comes_back_goes_on
    a_request_that_ends_early
    a_silent_source_of_nodes_is_hedged
    a_slow_peer_is_hedged_at_the_end
    a_slow_link_is_no_stall
    a_slow_peer_takes_over_half_a_unit
    a_stalled_only_source_is_dropped
    a_stalled_peer_is_dropped
    a_useless_source_in_the_end
    a_useless_source_that_flaps_keeps_nothing_alive
    equal_leaves_of_two_trees_are_both_inspected
    no_peers_for_thirty_seconds
    nobody_has_a_chunk
    nobody_has_a_node
    nothing_changed
    nothing_is_asked_of_a_peer_that_is_gone
    partial_sources_complete_each_other
    the_writer_is_asked_last
    two_lanes_share_the_work
    two_sections_come_one_after_the_other
    what_is_complete_stays_complete
}

/// Nodes and inspections that a transfer asks for while no chunk comes.
fn ahead_of_chunks(entries: u32, chunk_bytes: u32) -> (usize, usize) {
    let mut source = MemoryNodes::default();
    let mut builder = Builder::new(Salt::PUBLIC);
    for entry in 0..entries {
        let id = ChunkId::of(Domain::Data, &entry.to_le_bytes());
        builder.push(&entry.to_be_bytes(), &Value::chunk(id, chunk_bytes), &mut source).unwrap();
    }
    let target = builder.finish(&mut source);
    let mut here = MemoryNodes::default();
    let mut transfer = Transfer::new(vec![TreePair { base: None, target }], Time::ZERO);
    transfer.handle_peer_joined(PeerId(0), 1, PeerCost::NEAR, Time::ZERO);
    let (mut nodes, mut inspections) = (0, 0);
    while let Some(command) = transfer.poll_command(&here, Time::ZERO) {
        match command {
            Command::FetchNodes { request, wants, .. } => {
                nodes += wants.len();
                for (want, node) in wants.iter().enumerate() {
                    here.put(Chunk::verify(node.id, Domain::Node, source.node(node.id).unwrap()).unwrap());
                    transfer.handle_arrival(request, want as u32, Arrival::Stored, Time::ZERO);
                }
                transfer.handle_request_ended(request, Time::ZERO);
            }
            Command::Inspect { leaf, .. } => {
                inspections += 1;
                let entries = Leaf::parse(&here.node(leaf).unwrap()).unwrap().len() as u32;
                let want = |entry| Want { entry, bytes: chunk_bytes, base: None };
                transfer.handle_inspected(leaf, (0..entries).map(want).collect());
            }
            _ => {}
        }
    }
    (nodes, inspections)
}

/// What came of a transfer of so many trees, all the same one of so many entries, whose values all stand in its leaves.
struct Inline {
    leaves: usize,
    inspections: usize,
    entries_passed: u64,
    leaf_bytes_passed: u64,
}

/// Whoever stores a leaf says that it is chunkless where `is_seen` says so of its number.
fn transfer_inline(entries: u32, trees: usize, is_seen: impl Fn(usize) -> bool) -> Inline {
    let mut source = MemoryNodes::default();
    let mut builder = Builder::new(Salt::PUBLIC);
    for entry in 0..entries {
        builder.push(&entry.to_be_bytes(), &Value::inline(vec![7; 100]), &mut source).unwrap();
    }
    let target = builder.finish(&mut source);
    let mut here = MemoryNodes::default();
    let mut transfer = Transfer::new(vec![TreePair { base: None, target }; trees], Time::ZERO);
    transfer.handle_peer_joined(PeerId(0), 1, PeerCost::NEAR, Time::ZERO);
    let (mut leaves, mut inspections) = (0, 0);
    while let Some(command) = transfer.poll_command(&here, Time::ZERO) {
        match command {
            Command::FetchNodes { request, wants, .. } => {
                for (want, node) in wants.iter().enumerate() {
                    let bytes = source.node(node.id).unwrap();
                    let (is_leaf, leaf_bytes) = (Leaf::parse(&bytes).is_ok(), bytes.len() as u32);
                    here.put(Chunk::verify(node.id, Domain::Node, bytes).unwrap());
                    let arrival = match is_leaf && is_seen(leaves) {
                        true => Arrival::Chunkless { leaf_bytes },
                        false => Arrival::Stored,
                    };
                    leaves += usize::from(is_leaf);
                    transfer.handle_arrival(request, want as u32, arrival, Time::ZERO);
                }
                transfer.handle_request_ended(request, Time::ZERO);
            }
            Command::Inspect { leaf, .. } => {
                inspections += 1;
                transfer.handle_inspected(leaf, Vec::new());
            }
            _ => {}
        }
    }
    assert_eq!(transfer.outcome(), Outcome::Complete);
    let Progress { all_known: true, entries_passed, leaf_bytes_passed, .. } = transfer.progress() else {
        panic!("{:?}", transfer.progress());
    };
    Inline { leaves, inspections, entries_passed, leaf_bytes_passed }
}

#[test]
fn a_leaf_that_came_without_chunks_is_not_inspected() {
    let all = transfer_inline(100_000, 1, |_| true);
    assert!(all.leaves > 500, "{}", all.leaves);
    assert_eq!((all.inspections, all.entries_passed), (0, 100_000));
    assert!(all.leaf_bytes_passed > 100 * 100_000, "{}", all.leaf_bytes_passed);
    let none = transfer_inline(100_000, 1, |_| false);
    assert_eq!((none.inspections, none.entries_passed, none.leaf_bytes_passed), (none.leaves, 0, 0));
    for in_a_row in [1, 7, 200] {
        let is_seen = |leaf: usize| (leaf / in_a_row).is_multiple_of(2);
        let some = transfer_inline(100_000, 1, is_seen);
        let unseen = (0..some.leaves).filter(|leaf| !is_seen(*leaf)).count();
        assert_eq!(some.inspections, unseen, "every {in_a_row} of {} leaves", some.leaves);
    }
}

#[test]
fn a_leaf_is_passed_over_once_in_the_first_of_the_trees_that_have_it() {
    for entries in [500, 100_000] {
        let twice = transfer_inline(entries, 2, |_| true);
        assert_eq!((twice.inspections, twice.entries_passed), (twice.leaves, u64::from(entries)));
    }
}

#[test]
fn a_root_that_is_a_leaf_counts_once() {
    let one = transfer_inline(10, 1, |_| true);
    // It comes before the walk can name it as a leaf.
    assert_eq!((one.leaves, one.inspections, one.entries_passed), (1, 1, 0));
}

#[test]
fn a_huge_tree_is_walked_only_a_little_ahead_of_its_chunks() {
    let (nodes, inspections) = ahead_of_chunks(300_000, 1 << 20);
    assert!(nodes <= 256 && inspections <= 16, "{nodes} nodes and {inspections} inspections of 300 GB");
    let (nodes, inspections) = ahead_of_chunks(300_000, 4 << 10);
    assert!(
        nodes <= 256 && inspections <= 128,
        "{nodes} nodes and {inspections} inspections of 1.2 GB in small chunks"
    );
}

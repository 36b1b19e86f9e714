//! Owns the stories: conversations with a join, as text files that a person can read, and what must hold in any order of facts.
//!
//! A story is a list of steps, each with what the join did. `UPDATE_GOLDEN=1` rewrites what it did; the diff is the review.

mod any_order;
mod story;

use std::path::{Path, PathBuf};

use super::*;
use crate::Domain;

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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/join/stories")
}

fn id(name: &str) -> ChunkId {
    ChunkId::of(Domain::Manifest, name.as_bytes())
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
    a_first_difference_is_answered_by_a_rebase
    a_hook_that_fails_is_tried_again_and_fenced_by_its_lease
    a_hook_that_never_works_ends_the_join
    a_joiner_becomes_a_member
    a_joiner_of_some_sections_follows_the_marks
    a_log_that_is_lost_while_verifying_is_attached_again
    a_log_with_a_gap_needs_a_newer_snapshot
    a_mark_at_a_half_filled_member_is_a_rebase
    a_rebase_onto_a_snapshot_that_is_gone_gives_way_to_a_newer_one
    a_second_difference_ends_the_join
    a_tie_proves_nothing
    an_audit_that_nobody_answers_is_asked_for_again
    facts_of_an_old_snapshot_are_passed_over
    marks_faster_than_rebases_leave_time_for_the_rest
    milestones_after_viable_come_in_any_order
    newer_snapshots_wait_for_the_rebase_under_way
    the_disk_fills_up
    what_is_here_already_is_not_fetched
    what_is_hot_and_cannot_be_had_by_itself_comes_with_the_rest
}

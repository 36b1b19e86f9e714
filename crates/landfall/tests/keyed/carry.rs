//! A state that moves on to a newer snapshot before all of the old one came brings what it holds with it.

use std::sync::Arc;

use landfall::keyed::{CarryRefused, Keyed, Milestone};

use crate::gate::Gate;
use crate::ground::{CONFIG, DATA, assert_equal, at, fill, key, open, options, put, seal, serve, value};

const KEYS: u64 = 40_000;
/// Leaves that come before the way is shut: more than half of all.
const FRAMES: u64 = 160;

/// Changes in every leaf.
fn change(keyed: &Keyed, index: u64, version: u64) {
    let numbers = (0..KEYS).step_by(20).map(|number| number + version % 20);
    put(keyed, index, DATA, numbers.map(|number| (key(number), value(number, version))));
}

/// A joiner is cut off when more than half of a snapshot came, every leaf changes, and it moves on to the next snapshot. Says how many bytes
/// came until then, and how many after. `at_the_mark` is what the joiner does when the others seal.
fn move_on(at_the_mark: impl FnOnce(&Arc<Keyed>)) -> (u64, u64) {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, KEYS);
    seal(&source);
    let member = serve(&source);
    let early = Gate::new(FRAMES);
    let handle = joiner.join(options(&[&member], early.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    early.wait_until_exhausted();
    handle.stop();
    for keyed in [&source, &joiner] {
        change(keyed, 3, 1);
    }
    at_the_mark(&joiner);
    seal(&source);
    if joiner.position() == at(3) {
        change(&joiner, 4, 2);
    }
    change(&source, 4, 2);

    let late = Gate::new(u64::MAX);
    let handle = joiner.join(options(&[&member], late.transport()));
    handle.wait(Milestone::Viable).unwrap();
    assert_eq!(handle.adopt().unwrap(), at(3));
    handle.wait(Milestone::Complete).unwrap();
    assert_equal(&source, &joiner);
    assert_eq!(seal(&source).snapshot, seal(&joiner).snapshot);
    (early.bulk_bytes_passed(), late.bulk_bytes_passed())
}

#[test]
fn what_came_of_an_older_snapshot_need_not_come_again() {
    let (before, after) = move_on(|joiner| {
        let ticket = joiner.carry_over().unwrap();
        assert_eq!(ticket.position(), at(3));
        assert!(ticket.wait().unwrap() > 0);
    });
    // Every leaf has changed: without it all of them come.
    let (_, all) = move_on(|_| {});
    let twice = (before + after).saturating_sub(all);
    // Of the part of the tree that was coming, leaves behind the first one that is missing are not looked at.
    assert!(twice * 4 < all, "{twice} of {all} bytes came twice");
}

/// Of what came, at least a third need not come again.
///
/// Several requests are under way when the joiner is cut off. Where the earliest of them brought nothing yet, what the later ones brought of the
/// same part of the tree is of no use: leaves behind the first one that is missing are not looked at.
#[track_caller]
fn assert_carried(before: u64, after: u64) {
    // Every leaf has changed: without carrying over all of them come.
    let (_, all) = move_on(|_| {});
    let carried = all.saturating_sub(after);
    assert!(carried * 3 > before, "{carried} of {before} bytes were carried over; {after} of {all} came after that");
}

#[test]
fn changes_that_come_meanwhile_are_not_mixed_into_what_is_carried_over() {
    let (before, after) = move_on(|joiner| {
        let ticket = joiner.carry_over().unwrap();
        change(joiner, 4, 2);
        ticket.wait().unwrap();
        assert_eq!(joiner.get(DATA, &key(2)).unwrap().unwrap(), value(2, 2));
    });
    assert_carried(before, after);
}

#[test]
fn a_state_that_is_all_here_carries_nothing_over() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(directory.path());
    assert_eq!(state.carry_over().unwrap_err(), CarryRefused::NotFilling);
    put(&state, 1, CONFIG, [(b"members".to_vec(), b"a".to_vec())].into_iter());
    seal(&state);
    assert_eq!(state.carry_over().unwrap_err(), CarryRefused::NotFilling);
}

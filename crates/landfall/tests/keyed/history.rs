//! Snapshots that are held: going back to one, saying how two differ, and letting go of the oldest.

use std::path::Path;

use landfall::core::snapshot::Manifest;
use landfall::keyed::{DifferenceKind, Extent, Keyed, Milestone, RollBackError};

use crate::ground::{CONFIG, DATA, assert_equal, at, entries, fill, join, key, open, put, seal, serve, value};

/// Snapshots that are held at once.
const HELD: usize = 8;

#[test]
fn going_back_is_a_change_like_any_other() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let states = directories.each_ref().map(|directory| open(directory.path()));
    let mut snapshots = Vec::new();
    for keyed in &states {
        fill(keyed, 3000);
        let first = seal(keyed);
        put(keyed, 3, DATA, (0..3000).step_by(3).map(|number| (key(number), value(number, 1))));
        put(keyed, 4, CONFIG, [(b"members".to_vec(), b"a".to_vec())].into_iter());
        seal(keyed);
        put(keyed, 5, DATA, [(key(1), b"in memory only".to_vec())].into_iter());
        snapshots.push(keyed.roll_back(first.snapshot, at(6), b"roll back").unwrap());

        assert_eq!(keyed.position(), at(6));
        assert_eq!(keyed.get(DATA, &key(3)).unwrap().unwrap(), value(3, 0));
        assert_eq!(keyed.get(DATA, &key(1)).unwrap().unwrap(), value(1, 0));
        assert_eq!(keyed.sealed().unwrap().manifest.state_root(), first.state_root);
        assert!(matches!(keyed.roll_back(first.snapshot, at(6), b"again"), Err(RollBackError::Already)));
        assert!(matches!(keyed.roll_back(snapshots[0], at(6), b""), Err(RollBackError::Already)));
    }
    assert_eq!(snapshots[0], snapshots[1], "every member goes back to the same");
    let [left, right] = states;
    put(&left, 7, DATA, [(key(2), b"after".to_vec())].into_iter());
    let sealed = seal(&left);
    drop(left);
    let left = open(directories[0].path());
    assert_eq!((left.position(), left.sealed().unwrap().id), (at(7), sealed.snapshot));
    put(&right, 7, DATA, [(key(2), b"after".to_vec())].into_iter());
    assert_equal(&left, &right);
    assert_eq!(left.log_hash(), right.log_hash());
}

#[test]
fn what_two_members_disagree_about_is_named_by_its_keys() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [right, wrong] = directories.each_ref().map(|directory| open(directory.path()));
    for keyed in [&right, &wrong] {
        fill(keyed, 20_000);
    }
    put(&right, 3, DATA, [(key(15_000), b"right".to_vec()), (key(30_000), b"right".to_vec())].into_iter());
    put(&wrong, 3, DATA, [(key(15_000), b"wrong".to_vec()), (key(30_001), b"wrong".to_vec())].into_iter());
    let [theirs, ours] = [seal(&right), seal(&wrong)];
    assert_eq!(ours.manifest.log_hash, theirs.manifest.log_hash, "the log was the same");
    assert_ne!(ours.state_root, theirs.state_root);

    let member = serve(&right);
    let handle = join(&wrong, &[&member]);
    handle.wait(Milestone::Planned).unwrap();
    let found = handle.differences(&ours.manifest, 100).unwrap();
    let found: Vec<_> = found.iter().map(|found| (found.section.as_str(), found.key.to_vec(), found.kind)).collect();
    let expected = [
        ("data", key(15_000), DifferenceKind::Changed),
        ("data", key(30_000), DifferenceKind::Added),
        ("data", key(30_001), DifferenceKind::Removed),
    ];
    assert_eq!(found, expected);

    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    assert_eq!(wrong.sealed().unwrap().extent, Extent::Whole);
    assert_equal(&right, &wrong);
}

fn bytes_below(directory: &Path) -> u64 {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() }
        })
        .sum()
}

/// Reads everything of a snapshot that differs from the newest one.
fn read(keyed: &Keyed, manifest: &Manifest) -> usize {
    keyed.differences(manifest, &keyed.sealed().unwrap().manifest, usize::MAX).unwrap().len()
}

#[test]
fn old_snapshots_are_let_go_and_what_is_held_stays_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut keyed = open(directory.path());
    fill(&keyed, 4000);
    let mut after_eight = 0;
    for round in 1..=40 {
        // Every third key: most leaves change, as patches on patches.
        put(&keyed, 2 + round, DATA, (round % 3..4000).step_by(3).map(|number| (key(number), value(number, round))));
        seal(&keyed);
        // What is open is not collected; opening again closes it.
        drop(keyed);
        keyed = open(directory.path());
        if round == 8 {
            after_eight = bytes_below(&directory.path().join("store/packs"));
        }
    }
    let held = keyed.snapshots();
    assert_eq!(held.len(), HELD);
    for snapshot in &held[..HELD - 1] {
        assert!(read(&keyed, &snapshot.manifest) >= 1300, "{:?}", snapshot.manifest.position);
    }
    let all = entries(&keyed, DATA);
    let expected = |number: u64| (38..=40).find(|round| round % 3 == number % 3).unwrap();
    assert!(all.into_iter().eq((0..4000).map(|number| (key(number), value(number, expected(number))))));
    let after_forty = bytes_below(&directory.path().join("store/packs"));
    assert!(after_forty < after_eight * 3, "{after_eight} bytes after 8 snapshots, {after_forty} after 40");
}

#[test]
fn what_a_join_brought_stays_until_it_is_adopted_however_much_room_is_made_meanwhile() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 4000);
    put(&source, 100, DATA, (0..4000).map(|number| (key(number), value(number, 99))));
    let theirs = seal(&source);
    let member = serve(&source);
    fill(&joiner, 4000);
    seal(&joiner);
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Complete).unwrap();
    drop(member);
    // Nothing that the joiner holds pins what came; its own snapshots come and go, some packs full.
    let long = (0..1000).map(|number| number * 500 + 3);
    for round in 1..=12 {
        put(&joiner, 2 + round, DATA, long.clone().map(|number| (key(number), value(number, round))));
        seal(&joiner);
    }
    assert_eq!(joiner.snapshots().len(), HELD);
    handle.adopt().unwrap();
    let sealed = joiner.sealed().unwrap();
    assert_eq!((sealed.id, sealed.extent), (theirs.snapshot, Extent::Whole));
    assert_equal(&source, &joiner);
}

//! The disk of a member that holds everything loses some of it: others give it again.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use landfall::keyed::{Extent, KeyedError, Milestone};
use landfall::member::Member;
use landfall::net::PlainTransport;
use landfall::pull::TrustAll;

use crate::ground::{DATA, assert_equal, fill, join, key, open, put, seal, serve, value};

const KEYS: u64 = 20_000;
/// Bytes between two that are changed: several in each pack, and most nodes stay whole.
const STEP: usize = 100_000;

/// Changes a byte every so often in every pack, but not in what stands at its ends.
fn damage(directory: &Path, step: usize) -> u64 {
    let mut changed = 0;
    for entry in std::fs::read_dir(directory.join("store/packs")).unwrap() {
        let path = entry.unwrap().path();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        for at in (step as u64 / 2..length * 9 / 10).step_by(step) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            changed += 1;
        }
    }
    changed
}

fn name_sources(keyed: &landfall::keyed::Keyed, sources: &[&Member]) {
    let addresses = sources.iter().map(|source| source.address().unwrap()).collect();
    keyed.set_sources(addresses, Arc::new(PlainTransport), Arc::new(TrustAll));
}

#[test]
fn what_is_damaged_at_a_whole_member_is_fetched_again_and_stays_right() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, second] = directories.each_ref().map(|directory| open(directory.path()));
    for keyed in [&source, &second] {
        fill(keyed, KEYS);
        seal(keyed);
    }
    drop(second);
    assert!(damage(directories[1].path(), STEP) > 5);
    let second = open(directories[1].path());
    assert_eq!(second.sealed().unwrap().extent, Extent::Whole);

    // Nobody is known who could give it: the error says what it is about, and what to do.
    let read_all = || (0..KEYS).try_for_each(|number| second.get(DATA, &key(number)).map(drop));
    let damaged = read_all().unwrap_err();
    let KeyedError::NotHere { first, .. } = &damaged else { panic!("{damaged}") };
    let text = damaged.to_string();
    assert!(text.contains(&first.to_string()) && text.contains("name sources"), "{text}");

    let member = serve(&source);
    name_sources(&second, &[&member]);
    assert_eq!(second.get(DATA, &key(3)).unwrap().unwrap(), value(3, 0));
    read_all().unwrap();
    assert_equal(&source, &second);
    drop(member);
    drop(second);
    // It was put right for good: nobody is asked any more.
    let second = open(directories[1].path());
    assert_equal(&source, &second);
    assert_eq!(seal(&source).snapshot, seal(&second).snapshot);
}

#[test]
fn who_joined_asks_those_that_it_joined() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, KEYS);
    seal(&source);
    let member = serve(&source);
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    drop(handle);
    assert!(damage(directories[1].path(), STEP) > 5);
    assert_equal(&source, &joiner);
}

#[test]
fn what_those_that_are_named_lack_is_not_put_right_and_the_error_says_both() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [other, damaged] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&other, 10);
    seal(&other);
    fill(&damaged, KEYS);
    seal(&damaged);
    let member = serve(&other);
    name_sources(&damaged, &[&member]);
    assert!(damage(directories[1].path(), STEP) > 5);

    let refused = damaged.scan(DATA, b"", KEYS as usize).unwrap_err();
    let KeyedError::NotMended { damaged: what, reason } = &refused else { panic!("{refused}") };
    let KeyedError::NotHere { first, .. } = &**what else { panic!("{what}") };
    let text = refused.to_string();
    assert!(text.contains(&first.to_string()) && text.contains(&reason.to_string()), "{text}");
}

#[test]
fn what_is_damaged_of_an_old_snapshot_is_no_base_for_the_next_and_nobody_is_blamed_for_it() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, KEYS);
    seal(&source);
    let member = serve(&source);
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    drop((handle, joiner));
    assert!(damage(directories[1].path(), STEP / 4) > 20);

    // A little of every leaf changes, and of every long value.
    let changed = (3..KEYS).step_by(50).map(|number| (key(number), [&b"new"[..], &value(number, 0)].concat()));
    put(&source, 3, DATA, changed);
    seal(&source);
    let joiner = open(directories[1].path());
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    let figures = handle.status().figures;
    assert_eq!(figures.sources.iter().map(|source| source.damaged).sum::<u64>(), 0, "{figures:?}");
    assert_equal(&source, &joiner);
}

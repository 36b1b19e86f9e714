//! The disk of a member that holds everything loses some of it: others give it again.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use landfall::core::ChunkId;
use landfall::keyed::{Extent, Keyed, KeyedError};
use landfall::member::Member;
use landfall::net::PlainTransport;
use landfall::pull::TrustAll;

use crate::ground::{DATA, assert_equal, at, fill, join_whole, key, open, put, seal, serve, value};

const KEYS: u64 = 20_000;
/// Enough for a tree whose changes are merged by several threads.
const KEYS_OF_MANY_PARTS: u64 = 80_000;
/// Bytes between two that are changed: several in each pack, and most nodes stay whole.
const STEP: usize = 100_000;
/// In the payload of a frame that holds an inner node.
const BYTES_INTO_FRAME: usize = 140;

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

/// Changes a byte of the frame that holds a chunk.
fn damage_chunk(directory: &Path, id: ChunkId) {
    for entry in std::fs::read_dir(directory.join("store/packs")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // The magic of a frame's header stands so far before its id; manifests and other nodes name the id as well.
        let is_frame = |at: &usize| bytes[*at..].starts_with(b"LFf1") && bytes[at + 20..].starts_with(id.as_bytes());
        let Some(at) = (0..bytes.len() - BYTES_INTO_FRAME).find(is_frame).map(|at| at + BYTES_INTO_FRAME) else {
            continue;
        };
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        return file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
    }
    panic!("{id} is in no pack");
}

fn name_sources(keyed: &Keyed, sources: &[&Member]) {
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
fn a_damaged_member_that_is_written_and_never_read_seals_all_the_same() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, second] = directories.each_ref().map(|directory| open(directory.path()));
    for keyed in [&source, &second] {
        fill(keyed, KEYS_OF_MANY_PARTS);
        seal(keyed);
    }
    drop(second);
    assert!(damage(directories[1].path(), STEP) > 20);
    let second = open(directories[1].path());
    for keyed in [&source, &second] {
        let changed = (0..KEYS_OF_MANY_PARTS).step_by(20).map(|number| (key(number), value(number, 1)));
        put(keyed, 3, DATA, changed);
    }

    // Nobody is known who could give what is damaged: the error names it, and the changes wait.
    let refused = second.seal().unwrap().wait().unwrap_err().to_string();
    assert!(refused.contains("name sources"), "{refused}");
    let member = serve(&source);
    name_sources(&second, &[&member]);
    assert_eq!(seal(&source).snapshot, seal(&second).snapshot);
    drop(member);
    // It was put right for good.
    drop(second);
    let second = open(directories[1].path());
    let changed = |number| [&b"again"[..], &value(number, 1)].concat();
    for keyed in [&source, &second] {
        put(keyed, 4, DATA, (0..KEYS_OF_MANY_PARTS).step_by(20).map(|number| (key(number), changed(number))));
    }
    assert_eq!(seal(&source).snapshot, seal(&second).snapshot);
}

#[test]
fn who_joined_asks_those_that_it_joined() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, KEYS);
    seal(&source);
    let member = serve(&source);
    let handle = join_whole(&joiner, &[&member]);
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
    let handle = join_whole(&joiner, &[&member]);
    drop((handle, joiner));
    assert!(damage(directories[1].path(), STEP / 4) > 20);

    // A little of every leaf changes, and of every long value.
    let changed = (3..KEYS).step_by(50).map(|number| (key(number), [&b"new"[..], &value(number, 0)].concat()));
    put(&source, 3, DATA, changed);
    seal(&source);
    let joiner = open(directories[1].path());
    let handle = join_whole(&joiner, &[&member]);
    let figures = handle.status().figures;
    assert_eq!(figures.sources.iter().map(|source| source.damaged).sum::<u64>(), 0, "{figures:?}");
    assert_equal(&source, &joiner);
}

#[test]
fn an_old_tree_that_cannot_be_walked_is_no_base_although_nobody_else_has_it() {
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [source, newer, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, KEYS);
    let old = seal(&source);
    let member = serve(&source);
    let handle = join_whole(&joiner, &[&member]);
    drop((handle, joiner, member));
    damage_chunk(directories[2].path(), old.manifest.sections[usize::from(DATA.0)].root.id);

    // A member that never sealed the old one.
    fill(&newer, KEYS);
    put(&newer, 3, DATA, (3..KEYS).step_by(50).map(|number| (key(number), value(number, 1))));
    seal(&newer);
    let member = serve(&newer);
    let joiner = open(directories[2].path());
    let _joined = join_whole(&joiner, &[&member]);
    assert_equal(&newer, &joiner);
}

#[test]
fn a_state_whose_newest_manifest_is_lost_says_so_and_goes_on_from_an_older_one() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    fill(&keyed, 1000);
    seal(&keyed);
    let change = |keyed: &Keyed| put(keyed, 3, DATA, [(key(1), b"later".to_vec())].into_iter());
    change(&keyed);
    let newest = seal(&keyed);
    assert_eq!(keyed.lost_snapshots(), []);
    drop(keyed);
    damage_chunk(directory.path(), newest.snapshot);

    let keyed = open(directory.path());
    assert_eq!((keyed.position(), keyed.lost_snapshots()), (at(2), &[newest.snapshot][..]));
    change(&keyed);
    assert_eq!(seal(&keyed).snapshot, newest.snapshot);
    drop(keyed);
    let keyed = open(directory.path());
    assert_eq!((keyed.position(), keyed.lost_snapshots()), (at(3), &[][..]));
}

//! A member fetches a keyed state from others, and serves while it does.

use landfall::keyed::{Extent, KeyedError, Milestone, SealRefused};

use crate::ground::{CONFIG, DATA, assert_equal, at, fill, join, key, open, put, seal, serve, value};

#[test]
fn a_joiner_serves_before_everything_is_there_and_ends_with_the_same_state() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 20_000);
    let sealed = seal(&source);
    let member = serve(&source);

    let joiner = open(directories[1].path());
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Viable).unwrap();
    assert_eq!(handle.adopt().unwrap(), at(2));
    assert_eq!(joiner.get(CONFIG, b"members").unwrap().unwrap(), &b"a, b, c"[..]);
    for number in [3, 11_111, 19_503] {
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0));
    }
    put(&joiner, 3, DATA, [(key(1), b"new".to_vec())].into_iter());
    handle.wait(Milestone::Complete).unwrap();
    assert_eq!(joiner.get(DATA, &key(1)).unwrap().unwrap(), &b"new"[..]);
    assert_eq!(joiner.sealed().unwrap().extent, Extent::Whole);
    drop(handle);
    drop(member);

    put(&source, 3, DATA, [(key(1), b"new".to_vec())].into_iter());
    assert_equal(&source, &joiner);
    let [left, right] = [source, joiner].map(|keyed| seal(&keyed));
    assert_eq!(left.snapshot, right.snapshot);
    assert_ne!(left.snapshot, sealed.snapshot);
}

#[test]
fn a_state_that_is_still_being_filled_does_not_seal() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 5000);
    seal(&source);
    let member = serve(&source);
    let joiner = open(directories[1].path());
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Viable).unwrap();
    drop(member);
    drop(handle.adopt());
    match joiner.seal() {
        Err(refused) => assert_eq!(refused, SealRefused::Filling),
        // Everything had come before the source went.
        Ok(_) => assert_eq!(joiner.sealed().unwrap().extent, Extent::Whole),
    }
    handle.stop();
    let read = joiner.get(DATA, &key(4999));
    assert!(matches!(read, Ok(Some(_)) | Err(KeyedError::NotHere { .. })), "{read:?}");
}

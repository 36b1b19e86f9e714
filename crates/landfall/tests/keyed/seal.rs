//! A keyed state on its own: changes, seals, and what is left of both after it was opened again.

use landfall::core::keyed::ReadError;
use landfall::keyed::Transaction;

use crate::ground::{CONFIG, DATA, at, fill, key, open, put, seal, value};

#[test]
fn what_was_sealed_is_there_after_the_state_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    fill(&keyed, 3000);
    let report = seal(&keyed);
    put(&keyed, 3, DATA, [(key(5), b"after the seal".to_vec())].into_iter());
    assert_eq!(keyed.get(DATA, &key(5)).unwrap().unwrap(), &b"after the seal"[..]);
    drop(keyed);

    let keyed = open(directory.path());
    assert_eq!((keyed.position(), keyed.log_hash()), (at(2), report.manifest.log_hash));
    assert_eq!(keyed.sealed().unwrap().id, report.snapshot);
    for number in [0, 5, 503, 2999] {
        assert_eq!(keyed.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0), "{number}");
    }
    assert_eq!(keyed.get(DATA, b"no such key").unwrap(), None);
}

#[test]
fn two_members_that_took_different_ways_to_the_same_content_seal_the_same_root() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [left, right] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&left, 2000);
    seal(&left);
    put(&left, 3, DATA, (0..2000).step_by(7).map(|number| (key(number), value(number, 1))));
    let left = seal(&left);

    fill(&right, 2000);
    put(&right, 3, DATA, (0..2000).step_by(7).map(|number| (key(number), value(number, 1))));
    let right = seal(&right);
    assert_eq!(left.state_root, right.state_root);
    assert_eq!(left.snapshot, right.snapshot);
}

#[test]
fn a_record_that_comes_twice_changes_the_state_once() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    fill(&keyed, 10);
    let mut count = |transaction: &mut Transaction<'_>| -> Result<u8, ReadError> {
        let next = transaction.get(CONFIG, b"count")?.map_or(0, |count| count[0]) + 1;
        transaction.put(CONFIG, &b"count"[..], vec![next])?;
        Ok(next)
    };
    assert_eq!(keyed.transact(at(3), b"record", &mut count).unwrap(), Some(1));
    assert_eq!(keyed.transact(at(3), b"record", &mut count).unwrap(), None);
    assert_eq!(keyed.transact(at(4), b"record", &mut count).unwrap(), Some(2));
    assert_eq!(keyed.get(CONFIG, b"count").unwrap().unwrap(), &[2][..]);
}

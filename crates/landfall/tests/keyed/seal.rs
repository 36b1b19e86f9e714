//! A keyed state on its own: changes, seals, and what is left of both after it was opened again.

use std::sync::atomic::{AtomicBool, Ordering};

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

#[test]
fn reads_see_every_change_while_seals_come_and_old_snapshots_go() {
    let directory = tempfile::tempdir().unwrap();
    let mut keyed = open(directory.path());
    fill(&keyed, 5000);
    put(&keyed, 3, DATA, (0..5000).map(|number| (key(number), 3_u64.to_le_bytes().to_vec())));
    let mut index = 4_u64;
    for _ in 0..4 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (keyed, done) = (&keyed, &done);
                scope.spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let left = keyed.get(DATA, &key(reader)).unwrap().unwrap();
                        let scanned = keyed.scan(DATA, &key(4000), 50).unwrap();
                        assert_eq!(scanned.len(), 50);
                        // All keys of one change have the same version.
                        assert!(scanned.iter().all(|(_, value)| value == &scanned[0].1), "half a change was seen");
                        let version = u64::from_le_bytes(left[..8].try_into().unwrap());
                        assert!(version >= last, "a read went back from {last} to {version}");
                        last = version;
                    }
                });
            }
            for _ in 0..12 {
                let version = index.to_le_bytes().to_vec();
                let changed = (0..5000).filter(|number| number % 50 < 2 || (4000..4050).contains(number));
                put(&keyed, index, DATA, changed.map(|number| (key(number), version.clone())));
                index += 1;
                seal(&keyed);
            }
            done.store(true, Ordering::Relaxed);
        });
        // What is open is not collected; opening again closes it.
        drop(keyed);
        keyed = open(directory.path());
    }
    assert_eq!(keyed.position(), at(index - 1));
}

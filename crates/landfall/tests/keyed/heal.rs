//! A state that differs from what others sealed becomes what they sealed.

use std::sync::Arc;

use landfall::keyed::{AdoptError, Extent, JoinOptions, Keyed, Milestone, SealReport};
use landfall::member::Member;
use landfall::net::PlainTransport;

use crate::ground::{DATA, assert_equal, at, fill, join, key, open, options, put, seal, serve};

const KEYS: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    Right,
    Wrong,
}

/// Five entries of the log; whoever goes wrong does something else at the first.
fn go_on(keyed: &Arc<Keyed>, from: u64, goes: Goes) {
    for index in from..from + 5 {
        let is_wrong = goes == Goes::Wrong && index == from;
        let value = if is_wrong { b"wrong".to_vec() } else { index.to_le_bytes().to_vec() };
        put(keyed, index, DATA, [(key(index * 7), value)].into_iter());
    }
}

/// The second one went wrong; what both sealed at position 7, and the second again at 12.
fn two_that_differ(source: &Arc<Keyed>, wrong: &Arc<Keyed>) -> SealReport {
    for (keyed, goes) in [(source, Goes::Right), (wrong, Goes::Wrong)] {
        fill(keyed, KEYS);
        seal(keyed);
        go_on(keyed, 3, goes);
    }
    let right = seal(source);
    assert_ne!(seal(wrong).state_root, right.state_root);
    go_on(wrong, 8, Goes::Right);
    seal(wrong);
    put(wrong, 13, DATA, [(key(1), b"not sealed".to_vec())].into_iter());
    right
}

fn wanted(source: &Member, sealed: &SealReport) -> JoinOptions {
    JoinOptions { wanted: Some(sealed.snapshot), ..options(&[source], Arc::new(PlainTransport)) }
}

#[test]
fn a_state_that_went_wrong_becomes_what_others_sealed_and_offers_nothing_else() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, wrong] = directories.each_ref().map(|directory| open(directory.path()));
    let right = two_that_differ(&source, &wrong);
    let own = wrong.snapshots().into_iter().find(|held| held.manifest.position == at(7)).unwrap();
    let member = serve(&source);
    // It is older than what the state stands on: an ordinary join refuses it.
    assert!(join(&wrong, &[&member]).wait(Milestone::Planned).is_err());
    let healing = wrong.join_to_heal(wanted(&member, &right));
    healing.wait(Milestone::Complete).unwrap();
    assert!(matches!(healing.adopt(), Err(AdoptError::Refused(_))));
    let keys: Vec<_> = healing.differences(&own.manifest, 10).unwrap().into_iter().map(|found| found.key).collect();
    assert_eq!(keys, [key(21)]);
    assert_eq!(healing.heal().unwrap(), at(7));
    drop(healing);

    assert_eq!((wrong.position(), wrong.log_hash(), wrong.overlay_bytes()), (at(7), source.log_hash(), 0));
    assert_equal(&source, &wrong);
    let held: Vec<_> = wrong.snapshots().into_iter().map(|held| (held.id, held.extent)).collect();
    assert_eq!(held, [(right.snapshot, Extent::Whole)], "what it sealed itself is offered to nobody");
    // What the log says next leads both to the same.
    for keyed in [&source, &wrong] {
        go_on(keyed, 8, Goes::Right);
    }
    assert_eq!(seal(&source).snapshot, seal(&wrong).snapshot);
}

#[test]
fn a_state_that_was_healed_is_opened_where_it_was_healed() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, wrong] = directories.each_ref().map(|directory| open(directory.path()));
    let right = two_that_differ(&source, &wrong);
    let member = serve(&source);
    let healing = wrong.join_to_heal(wanted(&member, &right));
    healing.wait(Milestone::Complete).unwrap();
    healing.heal().unwrap();
    drop((healing, wrong, member));
    let wrong = open(directories[1].path());
    assert_eq!((wrong.position(), wrong.sealed().unwrap().id), (at(7), right.snapshot));
    assert_equal(&source, &wrong);
}

//! Joins while things are slow, break, lie, or are cut short.

use std::sync::Arc;

use landfall::core::keyed::ReadError;
use landfall::keyed::{Extent, JoinOptions, KeyedError, Milestone, SealRefused, Transaction};
use landfall::net::PlainTransport;

use crate::gate::Gate;
use crate::ground::{
    CONFIG, DATA, assert_equal, at, fill, join, join_whole, key, open, options, put, seal, serve, value,
};

/// Frames of bulk that are a part of a state of 20,000 keys, and not all of it.
const SOME_FRAMES: u64 = 20;

#[test]
fn reads_and_changes_go_on_while_bulk_stands_still() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 20_000);
    seal(&source);
    let member = serve(&source);
    let gate = Gate::new(0);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();

    assert_eq!(joiner.get(CONFIG, b"members").unwrap().unwrap(), &b"a, b, c"[..]);
    for number in [0, 3, 7_777, 19_999] {
        let before = gate.urgent_requests();
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0));
        // Key 0 and key 3 share a leaf, but the long value of key 3 is not in it.
        assert_eq!(gate.urgent_requests(), before + 1, "a cold read is one request");
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0));
        assert_eq!(gate.urgent_requests(), before + 1, "a warm read is none");
    }
    let found = joiner.scan(DATA, &key(12_000), 700).unwrap();
    assert!(found.iter().map(|(key, _)| key.to_vec()).eq((12_000..12_700).map(key)));
    assert!(found.iter().zip(12_000..).all(|((_, found), number)| *found == value(number, 0)));

    let move_value = |transaction: &mut Transaction<'_>| -> Result<(), ReadError> {
        let moved = transaction.get(DATA, &key(15_000))?.unwrap();
        transaction.delete(DATA, key(15_000))?;
        Ok(transaction.put(DATA, key(30_000), moved)?)
    };
    joiner.transact(at(3), b"move", move_value).unwrap().unwrap();
    source.transact(at(3), b"move", move_value).unwrap().unwrap();
    assert_eq!(joiner.get(DATA, &key(30_000)).unwrap().unwrap(), value(15_000, 0));
    assert_eq!(joiner.seal().unwrap_err(), SealRefused::Filling);
    assert!(handle.status().reached.iter().all(|(milestone, _)| *milestone != Milestone::Complete));

    gate.open();
    handle.wait(Milestone::Complete).unwrap();
    assert_equal(&source, &joiner);
    assert_eq!(seal(&source).snapshot, seal(&joiner).snapshot);
}

#[test]
fn a_scan_in_small_steps_asks_for_what_lies_ahead() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 20_000);
    let sealed = seal(&source);
    let member = serve(&source);
    let gate = Gate::new(0);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();

    let before = gate.urgent_requests();
    for first in (5000..8000).step_by(10) {
        // Long values are fetched one by one: they are not what this is about.
        let found = joiner.scan(DATA, &key(first + 5), 3).unwrap();
        assert!(found.iter().map(|(key, _)| key.to_vec()).eq((first + 5..first + 8).map(key)));
    }
    let leaves = sealed.nodes * 3000 / 20_000;
    let requests = gate.urgent_requests() - before;
    assert!(requests <= leaves / 3, "{requests} requests for about {leaves} leaves");
}

#[test]
fn a_join_that_was_cut_short_goes_on_where_it_was() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 40_000);
    let sealed = seal(&source);
    let member = serve(&source);

    let joiner = open(directories[1].path());
    let gate = Gate::new(100);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    gate.wait_until_exhausted();
    drop(handle);
    assert!(matches!(joiner.get(DATA, &key(39_999)), Err(KeyedError::NotHere { .. })));
    drop(joiner);

    let joiner = open(directories[1].path());
    let half = joiner.sealed().unwrap();
    assert_eq!((half.id, half.extent, joiner.position()), (sealed.snapshot, Extent::Filling, at(2)));
    // Until sources are there again, what came can be read.
    assert_eq!(joiner.get(CONFIG, b"members").unwrap().unwrap(), &b"a, b, c"[..]);
    let again = Gate::new(0);
    let handle = joiner.join(options(&[&member], again.transport()));
    handle.wait(Milestone::Planned).unwrap();
    assert_eq!(joiner.get(DATA, &key(39_999)).unwrap().unwrap(), value(39_999, 0), "reads fault at once");
    again.open();
    handle.wait(Milestone::Complete).unwrap();
    let whole = sealed.manifest.payload_bytes();
    let brought = handle.status().figures.wire_received;
    assert!(brought < whole * 4 / 5, "{brought} bytes came again of {whole}");
    assert_eq!(joiner.sealed().unwrap().extent, Extent::Whole);
    assert_equal(&source, &joiner);
}

#[test]
fn an_old_snapshot_makes_the_next_join_small() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 50_000);
    seal(&source);
    let member = serve(&source);
    let handle = join_whole(&joiner, &[&member]);
    assert_eq!(joiner.sealed().unwrap().extent, Extent::Whole);
    drop(handle);

    let changed = (0..50_000).step_by(100);
    put(&source, 3, DATA, changed.clone().map(|number| (key(number), value(number, 1))));
    seal(&source);
    let handle = join_whole(&joiner, &[&member]);
    assert_equal(&source, &joiner);
    let changed_bytes: u64 = changed.map(|number| (key(number).len() + value(number, 1).len()) as u64).sum();
    let status = handle.status();
    let figures = &status.figures;
    assert_eq!((figures.entries_here, status.left), (figures.entries_wanted, None), "all is accounted for, none twice");
    assert!(figures.entries_came < figures.entries_here, "{figures:?}");
    let brought = figures.wire_received;
    assert!(brought < changed_bytes * 2, "{brought} bytes came for {changed_bytes} bytes of changed records");
}

#[test]
fn a_source_that_dies_is_made_up_for_by_another() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, second, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    for source in [&source, &second] {
        fill(source, 30_000);
    }
    assert_eq!(seal(&source).snapshot, seal(&second).snapshot);
    let (member, other) = (serve(&source), serve(&second));
    let gate = Gate::new(SOME_FRAMES);
    let handle = joiner.join(options(&[&member, &other], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    gate.wait_for_bulk(SOME_FRAMES);
    member.close();
    for number in [29_999, 10_003] {
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0));
    }
    gate.open();
    handle.wait(Milestone::Complete).unwrap();
    assert_equal(&source, &joiner);
}

#[test]
fn a_join_whose_sources_are_all_gone_goes_on_with_one_that_is_named_while_it_runs() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, second, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    for source in [&source, &second] {
        fill(source, 30_000);
        seal(source);
    }
    let member = serve(&source);
    let gate = Gate::new(SOME_FRAMES);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    gate.wait_for_bulk(SOME_FRAMES);
    member.close();

    // A read that waits for a source goes on with it as well.
    let read = std::thread::scope(|scope| {
        let read = scope.spawn(|| joiner.get(DATA, &key(29_999)));
        let other = serve(&second);
        handle.add_source(other.address().unwrap());
        gate.open();
        handle.wait(Milestone::Complete).unwrap();
        read.join().unwrap()
    });
    assert_eq!(read.unwrap().unwrap(), value(29_999, 0));
    assert_equal(&source, &joiner);
}

#[test]
fn a_source_that_lies_is_not_believed() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, second, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    for source in [&source, &second] {
        fill(source, 20_000);
        seal(source);
    }
    let (liar, honest) = (serve(&source), serve(&second));
    let gate = Gate::new(u64::MAX);
    gate.believe_nothing_from(&liar.address().unwrap());
    let handle = joiner.join(options(&[&liar, &honest], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    assert_eq!(joiner.get(DATA, &key(3)).unwrap().unwrap(), value(3, 0));
    handle.wait(Milestone::Complete).unwrap();
    drop(handle);
    assert_equal(&source, &joiner);
}

#[test]
fn a_join_that_failed_when_it_could_serve_is_adopted_and_the_next_goes_on_from_it() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 20_000);
    seal(&source);
    let member = serve(&source);
    let gate = Gate::new(0);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    gate.believe_nothing_from(&member.address().unwrap());
    gate.open();
    handle.wait(Milestone::Complete).unwrap_err();
    assert_eq!(handle.adopt().unwrap(), at(2));
    drop(handle);
    assert_eq!(joiner.get(CONFIG, b"members").unwrap().unwrap(), &b"a, b, c"[..]);
    assert_eq!(joiner.sealed().unwrap().extent, Extent::Filling);

    let _joined = join_whole(&joiner, &[&member]);
    assert_equal(&source, &joiner);
}

#[test]
fn what_is_used_most_and_cannot_be_had_by_itself_comes_with_the_rest() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 20_000);
    seal(&source);
    let member = serve(&source);
    for _ in 0..2000 {
        source.get(DATA, &key(12_345)).unwrap().unwrap();
    }
    let gate = Gate::new(u64::MAX);
    // The first is for what serving needs.
    gate.let_ask_in_vain(2);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Complete).unwrap();
    handle.wait(Milestone::Warm).unwrap();
    handle.adopt().unwrap();
    assert_equal(&source, &joiner);
}

#[test]
fn a_relay_that_is_still_filling_gives_what_it_has() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, relay, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 20_000);
    let sealed = seal(&source);
    let member = serve(&source);
    let gate = Gate::new(SOME_FRAMES);
    let half = relay.join(options(&[&member], gate.transport()));
    half.wait(Milestone::Viable).unwrap();
    half.adopt().unwrap();
    gate.wait_until_exhausted();
    let relaying = serve(&relay);

    // It claims no head of its own, and is of use to whoever knows what to ask for.
    let alone = join(&joiner, &[&relaying]).wait(Milestone::Planned).unwrap_err();
    assert!(alone.to_string().contains("no snapshot"), "{alone}");
    let mut both = options(&[&relaying, &member], Arc::new(PlainTransport));
    both.wanted = Some(sealed.snapshot);
    let handle = joiner.join(both);
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    handle.wait(Milestone::Complete).unwrap();
    let figures = handle.status().figures;
    drop(handle);
    assert!(figures.sources.len() == 2, "{figures:?}");
    assert_equal(&source, &joiner);
}

#[test]
fn changes_that_are_later_than_the_snapshot_survive_its_adoption() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    for keyed in [&source, &joiner] {
        fill(keyed, 5000);
    }
    seal(&source);
    let member = serve(&source);
    put(&joiner, 3, DATA, [(key(1), b"later".to_vec())].into_iter());
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Viable).unwrap();
    assert_eq!(handle.adopt().unwrap(), at(2));
    assert_eq!(joiner.position(), at(3));
    assert_eq!(joiner.get(DATA, &key(1)).unwrap().unwrap(), &b"later"[..]);
    handle.wait(Milestone::Complete).unwrap();
    put(&source, 3, DATA, [(key(1), b"later".to_vec())].into_iter());
    assert_eq!(source.log_hash(), joiner.log_hash());
    assert_eq!(seal(&source).snapshot, seal(&joiner).snapshot);
}

#[test]
fn a_half_filled_state_moves_on_to_what_the_others_sealed_since() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 30_000);
    let first = seal(&source);
    let member = serve(&source);
    let gate = Gate::new(SOME_FRAMES);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    gate.wait_until_exhausted();

    let changed = (0..30_000).step_by(1000).map(|number| (key(number), value(number, 1)));
    put(&source, 3, DATA, changed.clone());
    put(&joiner, 3, DATA, changed);
    put(&joiner, 4, DATA, [(key(7), b"later".to_vec())].into_iter());
    let second = seal(&source);
    handle.stop();

    let gate = Gate::new(0);
    let handle = joiner.join(JoinOptions { wanted: Some(second.snapshot), ..options(&[&member], gate.transport()) });
    handle.wait(Milestone::Viable).unwrap();
    assert_eq!(joiner.sealed().unwrap().id, first.snapshot);
    assert_eq!(handle.adopt().unwrap(), at(3));
    let moved = joiner.sealed().unwrap();
    assert_eq!((moved.id, moved.extent, joiner.position()), (second.snapshot, Extent::Filling, at(4)));
    for (number, expected) in [(29_000, value(29_000, 1)), (7, b"later".to_vec()), (29_001, value(29_001, 0))] {
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), expected);
    }
    gate.open();
    handle.wait(Milestone::Complete).unwrap();
    put(&source, 4, DATA, [(key(7), b"later".to_vec())].into_iter());
    assert_eq!(seal(&source).snapshot, seal(&joiner).snapshot);
}

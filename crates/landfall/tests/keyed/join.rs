//! A member fetches a keyed state from others, and serves while it does.

use landfall::core::join::{Command, HookOutcome, Snapshot, Tally};
use landfall::keyed::{Extent, JoinHandle, KeyedError, Milestone, SealRefused};

use crate::gate::Gate;
use crate::ground::{CONFIG, DATA, assert_equal, at, fill, join, key, open, options, put, seal, serve, value};

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
fn what_the_readers_of_the_source_use_most_comes_first() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 40_000);
    seal(&source);
    let member = serve(&source);
    let popular = [12_345, 31_000, 31_003];
    for _ in 0..2000 {
        for number in popular {
            source.get(DATA, &key(number)).unwrap().unwrap();
        }
    }
    let gate = Gate::new(0);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Warm).unwrap();
    handle.adopt().unwrap();
    let before = gate.urgent_requests();
    for number in popular {
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 0));
    }
    assert_eq!(gate.urgent_requests(), before, "what is hot is here");
    joiner.get(DATA, &key(20_000)).unwrap().unwrap();
    assert_eq!(gate.urgent_requests(), before + 1, "what is not comes with the bulk");
    assert!(handle.status().reached.iter().all(|(milestone, _)| *milestone != Milestone::Complete));

    gate.open();
    handle.wait(Milestone::Complete).unwrap();
    assert_equal(&source, &joiner);
}

#[test]
fn a_read_that_cannot_wait_brings_only_what_changed_since_an_older_snapshot() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    for keyed in [&source, &joiner] {
        fill(keyed, 40_000);
        seal(keyed);
    }
    let changed = || (0..400).map(|number| number * 100);
    put(&source, 3, DATA, changed().map(|number| (key(number), value(number, 1))));
    seal(&source);
    let member = serve(&source);
    let gate = Gate::new(0);
    let handle = joiner.join(options(&[&member], gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    let (requests, bytes) = (gate.urgent_requests(), gate.urgent_bytes_passed());
    for number in changed().step_by(40) {
        assert_eq!(joiner.get(DATA, &key(number)).unwrap().unwrap(), value(number, 1));
    }
    let [requests, bytes] = [gate.urgent_requests() - requests, gate.urgent_bytes_passed() - bytes];
    assert_eq!(requests, 10, "each of them lies in a leaf of its own");
    // A leaf has many times as many bytes.
    assert!(bytes < requests * 1000, "{bytes} bytes");
    gate.open();
    handle.wait(Milestone::Complete).unwrap();
    assert_equal(&source, &joiner);
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

#[test]
fn a_joiner_whose_root_the_others_confirm_becomes_a_member() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source, 2000);
    seal(&source);
    let member = serve(&source);
    let handle = join(&joiner, &[&member]);
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    handle.wait(Milestone::Complete).unwrap();

    put(&joiner, 3, DATA, [(key(1), b"new".to_vec())].into_iter());
    put(&source, 3, DATA, [(key(1), b"new".to_vec())].into_iter());
    handle.tell(|join, now| join.handle_applied(at(3), at(3), now));
    handle.wait(Milestone::CaughtUp).unwrap();
    assert_eq!(next(&handle), Command::Audit { position: at(3) });
    let (ours, theirs) = (seal(&joiner), seal(&source));
    let equal = u32::from(ours.state_root == theirs.state_root);
    let most = Some(Snapshot { id: theirs.snapshot, position: at(3) });
    handle.tell(|join, now| join.handle_audit(Tally { position: at(3), equal, different: 1 - equal, most }, now));
    handle.wait(Milestone::Verified).unwrap();
    let Command::RunCommitHook { lease } = next(&handle) else { panic!("the hook runs next") };
    handle.tell(|join, now| join.handle_hook(lease, HookOutcome::Done, now));
    handle.wait(Milestone::Promoted).unwrap();
    let reached: Vec<_> = handle.status().reached.iter().map(|(milestone, _)| *milestone).collect();
    assert_eq!(reached, Milestone::ALL);
}

/// The next command, which the join's thread may still be about to hand over.
fn next(handle: &JoinHandle) -> Command {
    loop {
        if let Some(command) = handle.poll_command() {
            return command;
        }
        std::thread::yield_now();
    }
}

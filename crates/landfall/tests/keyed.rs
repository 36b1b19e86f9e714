//! A keyed state is changed, sealed, served, and joined by other members, in one process, over loopback.

use std::path::Path;
use std::sync::Arc;

use landfall::core::keyed::ReadError;
use landfall::core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use landfall::keyed::{
    Extent, JoinHandle, JoinOptions, Keyed, KeyedConfig, KeyedError, Milestone, Schema, SealRefused, SectionId,
    SectionSchema, Transaction,
};
use landfall::member::{Member, ServeConfig};
use landfall::net::PlainTransport;
use landfall::pull::TrustAll;

fn schema() -> Schema {
    let section = |name: &str, priority| SectionSchema {
        name: StateName::new(name).unwrap(),
        priority,
        range: KeyRange::default(),
    };
    let sections = vec![section("config", SectionPriority::Vital), section("data", SectionPriority::Bulk)];
    Schema::new(sections).unwrap()
}

const CONFIG: SectionId = SectionId(0);
const DATA: SectionId = SectionId(1);

fn open(directory: &Path) -> Arc<Keyed> {
    let name = StateName::new("orders").unwrap();
    let config = KeyedConfig {
        name,
        directory: directory.to_owned(),
        schema: schema(),
        cache_bytes: 8 << 20,
        salt_seed: [7; 32],
    };
    Keyed::open(config).unwrap()
}

fn at(index: u64) -> Position {
    Position { epoch: 1, index }
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// The value of a key in its version; some are long, and none compresses well.
fn value(number: u64, version: u64) -> Vec<u8> {
    let length = if number % 500 == 3 { 5000 } else { 60 };
    let mut state = (number << 20 | version).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| (next() >> 32) as u8).collect()
}

fn put(keyed: &Keyed, index: u64, section: SectionId, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Clone) {
    let run = |transaction: &mut Transaction<'_>| {
        for (key, value) in entries.clone() {
            transaction.put(section, key, value)?;
        }
        Ok(())
    };
    keyed.transact(at(index), b"record", run).unwrap().expect("a new position");
}

/// A state of `count` keys at position 2.
fn fill(keyed: &Keyed, count: u64) {
    put(keyed, 1, CONFIG, [(b"members".to_vec(), b"a, b, c".to_vec())].into_iter());
    put(keyed, 2, DATA, (0..count).map(|number| (key(number), value(number, 0))));
}

fn serve(keyed: &Arc<Keyed>) -> Member {
    let config = ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        keyed: vec![keyed.clone()],
        ..ServeConfig::new(Arc::new(PlainTransport))
    };
    Member::serve(config).unwrap()
}

fn options(sources: &[&Member]) -> JoinOptions {
    JoinOptions {
        sources: sources.iter().map(|source| source.address().unwrap()).collect(),
        transport: Arc::new(PlainTransport),
        trust: Arc::new(TrustAll),
        wanted: None,
    }
}

fn join(keyed: &Arc<Keyed>, sources: &[&Member]) -> JoinHandle {
    keyed.join(options(sources))
}

/// Every entry of a section.
fn entries(keyed: &Keyed, section: SectionId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from = Vec::new();
    loop {
        let some = keyed.scan(section, &from, 1000).unwrap();
        let Some((last, _)) = some.last() else { return all };
        from = [last, &b"\0"[..]].concat();
        all.extend(some.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
}

#[track_caller]
fn assert_equal(left: &Keyed, right: &Keyed) {
    for section in [CONFIG, DATA] {
        assert!(entries(left, section) == entries(right, section), "section {section:?} differs");
    }
}

#[test]
fn what_was_sealed_is_there_after_the_state_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    fill(&keyed, 3000);
    let report = keyed.seal().unwrap().wait().unwrap();
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
    left.seal().unwrap().wait().unwrap();
    put(&left, 3, DATA, (0..2000).step_by(7).map(|number| (key(number), value(number, 1))));
    let left = left.seal().unwrap().wait().unwrap();

    fill(&right, 2000);
    put(&right, 3, DATA, (0..2000).step_by(7).map(|number| (key(number), value(number, 1))));
    let right = right.seal().unwrap().wait().unwrap();
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
fn a_joiner_serves_before_everything_is_there_and_ends_with_the_same_state() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 20_000);
    let sealed = source.seal().unwrap().wait().unwrap();
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
    let [left, right] = [source, joiner].map(|keyed| keyed.seal().unwrap().wait().unwrap());
    assert_eq!(left.snapshot, right.snapshot);
    assert_ne!(left.snapshot, sealed.snapshot);
}

#[test]
fn a_state_that_is_still_being_filled_does_not_seal() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 5000);
    source.seal().unwrap().wait().unwrap();
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

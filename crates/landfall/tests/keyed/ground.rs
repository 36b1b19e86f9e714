//! What the tests of keyed states stand on: states with known content, members that serve them, joins.

use std::path::Path;
use std::sync::Arc;

use landfall::core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use landfall::keyed::{
    JoinHandle, JoinOptions, Keyed, KeyedConfig, Milestone, Schema, SealReport, SectionId, SectionSchema, Sections,
    Transaction,
};
use landfall::member::{Member, ServeConfig};
use landfall::net::{PlainTransport, Transport};
use landfall::pull::TrustAll;

pub(crate) fn name(name: &str) -> StateName {
    StateName::new(name).unwrap()
}

/// A vital section "config", and the others of `bulk`.
pub(crate) fn schema_of(bulk: &[&str]) -> Schema {
    let section = |text, priority| SectionSchema { name: name(text), priority, range: KeyRange::default() };
    let bulk = bulk.iter().map(|text| section(text, SectionPriority::Bulk));
    Schema::new([section("config", SectionPriority::Vital)].into_iter().chain(bulk).collect()).unwrap()
}

fn schema() -> Schema {
    schema_of(&["data"])
}

pub(crate) const CONFIG: SectionId = SectionId(0);
pub(crate) const DATA: SectionId = SectionId(1);

pub(crate) fn open(directory: &Path) -> Arc<Keyed> {
    open_as(directory, schema())
}

pub(crate) fn open_as(directory: &Path, schema: Schema) -> Arc<Keyed> {
    let name = name("orders");
    let config =
        KeyedConfig { name, directory: directory.to_owned(), schema, cache_bytes: 8 << 20, salt_seed: [7; 32] };
    Keyed::open(config).unwrap()
}

pub(crate) fn at(index: u64) -> Position {
    Position { epoch: 1, index }
}

pub(crate) fn key(number: u64) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// The value of a key in its version; some are long, and none compresses well.
pub(crate) fn value(number: u64, version: u64) -> Vec<u8> {
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

pub(crate) fn put(
    keyed: &Keyed,
    index: u64,
    section: SectionId,
    entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Clone,
) {
    let run = |transaction: &mut Transaction<'_>| {
        for (key, value) in entries.clone() {
            transaction.put(section, key, value)?;
        }
        Ok(())
    };
    keyed.transact(at(index), b"record", run).unwrap().expect("a new position");
}

/// A state of `count` keys at position 2.
pub(crate) fn fill(keyed: &Keyed, count: u64) {
    put(keyed, 1, CONFIG, [(b"members".to_vec(), b"a, b, c".to_vec())].into_iter());
    put(keyed, 2, DATA, (0..count).map(|number| (key(number), value(number, 0))));
}

pub(crate) fn serve(keyed: &Arc<Keyed>) -> Member {
    let config = ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        keyed: vec![keyed.clone()],
        ..ServeConfig::new(Arc::new(PlainTransport))
    };
    Member::serve(config).unwrap()
}

pub(crate) fn options(sources: &[&Member], transport: Arc<dyn Transport>) -> JoinOptions {
    JoinOptions {
        sources: sources.iter().map(|source| source.address().unwrap()).collect(),
        transport,
        trust: Arc::new(TrustAll),
        wanted: None,
        sections: Sections::All,
    }
}

pub(crate) fn join(keyed: &Arc<Keyed>, sources: &[&Member]) -> JoinHandle {
    keyed.join(options(sources, Arc::new(PlainTransport)))
}

/// Joins, waits until everything is here, and stands on it.
pub(crate) fn join_whole(keyed: &Arc<Keyed>, sources: &[&Member]) -> JoinHandle {
    let handle = join(keyed, sources);
    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    handle
}

/// Every entry of a section.
pub(crate) fn entries(keyed: &Keyed, section: SectionId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from = Vec::new();
    loop {
        let some = keyed.scan(section, &from, 1000).unwrap();
        let Some((last, _)) = some.last() else { return all };
        from = [last, &b"\0"[..]].concat();
        all.extend(some.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
}

pub(crate) fn seal(keyed: &Arc<Keyed>) -> SealReport {
    keyed.seal().unwrap().wait().unwrap()
}

#[track_caller]
pub(crate) fn assert_equal(left: &Keyed, right: &Keyed) {
    assert_equal_in(left, right, &[CONFIG, DATA]);
}

#[track_caller]
pub(crate) fn assert_equal_in(left: &Keyed, right: &Keyed, sections: &[SectionId]) {
    for &section in sections {
        assert!(entries(left, section) == entries(right, section), "section {section:?} differs");
    }
}

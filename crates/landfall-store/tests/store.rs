//! What the store promises, on a real file system.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::vfs::RealVfs;
use landfall_store::{
    Below, CODEC_RAW, Changes, CollectBudget, CollectOutcome, Encoded, LeaseError, OpenError, Pin, RECORD_BYTES_MAX,
    Reach, Reference, Sealing, Store, StoreError, StoreOptions, StoredFrame, Undecodable, UnixMillis,
};

fn small() -> StoreOptions {
    StoreOptions { pack_bytes_target: 16 * 1024, young_entries_max: 32, sealing: Sealing::OwnThread }
}

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(Arc::new(RealVfs), directory.path(), small()).expect("a store")
}

fn chunk(number: u32) -> Chunk {
    let bytes: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(300 + number as usize % 700).collect();
    Chunk::new(Domain::Data, Bytes::from(bytes))
}

fn check_holds(store: &Store, chunk: &Chunk) {
    let frame = store.get_encoded(chunk.id()).expect("no failure").expect("a frame");
    assert_eq!((frame.codec, &frame.bytes), (CODEC_RAW, chunk.bytes()));
}

#[test]
fn keeps_what_was_put_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let chunks: Vec<_> = (0..500).map(chunk).collect();
    chunks.iter().for_each(|chunk| store.put(chunk).unwrap());
    chunks.iter().for_each(|chunk| check_holds(&store, chunk));
    store.sync().unwrap();
    drop(store);

    let store = open(&directory);
    assert_eq!(store.recovery().unfinished_packs, Vec::<std::path::PathBuf>::new());
    chunks.iter().for_each(|chunk| check_holds(&store, chunk));
    assert!(!store.contains(chunk(1_000).id()).unwrap());
    assert!(store.stats().runs > 0, "{:?}", store.stats());
}

#[test]
fn a_second_opener_is_told_which_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(&directory);
    let second = Store::open(Arc::new(RealVfs), directory.path(), small());
    let Err(OpenError::InUse { directory: named }) = second else { panic!("opened twice") };
    assert_eq!(named, directory.path());
}

/// A manifest here is a list of ids of data chunks.
struct Lists;

impl Reach for Lists {
    fn references(&self, _: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable> {
        let (ids, _) = frame.bytes.as_chunks::<{ ChunkId::BYTES }>();
        found.extend(ids.iter().map(|id| Reference { id: ChunkId::from_bytes(*id), below: Below::Nothing }));
        Ok(())
    }
}

fn list_of(chunks: &[Chunk]) -> Chunk {
    let ids: Vec<u8> = chunks.iter().flat_map(|chunk| *chunk.id().as_bytes()).collect();
    Chunk::new(Domain::Manifest, Bytes::from(ids))
}

#[test]
fn collects_what_nothing_needs_and_keeps_what_a_pin_needs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let chunks: Vec<_> = (0..500).map(chunk).collect();
    chunks.iter().for_each(|chunk| store.put(chunk).unwrap());
    let list = list_of(&chunks[..100]);
    store.put(&list).unwrap();
    store.pin("kept", list.id()).unwrap();
    drop(store);

    let store = open(&directory);
    let report = store.collect(&[], &Lists, UnixMillis(0), CollectBudget::default()).unwrap();
    assert_eq!(report.chunks_live, 101);
    assert!(report.packs_removed > 5, "{report:?}");
    chunks[..100].iter().for_each(|chunk| check_holds(&store, chunk));
    assert!(!store.contains(chunks[499].id()).unwrap());
    store.put(&chunks[499]).unwrap();
    check_holds(&store, &chunks[499]);
}

#[test]
fn a_patch_keeps_its_base_and_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (base, patched) = (chunk(1), chunk(2));
    let form = Encoded { codec: 7, base: Some(base.id()), bytes: b"patch" };
    assert!(store.put_encoded(&patched, form).is_err(), "a patch without its base");
    store.put(&base).unwrap();
    store.put_encoded(&patched, form).unwrap();
    let list = list_of(std::slice::from_ref(&patched));
    store.put(&list).unwrap();
    store.pin("kept", list.id()).unwrap();
    (10..200).for_each(|number| store.put(&chunk(number)).unwrap());
    drop(store);

    let store = open(&directory);
    store.collect(&[], &Lists, UnixMillis(0), CollectBudget::default()).unwrap();
    let frame = store.get_encoded(patched.id()).unwrap().unwrap();
    assert_eq!((frame.codec, frame.base, &frame.bytes[..]), (7, Some(base.id()), &b"patch"[..]));
    check_holds(&store, &base);
}

#[test]
fn many_threads_may_put_and_read_the_same_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let chunks: Vec<_> = (0..400).map(chunk).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, chunks) = (&store, &chunks);
            scope.spawn(move || {
                for position in 0..chunks.len() {
                    let chunk = &chunks[(position * 7 + thread * 13) % chunks.len()];
                    store.put(chunk).unwrap();
                    check_holds(store, chunk);
                }
                store.sync().unwrap();
            });
        }
    });
    drop(store);
    let store = open(&directory);
    chunks.iter().for_each(|chunk| check_holds(&store, chunk));
    assert_eq!(store.stats().frames, 400, "a chunk was stored twice");
}

#[test]
fn collecting_beside_writers_takes_nothing_that_they_need() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let shared: Vec<_> = (0..40).map(chunk).collect();
    let writers = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for writer in 0..3_u32 {
            let (store, shared, writers) = (&store, &shared, &writers);
            scope.spawn(move || {
                for round in 0..12 {
                    write_snapshot(store, shared, writer, round);
                }
                writers.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let (store, writers) = (&store, &writers);
        scope.spawn(move || {
            while writers.load(Ordering::SeqCst) > 0 {
                store.collect(&[], &Lists, UnixMillis(0), CollectBudget::default()).unwrap();
            }
        });
    });
    let report = store.collect(&[], &Lists, UnixMillis(0), CollectBudget::default()).unwrap();
    assert_eq!(report.references_missing, 0, "{report:?}");
}

/// Pins a snapshot of old and new chunks, checks it, and sometimes drops it again.
fn write_snapshot(store: &Store, shared: &[Chunk], writer: u32, round: u32) {
    let name = format!("{writer}");
    let session = store.begin_session();
    let own = (0..20).map(|number| chunk(1_000 + writer * 1_000 + round * 5 + number));
    let chunks: Vec<_> = shared.iter().skip(round as usize % 7).step_by(3).cloned().chain(own).collect();
    chunks.iter().for_each(|chunk| store.put(chunk).unwrap());
    let list = list_of(&chunks);
    store.put(&list).unwrap();
    store.sync().unwrap();
    store.pin(&name, list.id()).unwrap();
    drop(session);
    chunks.iter().for_each(|chunk| check_holds(store, chunk));
    if round % 4 == 3 {
        store.unpin(&name).unwrap();
    }
}

#[test]
fn a_lease_keeps_until_it_expires_and_fences_old_holders() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let chunks: Vec<_> = (0..50).map(chunk).collect();
    chunks.iter().for_each(|chunk| store.put(chunk).unwrap());
    let list = list_of(&chunks);
    store.put(&list).unwrap();
    let first = store.grant_lease("joiner", list.id(), UnixMillis(1_000)).unwrap();
    drop(store);

    let store = open(&directory);
    let collect = |now| store.collect(&[], &Lists, UnixMillis(now), CollectBudget::default()).unwrap();
    assert_eq!(collect(999).chunks_live, 51);
    let first = store.renew_lease(&first, list.id(), UnixMillis(2_000), UnixMillis(999)).unwrap();
    assert_eq!(collect(1_999).chunks_live, 51);
    let second = store.grant_lease("joiner", list.id(), UnixMillis(3_000)).unwrap();
    assert!(second.version > first.version);
    let renewed = store.renew_lease(&first, list.id(), UnixMillis(9_000), UnixMillis(2_500));
    assert!(matches!(renewed, Err(LeaseError::Fenced { current, .. }) if current == second.version));
    assert!(matches!(store.release_lease(&first), Err(LeaseError::Fenced { .. })));
    let late = store.renew_lease(&second, list.id(), UnixMillis(9_000), UnixMillis(3_000));
    assert!(matches!(late, Err(LeaseError::Ended { .. })));
    assert_eq!(store.end_leases(UnixMillis(3_000)).unwrap(), std::slice::from_ref(&second));
    assert_eq!(collect(3_000).chunks_live, 0);
    let third = store.grant_lease("joiner", list.id(), UnixMillis(9_000)).unwrap();
    assert!(third.version > second.version, "a version was used again");
    store.release_lease(&third).unwrap();
    assert_eq!(store.leases().unwrap(), []);
}

#[test]
fn records_are_found_by_prefix_in_order_and_have_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for key in ["head/b", "head/a", "journal/x"] {
        store.set_record(key, key.as_bytes()).unwrap();
    }
    store.remove_record("journal/x").unwrap();
    drop(store);
    let store = open(&directory);
    let heads = store.records("head/").unwrap();
    assert_eq!(heads.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["head/a", "head/b"]);
    assert_eq!(store.record("journal/x").unwrap(), None);
    let too_long = store.set_record("head/c", &vec![0; RECORD_BYTES_MAX + 1]);
    assert!(matches!(too_long, Err(StoreError::TooLong { .. })));
}

#[test]
fn changes_take_effect_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let list = list_of(&[chunk(0)]);
    store.put(&chunk(0)).unwrap();
    store.put(&list).unwrap();
    store.sync().unwrap();
    let mut refused = Changes::default();
    refused.pin("snapshot", list.id());
    refused.set_record("head", vec![0; RECORD_BYTES_MAX + 1]);
    assert!(matches!(store.change(&refused), Err(StoreError::TooLong { .. })));
    assert_eq!(store.pins().unwrap(), []);

    let mut changes = Changes::default();
    changes.pin("snapshot", list.id());
    changes.set_record("head", b"one");
    store.change(&changes).unwrap();
    assert_eq!(store.pins().unwrap(), [Pin { name: "snapshot".into(), manifest: list.id() }]);
    assert_eq!(store.record("head").unwrap().as_deref(), Some(&b"one"[..]));

    let mut changes = Changes::default();
    changes.unpin("snapshot");
    changes.set_record("head", b"none");
    store.change(&changes).unwrap();
    assert_eq!(store.pins().unwrap(), []);
}

#[test]
fn a_chain_of_patches_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.put(&chunk(0)).unwrap();
    let longest = (1..200).find(|number| {
        let form = Encoded { codec: 1, base: Some(chunk(number - 1).id()), bytes: b"patch" };
        matches!(store.put_encoded(&chunk(*number), form), Err(StoreError::BaseUnusable { .. }))
    });
    let longest = longest.expect("a limit");
    (0..longest).for_each(|number| assert!(store.contains(chunk(number).id()).unwrap()));
    store.put(&chunk(longest)).unwrap();
}

#[test]
fn what_was_read_with_all_that_it_is_patched_on_can_be_patched_until_the_chain_ends() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let session = store.begin_session();
    store.put(&chunk(0)).unwrap();
    let longest = (1..200_u32).find(|number| {
        let chain = store.get_chain(&session, chunk(number - 1).id()).unwrap().unwrap();
        let bases: Vec<_> = chain.frames().iter().map(|frame| frame.base).collect();
        let expected: Vec<_> = (0..*number).rev().map(|base| (base > 0).then(|| chunk(base - 1).id())).collect();
        assert_eq!(bases, expected, "itself first, a whole chunk last");
        let base = chain.as_base();
        let put = store.put_patch(&chunk(*number), 1, b"patch", base);
        assert_eq!(put.is_ok(), base.bears_a_patch(), "{put:?}");
        put.is_err()
    });
    let by_name = (1..200_u32).find(|number| {
        let form = Encoded { codec: 1, base: Some(chunk(1_000 + number - 1).id()), bytes: b"patch" };
        store.put(&chunk(1_000)).unwrap();
        store.put_encoded(&chunk(1_000 + number), form).is_err()
    });
    assert_eq!(longest, by_name, "the limit is the same for one who only names the base");
    assert_eq!(store.get_chain(&session, chunk(longest.unwrap()).id()).unwrap().map(drop), None);
}

#[test]
fn a_chain_that_was_read_in_a_session_outlives_collections_until_a_patch_is_put_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let form = Encoded { codec: 1, base: Some(chunk(1).id()), bytes: b"patch" };
    store.put(&chunk(1)).unwrap();
    store.put_encoded(&chunk(2), form).unwrap();
    (10..200).for_each(|number| store.put(&chunk(number)).unwrap());
    drop(store);

    let store = open(&directory);
    let session = store.begin_session();
    let base = store.get_chain(&session, chunk(2).id()).unwrap().unwrap().as_base();
    let report = store.collect(&[], &Lists, UnixMillis(0), CollectBudget::default()).unwrap();
    assert!(report.packs_removed > 0, "{report:?}");
    store.put_patch(&chunk(3), 1, b"patch", base).unwrap();
    let chain = store.get_chain(&session, chunk(3).id()).unwrap().unwrap();
    assert_eq!(chain.frames().len(), 3);
    assert_eq!(chain.frames()[2].bytes, chunk(1).bytes());
}

#[test]
#[should_panic(expected = "a session of another store")]
fn a_session_of_another_store_protects_nothing_here() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (store, other) = (open(&directories[0]), open(&directories[1]));
    let session = other.begin_session();
    drop(store.get_chain(&session, chunk(1).id()));
}

#[test]
fn the_index_needs_less_than_two_bytes_of_memory_per_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { pack_bytes_target: 1024 * 1024, young_entries_max: 8 * 1024, sealing: Sealing::OwnThread };
    let store = Store::open(Arc::new(RealVfs), directory.path(), options).unwrap();
    let count = 100_000_u64;
    for number in 0..count {
        store.put(&Chunk::new(Domain::Data, Bytes::copy_from_slice(&number.to_le_bytes()))).unwrap();
    }
    drop(store);
    let store = Store::open(Arc::new(RealVfs), directory.path(), options).unwrap();
    let stats = store.stats();
    assert_eq!(stats.frames, count);
    assert!(stats.young_entries < 8 * 1024 + 20_000, "{stats:?}");
    assert!(stats.resident_bytes < 2 * count, "{stats:?}");
}

/// Pins one more snapshot while the collector walks.
struct PinsMeanwhile<'a> {
    store: &'a Store,
    manifest: ChunkId,
}

impl Reach for PinsMeanwhile<'_> {
    fn references(&self, id: ChunkId, frame: &StoredFrame, found: &mut Vec<Reference>) -> Result<(), Undecodable> {
        if !self.store.pins().unwrap().iter().any(|pin| pin.name == "late") {
            self.store.pin("late", self.manifest).unwrap();
        }
        Lists.references(id, frame, found)
    }
}

#[test]
fn a_pin_made_while_collecting_keeps_also_what_was_only_a_base_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (early, late): (Vec<_>, Vec<_>) = ((0..20).map(chunk).collect(), (100..120).map(chunk).collect());
    early.iter().chain(&late).for_each(|chunk| store.put(chunk).unwrap());
    let late_list = list_of(&late);
    store.put(&late_list).unwrap();
    let all: Vec<_> = late.iter().chain(&early).cloned().collect();
    let early_list = list_of(&all);
    let tail = list_of(&early);
    let form = Encoded { codec: 1, base: Some(late_list.id()), bytes: tail.bytes() };
    store.put_encoded(&early_list, form).unwrap();
    store.pin("early", early_list.id()).unwrap();
    (200..400).for_each(|number| store.put(&chunk(number)).unwrap());
    drop(store);

    let store = open(&directory);
    let reach = PinsMeanwhile { store: &store, manifest: late_list.id() };
    let report = store.collect(&[], &reach, UnixMillis(0), CollectBudget::default()).unwrap();
    assert_eq!((report.outcome, report.chunks_live), (CollectOutcome::Done, 42));
    assert!(report.packs_removed > 0, "{report:?}");
    all.iter().for_each(|chunk| check_holds(&store, chunk));
}

//! The store at every crash: each file call of a workload fails once, and is once the last before the power goes.

mod support;

use std::collections::BTreeMap;

use landfall_core::{Chunk, Domain};
use landfall_store::vfs::faulty::{Fault, FaultyVfs};
use landfall_store::{Changes, CollectBudget, Encoded, OpenError, Store, StoreError};

use support::{CODEC_APPEND, Lists, NOW, chunk, get, list_of, open};

/// What the store has promised so far: these chunks were synced, then pinned.
type Promises = BTreeMap<&'static str, Vec<Chunk>>;

fn work(vfs: &FaultyVfs, promises: &mut Promises) -> Result<(), OpenError> {
    let store = open(vfs)?;
    store.set_record("head", b"one")?;
    let first: Vec<_> = (0..24).map(chunk).collect();
    snapshot(&store, "first", &first, promises)?;
    (100..120).try_for_each(|number| store.put(&chunk(number)))?;
    let second: Vec<_> = first.iter().step_by(3).cloned().chain((200..208).map(chunk)).collect();
    snapshot(&store, "second", &second, promises)?;
    promises.remove("first");
    let mut changes = Changes::default();
    changes.set_record("head", b"two");
    changes.unpin("first");
    store.change(&changes)?;
    store.collect(&[], &Lists, NOW, CollectBudget::default())?;
    drop(store);

    let store = open(vfs)?;
    snapshot(&store, "third", &(300..310).map(chunk).collect::<Vec<_>>(), promises)?;
    promises.remove("second");
    store.unpin("second")?;
    store.collect(&[], &Lists, NOW, CollectBudget::default())?;
    Ok(())
}

/// Stores chunks, one of them as a patch, and pins them.
fn snapshot(store: &Store, name: &'static str, chunks: &[Chunk], promises: &mut Promises) -> Result<(), StoreError> {
    let _session = store.begin_session();
    chunks.iter().try_for_each(|chunk| store.put(chunk))?;
    let base = &chunks[1];
    let tail = [name.as_bytes(), &base.id().as_bytes()[..]].concat();
    let patched = Chunk::new(Domain::Data, [base.bytes(), &tail[..]].concat().into());
    store.put_encoded(&patched, Encoded { codec: CODEC_APPEND, base: Some(base.id()), bytes: &tail })?;
    // The base is needed only through the patch.
    let needed: Vec<_> = chunks.iter().filter(|chunk| *chunk != base).cloned().chain([patched]).collect();
    let list = list_of(&needed);
    store.put(&list)?;
    store.sync()?;
    store.pin(name, list.id())?;
    promises.insert(name, needed.into_iter().chain([list]).collect());
    Ok(())
}

/// Everything promised is here, everything here is right, and the store takes new work.
#[track_caller]
fn check_store(store: &Store, promises: &Promises) {
    let pins = store.pins().expect("pins");
    for (name, chunks) in promises {
        let list = chunks.last().expect("a list");
        assert!(pins.iter().any(|pin| pin.name == *name && pin.manifest == list.id()), "pin {name} is lost");
        for chunk in chunks {
            let found = get(store, chunk.id()).expect("no failure");
            assert_eq!(found.as_ref(), Some(chunk), "{name} lost a chunk");
        }
    }
    for id in (0..400).map(|number| chunk(number).id()) {
        let found = get(store, id).expect("no failure").is_some();
        assert_eq!(found, store.contains(id).expect("no failure"), "the index promises what is not here");
    }
    let head = store.record("head").expect("a record");
    assert!(head.as_ref().is_none_or(|head| head == b"one" || head == b"two"));
    let first = pins.iter().any(|pin| pin.name == "first");
    assert!(!(first && head.as_deref() == Some(b"two")), "the record changed without the pin that changes with it");
}

#[track_caller]
fn check_works(store: &Store, mut promises: Promises) -> Promises {
    snapshot(store, "after", &(500..520).map(chunk).collect::<Vec<_>>(), &mut promises).expect("new work");
    store.collect(&[], &Lists, NOW, CollectBudget::default()).expect("a collection");
    check_store(store, &promises);
    promises
}

/// Runs the workload with a fault at the `nth` call; says whether there was such a call.
#[track_caller]
fn check_fault(seed: u64, nth: u64, fault: Fault) -> bool {
    let vfs = FaultyVfs::new(seed);
    vfs.fault_at(nth, fault);
    let mut promises = Promises::new();
    let outcome = work(&vfs, &mut promises);
    let has_fired = vfs.clear_fault().is_none();
    assert!(has_fired || outcome.is_ok(), "failed without a fault: {outcome:?}");
    vfs.restart();
    if fault == Fault::CutPower {
        crash_while_repairing(&vfs, nth);
    }
    let store = open(&vfs).unwrap_or_else(|error| panic!("seed {seed}, call {nth}: {error:?}"));
    check_store(&store, &promises);
    let promises = check_works(&store, promises);
    drop(store);

    let store = open(&vfs).expect("an open after new work");
    check_store(&store, &promises);
    has_fired
}

/// The power goes again while the store is opened, or at last right after, before anything was synced.
fn crash_while_repairing(vfs: &FaultyVfs, nth: u64) {
    for call in [1 + nth % 23, 1 + nth % 61, u64::MAX / 2] {
        vfs.fault_at(call, Fault::CutPower);
        let store = open(vfs);
        vfs.cut_power();
        drop(store);
        vfs.clear_fault();
        vfs.restart();
    }
}

fn check_every_call(seed: u64, fault: Fault) {
    let last = (1..).find(|nth| !check_fault(seed, *nth, fault)).unwrap_or_default();
    assert!(last > 300, "the workload made {last} calls only");
}

#[test]
fn survives_a_power_cut_at_every_call() {
    check_every_call(1, Fault::CutPower);
}

#[test]
fn survives_a_power_cut_at_every_call_with_another_disk() {
    check_every_call(0x5eed, Fault::CutPower);
}

#[test]
fn survives_a_failure_of_every_call() {
    check_every_call(2, Fault::Fail);
}

/// A file call of a first process fails, it ends, and a second finds what the first left: once it has synced, that is durable.
#[track_caller]
fn check_found_is_durable(nth: u64) -> bool {
    let vfs = FaultyVfs::new(nth);
    let chunks: Vec<_> = (0..40).map(chunk).collect();
    let store = open(&vfs).expect("an empty disk");
    vfs.fault_at(nth, Fault::Fail);
    let stored = chunks.iter().try_for_each(|chunk| store.put(chunk)).and_then(|()| store.sync());
    drop(store);
    let has_fired = vfs.clear_fault().is_none();
    assert!(has_fired || stored.is_ok(), "failed without a fault: {stored:?}");

    let store = open(&vfs).expect("a sound disk");
    chunks.iter().try_for_each(|chunk| store.put(chunk)).expect("a sound disk");
    store.sync().expect("a sound disk");
    vfs.cut_power();
    drop(store);
    vfs.restart();

    let store = open(&vfs).expect("a sound disk");
    for chunk in &chunks {
        assert_eq!(get(&store, chunk.id()).expect("a sound disk").as_ref(), Some(chunk), "call {nth}");
    }
    has_fired
}

#[test]
fn what_a_failed_process_left_is_durable_after_the_next_sync() {
    let last = (1..).find(|nth| !check_found_is_durable(*nth)).unwrap_or_default();
    assert!(last > 30, "the workload made {last} calls only");
}

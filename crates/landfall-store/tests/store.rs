//! What the store promises, on a real file system.

use std::sync::Arc;

use bytes::Bytes;
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_store::vfs::RealVfs;
use landfall_store::{
    Below, CODEC_RAW, CollectBudget, Encoded, OpenError, Reach, Reference, Sealing, Store, StoreOptions, StoredFrame,
    Undecodable, UnixMillis,
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

//! Both file systems keep the same contract; the faulty one also fails as it was told, and the same way each time.

mod support;

use std::io::ErrorKind;
use std::path::Path;

use landfall_store::CollectBudget;
use landfall_store::vfs::faulty::{Fault, FaultyVfs};
use landfall_store::vfs::{OpenMode, RealVfs, Vfs};

use support::{Lists, NOW, chunk, list_of, open};

fn check_contract(vfs: &dyn Vfs, root: &Path) {
    let directory = root.join("a/b");
    let path = directory.join("file");
    vfs.create_directory(&directory).unwrap();
    vfs.create_directory(&directory).unwrap();
    let file = vfs.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(vfs.open(&path, OpenMode::CreateNew).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(vfs.open(&directory.join("none"), OpenMode::Write).unwrap_err().kind(), ErrorKind::NotFound);

    file.write_at(3, b"state").unwrap();
    file.sync_data().unwrap();
    let mut bytes = [9; 8];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0state");
    assert_eq!(file.read_at(1, &mut bytes).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    file.set_bytes(4).unwrap();
    assert_eq!(file.bytes().unwrap(), 4);

    vfs.open(&directory.join("other"), OpenMode::CreateNew).unwrap();
    vfs.rename(&path, &directory.join("other")).unwrap();
    assert_eq!(vfs.list(&directory).unwrap(), ["other"]);
    vfs.sync_directory(&directory).unwrap();
    let reader = vfs.open(&directory.join("other"), OpenMode::Read).unwrap();
    vfs.remove(&directory.join("other")).unwrap();
    reader.read_at(0, &mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"\0\0\0s", "an open file stays readable");
    assert_eq!(vfs.remove(&directory.join("other")).unwrap_err().kind(), ErrorKind::NotFound);

    let lock = vfs.lock(&root.join("lock")).unwrap();
    assert_eq!(vfs.lock(&root.join("lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    vfs.lock(&root.join("lock")).unwrap();
}

#[test]
fn the_real_file_system_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    check_contract(&RealVfs, directory.path());
}

#[test]
fn the_faulty_file_system_keeps_the_contract() {
    check_contract(&FaultyVfs::new(0), Path::new("root"));
}

/// The names left by a power cut after two files were created and synced, the directory only after the first.
fn names_left(seed: u64) -> Vec<String> {
    let vfs = FaultyVfs::new(seed);
    for name in ["d/first", "d/second"] {
        let file = vfs.open(Path::new(name), OpenMode::CreateNew).unwrap();
        file.write_at(0, b"bytes").unwrap();
        file.sync_data().unwrap();
        if name == "d/first" {
            vfs.sync_directory(Path::new("d")).unwrap();
        }
    }
    vfs.cut_power();
    assert!(vfs.list(Path::new("d")).is_err());
    vfs.restart();
    assert_eq!(vfs.content(Path::new("d/first")).unwrap(), b"bytes");
    vfs.list(Path::new("d")).unwrap()
}

#[test]
fn a_power_cut_takes_some_of_the_names_that_were_not_synced() {
    let mut left: Vec<_> = (0..20).map(names_left).collect();
    left.sort_unstable();
    left.dedup();
    assert_eq!(left, [vec!["first"], vec!["first", "second"]]);
}

#[test]
fn unsynced_writes_are_kept_torn_or_lost_by_seed() {
    let outcomes = (0..60).map(|seed| {
        let vfs = FaultyVfs::new(seed);
        let path = Path::new("d/file");
        let file = vfs.open(path, OpenMode::CreateNew).unwrap();
        vfs.sync_directory(Path::new("d")).unwrap();
        file.write_at(0, &[1; 2_000]).unwrap();
        vfs.cut_power();
        vfs.restart();
        vfs.content(path).unwrap().len()
    });
    let mut outcomes: Vec<_> = outcomes.collect();
    outcomes.sort_unstable();
    outcomes.dedup();
    assert_eq!(outcomes, [0, 512, 1024, 1536, 2000]);
}

#[test]
fn the_nth_call_fails_and_only_that_one() {
    let vfs = FaultyVfs::new(0);
    let file = vfs.open(Path::new("d/file"), OpenMode::CreateNew).unwrap();
    vfs.fault_at(2, Fault::Fail);
    file.write_at(0, b"one").unwrap();
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(vfs.clear_fault(), None);
}

/// Calls made and bytes left by one life of a store that ends in a power cut.
fn life(seed: u64) -> (u64, Vec<(String, Vec<u8>)>) {
    let vfs = FaultyVfs::new(seed);
    let store = open(&vfs).unwrap();
    let chunks: Vec<_> = (0..60).map(chunk).collect();
    chunks.iter().for_each(|chunk| store.put(chunk).unwrap());
    let list = list_of(&chunks[..20]);
    store.put(&list).unwrap();
    store.sync().unwrap();
    store.pin("kept", list.id()).unwrap();
    store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    (100..160).for_each(|number| store.put(&chunk(number)).unwrap());
    vfs.cut_power();
    drop(store);
    vfs.restart();
    let mut files = Vec::new();
    for directory in ["store", "store/packs", "store/index"].map(Path::new) {
        for name in vfs.list(directory).unwrap() {
            let content = vfs.content(&directory.join(&name)).unwrap();
            files.push((name, content));
        }
    }
    (vfs.calls(), files)
}

#[test]
fn the_same_seed_gives_the_same_calls_and_the_same_bytes() {
    for seed in 0..5 {
        assert!(life(seed) == life(seed), "seed {seed}");
    }
}

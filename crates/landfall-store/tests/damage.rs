//! The store on a disk that lies: flipped bits, cut files, a lost index, a full disk.

mod support;

use std::path::{Path, PathBuf};

use landfall_core::{Chunk, ChunkId};
use landfall_store::vfs::Vfs;
use landfall_store::vfs::faulty::{Fault, FaultyVfs};
use landfall_store::{CollectBudget, CollectOutcome, FrameCheck, Store, StoreError, VerifyReport};

use support::{Lists, NOW, chunk, get, list_of, open};

fn chunks() -> Vec<Chunk> {
    (0..60).map(chunk).collect()
}

/// A disk with a closed store that holds [`chunks`] in several packs and runs.
fn filled() -> FaultyVfs {
    let vfs = FaultyVfs::new(7);
    let store = open(&vfs).unwrap();
    chunks().iter().for_each(|chunk| store.put(chunk).unwrap());
    drop(store);
    assert!(packs(&vfs).len() > 5 && !files(&vfs, "index").is_empty(), "too little to damage");
    vfs
}

fn files(vfs: &FaultyVfs, directory: &str) -> Vec<PathBuf> {
    let directory = Path::new("store").join(directory);
    vfs.list(&directory).unwrap().iter().map(|name| directory.join(name)).collect()
}

fn packs(vfs: &FaultyVfs) -> Vec<PathBuf> {
    files(vfs, "packs")
}

fn lose_index(vfs: &FaultyVfs) {
    files(vfs, "index").iter().for_each(|run| vfs.remove(run).unwrap());
}

fn bytes_of(vfs: &FaultyVfs, path: &Path) -> u64 {
    vfs.content(path).unwrap().len() as u64
}

fn verify(store: &Store) -> VerifyReport {
    store.verify(&|_, _| FrameCheck::Unknown).unwrap()
}

/// Reads every chunk; says which are gone or damaged. All others must be right.
fn lost(store: &Store) -> Vec<ChunkId> {
    let is_lost = |id: &ChunkId| match get(store, *id) {
        Ok(found) => found.is_none(),
        Err(StoreError::Damaged(frame)) => {
            assert_eq!(frame.id, Some(*id));
            true
        }
        Err(error) => panic!("{error}"),
    };
    chunks().iter().map(Chunk::id).filter(is_lost).collect()
}

/// What is lost is known to be lost, and can be put again.
#[track_caller]
fn check_heals(vfs: &FaultyVfs, store: Store, lost: &[ChunkId]) {
    lost.iter().for_each(|id| assert!(!store.contains(*id).unwrap(), "claims a damaged chunk"));
    chunks().iter().for_each(|chunk| store.put(chunk).unwrap());
    assert_eq!(self::lost(&store), []);
    drop(store);
    assert_eq!(self::lost(&open(vfs).unwrap()), [], "after opening again");
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_pack_costs_at_most_one_chunk() {
    let sample = filled();
    let victim = packs(&sample)[2].clone();
    for offset in (0..bytes_of(&sample, &victim)).step_by(7) {
        let vfs = filled();
        vfs.flip_bit(&victim, offset, (offset % 8) as u8);
        if offset % 2 == 0 {
            lose_index(&vfs);
        }
        let store = open(&vfs).unwrap();
        let lost = lost(&store);
        assert!(lost.len() <= 1, "offset {offset}: {lost:?}");
        check_heals(&vfs, store, &lost);
    }
}

#[test]
fn verification_names_the_pack_the_offset_and_the_chunk() {
    let vfs = filled();
    let victim = packs(&vfs)[1].clone();
    vfs.flip_bit(&victim, 20 + 56 + 5, 3);
    let store = open(&vfs).unwrap();
    let report = verify(&store);
    assert_eq!((report.frames_sound, report.frames_damaged), (59, 1));
    let [damaged] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((&damaged.pack, damaged.offset), (&victim, 20));
    assert!(!store.contains(damaged.id.unwrap()).unwrap());
}

#[test]
fn a_pack_cut_anywhere_keeps_the_frames_before_the_cut() {
    let sample = filled();
    let victim = packs(&sample)[0].clone();
    for bytes in (0..bytes_of(&sample, &victim)).step_by(97) {
        for index in [Index::Kept, Index::Lost] {
            let vfs = filled();
            vfs.truncate(&victim, bytes);
            if index == Index::Lost {
                lose_index(&vfs);
            }
            let store = open(&vfs).unwrap();
            let lost = lost(&store);
            let whole_before = whole_frames(&sample, &victim, bytes);
            let frames = whole_frames(&sample, &victim, u64::MAX);
            assert_eq!(lost.len(), frames - whole_before, "cut at {bytes}, index {index:?}");
            check_heals(&vfs, store, &lost);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    Kept,
    Lost,
}

/// How many frames of a pack end before `bytes`.
fn whole_frames(vfs: &FaultyVfs, pack: &Path, bytes: u64) -> usize {
    let content = vfs.content(pack).unwrap();
    let mut at = 20;
    let mut frames = 0;
    while content[at..].starts_with(b"LFf1") {
        at += 56 + u32::from_le_bytes(content[at + 12..at + 16].try_into().unwrap()) as usize;
        frames += usize::from(at as u64 <= bytes);
    }
    frames
}

#[test]
fn an_index_that_is_gone_is_built_again() {
    let vfs = filled();
    lose_index(&vfs);
    let store = open(&vfs).unwrap();
    assert_eq!(lost(&store), []);
    assert!(!files(&vfs, "index").is_empty());
    assert!(!store.contains(chunk(1_000).id()).unwrap());
}

#[test]
fn a_flipped_bit_anywhere_in_the_index_costs_nothing() {
    let sample = filled();
    for run in files(&sample, "index") {
        for offset in (0..bytes_of(&sample, &run)).step_by(61) {
            let vfs = filled();
            vfs.flip_bit(&run, offset, (offset % 8) as u8);
            let store = open(&vfs).unwrap();
            assert_eq!(lost(&store), [], "offset {offset}");
            assert!(!store.contains(chunk(1_000).id()).unwrap());
            drop(store);
            assert_eq!(lost(&open(&vfs).unwrap()), []);
        }
    }
}

#[test]
fn a_bit_flipped_by_one_read_costs_nothing() {
    for nth in 1..200 {
        let vfs = filled();
        let store = open(&vfs).unwrap();
        vfs.flip_bit_at_read(nth);
        assert_eq!(lost(&store).len(), 0, "read {nth}");
    }
}

#[test]
fn a_damaged_node_stops_the_sweep_once_and_its_chunk_can_be_put_again() {
    let vfs = filled();
    let list = list_of(&chunks()[..5]);
    let store = open(&vfs).unwrap();
    store.put(&list).unwrap();
    store.pin("kept", list.id()).unwrap();
    drop(store);
    let store = open(&vfs).unwrap();
    let pack = packs(&vfs).pop().unwrap();
    vfs.flip_bit(&pack, 20 + 56 + 2, 1);

    let report = store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    assert_eq!((report.outcome, report.packs_removed), (CollectOutcome::DamageFound, 0));
    assert_eq!(report.damaged[0].id, Some(list.id()));
    store.put(&list).unwrap();
    let report = store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    assert_eq!((report.outcome, report.chunks_live), (CollectOutcome::Done, 6));
    assert!(report.packs_removed > 0);
    chunks()[..5].iter().for_each(|chunk| assert_eq!(get(&store, chunk.id()).unwrap().as_ref(), Some(chunk)));
}

/// A power cut may leave the footer of a pack that was never synced, and take frames that stood before it.
#[test]
fn a_finished_pack_of_which_a_part_is_lost_is_not_trusted() {
    let vfs = filled();
    let store = open(&vfs).unwrap();
    let list = list_of(&chunks()[..5]);
    store.put(&list).unwrap();
    drop(store);
    let pack = packs(&vfs).pop().unwrap();
    vfs.flip_bit(&pack, 20 + 56 + 2, 1);

    let store = open(&vfs).unwrap();
    assert_eq!(store.recovery().unfinished_packs, [pack]);
    assert!(!store.contains(list.id()).unwrap());
    store.put(&list).unwrap();
    assert_eq!(get(&store, list.id()).unwrap().as_ref(), Some(&list));
}

#[test]
fn collects_around_a_pack_whose_footer_is_damaged() {
    let vfs = filled();
    let victim = packs(&vfs)[1].clone();
    vfs.flip_bit(&victim, bytes_of(&vfs, &victim) - 1, 0);
    let kept = list_of(&chunks()[..20]);
    let store = open(&vfs).unwrap();
    let _session = store.begin_session();
    store.put(&kept).unwrap();
    store.pin("kept", kept.id()).unwrap();
    store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    chunks()[..20].iter().for_each(|chunk| assert_eq!(get(&store, chunk.id()).unwrap().as_ref(), Some(chunk)));
}

#[test]
fn a_full_disk_refuses_new_chunks_and_loses_none() {
    let vfs = filled();
    let store = open(&vfs).unwrap();
    let used: u64 = ["packs", "index", ""]
        .iter()
        .flat_map(|directory| files(&vfs, directory))
        .map(|path| bytes_of(&vfs, &path))
        .sum();
    vfs.limit_bytes(Some(used + 5_000));
    let refused = (100..200).find_map(|number| store.put(&chunk(number)).err()).or_else(|| store.sync().err());
    assert!(matches!(refused, Some(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(lost(&store), []);
    vfs.limit_bytes(None);
    (100..200).for_each(|number| store.put(&chunk(number)).unwrap());
    store.sync().unwrap();
    vfs.cut_power();
    drop(store);
    vfs.restart();
    let store = open(&vfs).unwrap();
    assert_eq!(lost(&store), []);
    (100..200).for_each(|number| assert_eq!(get(&store, chunk(number).id()).unwrap(), Some(chunk(number))));
}

#[test]
fn after_a_failed_sync_the_store_takes_no_more_until_it_is_opened_again() {
    let vfs = filled();
    let store = open(&vfs).unwrap();
    store.put(&chunk(100)).unwrap();
    // The second call of a sync with one open pack, after its write, is the sync of the file.
    vfs.fault_at(2, Fault::Fail);
    assert!(store.sync().is_err());
    assert!(matches!(store.sync(), Err(StoreError::SyncFailed { .. })));
    assert!(matches!(store.put(&chunk(101)), Err(StoreError::SyncFailed { .. })));
    assert_eq!(lost(&store), []);
    drop(store);
    let store = open(&vfs).unwrap();
    store.put(&chunk(101)).unwrap();
    store.sync().unwrap();
}

#[test]
fn numbers_of_packs_are_never_used_again() {
    let vfs = filled();
    let store = open(&vfs).unwrap();
    let report = store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    assert!(report.packs_removed > 5 && packs(&vfs).is_empty(), "{report:?}");
    drop(store);
    let store = open(&vfs).unwrap();
    (200..260).for_each(|number| store.put(&chunk(number)).unwrap());
    chunks().iter().for_each(|chunk| assert_eq!(get(&store, chunk.id()).unwrap(), None));
    (200..260).for_each(|number| assert_eq!(get(&store, chunk(number).id()).unwrap(), Some(chunk(number))));
}

#[test]
fn a_disk_that_fills_up_while_collecting_loses_nothing() {
    let vfs = filled();
    let store = open(&vfs).unwrap();
    let kept: Vec<_> = chunks().into_iter().step_by(4).collect();
    let list = list_of(&kept);
    store.put(&list).unwrap();
    store.sync().unwrap();
    store.pin("kept", list.id()).unwrap();
    vfs.limit_bytes(Some(0));
    let refused = store.collect(&[], &Lists, NOW, CollectBudget::default());
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(lost(&store), [], "a sweep that was given up took chunks");
    vfs.limit_bytes(None);
    let report = store.collect(&[], &Lists, NOW, CollectBudget::default()).unwrap();
    assert!(report.packs_removed > 0, "{report:?}");
    drop(store);
    let store = open(&vfs).unwrap();
    kept.iter().for_each(|chunk| assert_eq!(get(&store, chunk.id()).unwrap().as_ref(), Some(chunk)));
}

//! Tests of a state that is half here: nodes and values come only after they were missed.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;
use crate::ChunkId;

/// A store to which nodes and values come only after they were wanted.
struct LateChunks<'a> {
    all: &'a MemoryChunks,
    here: RefCell<BTreeSet<ChunkId>>,
}

impl<'a> LateChunks<'a> {
    fn new(all: &'a MemoryChunks) -> Self {
        Self { all, here: RefCell::default() }
    }

    /// Tries until nothing is missing; counts the tries that failed.
    fn fetch<T>(&self, mut read: impl FnMut(&Self) -> Result<T, ReadError>) -> (T, usize) {
        for tries in 0.. {
            match read(self) {
                Ok(result) => return (result, tries),
                Err(ReadError::Missing(missing)) => self.arrive(&missing),
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!("the loop ends only by returning")
    }

    fn arrive(&self, missing: &Missing) {
        assert!(!missing.is_empty(), "something is missing, and nobody says what");
        let nodes = missing.nodes.iter().map(|want| want.id);
        let ids: BTreeSet<ChunkId> = nodes.chain(missing.chunks.iter().map(|chunk| chunk.id)).collect();
        for id in ids {
            assert!(self.all.node(id).is_some() || self.all.chunk(id).is_some(), "wants what no snapshot has");
            assert!(self.here.borrow_mut().insert(id), "wants what is here");
        }
    }

    fn is_here(&self, id: ChunkId) -> bool {
        self.here.borrow().contains(&id)
    }
}

impl Nodes for LateChunks<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.all.node(id).filter(|_| self.is_here(id))
    }
}

impl Chunks for LateChunks<'_> {
    fn chunk(&self, id: ChunkId) -> Option<Bytes> {
        self.all.chunk(id).filter(|_| self.is_here(id))
    }
}

fn key(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Several leaves, some long values, and a snapshot of it.
fn snapshot() -> (Model, MemoryChunks, Manifest) {
    let (mut model, mut chunks) = (Model::default(), MemoryChunks::default());
    let value = |number: u32| vec![number as u8; if number.is_multiple_of(97) { 3_000 } else { 150 }];
    model.commit(1, &batch((0..1_500).map(|number| (DATA, put(key(number), value(number))))));
    let manifest = model.manifest(&mut chunks);
    (model, chunks, manifest)
}

#[test]
fn reads_converge_once_what_they_miss_has_come() {
    let (mut model, chunks, manifest) = snapshot();
    let mut state = KeyedState::at(schema(), &manifest).unwrap();
    let changes = batch([(DATA, put(key(3), "new")), (DATA, delete(key(700)))]);
    commit(&mut state, 2, &changes);
    model.commit(2, &changes);
    for number in [0, 3, 97, 700, 1_499, 5_000] {
        let late = LateChunks::new(&chunks);
        let (value, tries) = late.fetch(|late| state.get(late, DATA, &key(number)));
        assert_eq!(value.as_ref(), model.sections[1].get(key(number).as_slice()));
        assert_eq!(tries == 0, matches!(number, 3 | 700), "only what an overlay knows is free");
    }
    let late = LateChunks::new(&chunks);
    let (found, _) = late.fetch(|late| state.scan(late, DATA, &key(90), 300));
    assert_eq!(found, model.scan(DATA, &key(90), 300));
}

#[test]
fn a_scan_names_all_leaves_that_it_misses_at_once_and_few_more() {
    let (model, chunks, manifest) = snapshot();
    let state = KeyedState::at(schema(), &manifest).unwrap();
    let root = manifest.sections[1].root;
    assert_eq!(root.level, 1);
    for entries_max in [1, 300, 1_000, usize::MAX] {
        let late = LateChunks::new(&chunks);
        let (found, tries) = late.fetch(|late| state.scan(late, DATA, &key(90), entries_max));
        assert_eq!(found, model.scan(DATA, &key(90), entries_max));
        assert!(tries <= 3, "the root, the leaves, the values: not {tries} round trips");
        let needed = {
            let whole = KeyedState::at(schema(), &manifest).unwrap();
            let one_by_one = LateChunks::new(&chunks);
            for (key, _) in &found {
                one_by_one.fetch(|late| whole.get(late, DATA, key));
            }
            one_by_one.here.into_inner().len()
        };
        let fetched = late.here.borrow().len();
        assert!(fetched <= needed + 2, "{fetched} fetched, {needed} needed");
    }
}

#[test]
fn a_transaction_that_missed_gives_the_same_changes_later() {
    let (_, chunks, manifest) = snapshot();
    let mut state = KeyedState::at(schema(), &manifest).unwrap();
    // Moves every long value of a range into another section.
    let run = |source: &dyn Chunks, state: &KeyedState| {
        let mut transaction = state.begin(source);
        let range = transaction.scan(DATA, &key(1), 500)?;
        for (key, value) in range.into_iter().filter(|(_, value)| value.len() > 2_048) {
            transaction.delete(DATA, key.clone())?;
            transaction.put(CONFIG, key, value)?;
        }
        transaction.finish()
    };
    let at_once = run(&chunks, &state).unwrap();
    let (late, tries) = LateChunks::new(&chunks).fetch(|late| run(late, &state));
    assert!(tries > 1 && !at_once.is_empty());
    assert_eq!(late, at_once);
    assert_eq!(state.position(), at(1), "nothing took effect before the commit");
    assert_eq!(state.overlay_bytes(), 0);
    state.commit(at(2), b"record", &late);
    assert_eq!(state.get(&chunks, CONFIG, &key(97)), Ok(Some(vec![97; 3_000].into())));
}

#[test]
fn a_seal_that_misses_goes_on_where_it_stood() {
    let (mut model, chunks, manifest) = snapshot();
    let mut state = KeyedState::at(schema(), &manifest).unwrap();
    let changes = batch((0..1_500).step_by(50).map(|number| (DATA, put(key(number), vec![number as u8; 2_500]))));
    commit(&mut state, 2, &changes);
    model.commit(2, &changes);
    let late = LateChunks::new(&chunks);
    let mut sealing = state.freeze().unwrap();
    let mut made = MemoryChunks::default();
    let (step, tries) = late.fetch(|late| {
        let step = sealing.step(&AsNodes(late), usize::MAX, &mut made);
        step.map_err(|error| match error {
            TreeError::Missing(nodes) => ReadError::Missing(Missing { nodes, ..Missing::default() }),
            error => ReadError::Broken(error),
        })
    });
    let Step::Done(sealed) = step else { panic!("the slice had no end") };
    assert!(tries > 3);
    assert_eq!(sealing.entries_done(), 30);
    assert_eq!(sealed.manifest, model.manifest(&mut MemoryChunks::default()));
}

struct AsNodes<'a>(&'a LateChunks<'a>);

impl Nodes for AsNodes<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.0.node(id)
    }
}

#[test]
fn a_member_with_nothing_applies_the_log_and_takes_the_snapshot_later() {
    let (mut model, chunks, _) = snapshot();
    let mut state = born();
    let first = batch([(DATA, put("only", "log"))]);
    let log: Vec<Batch> =
        (2..30_u32).map(|number| batch([(DATA, put(key(number * 40), "log")), (DATA, delete(key(number)))])).collect();
    // The log was attached before anything of the snapshot came, and behind it.
    state.commit(at(1), &first.encode(&schema()).unwrap(), &first);
    for (number, changes) in log.iter().enumerate() {
        let index = number as u64 + 2;
        commit(&mut state, index, changes);
        model.commit(index, changes);
    }
    let mut sources = chunks.clone();
    let middle = {
        let (mut model, ..) = snapshot();
        for (number, changes) in log.iter().take(10).enumerate() {
            model.commit(number as u64 + 2, changes);
        }
        model.manifest(&mut sources)
    };
    state.rebase(&middle).unwrap();
    let late = LateChunks::new(&sources);
    let (found, tries) = late.fetch(|late| state.scan(late, DATA, b"", usize::MAX));
    assert_eq!(found, model.scan(DATA, b"", usize::MAX));
    assert!(tries > 0);
    assert_eq!(state.position(), model.position);
}

//! Tests of single events: what a reader sees before and after each.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;
use crate::ChunkId;

#[test]
fn a_state_that_is_born_is_empty_and_costs_nothing() {
    let chunks = MemoryChunks::default();
    let state = born();
    check(&state, &chunks, &Model::default());
    assert_eq!(state.look(DATA, b"key"), Look::Found(None));
    assert_eq!(state.overlay_bytes(), 0);
}

#[test]
fn changes_are_seen_at_once_and_survive_a_seal() {
    let (mut state, mut model, mut chunks) = (born(), Model::default(), MemoryChunks::default());
    let changes = batch([(DATA, put("a", "1")), (CONFIG, put("a", "2")), (SHARD, put("c", vec![7; 5_000]))]);
    commit(&mut state, 1, &changes);
    model.commit(1, &changes);
    check(&state, &chunks, &model);
    let sealed = seal(&mut state, &mut chunks);
    assert_eq!(sealed, model.manifest(&mut MemoryChunks::default()));
    assert_eq!((state.base_position(), state.overlay_bytes()), (at(1), 0));
    check(&state, &chunks, &model);
}

#[test]
fn a_seal_holds_exactly_what_was_there_when_it_froze() {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    commit(&mut state, 1, &batch([(DATA, put("a", "1")), (DATA, put("b", "1"))]));
    let sealing = state.freeze().unwrap();
    assert_eq!(state.freeze().unwrap_err(), SealRefused::Underway);
    commit(&mut state, 2, &batch([(DATA, put("a", "2")), (DATA, delete("b"))]));
    let sealed = merge(sealing, &mut chunks, 1);
    assert_eq!(sealed.manifest.position, at(1));
    let then = KeyedState::at(schema(), &sealed.manifest).unwrap();
    assert_eq!(then.get(&chunks, DATA, b"a"), Ok(Some("1".into())));
    assert_eq!(then.get(&chunks, DATA, b"b"), Ok(Some("1".into())));

    state.finish_seal(&sealed).unwrap();
    assert_eq!(state.finish_seal(&sealed), Err(SealOutdated));
    assert_eq!((state.position(), state.base_position()), (at(2), at(1)));
    assert_eq!(state.get(&chunks, DATA, b"a"), Ok(Some("2".into())));
    assert_eq!(state.get(&chunks, DATA, b"b"), Ok(None));
}

/// What one layer may say about two keys.
const CHANGES: [fn(usize) -> Vec<Op>; 7] = [
    |_| vec![],
    |layer| vec![put("a", format!("{layer}"))],
    |layer| vec![put("b", format!("{layer}"))],
    |_| vec![delete("a")],
    |_| vec![Op::Clear],
    |layer| vec![put("a", "hidden"), Op::Clear, put("b", format!("{layer}"))],
    |layer| vec![put("b", format!("{layer}")), delete("a")],
];

#[test]
fn every_layer_hides_what_it_should_of_those_below() {
    let count = CHANGES.len();
    for number in 0..count.pow(4) {
        let place = |layer: usize| CHANGES[number / count.pow(layer as u32) % count](layer);
        let of = |layer: usize| batch(place(layer).into_iter().map(|op| (DATA, op)));
        let (mut state, mut model, mut chunks) = (born(), Model::default(), MemoryChunks::default());
        for layer in 0..3 {
            commit(&mut state, layer as u64 + 1, &of(layer));
            model.commit(layer as u64 + 1, &of(layer));
            match layer {
                0 => drop(seal(&mut state, &mut chunks)),
                1 => drop(state.freeze().unwrap()),
                _ => {}
            }
        }
        check(&state, &chunks, &model);

        let mut transaction = state.begin(&chunks);
        for op in place(3) {
            match op {
                Op::Put { key, value } => transaction.put(DATA, key, value).unwrap(),
                Op::Delete { key } => transaction.delete(DATA, key).unwrap(),
                Op::Clear => transaction.clear(DATA),
            }
        }
        model.commit(4, &of(3));
        assert_eq!(transaction.scan(DATA, b"", 9), Ok(model.scan(DATA, b"", 9)), "{number}");
        for key in ["a", "b"] {
            assert_eq!(transaction.get(DATA, key.as_bytes()), Ok(model.sections[1].get(key.as_bytes()).cloned()));
        }
        let changes = transaction.finish().unwrap();
        state.commit(at(4), &of(3).encode(&schema()).unwrap(), &changes);
        check(&state, &chunks, &model);
    }
}

#[test]
fn a_rebase_drops_what_the_snapshot_has_and_keeps_what_came_later() {
    let (mut state, mut model, mut chunks) = (born(), Model::default(), MemoryChunks::default());
    // This member went wrong at position 2: nobody else has these values.
    let wrong = batch([(DATA, put("b", "wrong")), (DATA, put("d", "wrong")), (CONFIG, put("x", "wrong"))]);
    let right = batch([(DATA, put("b", "right")), (DATA, delete("a"))]);
    let batches = [
        (batch([(DATA, put("a", "1")), (DATA, put("c", "1"))]), None),
        (right, Some(wrong)),
        (batch([(DATA, put("c", "3")), (SHARD, put("e", "3"))]), None),
    ];
    let mut snapshot = None;
    for (number, (batch, instead)) in batches.iter().enumerate() {
        let index = number as u64 + 1;
        let record = batch.encode(&schema()).unwrap();
        state.commit(at(index), &record, instead.as_ref().unwrap_or(batch));
        model.commit(index, batch);
        if index == 1 {
            state.freeze().unwrap();
        }
        if index == 2 {
            snapshot = Some(model.manifest(&mut chunks));
        }
    }
    state.rebase(&snapshot.unwrap()).unwrap();
    check(&state, &chunks, &model);
    assert_eq!((state.position(), state.base_position()), (at(3), at(2)));
}

#[test]
fn a_clear_after_the_snapshot_hides_it_and_one_before_does_not() {
    let (mut model, mut chunks) = (Model::default(), MemoryChunks::default());
    let batches = [
        batch([(DATA, put("a", "1"))]),
        batch([(DATA, Op::Clear), (DATA, put("b", "2"))]),
        batch([(DATA, put("c", "3"))]),
    ];
    let mut snapshots = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        model.commit(number as u64 + 1, batch);
        snapshots.push(model.manifest(&mut chunks));
    }
    for snapshot in &snapshots {
        let mut state = born();
        for (number, batch) in batches.iter().enumerate() {
            commit(&mut state, number as u64 + 1, batch);
        }
        state.rebase(snapshot).unwrap();
        check(&state, &chunks, &model);
    }
}

#[test]
fn a_rebase_ahead_moves_the_position_and_the_chain() {
    let (mut model, mut chunks) = (Model::default(), MemoryChunks::default());
    model.commit(7, &batch([(DATA, put("a", "1"))]));
    let mut state = born();
    commit(&mut state, 1, &batch([(DATA, put("old", "1")), (CONFIG, Op::Clear)]));
    state.rebase(&model.manifest(&mut chunks)).unwrap();
    check(&state, &chunks, &model);
    assert_eq!(commit(&mut state, 7, &batch([(DATA, put("a", "2"))])), Applied::Already);
    let next = batch([(DATA, put("a", "3"))]);
    assert_eq!(commit(&mut state, 8, &next), Applied::Now);
    model.commit(8, &next);
    check(&state, &chunks, &model);
}

/// A member that went wrong at position 2 and sealed that: its base, what it freezes and what is newer are all wrong.
fn wrong_at_two(chunks: &mut MemoryChunks, batches: &[Batch]) -> KeyedState {
    let mut state = born();
    let wrong = batch([(DATA, put("b", "wrong")), (DATA, put("d", "wrong")), (SHARD, Op::Clear)]);
    for (index, right) in (1..).zip(batches) {
        let record = right.encode(&schema()).unwrap();
        state.commit(at(index), &record, if index == 2 { &wrong } else { right });
        if index == 3 {
            seal(&mut state, chunks);
        }
    }
    state
}

fn four_batches() -> [Batch; 4] {
    [
        batch([(DATA, put("a", "1")), (SHARD, put("e", "1"))]),
        batch([(DATA, put("b", "right")), (DATA, delete("a"))]),
        batch([(DATA, put("c", "3"))]),
        batch([(CONFIG, put("x", "4")), (DATA, put("c", "4"))]),
    ]
}

#[test]
fn a_state_that_went_wrong_is_replaced_by_a_snapshot_of_the_past_and_the_log_after_it_applied_again() {
    let (mut model, mut chunks, batches) = (Model::default(), MemoryChunks::default(), four_batches());
    let mut state = wrong_at_two(&mut chunks, &batches);
    (1..=2).zip(&batches).for_each(|(index, batch)| model.commit(index, batch));
    let right = model.manifest(&mut chunks);
    state.replace(&right).unwrap();
    check(&state, &chunks, &model);
    assert_eq!((state.base_position(), state.overlay_bytes()), (at(2), 0));
    for (index, batch) in (1..).zip(&batches) {
        let expected = if index <= 2 { Applied::Already } else { Applied::Now };
        assert_eq!(commit(&mut state, index, batch), expected);
        model.commit(index, batch);
    }
    check(&state, &chunks, &model);
    assert_eq!(seal(&mut state, &mut chunks), model.manifest(&mut chunks));
}

#[test]
fn a_seal_that_runs_while_the_state_is_replaced_is_outdated_however_it_ends() {
    let (mut model, mut chunks, batches) = (Model::default(), MemoryChunks::default(), four_batches());
    model.commit(1, &batches[0]);
    let right = model.manifest(&mut chunks);
    let mut state = wrong_at_two(&mut chunks, &batches);
    let sealing = state.freeze().unwrap();
    state.replace(&right).unwrap();
    let sealed = merge(sealing, &mut chunks, 7);
    assert_eq!(state.finish_seal(&sealed), Err(SealOutdated));
    check(&state, &chunks, &model);
    let mut state = wrong_at_two(&mut chunks, &batches);
    let sealing = state.freeze().unwrap();
    state.replace(&right).unwrap();
    assert_eq!(state.abandon_seal(sealing), Err(SealOutdated));
    check(&state, &chunks, &model);
}

#[test]
fn equal_positions_of_equal_logs_have_equal_chains_and_others_do_not() {
    let (mut one, mut two, mut other) = (born(), born(), born());
    for index in 1..4 {
        commit(&mut one, index, &batch([(DATA, put("a", "1"))]));
        commit(&mut two, index, &batch([(DATA, put("a", "1"))]));
        commit(&mut other, index, &batch([(DATA, put("a", if index == 2 { "2" } else { "1" }))]));
    }
    assert_eq!(one.log_hash(), two.log_hash());
    assert_ne!(one.log_hash(), other.log_hash());
}

#[test]
fn keys_and_values_of_every_length_survive_a_seal() {
    let (mut state, mut model, mut chunks) = (born(), Model::default(), MemoryChunks::default());
    let lengths = [0, 1, 2_047, 2_048, 2_049, 65_536, (1 << 20) - 1, 1 << 20];
    let mut index = 0;
    for key_bytes in [0, 1, 255, 4_095, 4_096] {
        for (number, &value_bytes) in lengths.iter().enumerate() {
            index += 1;
            let key = vec![number as u8; key_bytes];
            let changes = batch([(DATA, put(key, vec![number as u8; value_bytes]))]);
            commit(&mut state, index, &changes);
            model.commit(index, &changes);
        }
    }
    let sealed = seal(&mut state, &mut chunks);
    assert_eq!(sealed, model.manifest(&mut MemoryChunks::default()));
    // Equal values are one chunk.
    assert_eq!(chunks.value_count(), 4);
    check(&state, &chunks, &model);
}

/// Remembers which nodes were asked for.
struct Watched<'a>(&'a MemoryChunks, RefCell<BTreeSet<ChunkId>>);

impl Nodes for Watched<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.1.borrow_mut().insert(id);
        self.0.node(id)
    }
}

#[test]
fn a_section_that_did_not_change_is_neither_read_nor_written() {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    let key = |number: u32| number.to_be_bytes().to_vec();
    let all = (0..2_000)
        .flat_map(|number| [(DATA, put(key(number), vec![1; 100])), (CONFIG, put(key(number), vec![2; 100]))]);
    commit(&mut state, 1, &batch(all));
    let before = seal(&mut state, &mut chunks);

    commit(&mut state, 2, &batch([(DATA, put(key(1_000), vec![3; 100]))]));
    let watched = Watched(&chunks, RefCell::default());
    let mut made = MemoryChunks::default();
    let Step::Done(sealed) = state.freeze().unwrap().step(&watched, 10, &mut made).unwrap() else {
        panic!("one change is one step");
    };
    let levels = usize::from(before.sections[1].root.level) + 1;
    assert!(levels > 1);
    assert_eq!(watched.1.borrow().len(), levels, "one node of each level of the section that changed");
    // The empty leaf is that of the shard.
    assert_eq!(made.node_count(), levels + 1);
    assert_eq!(sealed.manifest.sections[0], before.sections[0]);
    state.finish_seal(&sealed).unwrap();

    let watched = Watched(&chunks, RefCell::default());
    let step = state.freeze().unwrap().step(&watched, 1, &mut MemoryChunks::default()).unwrap();
    assert!(matches!(step, Step::Done(_)));
    assert!(watched.1.borrow().is_empty(), "nothing changed, and nodes were read");
}

#[test]
fn a_seal_goes_on_in_slices_and_says_how_far_it_is() {
    let mut state = born();
    commit(&mut state, 1, &batch((0..10_u8).map(|key| (DATA, put(vec![key], "1")))));
    let mut sealing = state.freeze().unwrap();
    let chunks = MemoryChunks::default();
    for done in [3, 6, 9] {
        let step = sealing.step(&chunks, 3, &mut MemoryChunks::default()).unwrap();
        assert!(matches!(step, Step::More));
        assert_eq!(sealing.entries_done(), done);
    }
    assert!(matches!(sealing.step(&chunks, 3, &mut MemoryChunks::default()), Ok(Step::Done(_))));
}

#[test]
fn an_empty_section_has_a_node_that_can_be_fetched() {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    commit(&mut state, 1, &batch([(DATA, put("a", "1"))]));
    seal(&mut state, &mut chunks);
    commit(&mut state, 2, &batch([(DATA, Op::Clear)]));
    let mut chunks = MemoryChunks::default();
    let sealed = seal(&mut state, &mut chunks);
    for section in &sealed.sections {
        assert_eq!(section.root.entries, 0);
        assert!(chunks.node(section.root.id).is_some());
    }
}

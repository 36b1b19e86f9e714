//! Tests of single events: what a reader sees before and after each.

use super::*;

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

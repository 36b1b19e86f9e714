//! Tests of transactions: they see their own writes, nobody else does, and a read that missed leaves nothing behind.

use proptest::prelude::*;

use super::*;

/// A state with `a` and a long value `b` in its base, of which nothing is here.
fn far_away() -> (KeyedState, MemoryChunks) {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    commit(&mut state, 1, &batch([(DATA, put("a", "1")), (DATA, put("b", vec![9; 3_000]))]));
    seal(&mut state, &mut chunks);
    (state, chunks)
}

#[test]
fn sees_its_own_writes_and_nobody_else_does() {
    let (state, chunks) = far_away();
    let mut transaction = state.begin(&chunks);
    transaction.put(DATA, "a", "2").unwrap();
    transaction.put(DATA, "c", "2").unwrap();
    transaction.delete(DATA, "b").unwrap();
    assert_eq!(transaction.get(DATA, b"a"), Ok(Some("2".into())));
    assert_eq!(transaction.get(DATA, b"b"), Ok(None));
    assert_eq!(transaction.get_many(DATA, &["c", "b", "x"]), Ok(vec![Some("2".into()), None, None]));
    let own = vec![("a".into(), "2".into()), ("c".into(), "2".into())];
    assert_eq!(transaction.scan(DATA, b"", 9), Ok(own));
    assert_eq!(state.get(&chunks, DATA, b"a"), Ok(Some("1".into())));
    assert_eq!(state.get(&chunks, DATA, b"c"), Ok(None));

    transaction.clear(DATA);
    transaction.put(DATA, "d", "3").unwrap();
    assert_eq!(transaction.scan(DATA, b"", 9), Ok(vec![("d".into(), "3".into())]));
    assert_eq!(transaction.finish(), Ok(batch([(DATA, Op::Clear), (DATA, put("d", "3"))])));
}

#[test]
fn names_what_is_missing_and_cannot_be_finished_then() {
    let (state, chunks) = far_away();
    let nothing = MemoryChunks::default();
    let mut transaction = state.begin(&nothing);
    transaction.put(DATA, "x", "1").unwrap();
    let root = state.base_root(DATA);
    let missing = Missing {
        nodes: vec![NodeWant { id: root.id, base: None }],
        chunks: vec![],
        ways: vec![Way { root, key: "a".into() }],
    };
    assert_eq!(transaction.get(DATA, b"a"), Err(ReadError::Missing(missing.clone())));
    // Someone who passes over the error gets no further.
    assert_eq!(transaction.get(DATA, b"x"), Ok(Some("1".into())));
    assert_eq!(transaction.finish(), Err(ReadError::Missing(missing)));
    assert_eq!(state.look(DATA, b"x"), Look::Below(root));

    let mut leaf_only = MemoryChunks::default();
    crate::tree::NodeSink::put(
        &mut leaf_only,
        crate::Chunk::verify(root.id, crate::Domain::Node, chunks.node(root.id).unwrap()).unwrap(),
    );
    let read = state.begin(&leaf_only).get(DATA, b"b");
    let Err(ReadError::Missing(missing)) = read else { panic!("{read:?}") };
    assert_eq!((missing.nodes.len(), missing.chunks.len(), missing.chunks[0].bytes), (0, 1, 3_000));
    assert_eq!(state.begin(&chunks).get(DATA, b"b"), Ok(Some(vec![9; 3_000].into())));
}

#[test]
fn writes_never_miss() {
    let (mut state, _) = far_away();
    let nothing = MemoryChunks::default();
    let mut transaction = state.begin(&nothing);
    transaction.put(DATA, "a", "2").unwrap();
    transaction.delete(DATA, "b").unwrap();
    let changes = transaction.finish().unwrap();
    assert_eq!(state.commit(at(2), b"record", &changes), Applied::Now);
    assert_eq!(state.get(&nothing, DATA, b"a"), Ok(Some("2".into())));
    assert_eq!(state.get(&nothing, DATA, b"b"), Ok(None));
    commit(&mut state, 3, &batch([(DATA, Op::Clear)]));
    assert_eq!(state.get(&nothing, DATA, b"z"), Ok(None));
    assert_eq!(state.scan(&nothing, DATA, b"", 9), Ok(vec![]));
}

#[test]
fn names_all_that_many_keys_miss_at_once() {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    let keys: Vec<Vec<u8>> = (0..4_000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    commit(&mut state, 1, &batch(keys.iter().map(|key| (DATA, put(key.clone(), vec![1; 100])))));
    let root = seal(&mut state, &mut chunks).sections[1].root;
    let mut root_only = MemoryChunks::default();
    let bytes = chunks.node(root.id).unwrap();
    crate::tree::NodeSink::put(&mut root_only, crate::Chunk::verify(root.id, crate::Domain::Node, bytes).unwrap());
    let read = state.begin(&root_only).get_many(DATA, &[&keys[0], &keys[2_000], &keys[3_999]]);
    let Err(ReadError::Missing(missing)) = read else { panic!("{read:?}") };
    assert_eq!(missing.nodes.len(), 3);
    assert_eq!(missing.ways.len(), 3);
}

#[derive(Debug, Clone)]
enum Action {
    Put(u8, u8),
    Delete(u8),
    Clear,
    Get(u8),
    Scan(u8, usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0_u8..12, any::<u8>()).prop_map(|(key, value)| Action::Put(key, value)),
        3 => (0_u8..12).prop_map(Action::Delete),
        1 => Just(Action::Clear),
        4 => (0_u8..12).prop_map(Action::Get),
        2 => (0_u8..12, 0_usize..14).prop_map(|(from, entries_max)| Action::Scan(from, entries_max)),
    ];
    prop::collection::vec(action, 0..40)
}

fn act(transaction: &mut Transaction<'_>, model: &mut Model, action: &Action) {
    let content = &mut model.sections[DATA.index()];
    match *action {
        Action::Put(key, value) => {
            transaction.put(DATA, vec![key], vec![value]).unwrap();
            content.insert(vec![key].into(), vec![value].into());
        }
        Action::Delete(key) => {
            transaction.delete(DATA, vec![key]).unwrap();
            content.remove([key].as_slice());
        }
        Action::Clear => {
            transaction.clear(DATA);
            content.clear();
        }
        Action::Get(key) => {
            assert_eq!(transaction.get(DATA, &[key]), Ok(content.get([key].as_slice()).cloned()));
        }
        Action::Scan(from, entries_max) => {
            assert_eq!(transaction.scan(DATA, &[from], entries_max), Ok(model.scan(DATA, &[from], entries_max)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_transaction_behaves_like_the_model(transactions in prop::collection::vec((actions(), 0_u8..3), 1..8)) {
        let (mut state, mut model, mut chunks) = (born(), Model::default(), MemoryChunks::default());
        let mut sealing = None;
        for (number, (actions, then)) in transactions.iter().enumerate() {
            let index = number as u64 + 1;
            let mut transaction = state.begin(&chunks);
            let mut after = model.clone();
            actions.iter().for_each(|action| act(&mut transaction, &mut after, action));
            let changes = transaction.finish().unwrap();
            prop_assert_eq!(commit(&mut state, index, &changes), Applied::Now);
            model.commit(index, &changes);
            prop_assert_eq!(&model.sections, &after.sections);
            match (then, sealing.take()) {
                (1, None) => sealing = Some(state.freeze().unwrap()),
                (2, Some(under_way)) => {
                    let sealed = merge(under_way, &mut chunks, 3);
                    state.finish_seal(&sealed).unwrap();
                }
                (_, under_way) => sealing = under_way,
            }
            check(&state, &chunks, &model);
        }
    }
}

//! Tests of units that are edited by themselves: whichever of them are, the root is what editing one by one gives.

use proptest::prelude::*;

use super::*;

type Edits = Vec<(Bytes, Option<Value>)>;

/// What became of the units that edits fell into.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    adopted: usize,
    /// The last leaf would have reached into the next unit.
    open: usize,
    /// The leaf before it did.
    refused: usize,
}

/// Edits the units that `is_apart` chooses by themselves, all others one by one.
fn edit_apart(
    nodes: &MemoryNodes,
    root: Root,
    edits: &Edits,
    mut is_apart: impl FnMut() -> bool,
    made: &mut MemoryNodes,
) -> (Root, Counts) {
    let first_at = |from: &[u8]| edits.get(edits.partition_point(|(key, _)| key < from)).map(|(key, _)| key.clone());
    let units = units(nodes, &root, &mut |from| first_at(from)).unwrap();
    let (mut editor, mut counts, mut rest) = (Editor::new(root, SALT), Counts::default(), &edits[..]);
    for unit in &units {
        let here = rest.partition_point(|(key, _)| unit.end_key().is_none_or(|end_key| key < end_key));
        let (here, after) = rest.split_at(here);
        rest = after;
        if is_apart() {
            let Some(edited) = edit_unit(unit, nodes, here, made) else {
                counts.open += 1;
                apply_all(&mut editor, nodes, here, made);
                continue;
            };
            if editor.adopt(nodes, &edited, made).unwrap() == Adopted::Yes {
                counts.adopted += 1;
                continue;
            }
            counts.refused += 1;
        }
        apply_all(&mut editor, nodes, here, made);
    }
    assert!(units.is_empty() || rest.is_empty(), "every edit falls into a unit");
    apply_all(&mut editor, nodes, rest, made);
    (editor.finish(nodes, made).unwrap(), counts)
}

fn edit_unit(
    unit: &Unit,
    nodes: &MemoryNodes,
    edits: &[(Bytes, Option<Value>)],
    made: &mut MemoryNodes,
) -> Option<EditedUnit> {
    let mut editor = unit.editor(nodes, SALT).unwrap();
    for (key, value) in edits {
        editor.apply(nodes, key, value.as_ref(), made).unwrap();
    }
    editor.finish(nodes, made).unwrap()
}

fn apply_all(editor: &mut Editor, nodes: &MemoryNodes, edits: &[(Bytes, Option<Value>)], made: &mut MemoryNodes) {
    for (key, value) in edits {
        editor.apply(nodes, key, value.as_ref(), made).unwrap();
    }
}

/// Edits all over the tree: as many as there are entries at most.
fn edits(numbers: &mut Numbers, keys: Keys, model: &Model, share: usize) -> Edits {
    let mut edits = BTreeMap::new();
    for key in model.keys() {
        if numbers.below(100) < share {
            edits.insert(key.clone(), (numbers.below(4) > 0).then(|| numbers.value()));
        }
    }
    for _ in 0..numbers.below(30) {
        edits.insert(numbers.key(keys), Some(numbers.value()));
    }
    edits.into_iter().collect()
}

fn edited(model: &Model, edits: &Edits) -> Model {
    let mut model = model.clone();
    for (key, value) in edits {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
    model
}

#[test]
fn whichever_units_are_edited_by_themselves_the_root_is_the_same() {
    let mut all = Counts::default();
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed * 3 % 4);
        let model = numbers.model(keys, 600);
        let mut nodes = MemoryNodes::default();
        let root = build(&model, &mut nodes);
        let share = [1, 5, 40, 100][numbers.below(4)];
        let edits = edits(&mut numbers, keys, &model, share);
        let expected = build(&edited(&model, &edits), &mut MemoryNodes::default());
        for percent_apart in [0, 50, 100] {
            let mut made = MemoryNodes::default();
            let mut draws = numbers.clone();
            let (actual, counts) = edit_apart(&nodes, root, &edits, || draws.below(100) < percent_apart, &mut made);
            assert_eq!(actual, expected, "seed {seed}, {percent_apart} of 100 apart");
            made.absorb(nodes.clone());
            assert_eq!(read(&made, &actual, Bound::Unbounded).len() as u64, expected.entries);
            all.adopted += counts.adopted;
            all.open += counts.open;
            all.refused += counts.refused;
        }
    }
    assert!(all.adopted > 100 && all.open > 10 && all.refused > 5, "{all:?}");
}

#[test]
fn a_small_tree_has_no_units_and_units_come_only_for_edits() {
    let mut nodes = MemoryNodes::default();
    let small = build(&Numbers(1).model(Keys::Short, 400), &mut nodes);
    assert!(small.level < 2);
    assert!(units(&nodes, &small, &mut |_| Some(Bytes::from_static(b"k"))).unwrap().is_empty());
    let large = build(&Numbers(2).model(Keys::Long, 400), &mut nodes);
    assert!(large.level >= 2);
    assert!(units(&nodes, &large, &mut |_| None).unwrap().is_empty());
    let one = Bytes::from_static(b"k");
    let found = units(&nodes, &large, &mut |from| (from <= &one[..]).then(|| one.clone())).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn an_editor_refuses_a_unit_behind_its_place() {
    let mut numbers = Numbers(5);
    let model = numbers.model(Keys::Long, 400);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let first = model.first_key_value().unwrap().0.clone();
    let found = units(&nodes, &root, &mut |from| (from <= &first[..]).then(|| first.clone())).unwrap();
    let mut made = MemoryNodes::default();
    // An edit that changes nothing closes every leaf where it was closed.
    let edits = [(first.clone(), Some(model[&first].clone()))];
    let edited = edit_unit(&found[0], &nodes, &edits, &mut made).unwrap();
    let mut editor = Editor::new(root, SALT);
    editor.apply(&nodes, model.last_key_value().unwrap().0, None, &mut made).unwrap();
    let refused = TreeError::Refused("the keys do not ascend");
    assert_eq!(editor.adopt(&nodes, &edited, &mut made), Err(refused));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_edits_apart_give_the_root_that_building_gives(
        seed: u64,
        entries in 100_usize..500,
        share in 0_usize..=100,
        percent_apart in 0_usize..=100,
    ) {
        let mut numbers = Numbers(seed);
        let model = numbers.model(Keys::Long, entries);
        let mut nodes = MemoryNodes::default();
        let root = build(&model, &mut nodes);
        let edits = edits(&mut numbers, Keys::Long, &model, share);
        let mut made = MemoryNodes::default();
        let (actual, _) = edit_apart(&nodes, root, &edits, || numbers.below(100) < percent_apart, &mut made);
        prop_assert_eq!(actual, build(&edited(&model, &edits), &mut MemoryNodes::default()));
    }
}

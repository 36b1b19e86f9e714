//! Tests of edits and differences against a model.

use proptest::prelude::*;

use super::*;

/// Random edits: mostly a few, sometimes whole ranges deleted.
fn edits(numbers: &mut Numbers, keys: Keys, model: &Model) -> Vec<(Bytes, Option<Value>)> {
    let mut edits = BTreeMap::new();
    let old: Vec<_> = model.keys().cloned().collect();
    for _ in 0..numbers.below(60) {
        let is_new = old.is_empty() || numbers.below(3) == 0;
        let key = if is_new { numbers.key(keys) } else { old[numbers.below(old.len())].clone() };
        let value = (numbers.below(3) > 0).then(|| numbers.value());
        edits.insert(key, value);
    }
    if !old.is_empty() && numbers.below(3) == 0 {
        let (from, to) = (numbers.below(old.len()), numbers.below(old.len() + 1));
        edits.extend(old.iter().take(to).skip(from).map(|key| (key.clone(), None)));
    }
    edits.into_iter().collect()
}

fn apply_to_model(model: &mut Model, edits: &[(Bytes, Option<Value>)]) {
    for (key, value) in edits {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

fn model_diff(base: &Model, target: &Model) -> Vec<Change> {
    let keys: BTreeSet<_> = base.keys().chain(target.keys()).collect();
    let change = |key: &Bytes| Change { key: key.clone(), old: base.get(key).cloned(), new: target.get(key).cloned() };
    keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

fn diff(nodes: &dyn Nodes, base: Root, target: Root) -> Vec<Change> {
    let mut diff = Diff::new(base, target);
    std::iter::from_fn(|| diff.next(nodes).unwrap()).collect()
}

#[test]
fn editing_gives_the_root_that_building_gives() {
    for seed in 0..90 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let size = numbers.below([10, 150, 3_000][seed as usize % 5 % 3]);
        let mut model = numbers.model(keys, size);
        let mut nodes = MemoryNodes::default();
        let first = build(&model, &mut nodes);
        let mut root = first;
        let first_model = model.clone();
        for _ in 0..4 {
            let edits = edits(&mut numbers, keys, &model);
            let before = (model.clone(), root);
            apply_to_model(&mut model, &edits);
            let mut made = MemoryNodes::default();
            root = edit(&nodes, &root, SALT, &edits, &mut made).unwrap();
            nodes.absorb(made);
            assert_eq!(root, build(&model, &mut MemoryNodes::default()), "seed {seed}");
            assert_eq!(diff(&nodes, before.1, root), model_diff(&before.0, &model), "seed {seed}");
        }
        assert_eq!(diff(&nodes, root, first), model_diff(&model, &first_model));
        assert_eq!(revert(&mut nodes, root, first), first);
    }
}

/// Edits `root` back to `first`, with what their difference says.
fn revert(nodes: &mut MemoryNodes, root: Root, first: Root) -> Root {
    let edits: Vec<_> = diff(nodes, root, first).into_iter().map(|change| (change.key, change.new)).collect();
    edit(&nodes.clone(), &root, SALT, &edits, nodes).unwrap()
}

#[test]
fn one_by_one_and_in_any_order_gives_the_same_root() {
    let mut numbers = Numbers(99);
    let model = numbers.model(Keys::Short, 400);
    let expected = build(&model, &mut MemoryNodes::default());
    let mut entries: Vec<_> = model.into_iter().collect();
    let mut nodes = MemoryNodes::default();
    let mut root = Builder::new(SALT).finish(&mut nodes);
    while !entries.is_empty() {
        let (key, value) = entries.swap_remove(numbers.below(entries.len()));
        root = edit(&nodes.clone(), &root, SALT, &[(key, Some(value))], &mut nodes).unwrap();
    }
    assert_eq!(root, expected);
}

#[test]
fn works_with_nodes_that_come_late() {
    for seed in 0..20 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let mut model = numbers.model(keys, 1_000);
        let mut nodes = MemoryNodes::default();
        let base = build(&model, &mut nodes);
        let edits = edits(&mut numbers, keys, &model);
        apply_to_model(&mut model, &edits);
        let target = build(&model, &mut nodes);

        let actual =
            LateNodes::new(&nodes).fetch(|nodes| edit(nodes, &base, SALT, &edits, &mut MemoryNodes::default()));
        assert_eq!(actual, target);
        assert_eq!(edit_late(&nodes, base, &edits), target);
        assert_eq!(diff_late(&nodes, base, target), diff(&nodes, base, target));
    }
}

fn edit_late(nodes: &MemoryNodes, base: Root, edits: &[(Bytes, Option<Value>)]) -> Root {
    let mut late = LateNodes::new(nodes);
    let mut editor = Editor::new(base, SALT);
    let mut made = MemoryNodes::default();
    for (key, value) in edits {
        late.fetch(|nodes| editor.apply(nodes, key, value.as_ref(), &mut made));
    }
    late.fetch(|nodes| editor.finish(nodes, &mut made))
}

fn diff_late(nodes: &MemoryNodes, base: Root, target: Root) -> Vec<Change> {
    let mut late = LateNodes::new(nodes);
    let mut diff = Diff::new(base, target);
    std::iter::from_fn(|| late.fetch(|nodes| diff.next(nodes))).collect()
}

#[test]
fn edits_what_is_empty_and_empties_what_is_not() {
    let mut numbers = Numbers(8);
    let model = numbers.model(Keys::Long, 200);
    let mut nodes = MemoryNodes::default();
    let empty = Builder::new(SALT).finish(&mut nodes);
    let full = build(&model, &mut nodes);
    let puts: Vec<_> = model.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    let deletes: Vec<_> = model.keys().map(|key| (key.clone(), None)).collect();
    let mut made = MemoryNodes::default();
    assert_eq!(edit(&nodes, &empty, SALT, &puts, &mut made), Ok(full));
    assert_eq!(edit(&nodes, &full, SALT, &deletes, &mut made), Ok(empty));
    assert_eq!(edit(&nodes, &empty, SALT, &deletes, &mut made), Ok(empty));
    assert_eq!(edit::<Bytes>(&nodes, &full, SALT, &[], &mut made), Ok(full));
    // What is left after each of these is the last entries of all levels: the root comes down.
    for kept in 1..30 {
        let (_, last) = deletes.split_at(deletes.len() - kept);
        let rest: Model = last.iter().map(|(key, _)| (key.clone(), model[key].clone())).collect();
        let actual = edit(&nodes, &full, SALT, &deletes[..deletes.len() - kept], &mut made);
        assert_eq!(actual, Ok(build(&rest, &mut MemoryNodes::default())));
    }
}

#[test]
fn edits_that_change_nothing_put_nothing() {
    let mut numbers = Numbers(9);
    let model = numbers.model(Keys::Long, 200);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let same: Vec<_> = model.iter().step_by(7).map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    let mut made = MemoryNodes::default();
    assert_eq!(edit(&nodes, &root, SALT, &same, &mut made), Ok(root));
    assert_eq!(edit(&nodes, &root, SALT, &[(numbers.bytes(20), None)], &mut made), Ok(root));
    assert!(made.is_empty());
}

/// Remembers which old node each new one replaces.
#[derive(Default)]
struct Hinted(Vec<(Chunk, Option<ChunkId>)>);

impl NodeSink for Hinted {
    fn put(&mut self, node: Chunk) {
        panic!("{node:?} came without a word about the old tree");
    }

    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        self.0.push((node, old));
    }
}

/// The nodes of each level in order: first key and id.
fn nodes_by_level(nodes: &MemoryNodes, root: Root) -> Vec<Vec<(Bytes, ChunkId)>> {
    let mut levels = vec![Vec::new(); usize::from(root.level) + 1];
    for (id, bytes) in walk(nodes, root.id) {
        let node = node::Node::parse(bytes).unwrap();
        let first_key = if node.len() == 0 { Bytes::new() } else { node.key_bytes(0) };
        levels[usize::from(node.level())].push((first_key, id));
    }
    levels
}

#[test]
fn a_new_leaf_names_the_old_one_that_covers_its_first_key_if_they_share_keys() {
    let mut leaves = 0;
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let model = numbers.model(keys, 800);
        let mut nodes = MemoryNodes::default();
        let root = build(&model, &mut nodes);
        let old = nodes_by_level(&nodes, root);
        let edits = edits(&mut numbers, keys, &model);
        let mut made = Hinted::default();
        edit(&nodes, &root, SALT, &edits, &mut made).unwrap();
        for (node, hint) in made.0 {
            let node = node::Node::parse(node.bytes().clone()).unwrap();
            let Some(level) = old.get(usize::from(node.level())) else {
                assert_eq!(hint, None, "the old tree has no such level");
                continue;
            };
            if node.level() == 0 && node.len() > 0 {
                let covering = level.iter().rev().find(|(first_key, _)| *first_key <= node.key_bytes(0));
                let covering = covering.unwrap_or(&level[0]).1;
                let old_leaf = node::Node::parse(nodes.node(covering).unwrap()).unwrap();
                let old_keys: BTreeSet<_> = (0..old_leaf.len()).map(|at| old_leaf.key(at)).collect();
                let shares_keys = (0..node.len()).any(|at| old_keys.contains(node.key(at)));
                assert_eq!(hint, shares_keys.then_some(covering), "seed {seed}");
                leaves += usize::from(shares_keys);
            } else {
                let hint = hint.expect("the old tree has this level");
                assert!(level.iter().any(|(_, id)| *id == hint));
            }
        }
    }
    assert!(leaves > 100);
}

#[test]
fn leaves_of_new_keys_only_name_none() {
    let mut nodes = MemoryNodes::default();
    let model = Numbers(3).model(Keys::Short, 2000);
    let root = build(&model, &mut nodes);
    let appended: Vec<_> =
        (0..20_000_u32).map(|key| ([&[255; 8], &key.to_be_bytes()[..]].concat(), Some(Value::default()))).collect();
    let mut made = Hinted::default();
    edit(&nodes, &root, SALT, &appended, &mut made).unwrap();
    let leaves = made.0.iter().filter(|(node, _)| node::Node::parse(node.bytes().clone()).unwrap().level() == 0);
    let hints: Vec<_> = leaves.map(|(_, hint)| *hint).collect();
    // The last old leaf goes on in the first new one.
    assert!(hints.len() > 10 && hints[0].is_some() && hints[1..].iter().all(Option::is_none), "{hints:?}");
}

#[test]
fn a_leaf_all_of_whose_values_changed_names_the_one_that_had_its_keys() {
    let mut nodes = MemoryNodes::default();
    let model = Numbers(3).model(Keys::Short, 2000);
    let root = build(&model, &mut nodes);
    let changed: Vec<_> = model.keys().map(|key| (key.clone(), Some(Value::inline(&b"new"[..])))).collect();
    let mut made = Hinted::default();
    edit(&nodes, &root, SALT, &changed, &mut made).unwrap();
    assert!(made.0.len() > 2 && made.0.iter().all(|(_, hint)| hint.is_some()));
}

#[test]
fn refuses_edits_out_of_order_and_after_the_end() {
    let mut nodes = MemoryNodes::default();
    let root = build(&Numbers(1).model(Keys::Short, 10), &mut nodes);
    let mut made = MemoryNodes::default();
    let out_of_order = [(b"b", None), (b"a", None)];
    let refused = TreeError::Refused("the keys do not ascend");
    assert_eq!(edit(&nodes, &root, SALT, &out_of_order, &mut made), Err(refused));
    let refused = TreeError::Refused("the key is longer than 4 KiB");
    assert_eq!(edit(&nodes, &root, SALT, &[([0; 4097], None)], &mut made), Err(refused));

    let mut editor = Editor::new(root, SALT);
    editor.apply(&nodes, b"key", None, &mut made).unwrap();
    assert_eq!(editor.finish(&nodes, &mut made), editor.finish(&nodes, &mut made));
    let refused = TreeError::Refused("the edits have ended");
    assert_eq!(editor.apply(&nodes, b"later", None, &mut made), Err(refused));
}

#[test]
fn a_batch_names_all_leaves_that_it_misses_at_once() {
    let model = Numbers(4).model(Keys::Short, 20_000);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let edits: Vec<_> = model.keys().step_by(200).map(|key| (key.clone(), Some(Value::default()))).collect();
    let mut late = LateNodes::new(&nodes);
    late.fetch(|nodes| edit(nodes, &root, SALT, &edits, &mut MemoryNodes::default()));
    // One for each level, and for the few leaves that only moved boundaries made necessary.
    assert!(late.round_trips <= usize::from(root.level) + 1 + 8, "{} round trips", late.round_trips);
}

/// Up to a few dozen edits at a time; long values make a few dozen leaves of 256 keys.
fn batches() -> impl Strategy<Value = Vec<BTreeMap<u8, Option<usize>>>> {
    let value = prop::option::weighted(0.7, 0_usize..2_049);
    prop::collection::vec(prop::collection::btree_map(any::<u8>(), value, 0..60), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_batches_give_the_root_that_building_gives(batches in batches()) {
        let mut nodes = MemoryNodes::default();
        let mut root = Builder::new(SALT).finish(&mut nodes);
        let mut model = Model::new();
        for batch in batches {
            let value = |length: usize| Value::inline(vec![length as u8; length]);
            let edits: Vec<_> = batch.into_iter().map(|(key, length)| (vec![key].into(), length.map(value))).collect();
            let (old_model, old_root) = (model.clone(), root);
            apply_to_model(&mut model, &edits);
            root = edit(&nodes.clone(), &root, SALT, &edits, &mut nodes).unwrap();
            prop_assert_eq!(root, build(&model, &mut MemoryNodes::default()));
            prop_assert_eq!(diff(&nodes, old_root, root), model_diff(&old_model, &model));
        }
    }
}

#[test]
fn the_bases_on_the_way_to_a_key_are_the_old_nodes_of_the_same_levels() {
    for (seed, entries) in [(1, 3_000), (3, 400), (5, 40)] {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let (old, new) = (numbers.model(keys, entries), numbers.model(keys, 30 * entries / 10));
        let mut nodes = MemoryNodes::default();
        let (base, target) = (build(&old, &mut nodes), build(&new, &mut nodes));
        for key in new.keys() {
            let bases = bases_on_way(&nodes, &base, target.level, key);
            assert_eq!(bases.len(), usize::from(target.level) + 1);
            assert_eq!(bases.last().copied().flatten(), Some(leaf_of(&nodes, &base, key).unwrap()));
            for (found, level) in bases.iter().rev().zip(0..=u8::MAX) {
                // The second byte of a node is its level.
                let found_level = found.map(|id| nodes.node(id).unwrap()[1]);
                assert_eq!(found_level, (level <= base.level).then_some(level), "seed {seed}");
            }
        }
        // Of a tree whose root is not here there is nothing to build on but the root itself.
        let absent = bases_on_way(&MemoryNodes::default(), &base, target.level, b"key");
        assert_eq!(absent.iter().flatten().collect::<Vec<_>>(), [&base.id]);
    }
}

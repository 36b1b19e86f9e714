//! Tests of edits and differences against a model.

use super::*;

/// Random edits: mostly a few, sometimes whole ranges deleted.
fn edits(numbers: &mut Numbers, model: &Model) -> Vec<(Bytes, Option<Value>)> {
    let mut edits = BTreeMap::new();
    let keys: Vec<_> = model.keys().cloned().collect();
    for _ in 0..numbers.below(60) {
        let key = if keys.is_empty() || numbers.below(3) == 0 {
            numbers.key()
        } else {
            keys[numbers.below(keys.len())].clone()
        };
        let value = (numbers.below(3) > 0).then(|| numbers.value());
        edits.insert(key, value);
    }
    if !keys.is_empty() && numbers.below(3) == 0 {
        let (from, to) = (numbers.below(keys.len()), numbers.below(keys.len() + 1));
        edits.extend(keys.iter().take(to).skip(from).map(|key| (key.clone(), None)));
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
    for seed in 0..150 {
        let mut numbers = Numbers(seed);
        let size = numbers.below([10, 300, 3_000][seed as usize % 3]);
        let mut model = numbers.model(size);
        let mut nodes = MemoryNodes::default();
        let first = build(&model, &mut nodes);
        let mut root = first;
        let first_model = model.clone();
        for _ in 0..4 {
            let edits = edits(&mut numbers, &model);
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
    let model = numbers.model(400);
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
        let mut model = numbers.model(3_000);
        let mut nodes = MemoryNodes::default();
        let base = build(&model, &mut nodes);
        let edits = edits(&mut numbers, &model);
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

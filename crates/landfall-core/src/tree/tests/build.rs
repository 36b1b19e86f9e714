//! Tests of building, reading and listing new leaves.

use super::*;

#[track_caller]
fn check_against_model(model: &Model) {
    let mut nodes = MemoryNodes::default();
    let root = build(model, &mut nodes);
    let entries: Vec<_> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(read(&nodes, &root, Bound::Unbounded), entries);
    assert_eq!(root.entries, model.len() as u64);
    for (key, value) in model {
        assert_eq!(get(&nodes, &root, key).unwrap().as_ref(), Some(value));
    }
    assert_eq!(nodes.len(), walk(&nodes, root.id).len());
}

#[test]
fn reads_what_was_built() {
    for entries in [0, 1, 2, 3, 100, 1_000, 5_000] {
        check_against_model(&Numbers(entries).model(entries as usize));
    }
}

#[test]
fn starts_reading_at_any_bound() {
    let mut numbers = Numbers(7);
    let model = numbers.model(3_000);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    for _ in 0..100 {
        let near = model.range(numbers.bytes(2)..).next().map_or(Bytes::new(), |(key, _)| key.clone());
        for key in [near, numbers.key()] {
            let expect = |start: Bound<&Bytes>| -> Vec<_> {
                model.range((start.cloned(), Bound::Unbounded)).map(|(k, v)| (k.clone(), v.clone())).take(3).collect()
            };
            for start in [Bound::Included(&key), Bound::Excluded(&key)] {
                let mut cursor = Cursor::new(root, start.map(Bytes::as_ref));
                let actual: Vec<_> = std::iter::from_fn(|| cursor.next(&nodes).unwrap()).take(3).collect();
                assert_eq!(actual, expect(start));
            }
        }
    }
}

#[test]
fn lists_exactly_the_leaves_that_the_base_lacks() {
    for seed in 0..30 {
        let mut numbers = Numbers(seed);
        let size = numbers.below(5_000);
        let base_model = numbers.model(size);
        let mut target_model = base_model.clone();
        for _ in 0..numbers.below(20) {
            target_model.insert(numbers.key(), numbers.value());
        }
        let mut nodes = MemoryNodes::default();
        let base = build(&base_model, &mut nodes);
        let target = build(&target_model, &mut nodes);
        check_new_leaves(&nodes, None, target);
        check_new_leaves(&nodes, Some(base), target);
        check_new_leaves(&nodes, Some(target), base);
    }
}

#[track_caller]
fn check_new_leaves(nodes: &MemoryNodes, base: Option<Root>, target: Root) {
    let have: BTreeSet<_> = base.iter().flat_map(|base| leaf_ids(nodes, base)).collect();
    let expected: Vec<_> = leaf_ids(nodes, &target).into_iter().filter(|id| !have.contains(id)).collect();
    let mut late = LateNodes::new(nodes);
    let mut new_leaves = NewLeaves::new(base, target);
    let mut found = Vec::new();
    loop {
        let leaves = late.fetch(|nodes| new_leaves.next(nodes, 7));
        if leaves.is_empty() {
            break;
        }
        found.extend(leaves);
    }
    assert_eq!(found.iter().map(|leaf| leaf.id).collect::<Vec<_>>(), expected);
    for leaf in &found {
        let parsed = Leaf::parse(&nodes.node(leaf.id).unwrap()).unwrap();
        assert_eq!(parsed.len() as u64, leaf.entries);
        assert_eq!(parsed.entry(0).map(|(key, _)| key).unwrap_or_default(), leaf.first_key);
    }
}

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
        check_against_model(&Numbers(entries).model(Keys::Short, entries as usize));
    }
    check_against_model(&Numbers(1).model(Keys::Long, 400));
}

#[test]
fn refuses_what_is_beyond_a_limit_and_stays_usable() {
    let mut nodes = MemoryNodes::default();
    let mut builder = Builder::new(SALT);
    let empty = Value::default();
    let mut push = |key: &[u8], value: &Value| builder.push(key, value, &mut nodes);
    assert_eq!(push(b"", &empty), Ok(()));
    assert_eq!(push(b"", &empty), Err(TreeError::Refused("the keys do not ascend")));
    assert_eq!(push(b"b", &Value::inline(vec![0; 2048])), Ok(()));
    assert_eq!(push(b"a", &empty), Err(TreeError::Refused("the keys do not ascend")));
    assert_eq!(push(&[b'c'; 4097], &empty), Err(TreeError::Refused("the key is longer than 4 KiB")));
    let too_long = Value::inline(vec![0; 2049]);
    assert_eq!(push(b"c", &too_long), Err(TreeError::Refused("the inline value is longer than 2 KiB")));
    let id = ChunkId::of(crate::Domain::Data, b"");
    let too_long = Value::chunk(id, (1 << 20) + 1);
    assert_eq!(push(b"c", &too_long), Err(TreeError::Refused("the chunk is longer than 1 MiB")));
    assert_eq!(push(b"c", &Value { inline: vec![0; 2048].into(), ..Value::chunk(id, 1 << 20) }), Ok(()));
    assert_eq!(push(&[b'd'; 4096], &empty), Ok(()));
    let root = builder.finish(&mut nodes);
    assert_eq!((root.entries, root.payload_bytes, root.chunk_refs), (4, 2 * 2048 + (1 << 20), 1));
    assert_eq!(read(&nodes, &root, Bound::Unbounded).len(), 4);
}

#[test]
fn starts_reading_at_any_bound() {
    for seed in 0..6 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let model = numbers.model(keys, [200, 3_000][seed as usize % 2]);
        let mut nodes = MemoryNodes::default();
        let root = build(&model, &mut nodes);
        for _ in 0..50 {
            let near = model.range(numbers.bytes(2)..).next().map_or(Bytes::new(), |(key, _)| key.clone());
            for key in [near, numbers.key(keys)] {
                check_start(&nodes, &root, &model, Bound::Included(&key));
                check_start(&nodes, &root, &model, Bound::Excluded(&key));
                assert_eq!(get(&nodes, &root, &key).unwrap(), model.get(&key).cloned());
            }
        }
    }
}

#[track_caller]
fn check_start(nodes: &dyn Nodes, root: &Root, model: &Model, start: Bound<&Bytes>) {
    let mut cursor = Cursor::new(*root, start.map(Bytes::as_ref));
    let expected = model.range((start.cloned(), Bound::Unbounded)).take(3);
    for (key, value) in expected {
        assert_eq!(cursor.next(nodes).unwrap(), Some((key.clone(), value.clone())));
    }
    let entries_left = model.range((start.cloned(), Bound::Unbounded)).count();
    if entries_left < 3 {
        assert_eq!(cursor.next(nodes).unwrap(), None);
        assert_eq!(cursor.next(nodes).unwrap(), None);
    }
}

#[test]
fn reads_nodes_that_come_late() {
    let mut numbers = Numbers(3);
    let model = numbers.model(Keys::Long, 60);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let mut late = LateNodes::new(&nodes);
    let mut cursor = Cursor::new(root, Bound::Unbounded);
    for (key, value) in &model {
        assert_eq!(late.fetch(|nodes| cursor.next(nodes)), Some((key.clone(), value.clone())));
    }
    assert_eq!(late.fetch(|nodes| cursor.next(nodes)), None);
    for (key, value) in &model {
        assert_eq!(LateNodes::new(&nodes).fetch(|nodes| get(nodes, &root, key)).as_ref(), Some(value));
    }
}

/// All nodes but one.
struct Without<'a>(&'a MemoryNodes, ChunkId);

impl Nodes for Without<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.0.node(id).filter(|_| id != self.1)
    }
}

#[test]
fn a_lost_node_hides_just_the_keys_of_its_span() {
    let mut numbers = Numbers(6);
    let model = numbers.model(Keys::Long, 60);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    assert!(root.level > 1);
    for (lost, _) in walk(&nodes, root.id) {
        let mut cursor = Cursor::new(root, Bound::Unbounded);
        let mut read = Model::new();
        let mut spans = Vec::new();
        loop {
            match cursor.next(&Without(&nodes, lost)) {
                Ok(Some((key, value))) => drop(read.insert(key, value)),
                Ok(None) => break,
                Err(_) => match cursor.pass_over() {
                    Some(span) => spans.push(span),
                    None => break,
                },
            }
        }
        let is_hidden =
            |key: &Bytes| spans.iter().any(|span| span.first <= *key && span.end.as_ref().is_none_or(|end| key < end));
        let expected: Model = model.clone().into_iter().filter(|(key, _)| lost != root.id && !is_hidden(key)).collect();
        assert_eq!(read, expected);
        assert_eq!(spans.len(), usize::from(lost != root.id));
    }
}

#[test]
fn lists_exactly_the_leaves_that_the_base_lacks() {
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let keys = Keys::of_seed(seed);
        let size = numbers.below([200, 3_000][seed as usize % 2]);
        let base_model = numbers.model(keys, size);
        let mut target_model = base_model.clone();
        for _ in 0..numbers.below(20) {
            target_model.insert(numbers.key(keys), numbers.value());
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
    let base_leaves: BTreeMap<_, _> = base.iter().flat_map(|base| leaves_by_first_key(nodes, base)).collect();
    let have: BTreeSet<_> = base_leaves.values().collect();
    let expected: Vec<_> =
        leaves_by_first_key(nodes, &target).into_iter().filter(|(_, id)| !have.contains(id)).collect();
    let found = new_leaves(&mut LateNodes::new(nodes), base, target);
    assert_eq!(found.iter().map(|leaf| (leaf.first_key.clone(), leaf.id)).collect::<Vec<_>>(), expected);
    for leaf in &found {
        let bytes = nodes.node(leaf.id).unwrap();
        assert_eq!(check_node(leaf.id, &bytes, &leaf.claim()), Ok(()));
        let cover = base_leaves.range(..=leaf.first_key.clone()).next_back().or(base_leaves.iter().next());
        assert_eq!(leaf.base.as_ref(), cover.map(|(_, id)| id));
    }
}

fn leaves_by_first_key(nodes: &dyn Nodes, root: &Root) -> Vec<(Bytes, ChunkId)> {
    let leaf = |bytes: &Bytes| Leaf::parse(bytes).ok()?.entries().next().map(|(_, key, _)| key);
    let leaves = walk(nodes, root.id).into_iter().filter(|(_, bytes)| bytes[1] == 0);
    leaves.map(|(id, bytes)| (leaf(&bytes).unwrap_or_default(), id)).collect()
}

fn new_leaves(late: &mut LateNodes<'_>, base: Option<Root>, target: Root) -> Vec<NewLeaf> {
    let mut new_leaves = NewLeaves::new(base, target);
    let mut found = Vec::new();
    loop {
        let leaves = late.fetch(|nodes| new_leaves.next(nodes, 7));
        assert!(leaves.len() <= 7);
        found.extend(leaves.iter().cloned());
        if leaves.is_empty() {
            let entries_new: u64 = found.iter().map(|leaf| leaf.entries).sum();
            assert_eq!(entries_new + new_leaves.entries_held(), target.entries);
            return found;
        }
    }
}

#[test]
fn listing_new_leaves_takes_one_round_trip_per_level_and_no_leaf() {
    let mut numbers = Numbers(5);
    let mut model = numbers.model(Keys::Long, 400);
    let mut nodes = MemoryNodes::default();
    let base = build(&model, &mut nodes);
    model.extend(numbers.model(Keys::Long, 40));
    let target = build(&model, &mut nodes);
    assert!(target.level >= 3);

    let mut late = LateNodes::new(&nodes);
    new_leaves(&mut late, None, target);
    assert_eq!(late.round_trips, usize::from(target.level));
    assert!(late.here.borrow().iter().all(|&id| nodes.node(id).unwrap()[1] > 0));

    let inner_nodes = walk(&nodes, base.id).into_iter().filter(|(_, bytes)| bytes[1] > 0);
    let mut late = LateNodes::new(&nodes);
    late.here.borrow_mut().extend(inner_nodes.map(|(id, _)| id));
    new_leaves(&mut late, Some(base), target);
    assert!(late.round_trips <= usize::from(target.level));
}

#[test]
fn names_the_base_of_every_wanted_node() {
    let mut numbers = Numbers(6);
    let mut model = numbers.model(Keys::Long, 400);
    let mut nodes = MemoryNodes::default();
    let base = build(&model, &mut nodes);
    model.insert(numbers.key(Keys::Long), Value::default());
    let target = build(&model, &mut nodes);
    assert_eq!(base.level, target.level);

    let mut late = LateNodes::new(&nodes);
    late.here.borrow_mut().extend(walk(&nodes, base.id).into_iter().map(|(id, _)| id));
    let mut new_leaves = NewLeaves::new(Some(base), target);
    let mut wanted = 0;
    while let Err(TreeError::Missing(wants)) = new_leaves.next(&late, 1) {
        for want in &wants {
            let level = |id| nodes.node(id).unwrap()[1];
            assert_eq!(want.base.map(level), Some(level(want.id)));
        }
        wanted += wants.len();
        late.arrive(&wants);
    }
    assert!((usize::from(target.level)..=2 * usize::from(target.level)).contains(&wanted), "{wanted} wanted");
}

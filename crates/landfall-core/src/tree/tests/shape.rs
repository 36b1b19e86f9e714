//! Tests of the sizes of nodes, and of how many of them an edit writes anew.

use siphasher::sip::SipHasher13;

use super::*;

/// Sixteen bytes like those of a service's keys.
fn key_of(index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&Numbers(index).next().to_be_bytes());
    key
}

fn record_of(index: u64) -> Value {
    Value::inline(vec![index as u8; 97])
}

/// Node sizes by level, without the last node of each, which may be of any size.
fn sizes(nodes: &dyn Nodes, root: &Root, level: u8) -> Vec<usize> {
    let all = walk(nodes, root.id).into_iter().filter(|(_, bytes)| bytes[1] == level);
    let mut sizes: Vec<_> = all.map(|(_, bytes)| bytes.len()).collect();
    sizes.pop();
    sizes
}

fn mean(sizes: &[usize]) -> f64 {
    sizes.iter().sum::<usize>() as f64 / sizes.len() as f64
}

/// Deviation over mean.
fn variation(sizes: &[usize]) -> f64 {
    let mean = mean(sizes);
    let variance = sizes.iter().map(|&size| (size as f64 - mean).powi(2)).sum::<f64>() / sizes.len() as f64;
    variance.sqrt() / mean
}

#[test]
fn nodes_are_near_16_kib() {
    let mut nodes = MemoryNodes::default();
    let mut builder = Builder::new(SALT);
    for index in 0..60_000 {
        builder.push(&key_of(index), &record_of(index), &mut nodes).unwrap();
    }
    let root = builder.finish(&mut nodes);
    assert_eq!(root.level, 2);
    let leaves = sizes(&nodes, &root, 0);
    assert!((15_500.0..17_500.0).contains(&mean(&leaves)), "{}", mean(&leaves));
    assert!((0.23..0.33).contains(&variation(&leaves)), "{}", variation(&leaves));
    assert!(leaves.iter().all(|size| (2_048..40_000).contains(size)));
}

/// Keys that would all close a node, or never close one, if the tree were built with `salt`.
fn chosen_keys(salt: Salt, close: bool) -> impl Iterator<Item = [u8; 16]> {
    let salted = SipHasher13::new_with_key(&salt.0);
    let hash = SipHasher13::new_with_keys(salted.hash(&[0, 0]), salted.hash(&[0, 1]));
    (0..).map(key_of).filter(move |key| (hash.hash(key) >> 57 == 0) == close)
}

#[track_caller]
fn check_leaf_mean(salt: Salt, keys: impl Iterator<Item = [u8; 16]>, expected: std::ops::Range<f64>) {
    let mut nodes = MemoryNodes::default();
    let mut builder = Builder::new(salt);
    for key in keys.take(20_000) {
        builder.push(&key, &record_of(0), &mut nodes).unwrap();
    }
    let root = builder.finish(&mut nodes);
    let mean = mean(&sizes(&nodes, &root, 0));
    assert!(expected.contains(&mean), "leaves of {mean} B");
}

#[test]
fn keys_chosen_without_the_salt_change_no_sizes() {
    let guessed = Salt(*b"a guess at a sal");
    for close in [false, true] {
        check_leaf_mean(SALT, chosen_keys(guessed, close), 15_000.0..18_000.0);
    }
    // With the salt, keys can be chosen: the limits still hold, and this test shows that the choice would matter.
    check_leaf_mean(guessed, chosen_keys(guessed, true), 2_048.0..8_000.0);
}

#[test]
fn no_size_of_keys_and_values_breaks_a_limit() {
    let chunk = ChunkRef { id: ChunkId::of(crate::Domain::Data, b""), bytes: 1 << 20 };
    let largest = Value { inline: vec![1; 2048].into(), chunk: Some(chunk) };
    for (key_bytes, value) in [(4096, &largest), (4096, &Value::default()), (2, &largest), (2, &Value::default())] {
        let keys = (0..600_u16).map(|index| [&index.to_be_bytes()[..], &vec![0; key_bytes - 2]].concat().into());
        let model: Model = keys.map(|key| (key, value.clone())).collect();
        let mut nodes = MemoryNodes::default();
        let root = build(&model, &mut nodes);
        assert_eq!(read(&nodes, &root, Bound::Unbounded).len(), 600);
        for level in 1..=root.level {
            let counts = child_counts(&nodes, &root, level);
            let (_, complete) = counts.split_last().unwrap();
            assert!(complete.iter().all(|&count| count >= 2), "an inner node closed after one child");
        }
    }
}

/// How many children the nodes of `level` have.
fn child_counts(nodes: &dyn Nodes, root: &Root, level: u8) -> Vec<usize> {
    let nodes = walk(nodes, root.id).into_iter().filter(|(_, bytes)| bytes[1] == level);
    let count = |bytes: &Bytes| match children(bytes).unwrap() {
        Children::Nodes(children) => children.len(),
        Children::Chunks(_) => 0,
    };
    nodes.map(|(_, bytes)| count(&bytes)).collect()
}

#[test]
fn an_edit_writes_its_leaf_and_the_way_to_it() {
    let mut nodes = MemoryNodes::default();
    let mut builder = Builder::new(SALT);
    for index in 0..60_000 {
        builder.push(&key_of(index * 2), &record_of(index), &mut nodes).unwrap();
    }
    let root = builder.finish(&mut nodes);
    let height = f64::from(root.level) + 1.0;

    let mut numbers = Numbers(2);
    let (mut updated, mut inserted) = (0, 0);
    for _ in 0..200 {
        let index = numbers.below(60_000) as u64;
        updated += nodes_made(&nodes, root, key_of(index * 2), record_of(index + 1));
        inserted += nodes_made(&nodes, root, key_of(index * 2 + 1), record_of(index));
    }
    assert_eq!(updated, 200 * (usize::from(root.level) + 1), "updates of equal length move no boundary");
    assert!(f64::from(inserted as u32) / 200.0 < height * 1.1, "{inserted} nodes for 200 inserts");
}

fn nodes_made(nodes: &MemoryNodes, root: Root, key: [u8; 16], value: Value) -> usize {
    let mut made = MemoryNodes::default();
    edit(nodes, &root, SALT, &[(key, Some(value))], &mut made).unwrap();
    made.len()
}

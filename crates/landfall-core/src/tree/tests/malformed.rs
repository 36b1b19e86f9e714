//! Tests that nothing but a canonical node passes as one.

use proptest::prelude::*;

use super::*;

/// A leaf with every kind of entry.
fn leaf() -> Bytes {
    let id = ChunkId::of(crate::Domain::Data, b"chunk");
    let model = Model::from([
        (Bytes::new(), Value::default()),
        (Bytes::from_static(b"chunk"), Value::chunk(id, 1 << 20)),
        (Bytes::from_static(b"inline"), Value::inline("some bytes")),
        (Bytes::from_static(b"mixed"), Value { inline: Bytes::from_static(b"both"), ..Value::chunk(id, 7) }),
    ]);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    nodes.node(root.id).unwrap()
}

fn inner() -> Bytes {
    let mut nodes = MemoryNodes::default();
    let root = build(&Numbers(1).model(Keys::Short, 2_000), &mut nodes);
    assert_eq!(root.level, 1);
    nodes.node(root.id).unwrap()
}

fn child_nodes(inner: &Bytes) -> Vec<Child> {
    match children(inner).unwrap() {
        Children::Nodes(children) => children,
        Children::Chunks(_) => panic!("a leaf"),
    }
}

/// Encodes again what was read.
fn encode_leaf(leaf: &Leaf) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend_from_slice(&(leaf.len() as u16).to_le_bytes());
    for (_, key, value) in leaf.entries() {
        let flag = if value.chunk.is_some() { 0x8000 } else { 0 };
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(value.inline.len() as u16 | flag).to_le_bytes());
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(&value.inline);
        if let Some(chunk) = value.chunk {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
    }
    bytes
}

fn encode_children(level: u8, children: &[Child]) -> Vec<u8> {
    let mut bytes = vec![1, level];
    bytes.extend_from_slice(&(children.len() as u16).to_le_bytes());
    for child in children {
        bytes.extend_from_slice(&(child.first_key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&child.first_key);
        bytes.extend_from_slice(child.id.as_bytes());
        for count in [child.entries, child.payload_bytes, child.chunk_refs] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
    }
    bytes
}

/// Whatever is accepted must have exactly one encoding, and ascending keys.
fn check_canonical(bytes: &Bytes) {
    match children(bytes) {
        Ok(Children::Chunks(chunks)) => {
            let leaf = Leaf::parse(bytes).unwrap();
            assert_eq!(&encode_leaf(&leaf), bytes);
            assert!(leaf.entries().map(|(_, key, _)| key).is_sorted_by(|left, right| left < right));
            assert!(chunks.iter().all(|chunk| chunk.bytes <= 1 << 20));
        }
        Ok(Children::Nodes(children)) => {
            assert!(Leaf::parse(bytes).is_err());
            assert_eq!(&encode_children(bytes[1], &children), bytes);
            assert!(children.is_sorted_by(|left, right| left.first_key < right.first_key));
        }
        Err(error) => assert!(matches!(error, TreeError::Malformed { .. })),
    }
}

#[test]
fn every_shorter_and_longer_node_is_refused() {
    for bytes in [leaf(), inner()] {
        assert!(children(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert!(children(&bytes.slice(..length)).is_err(), "{length} bytes are no node");
        }
        assert!(children(&[&bytes[..], &[0]].concat().into()).is_err());
    }
}

#[test]
fn every_flipped_bit_is_refused_or_canonical() {
    for bytes in [leaf(), inner()] {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check_canonical(&flipped.into());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_canonical(
        header in prop::array::uniform4(0_u8..3),
        bytes in prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..200),
    ) {
        check_canonical(&[&header[..], &bytes].concat().into());
    }
}

fn put(nodes: &mut MemoryNodes, bytes: Vec<u8>) -> ChunkId {
    let node = Chunk::new(crate::Domain::Node, bytes.into());
    nodes.put(node.clone());
    node.id()
}

/// A two-level tree whose root was made to say something wrong, and what every operation must say about it.
#[track_caller]
fn check_false_claim(change: impl Fn(&mut Vec<Child>), reason: &str) {
    let model = Numbers(1).model(Keys::Short, 2_000);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let nothing = Builder::new(SALT).finish(&mut nodes);
    let deletes: Vec<_> = model.keys().map(|key| (key.clone(), None)).collect();
    let mut children = child_nodes(&nodes.node(root.id).unwrap());
    change(&mut children);
    let sum = |count: fn(&Child) -> u64| children.iter().map(count).sum();
    let lying = Root {
        id: put(&mut nodes, encode_children(1, &children)),
        level: 1,
        entries: sum(|child| child.entries),
        payload_bytes: sum(|child| child.payload_bytes),
        chunk_refs: sum(|child| child.chunk_refs),
    };
    for error in [
        first_error(Cursor::new(lying, Bound::Unbounded), |cursor| cursor.next(&nodes)),
        first_error(Diff::new(nothing, lying), |diff| diff.next(&nodes)),
        model.keys().find_map(|key| get(&nodes, &lying, key).err()),
        edit(&nodes, &lying, SALT, &deletes, &mut MemoryNodes::default()).err(),
    ] {
        match error {
            Some(TreeError::Malformed { reason: actual, .. }) => assert_eq!(actual, reason),
            other => panic!("{other:?} instead of '{reason}'"),
        }
    }
}

fn first_error<T, I>(mut operation: T, next: impl Fn(&mut T) -> Result<Option<I>, TreeError>) -> Option<TreeError> {
    loop {
        match next(&mut operation) {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

#[test]
fn a_child_must_be_what_its_parent_claims() {
    let counts = "its counts are not what its parent claims";
    check_false_claim(|children| children[1].entries += 1, counts);
    check_false_claim(|children| children[1].payload_bytes -= 1, counts);
    check_false_claim(|children| children[1].chunk_refs += 1, counts);
    check_false_claim(|children| children[1].id = children[0].id, counts);
    let just_after = |key: &Bytes| Bytes::from([key, &b"\0"[..]].concat());
    check_false_claim(
        |children| children[1].first_key = just_after(&children[1].first_key),
        "its first key is not what its parent claims",
    );
    check_false_claim(
        |children| children[1].first_key = just_after(&children[0].first_key),
        "it reaches into the next node",
    );
}

#[test]
fn a_root_must_be_what_it_claims() {
    let mut nodes = MemoryNodes::default();
    let model = Numbers(1).model(Keys::Short, 2_000);
    let root = build(&model, &mut nodes);
    let check = |root: Root, reason| {
        assert_eq!(get(&nodes, &root, b""), Err(TreeError::Malformed { id: root.id, reason }));
    };
    check(Root { entries: root.entries + 1, ..root }, "its counts are not what its parent claims");
    check(Root { level: 2, ..root }, "its level is not what its parent claims");

    let children = child_nodes(&nodes.node(root.id).unwrap());
    let only = &children[0];
    let single = Root {
        id: put(&mut nodes, encode_children(1, &children[..1])),
        level: 1,
        entries: only.entries,
        payload_bytes: only.payload_bytes,
        chunk_refs: only.chunk_refs,
    };
    let reason = "it is a root with one child";
    assert_eq!(get(&nodes, &single, b""), Err(TreeError::Malformed { id: single.id, reason }));
}

//! Owns what every test of the tree needs: a model, made-up content, and nodes that arrive late.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::*;

mod build;
mod edit;
mod golden;
mod malformed;
mod shape;
mod units;

/// What a tree should be.
type Model = BTreeMap<Bytes, Value>;

const SALT: Salt = Salt(*b"a salt for tests");

/// A stream of numbers that looks random and is the same on every machine (splitmix64).
#[derive(Debug, Clone)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Bytes {
        (0..length).map(|_| self.next() as u8).collect::<Vec<_>>().into()
    }

    /// Mostly short, sometimes with a chunk beside or instead of the inline bytes.
    fn value(&mut self) -> Value {
        let inline_bytes = if self.below(40) == 0 { self.below(2049) } else { self.below(120) };
        let chunk = (self.below(10) == 0).then(|| ChunkRef {
            id: ChunkId::of(crate::Domain::Data, &self.next().to_le_bytes()),
            bytes: self.below(1 << 20) as u32,
        });
        Value { inline: self.bytes(inline_bytes), chunk }
    }

    fn key(&mut self, keys: Keys) -> Bytes {
        let length = match keys {
            Keys::Short if self.below(60) > 0 => self.below(30),
            Keys::Short => self.below(4097),
            Keys::Long => 3_000 + self.below(1_097),
        };
        self.bytes(length)
    }

    fn model(&mut self, keys: Keys, entries: usize) -> Model {
        (0..entries).map(|_| (self.key(keys), self.value())).collect()
    }
}

/// What the keys of a model look like. Long keys make high trees of few entries.
#[derive(Debug, Clone, Copy)]
enum Keys {
    Short,
    Long,
}

impl Keys {
    fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(3) { Self::Long } else { Self::Short }
    }
}

fn build(model: &Model, nodes: &mut MemoryNodes) -> Root {
    let mut builder = Builder::new(SALT);
    for (key, value) in model {
        builder.push(key, value, nodes).unwrap();
    }
    builder.finish(nodes)
}

/// Everything from `start` on.
fn read(nodes: &dyn Nodes, root: &Root, start: Bound<&[u8]>) -> Vec<(Bytes, Value)> {
    let mut cursor = Cursor::new(*root, start);
    std::iter::from_fn(|| cursor.next(nodes).unwrap()).collect()
}

/// All nodes below and including the root.
fn walk(nodes: &dyn Nodes, id: ChunkId) -> Vec<(ChunkId, Bytes)> {
    let bytes = nodes.node(id).unwrap();
    let mut found = vec![(id, bytes.clone())];
    if let Children::Nodes(children) = children(&bytes).unwrap() {
        found.extend(children.iter().flat_map(|child| walk(nodes, child.id)));
    }
    found
}

/// A store to which nodes come only after they were wanted.
struct LateNodes<'a> {
    all: &'a MemoryNodes,
    here: RefCell<BTreeSet<ChunkId>>,
    round_trips: usize,
}

impl<'a> LateNodes<'a> {
    fn new(all: &'a MemoryNodes) -> Self {
        Self { all, here: RefCell::default(), round_trips: 0 }
    }

    /// Runs an operation until nothing is missing.
    fn fetch<T>(&mut self, mut operation: impl FnMut(&Self) -> Result<T, TreeError>) -> T {
        loop {
            match operation(self) {
                Ok(result) => return result,
                Err(TreeError::Missing(wants)) => self.arrive(&wants),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn arrive(&mut self, wants: &[NodeWant]) {
        assert!(!wants.is_empty() && wants.len() <= NODE_WANTS_MAX);
        self.round_trips += 1;
        for want in wants {
            assert!(self.all.node(want.id).is_some(), "wants a node that no tree has");
            assert!(self.here.borrow_mut().insert(want.id), "wants a node that is here");
        }
    }
}

impl Nodes for LateNodes<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.here.borrow().contains(&id).then(|| self.all.node(id)).flatten()
    }
}

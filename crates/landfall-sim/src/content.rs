//! Owns what the publisher publishes: a made-up state, its edits, and the snapshots of it. This is the model that joiners are
//! compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use landfall_core::limits::INLINE_VALUE_BYTES_MAX;
use landfall_core::snapshot::{
    KeyRange, LogHash, Manifest, Position, Section, SectionKind, SectionPriority, StateName,
};
use landfall_core::tree::{Builder, NodeSink, Root, Salt, Value};
use landfall_core::{Chunk, ChunkId, Domain};

use crate::random::Random;
use crate::scenario::ContentShape;

/// Keys and plaintexts of the sections, in the order of their names.
type Sections = [BTreeMap<Bytes, Content>; 2];

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It lives in the tree.
    Inline(Bytes),
    /// It lives in a chunk.
    Chunk(Bytes),
}

impl Content {
    fn value(&self) -> Value {
        match self {
            Self::Inline(bytes) => Value::inline(bytes.clone()),
            Self::Chunk(bytes) => Value::chunk(ChunkId::of(Domain::Data, bytes), bytes.len() as u32),
        }
    }
}

/// A state that changes.
#[derive(Debug)]
pub struct Model {
    sections: Sections,
    shape: ContentShape,
    random: Random,
    versions: u64,
}

/// One snapshot, and everything that belongs to it.
#[derive(Debug)]
pub struct Published {
    /// Its id.
    pub id: ChunkId,
    /// The manifest.
    pub manifest: Manifest,
    /// Manifest, nodes and chunks.
    pub chunks: Vec<Chunk>,
    /// What it says, by section.
    pub sections: Sections,
    /// Chunks that the trees refer to more than once.
    pub repeated: BTreeSet<ChunkId>,
}

impl Model {
    /// The state as it is first.
    pub fn new(shape: ContentShape, random: Random) -> Self {
        let mut model = Self { sections: Sections::default(), shape, random, versions: 0 };
        for _ in 0..shape.entries {
            model.put();
        }
        model
    }

    /// Changes some of it.
    pub fn edit(&mut self) {
        for _ in 0..self.shape.edits {
            match self.random.below(4) {
                0 => self.put(),
                1 => self.remove(),
                _ => self.change(),
            }
        }
    }

    /// The snapshot of what it is now.
    pub fn publish(&mut self) -> Published {
        self.versions += 1;
        let mut made = Made(Vec::new());
        let roots = [0, 1].map(|section| made.tree(&self.sections[section]));
        let manifest = manifest(self.versions, roots);
        let mut seen = BTreeSet::new();
        let mut repeated = BTreeSet::new();
        for content in self.sections.iter().flat_map(BTreeMap::values) {
            let Content::Chunk(bytes) = content else { continue };
            let chunk = Chunk::new(Domain::Data, bytes.clone());
            if !seen.insert(chunk.id()) {
                repeated.insert(chunk.id());
            }
            made.0.push(chunk);
        }
        let chunk = manifest.to_chunk();
        made.0.push(chunk.clone());
        Published { id: chunk.id(), manifest, chunks: made.0, sections: self.sections.clone(), repeated }
    }

    fn put(&mut self) {
        let section = usize::from(!self.random.chance(150));
        let key = Bytes::from(format!("key/{:06}", self.random.below(1_000_000)));
        let content = self.content(section);
        self.sections[section].insert(key, content);
    }

    fn content(&mut self, section: usize) -> Content {
        if self.random.chance(self.shape.inline_per_mille) {
            let length = self.random.below(u64::from(INLINE_VALUE_BYTES_MAX) / 4) as usize;
            return Content::Inline(self.random.text(length).into());
        }
        if self.random.chance(20)
            && let Some((_, twin)) = self.pick(section)
        {
            return twin;
        }
        let length = self.random.below(self.shape.chunk_bytes_max) as usize;
        let bytes = if self.random.chance(500) { self.random.text(length) } else { self.random.bytes(length) };
        Content::Chunk(bytes.into())
    }

    fn remove(&mut self) {
        if let Some((key, _)) = self.pick(1) {
            self.sections[1].remove(&key);
        }
    }

    /// Overwrites a few bytes of one value, so that a patch is short.
    fn change(&mut self) {
        let Some((key, Content::Chunk(bytes))) = self.pick(1) else { return };
        let mut bytes = bytes.to_vec();
        let place = self.random.below(bytes.len() as u64) as usize;
        for byte in bytes.iter_mut().skip(place).take(20) {
            *byte ^= self.random.next() as u8;
        }
        self.sections[1].insert(key, Content::Chunk(bytes.into()));
    }

    fn pick(&mut self, section: usize) -> Option<(Bytes, Content)> {
        let entries = &self.sections[section];
        let at = self.random.below(entries.len() as u64) as usize;
        entries.iter().nth(at).map(|(key, content)| (key.clone(), content.clone()))
    }
}

/// Nodes and chunks in the order in which they are made.
struct Made(Vec<Chunk>);

impl NodeSink for Made {
    fn put(&mut self, node: Chunk) {
        self.0.push(node);
    }
}

impl Made {
    fn tree(&mut self, entries: &BTreeMap<Bytes, Content>) -> Root {
        let mut builder = Builder::new(Salt::PUBLIC);
        for (key, content) in entries {
            builder.push(key, &content.value(), self).expect("keys ascend and values are short");
        }
        builder.finish(self)
    }
}

/// The root of a section's content, built anew.
pub fn rebuild(entries: impl Iterator<Item = (Bytes, Value)>) -> Root {
    let mut made = Made(Vec::new());
    let mut builder = Builder::new(Salt::PUBLIC);
    for (key, value) in entries {
        builder.push(&key, &value, &mut made).expect("a tree's entries ascend");
    }
    builder.finish(&mut made)
}

fn manifest(version: u64, roots: [Root; 2]) -> Manifest {
    let section = |name: &str, priority, root| Section {
        name: name_of(name),
        kind: SectionKind::Keyed,
        priority,
        range: KeyRange::default(),
        salt: Salt::PUBLIC,
        root,
    };
    Manifest {
        state: name_of(STATE),
        position: Position { epoch: 1, index: version },
        log_hash: LogHash::default(),
        sections: vec![
            section("config", SectionPriority::Vital, roots[0]),
            section("data", SectionPriority::Bulk, roots[1]),
        ],
    }
}

fn name_of(name: &str) -> StateName {
    StateName::new(name).expect("a legal name")
}

/// The state that is shipped.
pub const STATE: &str = "orders";

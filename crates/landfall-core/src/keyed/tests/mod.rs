//! Tests of keyed state, against a model: a map for each section and a position.

mod apart;
mod codec;
mod late;
mod layers;
mod refused;
mod sections;
mod transaction;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::snapshot::{KeyRange, LogHash, Manifest, Position, SectionPriority, StateName};
use crate::tree::{Builder, Salt, Value};

const CONFIG: SectionId = SectionId(0);
const DATA: SectionId = SectionId(1);
const SHARD: SectionId = SectionId(2);
const SALTS: [Salt; 3] = [Salt([1; 16]), Salt([2; 16]), Salt([3; 16])];

fn name(text: &str) -> StateName {
    StateName::new(text).unwrap()
}

fn section(text: &str, priority: SectionPriority, range: KeyRange) -> SectionSchema {
    SectionSchema { name: name(text), priority, range }
}

/// `config`, `data`, and `shard`, which holds the keys from `b` up to `m`.
fn schema() -> Arc<Schema> {
    let range = KeyRange { start: Bytes::from_static(b"b"), end: Some(Bytes::from_static(b"m")) };
    let sections = vec![
        section("shard", SectionPriority::Bulk, range),
        section("data", SectionPriority::Bulk, KeyRange::default()),
        section("config", SectionPriority::Vital, KeyRange::default()),
    ];
    Arc::new(Schema::new(sections).unwrap())
}

fn born() -> KeyedState {
    KeyedState::empty(name("orders"), schema(), &SALTS)
}

fn at(index: u64) -> Position {
    Position { epoch: 1, index }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

fn delete(key: impl Into<Bytes>) -> Op {
    Op::Delete { key: key.into() }
}

fn batch(ops: impl IntoIterator<Item = (SectionId, Op)>) -> Batch {
    let mut batch = Batch::default();
    for (section, op) in ops {
        batch.push(&schema(), section, op).unwrap();
    }
    batch
}

/// Commits changes with a record that is their encoding.
fn commit(state: &mut KeyedState, index: u64, changes: &Batch) -> Applied {
    let record = changes.encode(&schema()).unwrap();
    state.commit(at(index), &record, changes)
}

/// Merges until the seal is complete.
fn merge(mut sealing: Sealing, chunks: &mut MemoryChunks, entries_max: usize) -> Sealed {
    loop {
        let mut made = MemoryChunks::default();
        let step = sealing.step(chunks, entries_max, &mut made).unwrap();
        chunks.absorb(made);
        if let Step::Done(sealed) = step {
            return sealed;
        }
    }
}

fn seal(state: &mut KeyedState, chunks: &mut MemoryChunks) -> Manifest {
    let sealing = state.freeze().unwrap();
    let sealed = merge(sealing, chunks, 7);
    state.finish_seal(&sealed).unwrap();
    sealed.manifest
}

/// What a state should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    sections: [BTreeMap<Bytes, Bytes>; 3],
    position: Position,
    log_hash: LogHash,
}

impl Model {
    fn commit(&mut self, index: u64, changes: &Batch) {
        if at(index) <= self.position {
            return;
        }
        for (section, op) in changes.ops() {
            let section = &mut self.sections[section.index()];
            match op.clone() {
                Op::Put { key, value } => drop(section.insert(key, value)),
                Op::Delete { key } => drop(section.remove(&key)),
                Op::Clear => section.clear(),
            }
        }
        self.position = at(index);
        self.log_hash = self.log_hash.after(self.position, &changes.encode(&schema()).unwrap());
    }

    /// The snapshot of this content, built from scratch.
    fn manifest(&self, chunks: &mut MemoryChunks) -> Manifest {
        let mut manifest = born().base().clone();
        for (section, content) in manifest.sections.iter_mut().zip(&self.sections) {
            let mut builder = Builder::new(section.salt);
            for (key, value) in content {
                let value = tree_value(value, chunks);
                builder.push(key, &value, chunks).unwrap();
            }
            section.root = builder.finish(chunks);
        }
        Manifest { position: self.position, log_hash: self.log_hash, ..manifest }
    }

    fn scan(&self, section: SectionId, from: &[u8], entries_max: usize) -> Vec<(Bytes, Bytes)> {
        let entries = self.sections[section.index()].iter().skip_while(|(key, _)| key.as_ref() < from);
        entries.take(entries_max).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Says the rule again: up to 2 KiB inside the leaf, else one chunk.
fn tree_value(value: &Bytes, chunks: &mut MemoryChunks) -> Value {
    if value.len() <= 2048 {
        return Value::inline(value.clone());
    }
    let chunk = crate::Chunk::new(crate::Domain::Data, value.clone());
    let value = Value::chunk(chunk.id(), value.len() as u32);
    chunks.put_value(chunk);
    value
}

/// Everything that a read can see is what the model holds.
#[track_caller]
fn check(state: &KeyedState, chunks: &MemoryChunks, model: &Model) {
    assert_eq!((state.position(), state.log_hash()), (model.position, model.log_hash));
    for section in schema().ids() {
        assert_eq!(state.scan(chunks, section, b"", usize::MAX), Ok(model.scan(section, b"", usize::MAX)));
        for (key, value) in &model.sections[section.index()] {
            assert_eq!(state.get(chunks, section, key), Ok(Some(value.clone())));
        }
    }
}

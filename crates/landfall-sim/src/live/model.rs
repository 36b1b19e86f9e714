//! Owns the reference model: what every key was at every position, kept in the simplest way. Members are compared with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use landfall_core::keyed::SectionId;
use landfall_core::limits::INLINE_VALUE_BYTES_MAX;
use landfall_core::tree::{Builder, NodeSink, Root, Salt, Value};
use landfall_core::{Chunk, ChunkId, Domain};

/// Every value of every key, with the index from which on it holds.
#[derive(Debug)]
pub(super) struct Model {
    sections: Vec<BTreeMap<Bytes, Vec<Version>>>,
}

/// A value, or that there is none, and the index from which on it holds.
type Version = (u64, Option<Bytes>);

impl Model {
    pub(super) fn new(sections: usize) -> Self {
        Self { sections: vec![BTreeMap::new(); sections] }
    }

    /// Gives a key a value, or takes it away, from `index` on.
    pub(super) fn set(&mut self, section: SectionId, key: &Bytes, value: Option<Bytes>, index: u64) {
        let versions = self.sections[usize::from(section.0)].entry(key.clone()).or_default();
        match versions.last_mut() {
            Some((last, old)) if *last == index => *old = value,
            _ => versions.push((index, value)),
        }
    }

    /// Takes every value of a section away from `index` on.
    pub(super) fn clear(&mut self, section: SectionId, index: u64) {
        let keys: Vec<Bytes> = self.sections[usize::from(section.0)].keys().cloned().collect();
        for key in keys {
            if self.get(section, &key, index).is_some() {
                self.set(section, &key, None, index);
            }
        }
    }

    /// The value of a key at `index`.
    pub(super) fn get(&self, section: SectionId, key: &[u8], index: u64) -> Option<Bytes> {
        at(self.sections[usize::from(section.0)].get(key)?, index)
    }

    /// Up to `entries_max` entries from a key on, at `index`.
    pub(super) fn scan(&self, section: SectionId, from: &[u8], entries_max: usize, index: u64) -> Vec<(Bytes, Bytes)> {
        let after = self.sections[usize::from(section.0)].iter().skip_while(|(key, _)| key[..] < *from);
        after.filter_map(|(key, versions)| Some((key.clone(), at(versions, index)?))).take(entries_max).collect()
    }

    /// The one tree that a section has at `index`.
    pub(super) fn root(&self, section: SectionId, salt: Salt, index: u64) -> Root {
        let mut builder = Builder::new(salt);
        for (key, value) in self.scan(section, &[], usize::MAX, index) {
            let value = if value.len() <= INLINE_VALUE_BYTES_MAX as usize {
                Value::inline(value)
            } else {
                Value::chunk(ChunkId::of(Domain::Data, &value), value.len() as u32)
            };
            builder.push(&key, &value, &mut Nowhere).expect("keys ascend");
        }
        builder.finish(&mut Nowhere)
    }
}

fn at(versions: &[Version], index: u64) -> Option<Bytes> {
    let count = versions.partition_point(|(since, _)| *since <= index);
    versions[..count].last()?.1.clone()
}

struct Nowhere;

impl NodeSink for Nowhere {
    fn put(&mut self, _: Chunk) {}
}

//! Owns changes that no tree has yet: for each section what was put and deleted, and whether what is below counts.
//!
//! It never reads a tree, so changing it never misses.

use std::collections::BTreeMap;
use std::collections::btree_map::{self, Range};
use std::ops::Bound;

use bytes::Bytes;

use super::layer_key::{LayerKey, Lookup, Wanted};
use super::{Batch, Op, SectionId};
use crate::snapshot::Position;

/// What a change costs in memory beside its key and its value: two shared slices, the head of the key, a position, its share of the map's
/// nodes and the two allocations.
const ENTRY_BYTES: u64 = 176;

/// Changes of all sections.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    /// By section.
    layers: Vec<Layer>,
}

impl Overlay {
    pub(super) fn empty(sections: usize) -> Self {
        Self { layers: std::iter::repeat_with(Layer::default).take(sections).collect() }
    }

    /// All changes; none are left.
    pub(super) fn take(&mut self) -> Self {
        let sections = self.layers.len();
        std::mem::replace(self, Self::empty(sections))
    }

    pub(super) fn layer(&self, section: SectionId) -> &Layer {
        &self.layers[section.index()]
    }

    /// Bytes of memory, nearly.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Enters changes. Keys and values are copied: a slice would keep alive what it was cut from, which nobody counts.
    pub(super) fn apply(&mut self, position: Position, changes: &Batch) {
        for (section, op) in changes.ops() {
            let layer = &mut self.layers[section.index()];
            match op {
                Op::Put { key, value } => layer.set(key, Some(Bytes::copy_from_slice(value)), position, copied),
                Op::Delete { key } => layer.set(key, None, position, copied),
                Op::Clear => layer.clear(position),
            }
        }
    }

    /// Forgets everything at or below `position`.
    pub(super) fn forget(&mut self, position: Position) {
        self.layers.iter_mut().for_each(|layer| layer.forget(position));
    }

    /// Enters everything of `newer` on top.
    pub(super) fn put_on_top(&mut self, newer: Self) {
        for (layer, newer) in self.layers.iter_mut().zip(newer.layers) {
            layer.put_on_top(newer);
        }
    }
}

/// Changes of one section.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    /// Where the section was cleared last: what is below this layer does not count.
    cleared: Option<Position>,
    entries: BTreeMap<LayerKey, Entry>,
    bytes: u64,
}

/// The last change of one key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    position: Position,
    /// Nothing if the key was deleted.
    pub(super) value: Option<Bytes>,
}

impl Layer {
    pub(super) fn hides_below(&self) -> bool {
        self.cleared.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cleared.is_none() && self.entries.is_empty()
    }

    /// What this layer knows of a key; nothing if the layers below decide.
    pub(super) fn look(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        match self.entries.get(&Lookup::of(key) as &dyn Wanted) {
            Some(entry) => Some(entry.value.as_ref()),
            None => self.hides_below().then_some(None),
        }
    }

    /// All entries whose keys `start` and `end` admit, in order. The start is before the end.
    pub(super) fn entries(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Entries<'_> {
        let (start, end) = (start.map(Lookup::of), end.map(Lookup::of));
        Entries(self.entries.range::<dyn Wanted, _>((wanted(&start), wanted(&end))))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Enters the last change of a key, which is owned as `own` says.
    pub(super) fn set(&mut self, key: &Bytes, value: Option<Bytes>, position: Position, own: fn(&Bytes) -> Bytes) {
        let value_bytes = value.as_ref().map_or(0, |value| value.len() as u64);
        let key_bytes = key.len() as u64;
        match self.entries.entry(own(key).into()) {
            btree_map::Entry::Occupied(mut entry) => {
                let old = entry.insert(Entry { position, value });
                self.bytes -= old.value.as_ref().map_or(0, |value| value.len() as u64);
            }
            btree_map::Entry::Vacant(place) => {
                self.bytes += key_bytes + ENTRY_BYTES;
                place.insert(Entry { position, value });
            }
        }
        self.bytes += value_bytes;
    }

    pub(super) fn clear(&mut self, position: Position) {
        *self = Self { cleared: Some(position), ..Self::default() };
    }

    fn forget(&mut self, position: Position) {
        self.cleared = self.cleared.filter(|cleared| *cleared > position);
        let bytes = &mut self.bytes;
        self.entries.retain(|key, entry| {
            let is_kept = entry.position > position;
            if !is_kept {
                *bytes -= cost(key.bytes(), entry);
            }
            is_kept
        });
    }

    fn put_on_top(&mut self, newer: Self) {
        if newer.hides_below() || self.is_empty() {
            *self = newer;
            return;
        }
        for (key, entry) in newer.entries {
            self.set(key.bytes(), entry.value, entry.position, Bytes::clone);
        }
    }

    /// The changes as a batch has them: what hides comes first, then keys in order.
    pub(super) fn into_ops(self) -> impl Iterator<Item = Op> {
        let clear = self.cleared.map(|_| Op::Clear);
        let entries = self.entries.into_iter().map(|(key, entry)| match entry.value {
            Some(value) => Op::Put { key: key.into_bytes(), value },
            None => Op::Delete { key: key.into_bytes() },
        });
        clear.into_iter().chain(entries)
    }
}

/// Changes of one section in order.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a>(Range<'a, LayerKey, Entry>);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a Bytes, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, entry)| (key.bytes(), entry))
    }
}

fn wanted<'a>(bound: &'a Bound<Lookup<'_>>) -> Bound<&'a (dyn Wanted + 'a)> {
    bound.as_ref().map(|lookup| lookup as &dyn Wanted)
}

fn copied(key: &Bytes) -> Bytes {
    Bytes::copy_from_slice(key)
}

fn cost(key: &Bytes, entry: &Entry) -> u64 {
    key.len() as u64 + entry.value.as_ref().map_or(0, |value| value.len() as u64) + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys that begin alike, end early, or end with zeros, beyond the bytes that are compared as numbers.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(vec![0, 0, 0, 1, 255]);
        prop::collection::vec(byte, 1..20)
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    }

    /// A map refuses a range whose start is behind its end.
    fn is_range(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
        match (start, end) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
            (Bound::Excluded(start), Bound::Excluded(end)) => start < end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
                start <= end
            }
        }
    }

    proptest! {
        #[test]
        fn a_layer_finds_and_lists_what_a_map_of_bytes_does(
            changes in prop::collection::vec((key(), prop::option::of(0_u8..9)), 0..40),
            looked in prop::collection::vec(key(), 0..20),
            (start, end) in (bound(), bound()).prop_filter("a range", |(start, end)| is_range(start, end)),
        ) {
            let (mut layer, mut model) = (Layer::default(), BTreeMap::new());
            for ((key, value), index) in changes.into_iter().zip(1..) {
                let value = value.map(|value| Bytes::from(vec![value]));
                layer.set(&key.clone().into(), value.clone(), Position { epoch: 1, index }, copied);
                model.insert(key, value);
            }
            for key in looked.iter().chain(model.keys()) {
                prop_assert_eq!(layer.look(key), model.get(key).map(Option::as_ref));
            }
            let listed = layer.entries(start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            let listed: Vec<_> = listed.map(|(key, entry)| (key.to_vec(), entry.value.clone())).collect();
            let expected: Vec<_> = model.range((start, end)).map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

//! A keyed state of one section for the tests of this module, with no member around it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::snapshot::{KeyRange, Position, SectionPriority, StateName};

use super::{Keyed, KeyedConfig, Schema, SectionId, SectionSchema};

/// Opens what `directory` holds.
pub(super) fn open(directory: &Path) -> Arc<Keyed> {
    let name = StateName::new("data").unwrap();
    let section = SectionSchema { name: name.clone(), priority: SectionPriority::Bulk, range: KeyRange::default() };
    let schema = Schema::new(vec![section]).unwrap();
    let directory = directory.to_owned();
    Keyed::open(KeyedConfig { name, directory, schema, cache_bytes: 1 << 20, salt_seed: [1; 32] }).unwrap()
}

/// Writes some keys as the record at `index`, which is new.
pub(super) fn put(state: &Keyed, index: u64, keys: &[Bytes], value: &'static str) {
    let changed = state.transact(Position { epoch: 1, index }, &index.to_le_bytes(), |transaction| {
        keys.iter().for_each(|key| transaction.put(SectionId(0), key.clone(), value).unwrap());
        Ok(())
    });
    assert!(changed.unwrap().is_some());
}

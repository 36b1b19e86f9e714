//! A keyed state of one section for the tests of this module, with no member around it.

use std::path::Path;
use std::sync::Arc;

use landfall_core::snapshot::{KeyRange, SectionPriority, StateName};

use super::{Keyed, KeyedConfig, Schema, SectionSchema};

/// Opens what `directory` holds.
pub(super) fn open(directory: &Path) -> Arc<Keyed> {
    let name = StateName::new("data").unwrap();
    let section = SectionSchema { name: name.clone(), priority: SectionPriority::Bulk, range: KeyRange::default() };
    let schema = Schema::new(vec![section]).unwrap();
    let directory = directory.to_owned();
    Keyed::open(KeyedConfig { name, directory, schema, cache_bytes: 1 << 20, salt_seed: [1; 32] }).unwrap()
}

//! A keyed state of one section for the tests of this module, with no member around it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use landfall_store::vfs::faulty::FaultyVfs;

use super::{Keyed, KeyedConfig, Schema, SectionId, SectionSchema};

/// Opens what `directory` holds.
pub(super) fn open(directory: &Path) -> Arc<Keyed> {
    Keyed::open(config(directory)).unwrap()
}

/// Opens what a disk in memory holds.
pub(super) fn open_on(disk: &FaultyVfs) -> Arc<Keyed> {
    Keyed::open_on(config(Path::new("state")), Arc::new(disk.clone())).unwrap()
}

/// Cuts the power of a disk, lets go of `running`, all that has it open, and opens what the disk kept.
pub(super) fn open_after_power_cut(disk: &FaultyVfs, running: impl Sized) -> Arc<Keyed> {
    disk.cut_power();
    drop(running);
    disk.restart();
    open_on(disk)
}

fn config(directory: &Path) -> KeyedConfig {
    let name = StateName::new("data").unwrap();
    let section = SectionSchema { name: name.clone(), priority: SectionPriority::Bulk, range: KeyRange::default() };
    let schema = Schema::new(vec![section]).unwrap();
    KeyedConfig { name, directory: directory.to_owned(), schema, cache_bytes: 1 << 20, salt_seed: [1; 32] }
}

/// So many keys, in order.
pub(super) fn keys(count: u32) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect()
}

/// Writes some keys as the record at `index`, which is new.
pub(super) fn put(state: &Keyed, index: u64, keys: &[Bytes], value: &'static str) {
    let changed = state.transact(Position { epoch: 1, index }, &index.to_le_bytes(), |transaction| {
        keys.iter().for_each(|key| transaction.put(SectionId(0), key.clone(), value).unwrap());
        Ok(())
    });
    assert!(changed.unwrap().is_some());
}

/// Checks that each of these keys reads as `value`.
#[track_caller]
pub(super) fn assert_read(state: &Keyed, keys: &[Bytes], value: &str) {
    for key in keys {
        assert_eq!(state.get(SectionId(0), key).unwrap().as_deref(), Some(value.as_bytes()), "{key:?}");
    }
}

//! Owns the target of the store: a pack file with arbitrary bytes never makes it panic, lie, or refuse to work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::{Chunk, Domain};
use landfall_store::vfs::faulty::FaultyVfs;
use landfall_store::vfs::{OpenMode, Vfs};
use landfall_store::{FrameCheck, Sealing, Store, StoreOptions};

use crate::random::Random;

/// The bytes of a pack. The store opens, what it returns is what the id promises, and it still stores.
pub fn store_pack(bytes: &[u8]) {
    let vfs = FaultyVfs::new(0);
    vfs.create_directory(Path::new(PACKS)).expect("a sound disk");
    let file = vfs.open(&pack_path(), OpenMode::CreateNew).expect("a sound disk");
    file.write_at(0, bytes).expect("a sound disk");
    file.sync_data().expect("a sound disk");
    let store = open(&vfs);
    for chunk in chunks() {
        if let Ok(Some(frame)) = store.get_encoded(chunk.id())
            && frame.codec == landfall_store::CODEC_RAW
        {
            // A checksum is no hash: whoever forges one gets this far, and no further.
            let _ = Chunk::verify(chunk.id(), frame.domain, frame.bytes);
        }
    }
    store.verify(&|_, _| FrameCheck::Unknown).expect("a sound disk");
    let fresh = Chunk::new(Domain::Data, Bytes::from_static(b"stored after the damage"));
    store.put(&fresh).expect("a sound disk");
    store.sync().expect("a sound disk");
    let read = store.get_encoded(fresh.id()).expect("a sound disk").expect("just stored");
    assert_eq!(&read.bytes, fresh.bytes());
}

/// The bytes of a pack that a store wrote: closed in order, or left behind by a crash.
pub(super) fn valid_pack(random: &mut Random) -> Vec<u8> {
    let vfs = FaultyVfs::new(random.number());
    let store = open(&vfs);
    for chunk in chunks() {
        store.put(&chunk).expect("a sound disk");
    }
    store.sync().expect("a sound disk");
    if random.chance(500) {
        vfs.cut_power();
        drop(store);
        vfs.restart();
    } else {
        drop(store);
    }
    vfs.content(&pack_path()).unwrap_or_default()
}

fn open(vfs: &FaultyVfs) -> Store {
    let options = StoreOptions { sealing: Sealing::Inline, ..StoreOptions::default() };
    Store::open(Arc::new(vfs.clone()), Path::new("/store"), options).expect("no pack keeps a store from opening")
}

fn chunks() -> impl Iterator<Item = Chunk> {
    (0..8_u8).map(|number| Chunk::new(Domain::Data, Bytes::from(vec![number; 40 * usize::from(number)])))
}

fn pack_path() -> PathBuf {
    Path::new(PACKS).join("00000001.pack")
}

const PACKS: &str = "/store/packs";

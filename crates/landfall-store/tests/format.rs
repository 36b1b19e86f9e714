//! The bytes of a pack and of a run, frozen. A change here is a change of `docs/format.md` and of the magic.
//!
//! `UPDATE_GOLDEN=1` writes the files anew.

mod support;

use std::fmt::Write;
use std::path::Path;

use bytes::Bytes;
use landfall_core::{Chunk, Domain};
use landfall_store::Encoded;
use landfall_store::vfs::Vfs;
use landfall_store::vfs::faulty::FaultyVfs;

use support::open;

/// A store with two data chunks, the second a patch against the first, and a node.
fn sample() -> FaultyVfs {
    let vfs = FaultyVfs::new(0);
    let store = open(&vfs).unwrap();
    let base = Chunk::new(Domain::Data, Bytes::from_static(b"landfall"));
    let patched = Chunk::new(Domain::Data, Bytes::from_static(b"landfall!"));
    store.put(&base).unwrap();
    store.put_encoded(&patched, Encoded { codec: 4, base: Some(base.id()), bytes: b"!" }).unwrap();
    store.put(&Chunk::new(Domain::Node, Bytes::from_static(b"node"))).unwrap();
    drop(store);
    vfs
}

#[track_caller]
fn check_golden(actual: &str, file_name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file_name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&path).unwrap(), "{file_name}");
}

#[track_caller]
fn check_bytes(path: &str, file_name: &str) {
    let bytes = sample().content(Path::new(path)).expect("a file");
    let mut actual = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(actual, "{byte:02x}").unwrap());
        actual.push('\n');
    }
    check_golden(&actual, file_name);
}

#[test]
fn the_bytes_of_a_data_pack_are_frozen() {
    check_bytes("store/packs/00000001.pack", "data.pack.hex");
}

#[test]
fn the_bytes_of_a_node_pack_are_frozen() {
    check_bytes("store/packs/00000002.pack", "nodes.pack.hex");
}

#[test]
fn the_bytes_of_a_run_are_frozen() {
    let vfs = FaultyVfs::new(0);
    let store = open(&vfs).unwrap();
    for number in 0..20_u8 {
        store.put(&Chunk::new(Domain::Data, Bytes::from(vec![number; 300]))).unwrap();
    }
    drop(store);
    let names = vfs.list(Path::new("store/index")).unwrap();
    assert_eq!(names, ["00000001.run"]);
    let bytes = vfs.content(Path::new("store/index/00000001.run")).unwrap();
    check_golden(&format!("{}\n", blake3::hash(&bytes)), "run.blake3");
}

//! Owns the proof of what a staged file does with bytes: only verified ones go in, holes stay holes, and nothing is fetched twice.

use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use landfall_core::files::{FilePath, Meta};
use landfall_core::tree::ChunkRef;
use landfall_core::{Chunk, ChunkId, Domain};

use super::model::{Model, What, file, manifest, model, node, open, path, pull, scratch};
use crate::files::place::{Copied, Operation, Origin, PlaceError, Placement, Previous};

const MIB: usize = 1 << 20;

fn large(size: usize) -> Meta {
    node(What::File(vec![0; size]), 3).meta()
}

fn chunk(byte: u8, length: usize) -> Chunk {
    Chunk::new(Domain::Data, Bytes::from(vec![byte; length]))
}

/// Ends a first pull that consists of one file and the root.
fn finish(placement: Placement, name: &str, meta: Meta) {
    placement.record(Operation::Put { path: FilePath::root(), meta: node(What::Directory, 1).meta() }).unwrap();
    placement.record(Operation::Put { path: path(name), meta }).unwrap();
    placement.finish(manifest(1), Previous::Drop).unwrap();
}

#[test]
fn holes_take_no_space_and_zeros_become_holes() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let placement = open(&destination);
    let meta = large(64 * MIB);
    let staged = placement.begin_file(&path("sparse"), &meta).unwrap();
    assert_eq!(staged.origin(), Origin::New);
    staged.write_chunk(5 * MIB as u64, chunk(1, MIB).as_proven()).unwrap();
    staged.write_chunk(9 * MIB as u64, chunk(0, MIB).as_proven()).unwrap();
    let expected = 5 * MIB as u64..6 * MIB as u64;
    assert_eq!(staged.data_extents().unwrap(), [expected]);
    staged.complete().unwrap();
    drop(staged);
    finish(placement, "sparse", meta);
    let stat = std::fs::metadata(destination.join("sparse")).unwrap();
    assert_eq!(stat.len(), 64 * MIB as u64);
    assert!(stat.blocks() * 512 < 2 * MIB as u64, "{} blocks", stat.blocks());
}

#[test]
fn bytes_beyond_the_end_and_tree_nodes_are_refused() {
    let scratch = scratch();
    let placement = open(&scratch.path().join("dest"));
    let staged = placement.begin_file(&path("f"), &large(100)).unwrap();
    assert!(staged.write_chunk(1, chunk(1, 100).as_proven()).is_err());
    assert!(staged.write_chunk(u64::MAX, chunk(1, 1).as_proven()).is_err());
    assert!(staged.write_hole(99, 2).is_err());
    assert!(staged.write_chunk(0, Chunk::new(Domain::Node, Bytes::from_static(b"node")).as_proven()).is_err());
    assert!(placement.begin_file(&path("d"), &node(What::Directory, 1).meta()).is_err());
    assert_eq!(staged.data_extents().unwrap(), []);
}

#[test]
fn a_file_that_was_begun_is_gone_on_with() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let staged = open(&destination).begin_file(&path("d/big"), &large(4 * MIB)).unwrap();
    staged.write_chunk(MIB as u64, chunk(1, MIB).as_proven()).unwrap();
    staged.complete().unwrap();
    drop(staged);

    let placement = open(&destination);
    // The snapshot is another by now: shorter, and with a hole where something was staged.
    let staged = placement.begin_file(&path("d/big"), &large(3 * MIB)).unwrap();
    assert_eq!(staged.origin(), Origin::Resumed);
    let mut buffer = vec![0; MIB];
    staged.read_range(MIB as u64, &mut buffer).unwrap();
    assert_eq!(buffer, vec![1; MIB]);
    staged.write_hole(MIB as u64, MIB as u64 / 2).unwrap();
    staged.write_chunk(MIB as u64 * 3 / 2, chunk(0, MIB / 2).as_proven()).unwrap();
    assert_eq!(staged.data_extents().unwrap(), []);
    assert_eq!(staged.size(), 3 * MIB as u64);
}

#[test]
fn what_did_not_change_is_copied_only_if_it_hashes_right() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let old = model([("f", file(&"abc".repeat(30)))]);
    pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
    let placement = open(&destination);
    let staged = placement.begin_file(&path("f"), &large(200)).unwrap();
    assert!(staged.has_old());
    let expected = ChunkId::of(Domain::Data, b"abcabc");
    let mut buffer = [0; 6];
    assert_eq!(staged.copy_from_old(3, 100, expected, &mut buffer).unwrap(), Copied::Yes);
    assert_eq!(staged.copy_from_old(4, 106, expected, &mut buffer).unwrap(), Copied::No);
    assert_eq!(staged.copy_from_old(86, 106, expected, &mut buffer).unwrap(), Copied::No);
    assert!(staged.copy_from_old(0, 199, expected, &mut buffer).is_err());
    let mut range = [0; 12];
    staged.read_range(100, &mut range).unwrap();
    assert_eq!(&range, b"abcabc\0\0\0\0\0\0");
    assert!(placement.read_old(&path("f"), 3, &mut buffer).unwrap());
    assert_eq!(&buffer, b"abcabc");
    let other = placement.begin_file(&path("other"), &large(6)).unwrap();
    assert_eq!(other.copy_from_old(0, 0, expected, &mut buffer).unwrap(), Copied::No);
}

#[test]
fn small_files_that_are_here_are_kept_and_dressed_again() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let mut was = node(file("small"), 1);
    was.mode = 0o400;
    open(&destination).place_small(&path("s"), &was.meta(), b"small").unwrap();
    let placement = open(&destination);
    let is = node(file("small"), 2).meta();
    let named = |bytes: &[u8]| ChunkRef { id: ChunkId::of(Domain::Data, bytes), bytes: bytes.len() as u32 };
    assert!(placement.small_is_placed(&path("s"), &is, named(b"small")).unwrap());
    assert!(!placement.small_is_placed(&path("s"), &is, named(b"Small")).unwrap());
    assert!(!placement.small_is_placed(&path("s"), &is, named(b"smaller")).unwrap());
    assert!(!placement.small_is_placed(&path("d/none"), &is, named(b"small")).unwrap());
    finish(placement, "s", is.clone());
    let stat = std::fs::metadata(destination.join("s")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (is.mode, is.mtime.seconds));
}

#[test]
fn a_snapshot_that_lost_a_path_between_two_tries_does_not_have_it() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let first =
        model([("a", file("a")), ("d", What::Directory), ("d/x", file("x")), ("e", super::model::symlink("a"))]);
    super::model::prepare(&open(&destination), &Model::new(), &first).unwrap();
    let second = model([("a", What::Directory), ("a/b", file("b")), ("d", file("d")), ("f", super::model::link("d"))]);
    pull(open(&destination), &Model::new(), &second, manifest(2), Previous::Drop).unwrap();
    assert_eq!(super::model::read_back(&destination), second);
}

#[test]
fn names_need_not_be_text() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let mut new = Model::new();
    new.insert(FilePath::root(), node(What::Directory, 1));
    for name in [&b"\xff\xfe"[..], b"a\nb", b"-rf *", b"\xc3("] {
        new.insert(path(name), node(What::Directory, 1));
        new.insert(path([name, b"/\x80"].concat()), node(file("content"), 2));
    }
    pull(open(&destination), &Model::new(), &new, manifest(1), Previous::Drop).unwrap();
    assert_eq!(super::model::read_back(&destination), new);
    let mut newer = new.clone();
    newer.insert(path(b"\xff\xfe/\x80"), node(file("other content"), 3));
    newer.remove(&path(b"a\nb/\x80"));
    pull(open(&destination), &new, &newer, manifest(2), Previous::Drop).unwrap();
    assert_eq!(super::model::read_back(&destination), newer);
}

#[test]
fn steps_out_of_order_are_refused() {
    let scratch = scratch();
    let placement = open(&scratch.path().join("dest"));
    let put = |name| placement.record(Operation::Put { path: path(name), meta: node(What::Directory, 1).meta() });
    put("b").unwrap();
    assert!(matches!(put("a"), Err(PlaceError::Refused { .. })));
    assert!(matches!(put("b"), Err(PlaceError::Refused { .. })));
    placement.record(Operation::Xattrs { path: path("b"), xattrs: Vec::new() }).unwrap();
    put("c").unwrap();
    assert!(matches!(placement.record(Operation::Remove { path: path("d") }), Err(PlaceError::Refused { .. })));
}

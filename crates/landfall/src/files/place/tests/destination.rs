//! Owns the proof that only what is ours, or nobody's, is changed, and that every refusal names the thing.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::model::{
    Model, What, file, manifest, model, node, open, path, prepare, pull, read_back, scratch, symlink as to,
};
use crate::files::place::{Kind, Operation, PlaceError, Placement, Previous, Shortfall};

#[track_caller]
fn check_refused(destination: &Path, expected: &str) {
    let error = Placement::open(destination).err().expect("it opened").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    std::fs::create_dir(&destination).unwrap();
    std::fs::write(destination.join("precious"), b"mine").unwrap();
    check_refused(&destination, "'precious'");
    check_refused(&destination.join("precious"), "not a directory");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(&destination).unwrap().count(), 1);
}

#[test]
fn a_directory_that_happens_to_have_the_name_we_build_under_is_left_alone() {
    let scratch = scratch();
    let incoming = scratch.path().join("dest.landfall-incoming");
    std::fs::create_dir(&incoming).unwrap();
    std::fs::write(incoming.join("precious"), b"mine").unwrap();
    check_refused(&scratch.path().join("dest"), "dest.landfall-incoming' is not empty");
}

#[test]
fn an_empty_directory_is_replaced_as_a_whole() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    std::fs::create_dir(&destination).unwrap();
    let placement = open(&destination);
    assert_eq!(placement.kind(), Kind::First);
    let new = model([("a", file("a"))]);
    pull(placement, &Model::new(), &new, manifest(1), Previous::Drop).unwrap();
    assert_eq!(read_back(&destination), new);
}

#[test]
fn a_first_pull_never_replaces_what_came_meanwhile() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let placement = open(&destination);
    std::fs::create_dir(&destination).unwrap();
    std::fs::write(destination.join("precious"), b"mine").unwrap();
    let error = pull(placement, &Model::new(), &model([]), manifest(1), Previous::Drop).unwrap_err();
    assert!(matches!(&error, PlaceError::NotOurs { found, .. } if found == "precious"), "{error}");
    assert_eq!(std::fs::read(destination.join("precious")).unwrap(), b"mine");
}

#[test]
fn a_second_process_is_told_to_wait() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let first = open(&destination);
    check_refused(&destination, "another process");
    pull(first, &Model::new(), &model([]), manifest(1), Previous::Drop).unwrap();
    let update = open(&destination);
    assert_eq!(update.kind(), Kind::Update);
    check_refused(&destination, "another process");
}

#[test]
fn our_own_directory_cannot_be_named_by_a_snapshot() {
    let scratch = scratch();
    let placement = open(&scratch.path().join("dest"));
    for name in [".landfall", ".landfall/index", ".landfall/store/x"] {
        let meta = node(file(""), 1).meta();
        let step = Operation::Put { path: path(name), meta: meta.clone() };
        assert!(matches!(placement.record(step), Err(PlaceError::Reserved(_))));
        assert!(matches!(placement.place_small(&path(name), &meta, b""), Err(PlaceError::Reserved(_))));
        assert!(matches!(placement.begin_file(&path(name), &meta), Err(PlaceError::Reserved(_))));
        assert!(matches!(placement.read_old(&path(name), 0, &mut []), Err(PlaceError::Reserved(_))));
    }
    assert!(placement.place_small(&path("a/.landfall"), &node(file(""), 1).meta(), b"").is_ok());
}

#[test]
fn a_snapshot_cannot_write_through_its_own_symlink() {
    let (scratch, outside) = (scratch(), scratch());
    let target = outside.path().to_str().unwrap();
    let placement = open(&scratch.path().join("dest"));
    let link = node(to(target), 1);
    placement.record(Operation::Put { path: path("a"), meta: link.meta() }).unwrap();
    placement.place_small(&path("a/b"), &node(file("x"), 1).meta(), b"x").unwrap();
    // What was a symlink is a directory of ours now; the place it pointed to was not touched.
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn an_update_never_follows_a_symlink_that_somebody_planted() {
    let (scratch, outside) = (scratch(), scratch());
    std::fs::write(outside.path().join("b"), b"precious").unwrap();
    let destination = scratch.path().join("dest");
    let old = model([("a", What::Directory), ("a/b", file("old")), ("a/c", file("old"))]);
    pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
    std::fs::remove_dir_all(destination.join("a")).unwrap();
    symlink(outside.path(), destination.join("a")).unwrap();
    let new = model([("a", What::Directory), ("a/b", file("new"))]);
    let placement = open(&destination);
    assert!(!placement.read_old(&path("a/b"), 0, &mut [0; 3]).unwrap());
    let error = pull(placement, &old, &new, manifest(2), Previous::Drop).unwrap_err();
    assert!(matches!(&error, PlaceError::Blocked(at) if at.to_string().starts_with('a')), "{error}");
    assert_eq!(std::fs::read(outside.path().join("b")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // Nothing was begun that would have to be ended.
    assert!(open(&destination).recovered().is_none());
    assert!(std::fs::symlink_metadata(destination.join("a")).unwrap().is_symlink());
}

#[test]
fn a_directory_may_take_the_place_of_a_symlink_and_be_filled() {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let old = model([("a", to("nowhere")), ("b", file("old"))]);
    pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
    let directories = ["a", "a/in", "b"].map(|path| (path, What::Directory));
    let new = model(directories.into_iter().chain([("a/in/file", file("new")), ("b/c", file("new"))]));
    pull(open(&destination), &old, &new, manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(&destination), new);
}

#[test]
fn what_gets_in_the_way_of_a_plan_that_is_begun_is_left_and_the_rest_takes_its_place() {
    let (scratch, outside) = (scratch(), scratch());
    let destination = scratch.path().join("dest");
    let old = model([("a", What::Directory), ("a/b", file("old")), ("c", file("old"))]);
    pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
    let new = model([("a", What::Directory), ("a/b", file("new")), ("c", file("new"))]);
    let placement = open(&destination);
    prepare(&placement, &old, &new).unwrap();
    std::fs::remove_dir_all(destination.join("a")).unwrap();
    symlink(outside.path(), destination.join("a")).unwrap();
    let report = placement.finish(manifest(2), Previous::Drop).unwrap();
    assert_eq!(report.left, [Shortfall::Changed { paths: 1, examples: vec![path("a/b")] }]);
    assert_eq!(std::fs::read(destination.join("c")).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    let again = open(&destination);
    assert!(again.recovered().is_none(), "the plan was carried to its end");
    let listed: Vec<_> = again.local_changes().unwrap().listed().iter().map(|change| change.path.clone()).collect();
    assert_eq!(listed, [path("a"), path("a/b")]);
}

#[test]
fn what_is_built_is_nobody_elses_business_until_it_is_whole() {
    let scratch = scratch();
    let _placement = open(&scratch.path().join("dest"));
    let incoming = std::fs::metadata(scratch.path().join("dest.landfall-incoming")).unwrap();
    assert_eq!(incoming.permissions().mode() & 0o777, 0o700);
}

#[test]
fn nothing_is_inherited_from_the_directory_around() {
    let scratch = scratch();
    rustix::fs::chown(scratch.path(), None, Some(rustix::fs::Gid::from_raw(12345))).unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o2755)).unwrap();
    let destination = scratch.path().join("dest");
    let mut new = model([("d", What::Directory), ("d/a", file("a")), ("d/z", file(&"z".repeat(99)))]);
    new.get_mut(&path("d/a")).unwrap().gid = 54321;
    pull(open(&destination), &Model::new(), &new, manifest(1), Previous::Drop).unwrap();
    assert_eq!(read_back(&destination), new);
}

#[test]
fn a_pull_that_cannot_fit_says_how_much_is_missing() {
    let scratch = scratch();
    let placement = open(&scratch.path().join("dest"));
    let error = placement.expect_bytes(u64::MAX / 2).unwrap_err();
    let PlaceError::DiskFull { needed_bytes, free_bytes, .. } = error else { panic!("{error}") };
    assert_eq!(needed_bytes, u64::MAX / 2);
    assert!(free_bytes > 0 && free_bytes < needed_bytes);
    placement.expect_bytes(1).unwrap();
}

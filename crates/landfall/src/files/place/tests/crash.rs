//! Owns the proof that a pull may be cut short before any change it makes.

use std::path::Path;

use super::model::{
    Model, Node, StopAfter, What, file, link, manifest, model, open, open_with, path, pull, read_back, scratch, symlink,
};
use crate::files::place::{FinishReport, Kind, PlaceError, Placement, Previous};

fn old() -> Model {
    let mut old = model([
        ("a", file("first name")),
        ("a-b", link("a")),
        ("b", file("stays")),
        ("becomes-dir", file("a file for now")),
        ("becomes-file", What::Directory),
        ("becomes-file/inner", What::Directory),
        ("becomes-file/inner/x", file("x")),
        ("big", file(&"old page ".repeat(20))),
        ("gone", What::Directory),
        ("gone/1", file("1")),
        ("gone/2", link("gone/1")),
        ("kept", What::Directory),
        ("kept/changed", file("old")),
        ("kept/link", symlink("changed")),
        ("link-to-dir", symlink("kept")),
        ("other-mode", file("same content")),
        ("sealed", What::Directory),
        ("sealed/in", file("in")),
        ("tagged", file("has an attribute")),
    ]);
    old.get_mut(&path("sealed")).unwrap().mode = 0o555;
    old.get_mut(&path("tagged")).unwrap().xattrs = vec![("user.was".into(), "1".into())];
    old
}

fn new() -> Model {
    let mut new = model([
        ("a", file("new content of the first name")),
        ("a-b", link("a")),
        ("b", file("stays")),
        ("becomes-dir", What::Directory),
        ("becomes-dir/new", file("new")),
        ("becomes-file", file("a file now")),
        ("big", file(&"new page ".repeat(30))),
        ("kept", What::Directory),
        ("kept/changed", file("new")),
        ("kept/link", symlink("elsewhere")),
        ("kept/more", What::Directory),
        ("kept/more/y", file("y")),
        ("kept/more/z", link("b")),
        ("link-to-dir", What::Directory),
        ("link-to-dir/w", file("w")),
        ("other-mode", file("same content")),
        ("sealed", What::Directory),
        ("sealed/in", file("out")),
        ("tagged", file("has an attribute")),
    ]);
    // In key order `b` comes before `kept/more/z`, so its metadata is what both have.
    let shared = Node { what: link("b"), ..new[&path("b")].clone() };
    new.insert(path("kept/more/z"), shared);
    new.get_mut(&path("sealed")).unwrap().mode = 0o555;
    new.get_mut(&path("other-mode")).unwrap().mode = 0o400;
    new.get_mut(&path("tagged")).unwrap().xattrs = vec![("user.is".into(), "2".into())];
    new
}

/// Every file on disk is whole: it has the content of the old or of the new snapshot.
#[track_caller]
fn check_whole(destination: &Path, old: &Model, new: &Model) {
    let on_disk = read_back(destination);
    for (path, found) in &on_disk {
        let content = |model: &Model| match model.get(path).map(|node| &node.what) {
            Some(What::Link(first)) => model.get(first).map(|node| node.what.clone()),
            what => what.cloned(),
        };
        let found = match &found.what {
            What::Link(first) => on_disk[first].what.clone(),
            what => what.clone(),
        };
        if let What::File(_) = found {
            assert!([content(old), content(new)].contains(&Some(found.clone())), "{path}: {found:?}");
        }
    }
}

#[test]
fn a_first_pull_leaves_nothing_or_everything_wherever_it_stops() {
    let new = new();
    for steps in 0.. {
        let scratch = scratch();
        let destination = scratch.path().join("dest");
        let faults = StopAfter::steps(steps);
        let pulled = open_with(&destination, faults.clone())
            .and_then(|placement| pull(placement, &Model::new(), &new, manifest(1), Previous::Drop));
        if destination.exists() {
            assert_eq!(read_back(&destination), new, "after {steps} steps");
        }
        if pulled.is_ok() && !faults.has_stopped() {
            assert!(steps > 50, "only {steps} steps");
            return;
        }
        let again = open(&destination);
        if again.kind() != Kind::Update {
            pull(again, &Model::new(), &new, manifest(1), Previous::Drop).unwrap();
        }
        assert_eq!(read_back(&destination), new, "after {steps} steps and another pull");
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["dest"]);
    }
}

#[test]
fn an_update_leaves_every_file_whole_and_rolls_forward_wherever_it_stops() {
    check_update(Previous::Drop);
}

#[test]
fn an_update_that_keeps_the_way_back_does_so_too() {
    check_update(Previous::Keep);
}

fn check_update(previous: Previous) {
    let (old, new) = (old(), new());
    for steps in 0.. {
        let scratch = scratch();
        let destination = scratch.path().join("dest");
        pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
        assert_eq!(read_back(&destination), old);
        let faults = StopAfter::steps(steps);
        let pulled = open_with(&destination, faults.clone())
            .and_then(|placement| pull(placement, &old, &new, manifest(2), previous));
        if pulled.is_ok() && !faults.has_stopped() {
            assert_eq!(read_back(&destination), new);
            assert!(steps > 100, "only {steps} steps");
            return;
        }
        check_whole(&destination, &old, &new);
        let is_committed = destination.join(".landfall/journal").exists();
        // The one who carries it forward may be stopped, too.
        drop(open_with(&destination, StopAfter::steps(steps / 2)));
        check_whole(&destination, &old, &new);
        let again = open(&destination);
        let holds = again.index().unwrap().header().manifest;
        let expected = if holds == manifest(2) { &new } else { &old };
        assert!(!is_committed || holds == manifest(2), "rolled back after {steps} steps");
        assert_eq!(read_back(&destination), *expected, "after {steps} steps and recovery");
        assert_eq!(again.local_changes().unwrap().listed(), [], "after {steps} steps and recovery");
        pull(again, expected, &new, manifest(2), previous).unwrap();
        assert_eq!(read_back(&destination), new, "after {steps} steps and another pull");
    }
}

fn restore(placement: Placement) -> Result<FinishReport, PlaceError> {
    let way_back = placement.record_way_back()?;
    placement.go_back(&way_back)
}

#[test]
fn the_way_back_leads_back_wherever_it_stops() {
    let (old, new) = (old(), new());
    for steps in 0.. {
        let scratch = scratch();
        let destination = scratch.path().join("dest");
        pull(open(&destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
        pull(open(&destination), &old, &new, manifest(2), Previous::Keep).unwrap();
        let faults = StopAfter::steps(steps);
        let restored = open_with(&destination, faults.clone()).and_then(restore);
        if restored.is_ok() && !faults.has_stopped() {
            assert_eq!(read_back(&destination), old);
            return;
        }
        check_whole(&destination, &old, &new);
        let again = open(&destination);
        if again.index().unwrap().header().manifest == manifest(2) {
            restore(again).unwrap();
        }
        assert_eq!(read_back(&destination), old, "after {steps} steps");
    }
}

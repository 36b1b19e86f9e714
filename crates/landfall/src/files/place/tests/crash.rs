//! Owns the proof that a pull may be cut short before any change it makes, and that it says in time what must outlive a power cut.

use std::path::Path;
use std::sync::Arc;

use super::model::{
    Model, Node, Steps, StopAfter, What, file, link, manifest, model, open, open_with, path, pull, read_back, scratch,
    symlink,
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

/// The steps of a pull into a destination that holds `old`, if anything.
fn steps_of_a_pull(old: Option<&Model>, previous: Previous) -> Vec<&'static str> {
    let scratch = scratch();
    let destination = scratch.path().join("dest");
    let nothing = Model::new();
    if let Some(old) = old {
        pull(open(&destination), &nothing, old, manifest(1), Previous::Drop).unwrap();
    }
    let steps = Arc::new(Steps::default());
    let placement = open_with(&destination, steps.clone()).unwrap();
    pull(placement, old.unwrap_or(&nothing), &new(), manifest(2), previous).unwrap();
    steps.names()
}

/// The steps before the last one of a name, and those from it on.
#[track_caller]
fn split_at_last<'a>(steps: &'a [&'static str], name: &str) -> (&'a [&'static str], &'a [&'static str]) {
    let at = steps.iter().rposition(|step| *step == name);
    steps.split_at(at.unwrap_or_else(|| panic!("no step '{name}' in {steps:?}")))
}

#[test]
fn a_first_pull_makes_everything_durable_before_it_takes_its_name() {
    let steps = steps_of_a_pull(None, Previous::Drop);
    let (made, durable) = split_at_last(&steps, "sync the file system");
    for content in ["write", "link", "make a directory", "make a symlink", "set a mode", "set a time"] {
        assert!(made.contains(&content) && !durable.contains(&content), "'{content}' in {steps:?}");
    }
    let (tidied, named) = split_at_last(durable, "rename");
    assert_eq!(tidied.last(), Some(&"sync a directory"), "{steps:?}");
    assert_eq!(named, ["rename", "sync a directory"], "{steps:?}");
}

#[test]
fn an_update_makes_everything_durable_before_its_journal_comes_and_before_it_goes() {
    check_update_steps(Previous::Drop, &[]);
    check_update_steps(Previous::Keep, &["make a directory", "rename"]);
}

/// `settled` is how the way back gets its place: its names are durable already, under others.
#[track_caller]
fn check_update_steps(previous: Previous, settled: &[&str]) {
    let steps = steps_of_a_pull(Some(&old()), previous);
    let (staged, committed) = split_at_last(&steps, "write the journal");
    assert!(staged.contains(&"write"), "{steps:?}");
    assert_eq!(staged.last(), Some(&"sync the file system"), "{steps:?}");
    assert_eq!(committed[..2], ["write the journal", "sync a directory"], "{steps:?}");
    let (placed, ended) = split_at_last(committed, "write the index");
    assert!(placed.contains(&"rename") && placed.contains(&"remove a file"), "{steps:?}");
    assert!(placed.ends_with(&[&["sync the file system"], settled].concat()), "{previous:?}: {steps:?}");
    // The journal, then what was staged.
    assert_eq!(ended[..3], ["write the index", "remove a file", "sync a directory"], "{steps:?}");
}

//! Owns the proof of what an update sees of a directory that others use: their changes, their open files, their rights.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io};

use super::model::{
    Model, What, file, link, manifest, model, open, open_with, path, prepare, pull, read_back, scratch, symlink,
};
use crate::files::place::edge::Faults;
use crate::files::place::{Difference, Kind, PlaceError, Previous, Shortfall};

fn old() -> Model {
    model([
        ("a", file("a")),
        ("b", file("b")),
        ("c", file("c")),
        ("d", What::Directory),
        ("d/e", file("e")),
        ("d/f", link("b")),
        ("g", symlink("a")),
        ("h", file("h")),
        ("i", What::Directory),
    ])
}

fn pulled(destination: &Path) {
    pull(open(destination), &Model::new(), &old(), manifest(1), Previous::Drop).unwrap();
}

#[track_caller]
fn check_changes(destination: &Path, expected: &[(&str, Difference)]) {
    let changes = open(destination).local_changes().unwrap();
    let listed: Vec<_> = changes.listed().iter().map(|change| (change.path.clone(), change.difference)).collect();
    let expected: Vec<_> = expected.iter().map(|(name, difference)| (path(name), *difference)).collect();
    assert_eq!(listed, expected);
    assert_eq!(changes.count(), expected.len() as u64);
    assert!(changes.is_complete());
}

#[test]
fn every_kind_of_local_change_is_found() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    check_changes(destination, &[]);
    let at = |name: &str| destination.join(name);
    fs::write(at("a"), b"aa").unwrap();
    fs::remove_file(at("c")).unwrap();
    fs::create_dir(at("c")).unwrap();
    fs::write(at("d/added"), b"").unwrap();
    fs::remove_file(at("d/e")).unwrap();
    fs::remove_file(at("g")).unwrap();
    std::os::unix::fs::symlink("b", at("g")).unwrap();
    let stamp = fs::metadata(at("h")).unwrap().modified().unwrap();
    fs::write(at("h"), b"H").unwrap();
    fs::File::options().write(true).open(at("h")).unwrap().set_modified(stamp).unwrap();
    fs::set_permissions(at("i"), fs::Permissions::from_mode(0o700)).unwrap();
    check_changes(
        destination,
        &[
            ("a", Difference::Size),
            ("c", Difference::Kind),
            ("d/added", Difference::Added),
            ("d/e", Difference::Removed),
            ("g", Difference::Content),
            ("h", Difference::ChangeTime),
            ("i", Difference::Attributes),
        ],
    );
}

#[test]
fn a_local_change_stays_one_until_it_is_pulled_over() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    fs::write(destination.join("a"), b"local").unwrap();
    let mut new = old();
    new.insert(path("c"), super::model::node(file("changed"), 9));
    pull(open(destination), &old(), &new, manifest(2), Previous::Drop).unwrap();
    check_changes(destination, &[("a", Difference::Size)]);
}

#[test]
fn a_file_that_appears_in_a_directory_that_goes_is_kept_and_reported() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    let placement = open(destination);
    let mut new = old();
    new.retain(|at, _| !at.as_bytes().starts_with(b"d"));
    prepare(&placement, &old(), &new).unwrap();
    fs::write(destination.join("d/mine"), b"mine").unwrap();
    let report = placement.finish(manifest(2), Previous::Drop).unwrap();
    assert_eq!(report.left, [Shortfall::Changed { paths: 1, examples: vec![path("d")] }]);
    assert_eq!(fs::read(destination.join("d/mine")).unwrap(), b"mine");
    check_changes(destination, &[("d", Difference::Added), ("d/mine", Difference::Added)]);
}

#[test]
fn a_file_that_appears_in_a_directory_that_becomes_a_file_is_kept_too() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    let placement = open(destination);
    let mut new = old();
    new.retain(|at, _| !at.as_bytes().starts_with(b"d/") && at.as_bytes() != "i");
    new.insert(path("d"), super::model::node(file("a file now"), 9));
    new.insert(path("i"), super::model::node(symlink("a"), 9));
    prepare(&placement, &old(), &new).unwrap();
    fs::create_dir(destination.join("d/new")).unwrap();
    fs::write(destination.join("d/new/mine"), b"mine").unwrap();
    let report = placement.finish(manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), new);
    let [Shortfall::Displaced { directories: 1, kept_in }] = &report.left[..] else { panic!("{:?}", report.left) };
    let kept = fs::read_dir(kept_in).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read(kept.join("new/mine")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(kept).unwrap().count(), 1);
}

#[test]
fn without_its_index_a_destination_is_no_longer_known() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    fs::write(destination.join(".landfall/index"), b"rubbish").unwrap();
    let placement = open(destination);
    assert!(placement.local_changes().unwrap_err().to_string().contains("damaged"));
    // A caller that reads everything again ends with a whole index.
    pull(placement, &old(), &old(), manifest(2), Previous::Drop).unwrap();
    check_changes(destination, &[]);
}

#[test]
fn a_file_that_another_process_holds_open_is_listed() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    let held = fs::File::open(destination.join("d/e")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").stdin(held).spawn().unwrap();
    let placement = open(destination);
    let mut new = old();
    new.insert(path("a"), super::model::node(file("changed"), 9));
    new.remove(&path("d/e"));
    prepare(&placement, &old(), &new).unwrap();
    let holders = placement.open_elsewhere().unwrap();
    let listed: Vec<_> = holders.listed().iter().map(|holder| (holder.path.clone(), holder.pid)).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(listed, [(path("d/e"), child.id())]);
    assert!(holders.to_string().contains("d/e: process"));
    assert!(placement.open_elsewhere().unwrap().is_empty());
    placement.finish(manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), new);
}

/// Lets the disk be full while `full` is set.
struct FullDisk {
    full: AtomicBool,
    step: &'static str,
}

impl Faults for FullDisk {
    fn before(&self, step: &'static str) -> io::Result<()> {
        if step == self.step && self.full.load(Ordering::SeqCst) {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        Ok(())
    }
}

#[track_caller]
fn check_full_disk(step: &'static str) {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    pulled(destination);
    let mut new = old();
    new.insert(path("a"), super::model::node(file(&"changed ".repeat(50)), 9));
    new.insert(path("j"), super::model::node(symlink("a"), 9));
    new.insert(path("k"), super::model::node(What::Directory, 9));
    let disk = Arc::new(FullDisk { full: AtomicBool::new(false), step });
    let placement = open_with(destination, disk.clone()).unwrap();
    placement.expect_bytes(1000).unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let error = pull(placement, &old(), &new, manifest(2), Previous::Drop).unwrap_err();
    assert!(matches!(error, PlaceError::DiskFull { needed_bytes: 1..=4096, .. }), "{error}");
    assert!(error.to_string().contains("free some and pull again"));
    let again = open(destination);
    let holds = if again.recovered().is_some() { &new } else { &old() };
    pull(again, holds, &new, manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), new);
}

#[test]
fn a_full_disk_loses_nothing_wherever_it_fills_up() {
    for step in ["create a file", "write", "set a length", "write the journal", "make a symlink", "make a directory"] {
        check_full_disk(step);
    }
    check_full_disk("rename");
    check_full_disk("write the index");
}

#[test]
fn a_directory_that_may_not_be_written_to_is_opened_up_and_closed_again() {
    let scratch = scratch();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let destination = scratch.path().join("dest");
    // On a thread of its own: rights belong to threads, and nothing else here is to lose its own.
    std::thread::spawn(move || as_nobody(&destination)).join().unwrap();
}

fn as_nobody(destination: &Path) {
    use rustix::process::{Gid, Uid};
    if rustix::process::geteuid().is_root() {
        let (gid, uid) = (Gid::from_raw(65534), Uid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    }
    let mut old = model([("d", What::Directory), ("d/a", file("a")), ("d/s", What::Directory), ("d/s/b", file("b"))]);
    for sealed in ["d", "d/s", "d/a"] {
        old.get_mut(&path(sealed)).unwrap().mode = 0o555;
    }
    old.get_mut(&path("d/a")).unwrap().mode = 0o400;
    pull(open(destination), &Model::new(), &old, manifest(1), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), old);
    let mut new = old.clone();
    new.insert(path("d/a"), super::model::node(file(&"changed".repeat(9)), 3));
    new.insert(path("d/n"), super::model::node(file("new"), 3));
    new.remove(&path("d/s/b"));
    new.get_mut(&path("d/s")).unwrap().xattrs = vec![("user.tag".into(), "1".into())];
    pull(open(destination), &old, &new, manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), new);
    give_away(destination, &new);
}

/// Only root may give files away. Whoever is not says so, and makes nothing that would run as somebody else.
fn give_away(destination: &Path, old: &Model) {
    let mut new = old.clone();
    let foreign = super::model::Node { uid: 0, gid: 0, mode: 0o4755, ..super::model::node(file("tool"), 3) };
    new.insert(path("tool"), foreign.clone());
    let report = pull(open(destination), old, &new, manifest(3), Previous::Drop).unwrap();
    assert_eq!(report.left, [Shortfall::Owners { paths: 1, example: path("tool") }]);
    assert_eq!(read_back(destination)[&path("tool")].mode, 0o755);
    assert!(report.left[0].to_string().contains("'tool'"));
}

#[test]
fn a_mount_point_is_filled_and_not_replaced() {
    let scratch = scratch();
    let mounted = scratch.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let status =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&mounted).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("not run: nothing can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill_mount(&mounted));
    let unmounted = std::process::Command::new("umount").arg(&mounted).status().unwrap();
    assert!(outcome.is_ok() && unmounted.success());
}

fn fill_mount(mounted: &Path) {
    let placement = open(mounted);
    assert_eq!(placement.kind(), Kind::Update);
    pull(placement, &Model::new(), &old(), manifest(1), Previous::Drop).unwrap();
    assert_eq!(read_back(mounted), old());
    let placement = open(mounted);
    assert!(matches!(placement.expect_bytes(8 << 20), Err(PlaceError::DiskFull { .. })));
    let mut new = old();
    new.insert(path("large"), super::model::node(file(&"x".repeat(8 << 20)), 1));
    let error = pull(placement, &old(), &new, manifest(2), Previous::Drop).unwrap_err();
    assert!(matches!(error, PlaceError::DiskFull { .. }), "{error}");
    assert_eq!(read_back(mounted), old());
    check_changes(mounted, &[]);
}

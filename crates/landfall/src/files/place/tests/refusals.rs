//! Owns the proof that what a file system will never take stops a pull before anything changes, or is reported after it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::model::{
    Model, What, file, link, manifest, model, node, open, open_with, path, pull, read_back, scratch, symlink,
};
use crate::files::place::edge::Faults;
use crate::files::place::{PlaceError, Previous, Shortfall};

/// A file system that refuses one kind of step.
struct Refusing {
    step: &'static str,
    with: Errno,
    /// Only once this file is there.
    after: Option<PathBuf>,
    name_bytes_max: Option<u64>,
}

impl Refusing {
    fn step(step: &'static str, with: Errno) -> Self {
        Self { step, with, after: None, name_bytes_max: None }
    }
}

impl Faults for Refusing {
    fn before(&self, step: &'static str) -> io::Result<()> {
        let is_time = self.after.as_ref().is_none_or(|after| after.exists());
        if step == self.step && is_time { Err(self.with.into()) } else { Ok(()) }
    }

    fn name_bytes_max(&self) -> Option<u64> {
        self.name_bytes_max
    }
}

fn old() -> Model {
    model([("a", file("first")), ("a-b", link("a")), ("dir", What::Directory), ("dir/kept", file("kept"))])
}

/// Pulls what a file system refuses, over `old`.
fn refused(destination: &Path, new: &Model, refusing: Refusing) -> Result<Vec<Shortfall>, PlaceError> {
    pull(open(destination), &Model::new(), &old(), manifest(1), Previous::Drop).unwrap();
    let placement = open_with(destination, Arc::new(refusing)).unwrap();
    pull(placement, &old(), new, manifest(2), Previous::Drop).map(|report| report.left)
}

/// Fails unless the pull stops with an error that says `words`, and the destination is what it was.
#[track_caller]
fn check_nothing_changes(added: (&str, What), refusing: Refusing, words: &[&str]) {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    let mut new = old();
    new.insert(path("dir/kept"), node(file("changed"), 5));
    new.insert(path(added.0), node(added.1, 9));
    let error = refused(destination, &new, refusing).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "'{word}' is missing in: {error}");
    }
    let again = open(destination);
    assert!(again.recovered().is_none(), "a journal was written");
    assert_eq!(read_back(destination), old());
}

#[test]
fn a_name_that_is_too_long_here_stops_a_pull_before_it_changes_anything() {
    let short = || Refusing { name_bytes_max: Some(100), ..Refusing::step("never", Errno::IO) };
    let long = "n".repeat(101);
    let words = [&long[..], "at most 100 bytes", "another one"];
    check_nothing_changes((&long, file("content")), short(), &words);
    check_nothing_changes((&long, What::Directory), short(), &words);
    check_nothing_changes((&format!("dir/{long}"), symlink("a")), short(), &words);
}

#[test]
fn a_symlink_that_cannot_be_made_stops_a_pull_before_it_changes_anything() {
    let refusing = Refusing::step("make a symlink", Errno::NAMETOOLONG);
    check_nothing_changes(("link", symlink("far away")), refusing, &["make the symlink", "link", "too long"]);
}

#[test]
fn more_names_than_a_file_may_have_stop_a_pull_before_it_changes_anything() {
    let refusing = Refusing::step("link", Errno::MLINK);
    check_nothing_changes(("a-c", link("a")), refusing, &["'a'", "3 names", "pull to another file system"]);
}

#[test]
fn what_is_refused_after_the_journal_is_reported_and_the_rest_takes_its_place() {
    let scratch = scratch();
    let destination = &scratch.path().join("dest");
    let mut new = old();
    new.insert(path("dir/kept"), node(file("changed"), 5));
    new.insert(path("j"), node(symlink("a"), 9));
    new.insert(path("new"), node(What::Directory, 9));
    let after = Some(destination.join(".landfall/journal"));
    let left = refused(destination, &new, Refusing { after, ..Refusing::step("rename", Errno::PERM) }).unwrap();
    let [Shortfall::Refused { paths: 2, example, .. }] = &left[..] else { panic!("{left:?}") };
    assert_eq!(*example, path("dir/kept"));
    assert!(left[0].to_string().contains("2 paths, such as 'dir/kept'"), "{}", left[0]);
    let again = open(destination);
    assert!(again.recovered().is_none(), "the plan was carried to its end");
    let listed: Vec<_> = again.local_changes().unwrap().listed().iter().map(|change| change.path.clone()).collect();
    assert_eq!(listed, [path("dir/kept"), path("j")]);
    let found = read_back(destination);
    assert_eq!(found[&path("new")].what, What::Directory);
    pull(again, &found, &new, manifest(2), Previous::Drop).unwrap();
    assert_eq!(read_back(destination), new);
}

#[test]
fn an_attribute_for_which_a_file_has_no_room_is_reported_and_is_no_full_disk() {
    for with in [Errno::NOSPC, Errno::TOOBIG, Errno::RANGE] {
        let scratch = scratch();
        let destination = &scratch.path().join("dest");
        let mut new = old();
        new.get_mut(&path("dir/kept")).unwrap().xattrs = vec![("user.large".into(), "x".repeat(1000).into())];
        let left = refused(destination, &new, Refusing::step("set an extended attribute", with)).unwrap();
        assert_eq!(left, [Shortfall::Xattrs { attributes: 1, example: path("dir/kept") }]);
    }
}

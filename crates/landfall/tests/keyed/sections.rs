//! A member holds some sections of a state only: it joins them, serves them, and follows what others seal.

use std::path::Path;
use std::sync::Arc;

use landfall::core::keyed::ReadError;
use landfall::core::snapshot::Position;
use landfall::keyed::{
    Extent, JoinFailure, JoinHandle, JoinOptions, Keyed, KeyedError, Milestone, SealRefused, SectionId, Sections,
    Transaction,
};
use landfall::member::Member;
use landfall::net::PlainTransport;

use crate::ground::{CONFIG, assert_equal_in, at, key, name, open_as, options, put, schema_of, seal, serve, value};

const EAST: SectionId = SectionId(1);
const NORTH: SectionId = SectionId(2);
const SOUTH: SectionId = SectionId(3);
const WEST: SectionId = SectionId(4);
const QUARTERS: [SectionId; 4] = [EAST, NORTH, SOUTH, WEST];

/// Keys of each quarter.
const KEYS: u64 = 10_000;

fn only(names: &[&str]) -> Sections {
    Sections::only(names.iter().copied().map(name))
}

fn open(directory: &Path) -> Arc<Keyed> {
    open_as(directory, schema_of(&["east", "north", "south", "west"]))
}

/// A state with the same keys and other values in each quarter, at position 5.
fn fill(keyed: &Keyed) {
    put(keyed, 1, CONFIG, [(b"members".to_vec(), b"a, b, c".to_vec())].into_iter());
    for (index, section) in (2..).zip(QUARTERS) {
        put(keyed, index, section, (0..KEYS).map(move |number| (key(number), value(number, index))));
    }
}

fn join(keyed: &Arc<Keyed>, sources: &[&Member], sections: Sections) -> JoinHandle {
    keyed.join(JoinOptions { sections, ..options(sources, Arc::new(PlainTransport)) })
}

/// Joins, adopts, and waits until everything that was asked for is here. Gives the bytes that came.
fn complete(keyed: &Arc<Keyed>, sources: &[&Member], sections: Sections) -> u64 {
    let handle = join(keyed, sources, sections);
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    handle.wait(Milestone::Complete).unwrap();
    handle.status().figures.wire_received
}

fn payload_bytes(keyed: &Keyed, sections: &[SectionId]) -> u64 {
    let sealed = keyed.sealed().unwrap();
    sections.iter().map(|section| sealed.manifest.sections[usize::from(section.0)].root.payload_bytes).sum()
}

#[track_caller]
fn assert_not_held(keyed: &Keyed, section: SectionId, expected: &str) {
    for read in [keyed.get(section, &key(1)).map(drop), keyed.scan(section, b"", 10).map(drop)] {
        assert!(matches!(&read, Err(KeyedError::NotHeld { section }) if section.as_str() == expected), "{read:?}");
    }
}

#[test]
fn a_joiner_of_two_sections_of_four_fetches_and_holds_exactly_these() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    let sealed = seal(&source);
    let member = serve(&source);

    let brought = complete(&joiner, &[&member], only(&["north", "west"]));
    let wanted = payload_bytes(&source, &[CONFIG, NORTH, WEST]);
    assert!(brought < wanted * 13 / 10, "{brought} bytes came for {wanted} bytes of sections");
    assert_equal_in(&source, &joiner, &[CONFIG, NORTH, WEST]);
    assert_not_held(&joiner, EAST, "east");
    assert_not_held(&joiner, SOUTH, "south");
    drop(member);

    let held = joiner.sealed().unwrap();
    assert_eq!((held.id, held.extent), (sealed.snapshot, Extent::Sections));
    assert_eq!(held.sections, only(&["config", "north", "west"]));
    assert_eq!(joiner.seal().unwrap_err(), SealRefused::SomeSections);
    drop(joiner);
    let again = open(directories[1].path());
    assert_eq!(again.sections(), only(&["config", "north", "west"]));
    assert_equal_in(&source, &again, &[CONFIG, NORTH, WEST]);
    assert_not_held(&again, SOUTH, "south");
}

#[test]
fn a_command_that_reads_what_is_not_held_is_not_applied() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    complete(&joiner, &[&member], only(&["north"]));
    let copy = |transaction: &mut Transaction<'_>| -> Result<(), ReadError> {
        let value = transaction.get(SOUTH, &key(1))?.unwrap();
        Ok(transaction.put(NORTH, key(1), value)?)
    };
    let refused = joiner.transact(at(6), b"copy", copy).unwrap_err();
    assert!(matches!(&refused, KeyedError::NotHeld { section } if section.as_str() == "south"), "{refused}");
    assert_eq!(joiner.position(), at(5));
}

#[test]
fn who_holds_some_sections_serves_them_and_others_the_rest() {
    let directories = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let [source, some, alike, all] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    complete(&some, &[&member], only(&["north", "west"]));
    let relay = serve(&some);

    // For what it holds it is source enough.
    complete(&alike, &[&relay], only(&["west"]));
    assert_equal_in(&source, &alike, &[CONFIG, WEST]);
    assert_not_held(&alike, NORTH, "north");
    // What it does not hold it says, instead of sending a joiner on a way that ends nowhere.
    let alone = join(&all, &[&relay], Sections::All).wait(Milestone::Planned).unwrap_err();
    assert!(alone.to_string().contains("section 'east'"), "{alone}");

    let handle = join(&all, &[&relay, &member], Sections::All);
    handle.wait(Milestone::Complete).unwrap();
    handle.adopt().unwrap();
    let figures = handle.status().figures;
    assert!(figures.sources.len() == 2, "{figures:?}");
    assert_equal_in(&source, &all, &[CONFIG, EAST, NORTH, SOUTH, WEST]);
    assert_eq!(all.sealed().unwrap().extent, Extent::Whole);
}

#[test]
fn two_that_hold_different_sections_are_together_a_source_of_all() {
    let directories = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let [source, left, right, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    complete(&left, &[&member], only(&["east", "north"]));
    complete(&right, &[&member], only(&["south", "west"]));
    drop(member);
    let members = [serve(&left), serve(&right)];
    complete(&joiner, &[&members[0], &members[1]], Sections::All);
    assert_equal_in(&source, &joiner, &[CONFIG, EAST, NORTH, SOUTH, WEST]);
}

#[test]
fn a_section_that_is_added_later_is_all_that_comes() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    complete(&joiner, &[&member], only(&["north", "west"]));
    // Changed after the snapshot and before the section came: it counts all the same.
    for keyed in [&source, &joiner] {
        put(keyed, 6, SOUTH, [(key(5), b"later".to_vec())].into_iter());
    }
    let brought = complete(&joiner, &[&member], only(&["north", "south", "west"]));
    let wanted = payload_bytes(&source, &[SOUTH]);
    assert!(brought < wanted * 13 / 10, "{brought} bytes came for {wanted} bytes of a section");
    assert_equal_in(&source, &joiner, &[CONFIG, NORTH, SOUTH, WEST]);
    assert_not_held(&joiner, EAST, "east");

    complete(&joiner, &[&member], Sections::All);
    assert_equal_in(&source, &joiner, &[EAST]);
    // Now it has every root, so it seals like any other.
    assert_eq!(seal(&source).snapshot, seal(&joiner).snapshot);
}

#[test]
fn a_member_with_some_sections_follows_what_the_others_seal() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    complete(&joiner, &[&member], only(&["north"]));
    for keyed in [&source, &joiner] {
        for (index, section) in (6..).zip([NORTH, SOUTH]) {
            put(keyed, index, section, (0..KEYS).step_by(100).map(move |number| (key(number), value(number, index))));
        }
    }
    let sealed = seal(&source);
    put(&joiner, 8, NORTH, [(key(1), b"later".to_vec())].into_iter());
    let handle = joiner.join(JoinOptions {
        wanted: Some(sealed.snapshot),
        sections: joiner.sections(),
        ..options(&[&member], Arc::new(PlainTransport))
    });
    handle.wait(Milestone::Complete).unwrap();
    assert_eq!(handle.adopt().unwrap(), Position { epoch: 1, index: 7 });
    assert_eq!(joiner.position(), at(8));
    assert_eq!(joiner.get(NORTH, &key(1)).unwrap().unwrap(), &b"later"[..]);
    assert_eq!(joiner.get(NORTH, &key(200)).unwrap().unwrap(), value(200, 6));
    let brought = handle.status().figures.wire_received;
    let all = payload_bytes(&source, &[NORTH]);
    assert!(brought < all / 10, "{brought} bytes came of {all}: only the change was to come");

    let never = handle.wait(Milestone::Verified).unwrap_err();
    assert!(matches!(*never.0, JoinFailure::SomeSections), "{never}");
}

#[test]
fn a_section_that_the_state_does_not_have_cannot_be_joined() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    fill(&source);
    seal(&source);
    let member = serve(&source);
    let refused = join(&joiner, &[&member], only(&["nort"])).wait(Milestone::Planned).unwrap_err();
    assert!(refused.to_string().contains("no section 'nort'"), "{refused}");
}

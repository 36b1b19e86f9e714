//! Tests of states of which a member holds some sections only.

use super::*;

fn only(names: &[&str]) -> Sections {
    Sections::only(names.iter().copied().map(name)).within(&schema()).unwrap()
}

/// A sealed state with a value in every section, and everything of it.
fn sealed() -> (Manifest, MemoryChunks) {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    commit(&mut state, 1, &batch([(CONFIG, put("a", "1")), (DATA, put("b", "2")), (SHARD, put("c", "3"))]));
    let manifest = seal(&mut state, &mut chunks);
    (manifest, chunks)
}

fn holding(manifest: &Manifest, sections: Sections) -> KeyedState {
    let mut state = KeyedState::at(schema(), manifest).unwrap();
    state.hold(sections);
    state
}

#[test]
fn a_section_that_is_not_held_says_so_whatever_is_asked_of_it() {
    let (manifest, chunks) = sealed();
    let mut state = holding(&manifest, only(&["data"]));
    assert_eq!(state.get(&chunks, CONFIG, b"a"), Ok(Some("1".into())));
    assert_eq!(state.get(&chunks, DATA, b"b"), Ok(Some("2".into())));
    // Not even what changed since is shown: a reader would take what it sees for all there is.
    commit(&mut state, 2, &batch([(SHARD, put("d", "4"))]));
    let not_held = ReadError::NotHeld { section: name("shard") };
    assert_eq!(state.look(SHARD, b"d"), Look::NotHeld(name("shard")));
    assert_eq!(state.get(&chunks, SHARD, b"d"), Err(not_held.clone()));
    assert_eq!(state.scan(&chunks, SHARD, b"", 9), Err(not_held.clone()));
    let mut transaction = state.begin(&chunks);
    assert_eq!(transaction.get(SHARD, b"c"), Err(not_held.clone()));
    assert_eq!(transaction.finish(), Err(not_held.clone()));
    assert_eq!(not_held.to_string(), "section 'shard' is not held by this member");
}

#[test]
fn a_member_with_some_sections_does_not_seal_and_rebases_onto_what_others_sealed() {
    let (manifest, mut chunks) = sealed();
    let mut some = holding(&manifest, only(&["data"]));
    let mut all = holding(&manifest, Sections::All);
    for state in [&mut some, &mut all] {
        commit(state, 2, &batch([(DATA, put("b", "20")), (SHARD, put("c", "30"))]));
    }
    assert_eq!(some.freeze().unwrap_err(), SealRefused::SomeSections);
    let next = seal(&mut all, &mut chunks);
    commit(&mut some, 3, &batch([(DATA, put("e", "5"))]));
    some.rebase(&next).unwrap();
    assert_eq!((some.base_position(), some.position()), (at(2), at(3)));
    assert_eq!(some.get(&chunks, DATA, b"b"), Ok(Some("20".into())));
    assert_eq!(some.get(&chunks, DATA, b"e"), Ok(Some("5".into())));
    assert_eq!(some.sections(), &only(&["data"]));
}

#[test]
fn a_section_that_is_taken_in_later_has_what_changed_since_its_snapshot() {
    let (manifest, chunks) = sealed();
    let mut state = holding(&manifest, only(&["data"]));
    commit(&mut state, 2, &batch([(SHARD, put("d", "4")), (SHARD, delete("c"))]));
    state.rebase(&manifest).unwrap();
    state.hold(Sections::All);
    assert_eq!(state.get(&chunks, SHARD, b"d"), Ok(Some("4".into())));
    assert_eq!(state.get(&chunks, SHARD, b"c"), Ok(None));
    assert!(state.freeze().is_ok());
}

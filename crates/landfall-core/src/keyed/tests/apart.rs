//! Tests of seals whose parts are merged apart: in whichever order, and whichever of them are taken, the snapshot is the same.

use proptest::prelude::*;

use super::*;
use crate::tree::TreeError;

/// Long keys make a high tree of few entries.
fn key(number: u32) -> Bytes {
    [&number.to_be_bytes()[..], &[b'k'; 3_000]].concat().into()
}

/// A state and what it should hold.
struct Case {
    state: KeyedState,
    model: Model,
    chunks: MemoryChunks,
}

impl Case {
    /// A sealed state of so many keys, the even ones.
    fn sealed(keys: u32) -> Self {
        let mut case = Self { state: born(), model: Model::default(), chunks: MemoryChunks::default() };
        case.commit((0..keys).map(|number| (DATA, put(key(number * 2), vec![b'0'; 50]))));
        seal(&mut case.state, &mut case.chunks);
        case
    }

    fn commit(&mut self, ops: impl Iterator<Item = (SectionId, Op)>) {
        for ops in ops.collect::<Vec<_>>().chunks(100) {
            let (index, changes) = (self.state.position().index + 1, batch(ops.iter().cloned()));
            assert_eq!(commit(&mut self.state, index, &changes), Applied::Now);
            self.model.commit(index, &changes);
        }
    }

    fn expected(&self) -> Manifest {
        self.model.manifest(&mut MemoryChunks::default())
    }
}

/// Merges the parts in an order of the caller's, and takes those that the caller chooses.
fn merge_apart(
    sealing: &mut Sealing,
    chunks: &mut MemoryChunks,
    order: impl FnOnce(&mut Vec<(usize, SealPart)>),
    is_taken: impl Fn(usize) -> bool,
) -> Result<(Sealed, usize), TreeError> {
    let mut parts: Vec<_> = sealing.parts(chunks)?.into_iter().enumerate().collect();
    let count = parts.len();
    order(&mut parts);
    let mut made = MemoryChunks::default();
    let mut merged = BTreeMap::new();
    for (place, part) in parts {
        merged.insert(place, part.merge(chunks, &mut made)?);
    }
    for (place, part) in merged {
        if is_taken(place) {
            sealing.adopt(chunks, &part, &mut made)?;
        }
    }
    loop {
        if let Step::Done(sealed) = sealing.step(chunks, 13, &mut made)? {
            chunks.absorb(made);
            return Ok((sealed, count));
        }
    }
}

/// A change of so many keys: every `step`th, of which some go, some come and some change.
fn changes(keys: u32, step: u32) -> impl Iterator<Item = (SectionId, Op)> {
    (0..keys * 2).step_by(step as usize).map(move |number| {
        let change =
            if number % 3 == 0 { delete(key(number)) } else { put(key(number), vec![b'1'; number as usize % 90]) };
        (DATA, change)
    })
}

#[test]
fn parts_of_many_changes_give_the_snapshot_that_building_gives() {
    let mut case = Case::sealed(600);
    case.commit(changes(600, 2));
    case.commit([(CONFIG, put("a", "b")), (SHARD, put("c", vec![7; 3_000]))].into_iter());
    let mut sealing = case.state.freeze().unwrap();
    let (sealed, parts) = merge_apart(&mut sealing, &mut case.chunks, |parts| parts.reverse(), |_| true).unwrap();
    assert!(parts > 10, "{parts} parts");
    assert_eq!(sealing.entries_done(), 602);
    assert_eq!(sealed.manifest, case.expected());
    case.state.finish_seal(&sealed).unwrap();
    check(&case.state, &case.chunks, &case.model);
}

#[test]
fn few_changes_and_a_section_that_was_cleared_have_no_parts() {
    let mut case = Case::sealed(300);
    case.commit(changes(20, 1));
    let sealing = case.state.freeze().unwrap();
    assert!(sealing.parts(&case.chunks).unwrap().is_empty());
    case.state.abandon_seal(sealing).unwrap();
    case.commit([(DATA, Op::Clear)].into_iter().chain(changes(300, 1)));
    assert!(case.state.freeze().unwrap().parts(&case.chunks).unwrap().is_empty());
}

#[test]
fn a_part_that_the_steps_have_merged_already_is_left_alone() {
    let mut case = Case::sealed(600);
    case.commit(changes(600, 2));
    let mut sealing = case.state.freeze().unwrap();
    let mut made = MemoryChunks::default();
    let first = sealing.parts(&case.chunks).unwrap().remove(0).merge(&case.chunks, &mut made).unwrap();
    sealing.step(&case.chunks, 500, &mut made).unwrap();
    sealing.adopt(&case.chunks, &first, &mut made).unwrap();
    case.chunks.absorb(made);
    assert_eq!(merge(sealing, &mut case.chunks, 100).manifest, case.expected());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whichever_parts_are_taken_the_snapshot_is_the_same(
        step in 1_u32..5,
        taken in prop::collection::vec(any::<bool>(), 64),
        order in any::<prop::sample::Index>(),
    ) {
        let mut case = Case::sealed(700);
        case.commit(changes(700, step));
        let mut sealing = case.state.freeze().unwrap();
        let turn = |parts: &mut Vec<_>| {
            let first = order.index(parts.len());
            parts.rotate_left(first);
        };
        let is_taken = |place: usize| taken[place % taken.len()];
        let (sealed, _) = merge_apart(&mut sealing, &mut case.chunks, turn, is_taken).unwrap();
        prop_assert_eq!(sealed.manifest, case.expected());
    }
}

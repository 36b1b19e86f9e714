//! Owns the merge of a seal: on as many threads as it may have, each of which reads old nodes once and keeps what it makes.
//!
//! It never decides what belongs where: the core says which parts there are, and puts them together.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use bytes::Bytes;
use landfall_core::codec::Copied;
use landfall_core::keyed::{MergedPart, SealPart, SealSink, Sealed, Sealing, Step};
use landfall_core::tree::{Node, NodeSink, Nodes, TreeError};
use landfall_core::{Chunk, ChunkId};
use landfall_store::{Session, SoundBase, StoreError};

use super::SealError;
use super::here::Here;
use super::mend::Mending;
use crate::background::Courtesy;
use crate::nodes::{FirstFailure, Once, Patching, Replaced};

/// Threads that merge beside the one that puts their parts together, which has little to do.
const HANDS_MAX: usize = 4;
/// Parts that a thread is ahead at most.
const PARTS_AHEAD_MAX: usize = 4;
/// Changes that are merged one by one before the thread looks up.
const SLICE_ENTRIES_MAX: usize = 4096;
/// Nodes that were read last and may be the base of the next patch: one of each level, and some more where boundaries move.
const NODES_READ_LAST: usize = 16;

/// What merging gave.
pub(super) struct Merged {
    pub(super) sealed: Sealed,
    pub(super) kept: Kept,
}

/// What was kept on the way.
#[derive(Default)]
pub(super) struct Kept {
    /// How many nodes were made, and their bytes before they became patches.
    pub(super) nodes: u64,
    pub(super) node_bytes: u64,
    /// Nodes whose places others took.
    pub(super) replaced: Vec<ChunkId>,
}

impl Kept {
    fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.node_bytes += other.node_bytes;
        self.replaced.extend(other.replaced);
    }
}

/// Merges everything. `writing` is the session in which that happens; what is damaged of the old trees is `mending`'s to bring.
pub(super) fn merge(
    here: &Here,
    writing: &Session,
    sealing: &mut Sealing,
    mending: &mut Mending<'_>,
) -> Result<Merged, SealError> {
    let read = ReadOnce::new(here, writing);
    let mut sink = StoreSink::new(&read);
    let parts = mending.until_here(|| {
        let parts = sealing.parts(&read);
        sink.checked(parts)
    })?;
    let hands = hands_for(&parts);
    // One hand more would only wait for the other.
    if hands > 1 {
        merge_apart(sealing, &parts, hands, &mut sink, mending)?;
    }
    loop {
        let step = mending.until_here(|| {
            let step = sealing.step(&read, SLICE_ENTRIES_MAX, &mut sink);
            sink.checked(step)
        })?;
        if let Step::Done(sealed) = step {
            return Ok(Merged { sealed, kept: sink.kept });
        }
    }
}

/// What became of parts that were merged for their leaves alone.
pub(super) struct Carried {
    /// How many parts there were, and how many of them were here whole.
    pub(super) parts: usize,
    pub(super) merged: usize,
    /// How many leaves were made.
    pub(super) leaves: u64,
}

/// Merges the parts whose old nodes are here. Nothing is put together: what is kept are the leaves of each part.
pub(super) fn merge_held(here: &Here, writing: &Session, sealing: &mut Sealing) -> Result<Carried, SealError> {
    let read = ReadOnce::new(here, writing);
    let mut sink = StoreSink::new(&read);
    let parts = match sealing.parts(&read) {
        // Not even the upper levels are here: there is nothing to begin with.
        Err(TreeError::Missing(_)) => Vec::new(),
        parts => parts?,
    };
    let hands = hands_for(&parts);
    let mut merged = 0;
    let kept = merge_each(&read, &parts, hands, merge_part, |part| match part {
        Ok(_) => {
            merged += 1;
            Ok(())
        }
        // What is not here yet is fetched as it is in the next snapshot.
        Err(SealError::Tree(TreeError::Missing(_))) => Ok(()),
        Err(failure) => Err(failure),
    })?;
    sink.checked(Ok(()))?;
    Ok(Carried { parts: parts.len(), merged, leaves: kept.nodes })
}

fn hands_for(parts: &[SealPart]) -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(HANDS_MAX).min(parts.len())
}

/// Has parts merged by other threads, and puts them together in their order. What there is no thread for, or what is damaged, is left to the
/// steps.
fn merge_apart(
    sealing: &mut Sealing,
    parts: &[SealPart],
    hands: usize,
    sink: &mut StoreSink<'_, '_>,
    mending: &mut Mending<'_>,
) -> Result<(), SealError> {
    let read = sink.read;
    let kept = merge_each(read, parts, hands, merge_part, |merged| {
        let part = match merged {
            // It is left to the steps. They miss what is still missing when they come to it.
            Err(SealError::Tree(TreeError::Missing(_))) => return Ok(()),
            merged => merged?,
        };
        mending.until_here(|| {
            let adopted = sealing.adopt(read, &part, sink);
            sink.checked(adopted)
        })
    })?;
    sink.kept.add(kept);
    Ok(())
}

/// Has parts merged by other threads, which `merge` them, hands over each in its order, and says what was kept. Without a thread none is
/// merged.
///
/// Whoever is done takes the next part: a thread whose processor others want as well is overtaken, until the others are as far ahead as they
/// may be.
fn merge_each(
    read: &ReadOnce<'_>,
    parts: &[SealPart],
    hands: usize,
    merge: MergePart,
    mut handle: impl FnMut(Result<MergedPart, SealError>) -> Result<(), SealError>,
) -> Result<Kept, SealError> {
    let (here, writing) = (read.here, read.writing);
    let (gives, given) = channel();
    let given = Mutex::new(given);
    let (says, takes) = channel();
    thread::scope(|scope| {
        // They go when this ends, however it ends: no hand waits for another part then, or merges one that nobody wants.
        let (gives, takes) = (gives, takes);
        let start = || {
            let (given, says) = (&given, Says(says.clone()));
            let work = move || merge_given(here, writing, given, merge, &says);
            thread::Builder::new().name("seal-part".into()).spawn_scoped(scope, work).ok()
        };
        let hands: Vec<_> = (0..hands).map_while(|_| start()).collect();
        let mut kept = Kept::default();
        if hands.is_empty() {
            return Ok(kept);
        }
        let mut left = parts.iter().enumerate();
        let mut give = |count| left.by_ref().take(count).for_each(|part| gives.send(part).expect(HANDS_WAIT));
        // Few are ahead of the one whose turn it is.
        give(hands.len() * PARTS_AHEAD_MAX);
        let mut early = BTreeMap::new();
        for turn in 0..parts.len() {
            let merged = loop {
                if let Some(merged) = early.remove(&turn) {
                    break merged;
                }
                let (place, merged) = takes.recv().ok().flatten().expect("a hand says what became of each part");
                early.insert(place, merged);
            };
            give(1);
            handle(merged)?;
        }
        drop(gives);
        for hand in hands {
            kept.add(hand.join().expect("a thread that merges does not panic"));
        }
        Ok(kept)
    })
}

const HANDS_WAIT: &str = "whoever takes parts is here until all hands have ended";

/// How a hand merges a part.
type MergePart = fn(&SealPart, &dyn Nodes, &mut StoreSink<'_, '_>) -> Result<MergedPart, TreeError>;

fn merge_part(part: &SealPart, nodes: &dyn Nodes, sink: &mut StoreSink<'_, '_>) -> Result<MergedPart, TreeError> {
    part.merge(nodes, sink)
}

/// A part that was merged, and its place among all; nothing from a hand that panicked, for nobody else does what it was at.
type Merging = Option<(usize, Result<MergedPart, SealError>)>;

/// The mouth of a hand.
struct Says(Sender<Merging>);

impl Drop for Says {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(None);
        }
    }
}

/// Merges parts until no more are given, or nobody wants them.
fn merge_given(
    here: &Here,
    writing: &Session,
    given: &Mutex<Receiver<(usize, &SealPart)>>,
    merge: MergePart,
    says: &Says,
) -> Kept {
    let read = ReadOnce::new(here, writing);
    let mut sink = StoreSink::new(&read);
    let next = || given.lock().expect("no panic under the lock").recv();
    while let Ok((place, part)) = next() {
        let merged = merge(part, &read, &mut sink);
        if says.0.send(Some((place, sink.checked(merged)))).is_err() {
            break;
        }
    }
    sink.kept
}

/// Nodes as a seal reads them: each once, and again as the base of the patch that takes its place. What nobody else reads does not push
/// out of memory what somebody does.
struct ReadOnce<'a> {
    here: &'a Here,
    writing: &'a Session,
    /// The last that were read, oldest first.
    last: RefCell<VecDeque<OldNode<'a>>>,
    failure: FirstFailure,
}

/// A node that was read, and whether it is known that a patch can be put on it.
#[derive(Clone)]
struct OldNode<'a> {
    id: ChunkId,
    node: Node,
    kept: Option<SoundBase<'a>>,
}

impl<'a> ReadOnce<'a> {
    fn new(here: &'a Here, writing: &'a Session) -> Self {
        Self { here, writing, last: RefCell::default(), failure: FirstFailure::default() }
    }

    /// A node that was read; one that was read lately is not read again.
    fn old(&self, id: ChunkId) -> Result<Option<Result<OldNode<'a>, TreeError>>, StoreError> {
        if let Some(old) = self.last.borrow().iter().rev().find(|old| old.id == id) {
            return Ok(Some(Ok(old.clone())));
        }
        let (node, kept) = match self.here.nodes.read_remembered(id) {
            Some(node) => (node, None),
            None => match self.here.nodes.get_once(id, self.writing)? {
                Some(Once { bytes, kept }) => (Node::read(id, bytes), kept),
                None => return Ok(None),
            },
        };
        let old = node.map(|node| OldNode { id, node, kept });
        if let Ok(old) = &old {
            let mut last = self.last.borrow_mut();
            if last.len() == NODES_READ_LAST {
                last.pop_front();
            }
            last.push_back(old.clone());
        }
        Ok(Some(old))
    }
}

impl Nodes for ReadOnce<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        Some(self.read(id)?.ok()?.bytes().clone())
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        let old = self.failure.noting(self.old(id))?;
        Some(old.map(|old| old.node))
    }
}

/// Keeps what a seal makes: nodes as patches against those that they replace, long values as they are.
struct StoreSink<'r, 'a> {
    read: &'r ReadOnce<'a>,
    patching: Patching,
    kept: Kept,
    failure: Option<StoreError>,
    courtesy: Option<Courtesy>,
}

impl<'r, 'a> StoreSink<'r, 'a> {
    /// A sink for the calling thread.
    fn new(read: &'r ReadOnce<'a>) -> Self {
        let courtesy = Courtesy::of_this_thread();
        Self { read, patching: Patching::default(), kept: Kept::default(), failure: None, courtesy }
    }

    /// The result of an operation that this sink was given to, unless the store failed under it.
    fn checked<T>(&mut self, result: Result<T, TreeError>) -> Result<T, SealError> {
        self.failure.take().map_or(Ok(()), Err)?;
        self.read.failure.check()?;
        Ok(result?)
    }

    fn keep(&mut self, node: &Chunk, old: Option<ChunkId>, copied: &[Copied]) -> Result<(), StoreError> {
        let nodes = &self.read.here.nodes;
        let Some(old) = old else { return nodes.put(node) };
        self.kept.replaced.push(old);
        match self.read.old(old)? {
            Some(Ok(old)) => {
                let replaced = Replaced { id: old.id, bytes: old.node.bytes(), copied, kept: old.kept };
                nodes.put_in_place_of(node, &replaced, &mut self.patching)
            }
            Some(Err(_)) | None => nodes.put(node),
        }
    }

    fn count(&mut self, node: &Chunk) {
        self.kept.nodes += 1;
        self.kept.node_bytes += node.bytes().len() as u64;
    }

    fn note(&mut self, kept: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        if self.failure.is_none() {
            self.failure = kept(self).err();
        }
        if let Some(courtesy) = &mut self.courtesy {
            courtesy.let_others_go();
        }
    }
}

impl NodeSink for StoreSink<'_, '_> {
    fn put(&mut self, node: Chunk) {
        self.put_in_place_of(node, None);
    }

    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        self.count(&node);
        self.note(|sink| sink.keep(&node, old, &[]));
    }

    fn put_copied(&mut self, node: Chunk, old: ChunkId, copied: &[Copied]) {
        self.count(&node);
        self.note(|sink| sink.keep(&node, Some(old), copied));
    }
}

impl SealSink for StoreSink<'_, '_> {
    fn put_value(&mut self, value: Chunk) {
        self.note(|sink| sink.read.here.store.put(&value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Keyed;
    use super::super::alone::{open, put};
    use super::*;

    /// A state with many parts to merge.
    fn with_parts(work: impl FnOnce(&ReadOnce<'_>, &[SealPart])) {
        let directory = tempfile::tempdir().unwrap();
        let state: Arc<Keyed> = open(directory.path());
        let keys: Vec<_> = (0..30_000_u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
        let long: &str = Box::leak("a long value, so that there are many leaves. ".repeat(20).into_boxed_str());
        put(&state, 1, &keys, long);
        state.seal().unwrap().wait().unwrap();
        let changed: Vec<_> = keys.iter().step_by(50).cloned().collect();
        put(&state, 2, &changed, "another");
        let sealing = state.write_state().freeze().unwrap();
        let writing = state.here.store.begin_session();
        let read = ReadOnce::new(&state.here, &writing);
        let parts = sealing.parts(&read).unwrap();
        assert!(parts.len() > PARTS_AHEAD_MAX, "{}", parts.len());
        work(&read, &parts);
    }

    #[test]
    fn parts_come_in_their_order_from_any_number_of_hands() {
        with_parts(|read, parts| {
            let alone: Vec<_> =
                parts.iter().map(|part| format!("{:?}", part.merge(read, &mut StoreSink::new(read)))).collect();
            for hands in 1..=HANDS_MAX {
                let mut merged = Vec::new();
                let kept = merge_each(read, parts, hands, merge_part, |part| {
                    merged.push(format!("{:?}", part.map_err(|error| panic!("{error}"))));
                    Ok(())
                });
                assert!(kept.unwrap().nodes > parts.len() as u64);
                assert_eq!(merged, alone);
            }
        });
    }

    #[test]
    fn a_part_that_fails_is_told_in_its_turn_and_no_hand_is_waited_for() {
        with_parts(|read, parts| {
            let mut handled = 0;
            let failing = |_: &SealPart, _: &dyn Nodes, _: &mut StoreSink<'_, '_>| Err(TreeError::Refused("for once"));
            let ended = merge_each(read, parts, 2, failing, |merged| {
                handled += 1;
                merged.map(drop)
            });
            assert!(matches!(ended, Err(SealError::Tree(TreeError::Refused("for once")))));
            assert_eq!(handled, 1);
        });
    }

    #[test]
    #[should_panic(expected = "a hand says what became of each part")]
    fn a_hand_that_panics_is_not_waited_for() {
        with_parts(|read, parts| {
            static FELL: AtomicBool = AtomicBool::new(false);
            // The others wait for parts that nobody gives them while the first is waited for.
            let panicking = |part: &SealPart, nodes: &dyn Nodes, sink: &mut StoreSink<'_, '_>| {
                assert!(FELL.swap(true, Ordering::Relaxed), "a hand falls");
                merge_part(part, nodes, sink)
            };
            let _ = merge_each(read, parts, 2, panicking, |merged| merged.map(drop));
        });
    }
}

//! Owns the carrying out of a seal: on a thread of its own, in slices, while writers go on; then durable, then the newest snapshot.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_core::keyed::{SealSink, Sealed, Sealing, Step};
use landfall_core::snapshot::{Manifest, Position, StateRoot};
use landfall_core::tree::{Node, NodeSink, Nodes, TreeError};
use landfall_core::{Chunk, ChunkId};
use landfall_store::{CollectBudget, StoreError};

use super::here::Here;
use super::{Extent, Keyed, SealError, SealRefused};
use crate::clock::wall_seconds;
use crate::history::Held;
use crate::member::collect;
use crate::nodes::{NodeCache, Patching};
use crate::source::LetGo;

/// Changes that are merged before the thread looks up.
const SLICE_ENTRIES_MAX: usize = 4096;
/// Nodes that were read last and may be the base of the next patch: one of each level, and some more where boundaries move.
const NODES_READ_LAST: usize = 16;
/// What a seal that lets an older snapshot go may spend on making room.
const COLLECT_COPY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a seal made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealReport {
    /// The snapshot.
    pub snapshot: ChunkId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The hash of its content: equal on every member that sealed at the same position.
    pub state_root: StateRoot,
    /// Changes that were merged.
    pub entries: u64,
    /// Nodes that were written.
    pub nodes: u64,
    /// Time from the freeze to the durable snapshot.
    pub elapsed: Duration,
}

/// A seal under way. It goes on whether or not anybody waits.
#[derive(Debug)]
pub struct SealTicket {
    position: Position,
    ends: Receiver<Result<SealReport, SealError>>,
}

impl SealTicket {
    /// The position at which the state was frozen.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits until the snapshot is durable and served.
    pub fn wait(self) -> Result<SealReport, SealError> {
        self.ends.recv().expect("the thread of a seal says how it ended")
    }
}

impl Keyed {
    /// Freezes the state at its present position and makes a snapshot of it, on a thread.
    ///
    /// # Errors
    /// [`SealRefused`] if another seal runs, or the state stands on a snapshot that is not all here.
    pub fn seal(self: &Arc<Self>) -> Result<SealTicket, SealRefused> {
        let rebased = self.lock_base();
        if self.sealed().is_some_and(|sealed| sealed.extent == Extent::Filling) {
            return Err(SealRefused::Filling);
        }
        let sealing = self.write_state().freeze()?;
        let rebased_before = *rebased;
        drop(rebased);
        let position = sealing.position();
        let (says, ends) = sync_channel(1);
        let keyed = self.clone();
        let run = move || {
            let ended = Run { keyed: &keyed, rebased_before, began: Instant::now() }.seal(sealing);
            // The state goes before the waiting thread does: who waited may open its directory again.
            drop(keyed);
            // Nobody may be waiting.
            drop(says.send(ended));
        };
        std::thread::Builder::new().name("seal".into()).spawn(run).expect("a thread for a seal");
        Ok(SealTicket { position, ends })
    }
}

/// One seal on its thread.
struct Run<'a> {
    keyed: &'a Arc<Keyed>,
    rebased_before: u64,
    began: Instant,
}

impl Run<'_> {
    fn seal(&self, mut sealing: Sealing) -> Result<SealReport, SealError> {
        let writing = self.keyed.here.store.begin_session();
        let sealed = self.merge(&mut sealing).and_then(|Merged { sealed, nodes, replaced }| {
            let held = self.make_durable(&sealed)?;
            let report = self.report(&held, sealing.entries_done(), nodes);
            let let_go = self.publish(&sealed, held)?;
            // From now on readers go by the new nodes; the memory of the old ones is there for the next seal.
            self.keyed.here.nodes.outlive(&replaced);
            Ok((SealReport { elapsed: self.began.elapsed(), ..report }, let_go))
        });
        drop(writing);
        if sealed.is_err() {
            let abandoned = self.keyed.write_state().abandon_seal(sealing);
            tracing::debug!(is_outdated = abandoned.is_err(), "a seal failed; its changes are where they belong");
        }
        let (report, let_go) = sealed?;
        if let_go == LetGo::Some
            && let Err(error) =
                collect(&self.keyed.here.store, CollectBudget { copy_bytes_max: COLLECT_COPY_BYTES_MAX })
        {
            tracing::warn!(%error, "cannot make room; the next seal tries again");
        }
        Ok(report)
    }

    /// Merges all slices.
    fn merge(&self, sealing: &mut Sealing) -> Result<Merged, SealError> {
        let here = &self.keyed.here;
        let read = ReadOnce { nodes: &here.nodes, last: RefCell::default() };
        let mut sink = StoreSink {
            here,
            read: &read,
            patching: Patching::default(),
            nodes: 0,
            failure: None,
            replaced: Vec::new(),
        };
        loop {
            let step = sealing.step(&read, SLICE_ENTRIES_MAX, &mut sink);
            if let Some(failure) = sink.failure.take().or_else(|| here.nodes.take_failure()) {
                return Err(failure.into());
            }
            match step {
                Ok(Step::More) => {}
                Ok(Step::Done(sealed)) => return Ok(Merged { sealed, nodes: sink.nodes, replaced: sink.replaced }),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn make_durable(&self, sealed: &Sealed) -> Result<Held, SealError> {
        let store = &self.keyed.here.store;
        let chunk = sealed.manifest.to_chunk();
        store.put(&chunk)?;
        store.sync()?;
        Ok(Held {
            id: chunk.id(),
            manifest: sealed.manifest.clone(),
            manifest_bytes: chunk.into_bytes(),
            head: None,
            since: wall_seconds(),
            extent: Extent::Whole,
        })
    }

    fn report(&self, held: &Held, entries: u64, nodes: u64) -> SealReport {
        let (snapshot, manifest) = (held.id, held.manifest.clone());
        let state_root = manifest.state_root();
        SealReport { snapshot, manifest, state_root, entries, nodes, elapsed: Duration::ZERO }
    }

    /// Makes the snapshot the newest, and the base of the state, unless the state was re-based meanwhile.
    fn publish(&self, sealed: &Sealed, held: Held) -> Result<LetGo, SealError> {
        let rebased = self.keyed.lock_base();
        if *rebased != self.rebased_before {
            return Err(SealError::Outdated);
        }
        let let_go = self.keyed.served.publish(held, &self.keyed.clock)?;
        self.keyed.write_state().finish_seal(sealed).map_err(|_| SealError::Outdated)?;
        Ok(let_go)
    }
}

/// What merging gave.
struct Merged {
    sealed: Sealed,
    /// How many nodes were written.
    nodes: u64,
    /// Nodes whose places others took.
    replaced: Vec<ChunkId>,
}

/// Nodes as a seal reads them: each once, and again as the base of the patch that takes its place. What nobody else reads does not push
/// out of memory what somebody does.
struct ReadOnce<'a> {
    nodes: &'a NodeCache,
    /// The last that were read, oldest first.
    last: RefCell<VecDeque<(ChunkId, Node)>>,
}

impl ReadOnce<'_> {
    fn read_now(&self, id: ChunkId) -> Result<Option<Result<Node, TreeError>>, StoreError> {
        if let Some((_, node)) = self.last.borrow().iter().find(|(last, _)| *last == id) {
            return Ok(Some(Ok(node.clone())));
        }
        let read = match self.nodes.read_remembered(id) {
            Some(read) => read,
            None => match self.nodes.get_once(id)? {
                Some(bytes) => Node::read(id, bytes),
                None => return Ok(None),
            },
        };
        if let Ok(node) = &read {
            let mut last = self.last.borrow_mut();
            if last.len() == NODES_READ_LAST {
                last.pop_front();
            }
            last.push_back((id, node.clone()));
        }
        Ok(Some(read))
    }
}

impl Nodes for ReadOnce<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        Some(self.read(id)?.ok()?.bytes().clone())
    }

    fn read(&self, id: ChunkId) -> Option<Result<Node, TreeError>> {
        self.read_now(id).unwrap_or_else(|failure| {
            self.nodes.note_failure(failure);
            None
        })
    }
}

/// Keeps what a seal makes: nodes as patches against those that they replace, long values as they are.
struct StoreSink<'a> {
    here: &'a Here,
    read: &'a ReadOnce<'a>,
    patching: Patching,
    nodes: u64,
    replaced: Vec<ChunkId>,
    failure: Option<StoreError>,
}

impl StoreSink<'_> {
    fn keep_in_place_of(&mut self, node: &Chunk, old: ChunkId) -> Result<(), StoreError> {
        self.replaced.push(old);
        match self.read.node(old) {
            Some(base) => self.here.nodes.put_in_place_of(node, old, &base, &mut self.patching),
            None => self.here.nodes.put(node),
        }
    }

    fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(failure) = result {
            self.failure.get_or_insert(failure);
        }
    }
}

impl NodeSink for StoreSink<'_> {
    fn put(&mut self, node: Chunk) {
        self.put_in_place_of(node, None);
    }

    fn put_in_place_of(&mut self, node: Chunk, old: Option<ChunkId>) {
        if self.failure.is_some() {
            return;
        }
        self.nodes += 1;
        let kept = match old {
            Some(old) => self.keep_in_place_of(&node, old),
            None => self.here.nodes.put(&node),
        };
        self.note(kept);
    }
}

impl SealSink for StoreSink<'_> {
    fn put_value(&mut self, value: Chunk) {
        if self.failure.is_none() {
            let kept = self.here.store.put(&value);
            self.note(kept);
        }
    }
}

//! Owns the ways to sources for what cannot wait: reads that fault, and what a joiner needs before it serves. It has a connection of its
//! own to each source, so that no bulk stands in front of it.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use bytes::Bytes;
use landfall_core::join::{Asking, GiveUp, Next, Shortfall, SourceId, Sources};
use landfall_core::keyed::{Missing, Way};
use landfall_core::transfer::TreePair;
use landfall_core::tree::{ChunkRef, NodeWant, Nodes, Root, TreeError, Value, bases_on_way, get};
use landfall_core::wire::{ChunkRequest, FetchWhat, NodeRequest, PathRequest};
use landfall_core::{Chunk, ChunkId, Domain, Time};
use landfall_net::Transport;
use landfall_store::StoreError;

use super::line::{Answer, Answers, Came, Encoded, Line, LineBroken};
use crate::clock::Clock;
use crate::fetch::greet::{Question, Trust, greet};
use crate::fetch::status::Status;
use crate::keyed::here::Here;
use crate::nodes::with_decoder;

/// Ways that are fetched at once.
const WAYS_AT_ONCE_MAX: usize = 32;
/// Nodes or chunks of one request.
const WANTS_MAX: usize = 256;

/// Why something did not come.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// No source that can be reached has it.
    #[error("no source has it: {0}")]
    Nobody(String),
    /// The join has ended: what is not here is asked for by nobody.
    #[error("the join has ended")]
    Ended,
    /// The snapshot is broken at its source.
    #[error("the snapshot is broken at its source: {0}")]
    Tree(TreeError),
    /// The data directory refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How sources are reached, and whom to believe.
#[derive(Clone)]
pub(in crate::keyed) struct Reach {
    pub(in crate::keyed) transport: Arc<dyn Transport>,
    pub(in crate::keyed) trust: Arc<dyn Trust>,
}

/// Sources for what cannot wait.
pub(crate) struct FaultLanes {
    transport: Arc<dyn Transport>,
    trust: Arc<dyn Trust>,
    question: Question,
    trees: Vec<TreePair>,
    here: Here,
    status: Arc<Status>,
    clock: Clock,
    known: Mutex<Known>,
    /// A source was added, or all of it ended.
    changed: Condvar,
    bytes: AtomicU64,
}

/// The sources that were named so far.
#[derive(Default)]
struct Known {
    sources: Sources,
    /// In the places of the sources.
    lanes: Vec<Arc<FaultLane>>,
    ended: bool,
}

struct FaultLane {
    address: String,
    line: Mutex<Option<Arc<Line>>>,
}

/// Why one source did not give all of what it was asked.
enum Failure {
    Lacking,
    Broken,
    Corrupt,
    Final(FaultError),
}

impl From<LineBroken> for Failure {
    fn from(_: LineBroken) -> Self {
        Self::Broken
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Final(error.into())
    }
}

impl FaultLanes {
    /// Ways to sources that are yet to be added. What stands in the older one of `trees` need not come again.
    pub(in crate::keyed) fn new(
        reach: &Reach,
        question: Question,
        trees: Vec<TreePair>,
        here: Here,
        status: Arc<Status>,
    ) -> Self {
        let (clock, known) = (Clock::start(), Mutex::default());
        let Reach { transport, trust } = reach.clone();
        let (changed, bytes) = (Condvar::new(), AtomicU64::new(0));
        Self { transport, trust, question, trees, here, status, clock, known, changed, bytes }
    }

    /// Takes one more source in, unless it is known: whoever waits for one goes on.
    pub(in crate::keyed) fn add_source(&self, address: &str) {
        let mut known = self.lock();
        if known.lanes.iter().any(|lane| lane.address == address) {
            return;
        }
        known.sources.add();
        known.lanes.push(Arc::new(FaultLane { address: address.to_owned(), line: Mutex::default() }));
        self.changed.notify_all();
    }

    /// Fetches what reading `key` of a tree needs and is not here: one round trip.
    pub(crate) fn fetch_path(&self, root: &Root, key: &[u8]) -> Result<(), FaultError> {
        self.attempt(|line| self.path_from(line, root, key))
    }

    /// Fetches what a read missed: every way in one round trip, several at once, and what lies beside them at the same time.
    pub(crate) fn fetch_missing(&self, missing: &Missing) -> Result<(), FaultError> {
        // A way brings the node that it misses first.
        let beside = missing.nodes.get(missing.ways.len()..).unwrap_or_default();
        std::thread::scope(|scope| {
            let fetch = move || self.fetch_nodes(beside);
            let nodes = (!beside.is_empty() && !missing.ways.is_empty()).then(|| Fetching::begin(scope, fetch));
            self.fetch_ways(&missing.ways)?;
            nodes.map_or(Ok(()), Fetching::wait)
        })?;
        self.fetch_nodes(&missing.nodes)?;
        self.fetch_chunks(&missing.chunks)
    }

    fn fetch_ways(&self, ways: &[Way]) -> Result<(), FaultError> {
        for ways in ways.chunks(WAYS_AT_ONCE_MAX) {
            match ways {
                [way] => self.fetch_way(way)?,
                ways => std::thread::scope(|scope| {
                    let fetch = |way| Fetching::begin(scope, move || self.fetch_way(way));
                    let fetching: Vec<_> = ways.iter().map(fetch).collect();
                    fetching.into_iter().try_for_each(Fetching::wait)
                })?,
            }
        }
        Ok(())
    }

    fn fetch_way(&self, way: &Way) -> Result<(), FaultError> {
        self.fetch_path(&way.root, &way.key)
    }

    /// Fetches the nodes that are not here.
    pub(crate) fn fetch_nodes(&self, wants: &[NodeWant]) -> Result<(), FaultError> {
        for wants in wants.chunks(WANTS_MAX) {
            self.attempt(|line| self.nodes_from(line, wants))?;
        }
        Ok(())
    }

    /// Fetches the chunks that are not here.
    pub(crate) fn fetch_chunks(&self, wants: &[ChunkRef]) -> Result<(), FaultError> {
        for wants in wants.chunks(WANTS_MAX) {
            self.attempt(|line| self.chunks_from(line, wants))?;
        }
        Ok(())
    }

    /// Plaintext bytes that came on these lanes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends every connection, and whoever waits on one.
    pub(crate) fn end(&self) {
        let lanes = {
            let mut known = self.lock();
            known.ended = true;
            self.changed.notify_all();
            known.lanes.clone()
        };
        for lane in lanes {
            // Its thread ends when the last who waits for an answer is gone.
            if let Some(line) = lane.lock().take() {
                line.close();
            }
        }
    }

    /// Asks one source after the other until one gives all of it, as long as it may yet be had.
    fn attempt(&self, mut ask: impl FnMut(&Line) -> Result<(), Failure>) -> Result<(), FaultError> {
        let mut asking = Asking::new(self.clock.now());
        let mut why = String::from("no source is known");
        loop {
            let next = asking.next(&self.lock().sources, self.clock.now());
            match next {
                Next::Ask(source) => {
                    let Some(lane) = self.lane(source) else { continue };
                    let failure = match self.ask_lane(&lane, &mut ask, &mut why) {
                        Ok(()) => {
                            self.lock().sources.handle_answered(source);
                            return Ok(());
                        }
                        Err(failure) => failure,
                    };
                    let shortfall = match failure {
                        Failure::Final(error) => return Err(error),
                        Failure::Lacking => Shortfall::Lacking,
                        Failure::Broken => Shortfall::Unusable,
                        Failure::Corrupt => {
                            self.lock().sources.handle_corrupt(source);
                            Shortfall::Unusable
                        }
                    };
                    asking.handle_shortfall(source, shortfall);
                }
                Next::Wait { until } => self.wait(until)?,
                Next::GiveUp(GiveUp::AllLack) => return Err(FaultError::Nobody("all of them were asked".into())),
                Next::GiveUp(GiveUp::Patience) => return Err(FaultError::Nobody(why)),
            }
        }
    }

    fn ask_lane(
        &self,
        lane: &FaultLane,
        ask: &mut impl FnMut(&Line) -> Result<(), Failure>,
        why: &mut String,
    ) -> Result<(), Failure> {
        let line = self.line(lane).map_err(|error| {
            *why = format!("{}: {error}", lane.address);
            Failure::Broken
        })?;
        let asked = ask(&line);
        if let Err(failure) = &asked {
            lane.note(&line, failure);
        }
        asked
    }

    /// Waits until then, or until there is a source that was not there before.
    fn wait(&self, until: Time) -> Result<(), FaultError> {
        let known = self.lock();
        let count = known.sources.count();
        let pause = until.since(self.clock.now());
        let waits = |known: &mut Known| !known.ended && known.sources.count() == count;
        let waited = self.changed.wait_timeout_while(known, pause, waits);
        if waited.expect("no panic under the lock").0.ended { Err(FaultError::Ended) } else { Ok(()) }
    }

    fn lane(&self, source: SourceId) -> Option<Arc<FaultLane>> {
        self.lock().lanes.get(source.0 as usize).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic under the lock")
    }

    /// The connection of a lane, opened if it is not.
    fn line(&self, lane: &FaultLane) -> Result<Arc<Line>, String> {
        let mut open = lane.lock();
        if let Some(line) = open.as_ref().filter(|line| !line.is_broken()) {
            return Ok(line.clone());
        }
        if self.lock().ended {
            return Err("the join has ended".into());
        }
        let greeted = greet(&self.transport, &*self.trust, &lane.address, &self.question);
        let line = Line::new(greeted.map_err(|error| error.to_string())?, self.status.clone());
        let line = line.map_err(|error| format!("no thread for a connection: {error}"))?;
        *open = Some(line.clone());
        Ok(line)
    }

    fn path_from(&self, line: &Line, root: &Root, key: &[u8]) -> Result<(), Failure> {
        let Some((held, mut next)) = self.way(root, key)? else { return Ok(()) };
        let bases = self.bases(root, key, held);
        let further = bases.iter().skip(held);
        let path = PathRequest {
            root: root.id.to_bytes(),
            key: Bytes::copy_from_slice(key),
            levels_held: held as u32,
            bases: further.map(|base| base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect(),
        };
        let came = self.ask(line, FetchWhat::Path(path))?;
        while let Some((want, encoded)) = came.next()? {
            let level = held + want as usize;
            if level < next.at {
                // It came from elsewhere meanwhile.
                continue;
            }
            if level > next.at {
                return Err(Failure::Corrupt);
            }
            match next.what {
                Further::Node(id) => {
                    let base = bases.get(level).copied().flatten();
                    self.keep_node(&NodeWant { id, base }, &encoded)?;
                }
                Further::Chunk(chunk) => self.keep_chunk(chunk, &encoded)?,
            }
            match self.way(root, key)? {
                Some((_, further)) => next = further,
                None => return came.drain(),
            }
        }
        Err(Failure::Lacking)
    }

    /// What the nodes on the way to a key may be patches against, as far as they are not `held` already.
    fn bases(&self, root: &Root, key: &[u8], held: usize) -> Vec<Option<ChunkId>> {
        let base = self.trees.iter().find(|trees| trees.target == *root).and_then(|trees| trees.base);
        let bases = base.map(|base| bases_on_way(&*self.here.nodes, &base, root.level, key)).unwrap_or_default();
        let is_useful = |level: usize, base: &ChunkId| level >= held && self.can_build_on(*base);
        bases.into_iter().enumerate().map(|(level, base)| base.filter(|base| is_useful(level, base))).collect()
    }

    /// A node that cannot be read, or was let go, is nothing to build on: the patch could not be read, and its source would count as corrupt.
    fn can_build_on(&self, base: ChunkId) -> bool {
        self.here.nodes.node(base).is_some()
    }

    /// How many nodes of the way to a key are here, and what comes next; nothing if all of it is here.
    fn way(&self, root: &Root, key: &[u8]) -> Result<Option<(usize, OnTheWay)>, Failure> {
        let reader = self.here.nodes.reader();
        let counted = CountedNodes { nodes: &reader, count: RefCell::new(0) };
        let found = get(&counted, root, key);
        reader.check()?;
        let held = *counted.count.borrow();
        let what = match found {
            Err(TreeError::Missing(wants)) => wants.first().map(|want| Further::Node(want.id)),
            Err(error) => return Err(Failure::Final(FaultError::Tree(error))),
            Ok(Some(Value { chunk: Some(chunk), .. })) if !self.here.store.contains(chunk.id)? => {
                Some(Further::Chunk(chunk))
            }
            Ok(_) => None,
        };
        Ok(what.map(|what| (held, OnTheWay { at: held, what })))
    }

    fn nodes_from(&self, line: &Line, wants: &[NodeWant]) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for want in wants {
            if self.here.nodes.get(want.id)?.is_none() {
                missing.push(NodeWant { base: want.base.filter(|base| self.can_build_on(*base)), ..*want });
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let nodes = NodeRequest {
            ids: missing.iter().map(|want| want.id.to_bytes()).collect(),
            bases: missing.iter().map(|want| want.base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect(),
        };
        let came = self.ask(line, FetchWhat::Nodes(nodes))?;
        let mut kept = 0;
        while let Some((want, encoded)) = came.next()? {
            let want = missing.get(want as usize).ok_or(Failure::Corrupt)?;
            self.keep_node(want, &encoded)?;
            kept += 1;
        }
        if kept == missing.len() { Ok(()) } else { Err(Failure::Lacking) }
    }

    fn chunks_from(&self, line: &Line, wants: &[ChunkRef]) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for want in wants {
            if !self.here.store.contains(want.id)? {
                missing.push(*want);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let ids = missing.iter().map(|want| want.id.to_bytes()).collect();
        let came = self.ask(line, FetchWhat::Chunks(ChunkRequest { ids }))?;
        let mut kept = 0;
        while let Some((want, encoded)) = came.next()? {
            let want = missing.get(want as usize).ok_or(Failure::Corrupt)?;
            self.keep_chunk(*want, &encoded)?;
            kept += 1;
        }
        if kept == missing.len() { Ok(()) } else { Err(Failure::Lacking) }
    }

    fn ask(&self, line: &Line, what: FetchWhat) -> Result<Coming, Failure> {
        Ok(Coming { answers: line.ask(what)? })
    }

    fn keep_node(&self, want: &NodeWant, encoded: &Encoded) -> Result<(), Failure> {
        let base = want.base.map(|base| self.here.nodes.get(base)).transpose()?.flatten();
        let plain = decode(encoded, base.as_deref())?;
        let node = Chunk::verify(want.id, Domain::Node, plain).map_err(|_| Failure::Corrupt)?;
        self.bytes.fetch_add(node.bytes().len() as u64, Ordering::Relaxed);
        Ok(self.here.nodes.put_as_it_came(&node, encoded.codec, &encoded.payload, want.base)?)
    }

    fn keep_chunk(&self, want: ChunkRef, encoded: &Encoded) -> Result<(), Failure> {
        let plain = decode(encoded, None)?;
        let chunk = Chunk::verify(want.id, Domain::Data, plain).map_err(|_| Failure::Corrupt)?;
        self.bytes.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed);
        Ok(self.here.store.put(&chunk)?)
    }
}

/// Something that is fetched beside other things: on a thread of its own, or before them where the system gives none.
enum Fetching<'scope> {
    Begun(ScopedJoinHandle<'scope, Result<(), FaultError>>),
    Done(Result<(), FaultError>),
}

impl<'scope> Fetching<'scope> {
    fn begin(
        scope: &'scope Scope<'scope, '_>,
        fetch: impl Fn() -> Result<(), FaultError> + Copy + Send + 'scope,
    ) -> Self {
        Self::begun(Builder::new().name("fault".into()).spawn_scoped(scope, fetch), fetch)
    }

    fn begun(
        thread: io::Result<ScopedJoinHandle<'scope, Result<(), FaultError>>>,
        fetch: impl FnOnce() -> Result<(), FaultError>,
    ) -> Self {
        thread.map_or_else(|_| Self::Done(fetch()), Self::Begun)
    }

    fn wait(self) -> Result<(), FaultError> {
        match self {
            Self::Begun(thread) => thread.join().expect("fetching does not panic"),
            Self::Done(fetched) => fetched,
        }
    }
}

fn decode(encoded: &Encoded, base: Option<&[u8]>) -> Result<Bytes, Failure> {
    let mut plain = Vec::new();
    let (codec, payload) = (encoded.codec, &encoded.payload);
    let decoded = with_decoder(|decoder| decoder.decode(codec, payload, encoded.plain_bytes, base, &mut plain));
    decoded.map(|()| plain.into()).map_err(|_| Failure::Corrupt)
}

impl FaultLane {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Line>>> {
        self.line.lock().expect("no panic under the lock")
    }

    fn note(&self, line: &Arc<Line>, failure: &Failure) {
        match failure {
            Failure::Lacking | Failure::Final(_) => return,
            Failure::Broken => {}
            Failure::Corrupt => {
                tracing::warn!(address = self.address, "a source sent bytes that do not match their hash");
            }
        }
        line.close();
        self.lock().take_if(|open| Arc::ptr_eq(open, line));
    }
}

/// What comes next on the way to a key.
struct OnTheWay {
    /// How many nodes stand before it.
    at: usize,
    what: Further,
}

enum Further {
    Node(ChunkId),
    Chunk(ChunkRef),
}

/// What comes of one request.
struct Coming {
    answers: Answers,
}

impl Coming {
    /// The next want that came with bytes; nothing at the end.
    fn next(&self) -> Result<Option<(u32, Encoded)>, Failure> {
        loop {
            match self.answers.next()? {
                Answer::Item { want, came: Came::Bytes(encoded) } => return Ok(Some((want, encoded))),
                Answer::Item { came: Came::Nothing, .. } => {}
                Answer::Done => return Ok(None),
            }
        }
    }

    /// Waits for the end of the request.
    fn drain(&self) -> Result<(), Failure> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// Nodes from here, counted.
struct CountedNodes<'a> {
    nodes: &'a dyn Nodes,
    count: RefCell<usize>,
}

impl Nodes for CountedNodes<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        let node = self.nodes.node(id)?;
        *self.count.borrow_mut() += 1;
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_thread_for_is_fetched_all_the_same() {
        let no_thread = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        let mut tries = 0;
        let fetched = Fetching::begun(no_thread(), || {
            tries += 1;
            Err(FaultError::Ended)
        });
        assert!(matches!(fetched.wait(), Err(FaultError::Ended)));
        assert_eq!(tries, 1);
    }
}

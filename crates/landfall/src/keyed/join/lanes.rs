//! Owns the ways to sources for what cannot wait: reads that fault, and what a joiner needs before it serves. It has a connection of its
//! own to each source, so that no bulk stands in front of it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_core::keyed::{Missing, Way};
use landfall_core::tree::{ChunkRef, NodeWant, Nodes, Root, TreeError, Value, get};
use landfall_core::wire::{ChunkRequest, FetchWhat, NodeRequest, PathRequest};
use landfall_core::{Chunk, ChunkId, Domain};
use landfall_net::Transport;
use landfall_store::StoreError;

use super::JoinOptions;
use super::line::{Answer, Answers, Came, Encoded, Line, LineBroken};
use crate::fetch::greet::{Question, Trust, greet};
use crate::fetch::status::Status;
use crate::keyed::here::Here;
use crate::nodes::with_decoder;

/// How long something is asked for before it counts as not to be had.
const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// The first pause after every source failed; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// Ways that are fetched at once.
const WAYS_AT_ONCE_MAX: usize = 32;
/// Nodes or chunks of one request.
const WANTS_MAX: usize = 256;
/// A source that sends so many things that do not match their hash is not asked any more.
const CORRUPT_MAX: u32 = 3;

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

/// Sources for what cannot wait.
pub(crate) struct FaultLanes {
    transport: Arc<dyn Transport>,
    trust: Arc<dyn Trust>,
    question: Question,
    here: Here,
    status: Arc<Status>,
    lanes: Vec<FaultLane>,
    /// The lane that answered last.
    preferred: AtomicUsize,
    ended: Mutex<bool>,
    ends: Condvar,
    bytes: AtomicU64,
}

struct FaultLane {
    address: String,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    line: Option<Arc<Line>>,
    corrupt_count: u32,
}

/// Why one source did not give all of what it was asked.
enum Shortfall {
    Lacking,
    Broken,
    Corrupt,
    Final(FaultError),
}

impl From<LineBroken> for Shortfall {
    fn from(_: LineBroken) -> Self {
        Self::Broken
    }
}

impl From<StoreError> for Shortfall {
    fn from(error: StoreError) -> Self {
        Self::Final(error.into())
    }
}

impl FaultLanes {
    pub(super) fn new(options: &JoinOptions, question: Question, here: Here, status: Arc<Status>) -> Self {
        let lane = |address: &String| FaultLane { address: address.clone(), state: Mutex::default() };
        Self {
            transport: options.transport.clone(),
            trust: options.trust.clone(),
            question,
            here,
            status,
            lanes: options.sources.iter().map(lane).collect(),
            preferred: AtomicUsize::new(0),
            ended: Mutex::new(false),
            ends: Condvar::new(),
            bytes: AtomicU64::new(0),
        }
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
            let nodes =
                (!beside.is_empty() && !missing.ways.is_empty()).then(|| scope.spawn(|| self.fetch_nodes(beside)));
            self.fetch_ways(&missing.ways)?;
            nodes.map_or(Ok(()), |nodes| nodes.join().expect("fetching does not panic"))
        })?;
        self.fetch_nodes(&missing.nodes)?;
        self.fetch_chunks(&missing.chunks)
    }

    fn fetch_ways(&self, ways: &[Way]) -> Result<(), FaultError> {
        for ways in ways.chunks(WAYS_AT_ONCE_MAX) {
            match ways {
                [way] => self.fetch_way(way)?,
                ways => std::thread::scope(|scope| {
                    let fetch = |way| scope.spawn(move || self.fetch_way(way));
                    let threads: Vec<_> = ways.iter().map(fetch).collect();
                    threads.into_iter().try_for_each(|thread| thread.join().expect("fetching does not panic"))
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
        *self.ended.lock().expect("no panic under the lock") = true;
        self.ends.notify_all();
        for lane in &self.lanes {
            // Its thread ends when the last who waits for an answer is gone.
            if let Some(line) = lane.lock().line.take() {
                line.close();
            }
        }
    }

    /// Asks one source after the other until one gives all of it, or all lack it, or patience ends.
    fn attempt(&self, mut ask: impl FnMut(&Line) -> Result<(), Shortfall>) -> Result<(), FaultError> {
        let patience_ends = Instant::now() + PATIENCE_MAX;
        let mut pause = PAUSE_FIRST;
        loop {
            let mut out_of_the_question = 0;
            let mut why = String::from("no source is known");
            let preferred = self.preferred.load(Ordering::Relaxed);
            for index in (0..self.lanes.len()).map(|at| (preferred + at) % self.lanes.len()) {
                let lane = &self.lanes[index];
                let shortfall = match self.line(lane) {
                    Ok(Some(line)) => match ask(&line) {
                        Ok(()) => {
                            self.preferred.store(index, Ordering::Relaxed);
                            return Ok(());
                        }
                        Err(shortfall) => {
                            lane.note(&line, &shortfall);
                            shortfall
                        }
                    },
                    Ok(None) => Shortfall::Lacking,
                    Err(error) => {
                        why = format!("{}: {error}", lane.address);
                        Shortfall::Broken
                    }
                };
                match shortfall {
                    Shortfall::Final(error) => return Err(error),
                    Shortfall::Lacking => out_of_the_question += 1,
                    Shortfall::Broken | Shortfall::Corrupt => {}
                }
            }
            if out_of_the_question == self.lanes.len() {
                return Err(FaultError::Nobody("all of them were asked".into()));
            }
            if Instant::now() >= patience_ends {
                return Err(FaultError::Nobody(why));
            }
            self.pause(pause)?;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    fn pause(&self, pause: Duration) -> Result<(), FaultError> {
        let ended = self.ended.lock().expect("no panic under the lock");
        let waited = self.ends.wait_timeout_while(ended, pause, |ended| !*ended);
        if *waited.expect("no panic under the lock").0 { Err(FaultError::Ended) } else { Ok(()) }
    }

    /// The connection of a lane, opened if it is not; nothing if its source is not to be asked.
    fn line(&self, lane: &FaultLane) -> Result<Option<Arc<Line>>, String> {
        let mut state = lane.lock();
        if state.corrupt_count >= CORRUPT_MAX {
            return Ok(None);
        }
        if let Some(line) = state.line.as_ref().filter(|line| !line.is_broken()) {
            return Ok(Some(line.clone()));
        }
        if *self.ended.lock().expect("no panic under the lock") {
            return Err("the join has ended".into());
        }
        let greeted = greet(&self.transport, &*self.trust, &lane.address, &self.question);
        let line = Line::new(greeted.map_err(|error| error.to_string())?, self.status.clone());
        state.line = Some(line.clone());
        Ok(Some(line))
    }

    fn path_from(&self, line: &Line, root: &Root, key: &[u8]) -> Result<(), Shortfall> {
        let Some((held, mut next)) = self.way(root, key)? else { return Ok(()) };
        let path = PathRequest {
            root: Bytes::copy_from_slice(root.id.as_bytes()),
            key: Bytes::copy_from_slice(key),
            levels_held: held as u32,
        };
        let came = self.ask(line, FetchWhat::Path(path))?;
        while let Some((want, encoded)) = came.next()? {
            let level = held + want as usize;
            if level < next.at {
                // It came from elsewhere meanwhile.
                continue;
            }
            if level > next.at {
                return Err(Shortfall::Corrupt);
            }
            match next.what {
                NextOnTheWay::Node(id) => self.keep_node(&NodeWant { id, base: None }, &encoded)?,
                NextOnTheWay::Chunk(chunk) => self.keep_chunk(chunk, &encoded)?,
            }
            match self.way(root, key)? {
                Some((_, further)) => next = further,
                None => return came.drain(),
            }
        }
        Err(Shortfall::Lacking)
    }

    /// How many nodes of the way to a key are here, and what comes next; nothing if all of it is here.
    fn way(&self, root: &Root, key: &[u8]) -> Result<Option<(usize, Next)>, Shortfall> {
        let counted = CountedNodes { nodes: &*self.here.nodes, count: RefCell::new(0) };
        let found = get(&counted, root, key);
        if let Some(failure) = self.here.nodes.take_failure() {
            return Err(failure.into());
        }
        let held = *counted.count.borrow();
        let what = match found {
            Err(TreeError::Missing(wants)) => wants.first().map(|want| NextOnTheWay::Node(want.id)),
            Err(error) => return Err(Shortfall::Final(FaultError::Tree(error))),
            Ok(Some(Value { chunk: Some(chunk), .. })) if !self.here.store.contains(chunk.id)? => {
                Some(NextOnTheWay::Chunk(chunk))
            }
            Ok(_) => None,
        };
        Ok(what.map(|what| (held, Next { at: held, what })))
    }

    fn nodes_from(&self, line: &Line, wants: &[NodeWant]) -> Result<(), Shortfall> {
        let missing: Vec<NodeWant> = wants.iter().filter(|want| self.here.node(want.id).is_none()).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let id_bytes = |id: ChunkId| Bytes::copy_from_slice(id.as_bytes());
        let nodes = NodeRequest {
            ids: missing.iter().map(|want| id_bytes(want.id)).collect(),
            bases: missing.iter().map(|want| want.base.map_or_else(Bytes::new, id_bytes)).collect(),
        };
        let came = self.ask(line, FetchWhat::Nodes(nodes))?;
        let mut kept = 0;
        while let Some((want, encoded)) = came.next()? {
            let want = missing.get(want as usize).ok_or(Shortfall::Corrupt)?;
            self.keep_node(want, &encoded)?;
            kept += 1;
        }
        if kept == missing.len() { Ok(()) } else { Err(Shortfall::Lacking) }
    }

    fn chunks_from(&self, line: &Line, wants: &[ChunkRef]) -> Result<(), Shortfall> {
        let mut missing = Vec::new();
        for want in wants {
            if !self.here.store.contains(want.id)? {
                missing.push(*want);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let ids = missing.iter().map(|want| Bytes::copy_from_slice(want.id.as_bytes())).collect();
        let came = self.ask(line, FetchWhat::Chunks(ChunkRequest { ids }))?;
        let mut kept = 0;
        while let Some((want, encoded)) = came.next()? {
            let want = missing.get(want as usize).ok_or(Shortfall::Corrupt)?;
            self.keep_chunk(*want, &encoded)?;
            kept += 1;
        }
        if kept == missing.len() { Ok(()) } else { Err(Shortfall::Lacking) }
    }

    fn ask(&self, line: &Line, what: FetchWhat) -> Result<Coming, Shortfall> {
        Ok(Coming { answers: line.ask(what)? })
    }

    fn keep_node(&self, want: &NodeWant, encoded: &Encoded) -> Result<(), Shortfall> {
        let base = want.base.map(|base| self.here.nodes.get(base)).transpose()?.flatten();
        let plain = decode(encoded, base.as_deref())?;
        let node = Chunk::verify(want.id, Domain::Node, plain).map_err(|_| Shortfall::Corrupt)?;
        self.bytes.fetch_add(node.bytes().len() as u64, Ordering::Relaxed);
        Ok(self.here.nodes.put(&node)?)
    }

    fn keep_chunk(&self, want: ChunkRef, encoded: &Encoded) -> Result<(), Shortfall> {
        let plain = decode(encoded, None)?;
        let chunk = Chunk::verify(want.id, Domain::Data, plain).map_err(|_| Shortfall::Corrupt)?;
        self.bytes.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed);
        Ok(self.here.store.put(&chunk)?)
    }
}

fn decode(encoded: &Encoded, base: Option<&[u8]>) -> Result<Bytes, Shortfall> {
    let mut plain = Vec::new();
    let (codec, payload) = (encoded.codec, &encoded.payload);
    let decoded = with_decoder(|decoder| decoder.decode(codec, payload, encoded.plain_bytes, base, &mut plain));
    decoded.map(|()| plain.into()).map_err(|_| Shortfall::Corrupt)
}

impl FaultLane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().expect("no panic under the lock")
    }

    fn note(&self, line: &Arc<Line>, shortfall: &Shortfall) {
        let mut state = self.lock();
        match shortfall {
            Shortfall::Lacking | Shortfall::Final(_) => return,
            Shortfall::Broken => {}
            Shortfall::Corrupt => {
                state.corrupt_count += 1;
                tracing::warn!(address = self.address, "a source sent bytes that do not match their hash");
            }
        }
        line.close();
        state.line.take_if(|open| Arc::ptr_eq(open, line));
    }
}

/// What comes next on the way to a key.
struct Next {
    /// How many nodes stand before it.
    at: usize,
    what: NextOnTheWay,
}

enum NextOnTheWay {
    Node(ChunkId),
    Chunk(ChunkRef),
}

/// What comes of one request.
struct Coming {
    answers: Answers,
}

impl Coming {
    /// The next want that came with bytes; nothing at the end.
    fn next(&self) -> Result<Option<(u32, Encoded)>, Shortfall> {
        loop {
            match self.answers.next()? {
                Answer::Item { want, came: Came::Bytes(encoded) } => return Ok(Some((want, encoded))),
                Answer::Item { came: Came::Nothing, .. } => {}
                Answer::Done => return Ok(None),
            }
        }
    }

    /// Waits for the end of the request.
    fn drain(&self) -> Result<(), Shortfall> {
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

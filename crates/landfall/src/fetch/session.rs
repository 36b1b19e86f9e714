//! Owns one transfer while it runs: the state machine, the threads that feed it facts, and the carrying out of its commands.
//!
//! It never decides whom to ask: it does what the transfer says.

mod arrivals;
mod requests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use landfall_core::transfer::{
    Command, DropReason, Lane, Outcome, PeerCost, PeerId, RequestId, Stuck, Transfer, TreePair,
};
use landfall_core::wire::Message;
use landfall_core::{ChunkId, Time};
use landfall_net::{Closer, FrameSender};

pub(crate) use self::arrivals::Workbench;
use self::requests::Request;
use super::landing::Landing;
use super::status::Status;
use crate::background::Courtesy;
use crate::clock::Clock;

/// A transfer and everything that carries it out.
pub(crate) struct Session<L: Landing> {
    pub(crate) clock: Clock,
    landing: Arc<L>,
    pub(crate) status: Arc<Status>,
    driver: Mutex<Driver<L>>,
    /// Something happened: the outcome may have changed.
    changed: Condvar,
    peers: Mutex<BTreeMap<PeerId, Vec<Arc<LaneHandle>>>>,
    /// Commands are carried out in the order in which they were given, whoever asks for them.
    carrying_out: Mutex<()>,
    inspections: Mutex<Inspections>,
    inspection_added: Condvar,
    newcomers: Mutex<Newcomers>,
    newcomer_added: Condvar,
}

struct Driver<L: Landing> {
    transfer: Transfer,
    requests: HashMap<RequestId, Arc<Request<L::Place>>>,
    failure: Option<L::Failure>,
    ended: bool,
}

#[derive(Default)]
struct Inspections {
    queue: VecDeque<(usize, ChunkId)>,
    ended: bool,
}

/// Sources that were named while the transfer runs, and that nobody connects to yet.
#[derive(Default)]
struct Newcomers {
    addresses: VecDeque<String>,
    ended: bool,
}

/// The sending side of one connection.
pub(crate) struct LaneHandle {
    pub(crate) sender: Mutex<Box<dyn FrameSender>>,
    pub(crate) closer: Closer,
}

/// How a transfer ended.
pub(crate) enum SessionEnd<F> {
    Complete,
    Stuck(Stuck),
    Failed(F),
}

impl<L: Landing> Session<L> {
    pub(crate) fn new(trees: Vec<TreePair>, landing: Arc<L>, status: Arc<Status>) -> Self {
        let clock = Clock::start();
        let transfer = Transfer::new(trees, clock.now());
        Self {
            clock,
            landing,
            status,
            driver: Mutex::new(Driver { transfer, requests: HashMap::new(), failure: None, ended: false }),
            changed: Condvar::new(),
            peers: Mutex::new(BTreeMap::new()),
            carrying_out: Mutex::default(),
            inspections: Mutex::default(),
            inspection_added: Condvar::new(),
            newcomers: Mutex::default(),
            newcomer_added: Condvar::new(),
        }
    }

    /// Waits until everything is here, or cannot come. Other threads do the work.
    pub(crate) fn run(&self) -> SessionEnd<L::Failure> {
        loop {
            self.pump();
            let mut driver = self.driver();
            let now = self.clock.now();
            if let Some(end) = ended(&mut driver) {
                drop(driver);
                self.end();
                return end;
            }
            match driver.transfer.poll_timeout(now) {
                Some(at) if at <= now => driver.transfer.handle_timeout(now),
                timeout => {
                    let wait = timeout.map_or(WAIT_MAX, |at| at.since(now).min(WAIT_MAX));
                    drop(self.changed.wait_timeout(driver, wait).expect("no panic under the lock"));
                }
            }
        }
    }

    /// A source can be asked from now on, on these lanes.
    pub(crate) fn join_peer(&self, peer: PeerId, lanes: Vec<Arc<LaneHandle>>, cost: PeerCost) {
        let count = lanes.len() as u32;
        self.peers.lock().expect("no panic under the lock").insert(peer, lanes.clone());
        if self.is_over() {
            // It ended while the source was being connected: nobody else closes these lanes, and their threads would listen for ever.
            lanes.iter().for_each(|lane| lane.closer.close());
            return;
        }
        self.tell(|transfer, now| transfer.handle_peer_joined(peer, count, cost, now));
    }

    /// A source is gone.
    pub(crate) fn lose_peer(&self, peer: PeerId) {
        self.close_lanes(peer);
        self.driver().requests.retain(|_, request| request.lane.peer != peer);
        self.tell(|transfer, now| transfer.handle_peer_lost(peer, now));
    }

    /// Has the transfer ended, however?
    pub(crate) fn is_over(&self) -> bool {
        self.driver().ended
    }

    /// Waits until the transfer ends, at most for `delay`. True if it has ended.
    pub(crate) fn wait_for_end(&self, delay: Duration) -> bool {
        let driver = self.driver();
        let waited = self.changed.wait_timeout_while(driver, delay, |driver| !driver.ended);
        waited.expect("no panic under the lock").0.ended
    }

    /// Names one more source.
    pub(crate) fn add_source(&self, address: String) {
        self.newcomers.lock().expect("no panic under the lock").addresses.push_back(address);
        self.newcomer_added.notify_one();
    }

    /// Waits for a source that was named meanwhile; nothing once the transfer has ended.
    pub(crate) fn next_newcomer(&self) -> Option<String> {
        let newcomers = self.newcomers.lock().expect("no panic under the lock");
        let waits = |newcomers: &mut Newcomers| newcomers.addresses.is_empty() && !newcomers.ended;
        let mut newcomers = self.newcomer_added.wait_while(newcomers, waits).expect("no panic under the lock");
        if newcomers.ended { None } else { newcomers.addresses.pop_front() }
    }

    /// A source is being connected.
    pub(crate) fn expect_peer(&self, peer: PeerId) {
        self.tell(|transfer, now| transfer.handle_peer_expected(peer, now));
    }

    /// A source will not come, or not come back.
    pub(crate) fn give_up_peer(&self, peer: PeerId) {
        self.tell(|transfer, now| transfer.handle_peer_given_up(peer, now));
    }

    /// Was a source dropped for good?
    pub(crate) fn is_dropped(&self, peer: PeerId) -> bool {
        self.driver().transfer.is_banned(peer)
    }

    /// The failure that came after the end, if there was one: a duplicate may still be on its way into a file.
    pub(crate) fn late_failure(&self) -> Option<L::Failure> {
        self.driver().failure.take()
    }

    /// Starts up to so many threads that compare leaves with what is here. Without one the transfer cannot end well.
    pub(crate) fn begin_inspecting(&self, threads_max: u32, mut spawn: impl FnMut() -> io::Result<()>) {
        let begun = (0..threads_max).map_while(|_| spawn().ok()).count();
        if begun == 0 {
            self.fail(self.landing.no_thread());
        }
    }

    /// Compares leaves with what is here until the transfer ends.
    pub(crate) fn inspect_until_end(&self) {
        let mut courtesy = Courtesy::of_this_thread();
        while let Some((tree, leaf)) = self.next_inspection() {
            if let Err(failure) = self.inspect(tree, leaf) {
                self.fail(failure);
            }
            if let Some(courtesy) = &mut courtesy {
                courtesy.let_others_go();
            }
        }
    }

    fn inspect(&self, tree: usize, leaf: ChunkId) -> Result<(), L::Failure> {
        let inspection = self.landing.inspect(tree, leaf)?;
        if inspection.unchanged.is_empty() {
            self.tell(|transfer, _| transfer.handle_inspected(leaf, inspection.wants));
            return Ok(());
        }
        self.tell(|transfer, _| transfer.handle_wanted(leaf, inspection.wants));
        // The network is busy with what is wanted while this thread copies what is not.
        let wants = self.landing.take_unchanged(inspection.unchanged)?;
        self.tell(|transfer, _| transfer.handle_inspected(leaf, wants));
        Ok(())
    }

    pub(crate) fn fail(&self, failure: L::Failure) {
        self.driver().failure.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// Tells the transfer a fact and carries out what it commands.
    pub(super) fn tell(&self, fact: impl FnOnce(&mut Transfer, Time)) {
        fact(&mut self.driver().transfer, self.clock.now());
        self.pump();
    }

    fn pump(&self) {
        let _in_order = self.carrying_out.lock().expect("no panic under the lock");
        let mut commands = Vec::new();
        let mut driver = self.driver();
        while let Some(command) = driver.transfer.poll_command(self.landing.nodes(), self.clock.now()) {
            commands.push(command);
        }
        let over = driver.transfer.outcome() != Outcome::Running;
        self.status.note_progress(driver.transfer.progress());
        drop(driver);
        for command in commands {
            self.carry_out(command);
        }
        if over {
            self.changed.notify_all();
        }
    }

    fn carry_out(&self, command: Command) {
        match command {
            Command::FetchNodes { request, lane, wants } => self.fetch_nodes(request, lane, wants),
            Command::FetchChunks { request, lane, leaf, wants } => self.fetch_chunks(request, lane, leaf, &wants),
            Command::Cancel { request, lane } => self.say(lane, &Message::Cancel { request: request.0 }),
            Command::Inspect { tree, leaf } => {
                self.inspections.lock().expect("no panic under the lock").queue.push_back((tree, leaf));
                self.inspection_added.notify_one();
            }
            Command::DropPeer { peer, reason } => self.drop_peer(peer, reason),
        }
    }

    /// Sends a message on a lane, if it is still there.
    pub(crate) fn say(&self, lane: Lane, message: &Message<'_>) {
        let peers = self.peers.lock().expect("no panic under the lock");
        let Some(handle) = peers.get(&lane.peer).and_then(|lanes| lanes.get(lane.index as usize)).cloned() else {
            return;
        };
        drop(peers);
        let mut sender = handle.sender.lock().expect("no panic under the lock");
        // A broken connection is noticed, and told, by the thread that receives on it.
        if sender.send(&message.encode(), &[]).and_then(|()| sender.flush()).is_err() {
            handle.closer.close();
        }
    }

    fn drop_peer(&self, peer: PeerId, reason: DropReason) {
        self.status.note_dropped(peer, reason);
        self.close_lanes(peer);
    }

    fn close_lanes(&self, peer: PeerId) {
        let lanes = self.peers.lock().expect("no panic under the lock").remove(&peer).unwrap_or_default();
        for lane in lanes {
            lane.closer.close();
        }
    }

    fn next_inspection(&self) -> Option<(usize, ChunkId)> {
        let mut inspections = self.inspections.lock().expect("no panic under the lock");
        loop {
            if inspections.ended {
                return None;
            }
            if let Some(next) = inspections.queue.pop_front() {
                return Some(next);
            }
            inspections = self.inspection_added.wait(inspections).expect("no panic under the lock");
        }
    }

    /// Wakes every thread for the last time.
    fn end(&self) {
        self.driver().ended = true;
        self.changed.notify_all();
        self.inspections.lock().expect("no panic under the lock").ended = true;
        self.inspection_added.notify_all();
        self.newcomers.lock().expect("no panic under the lock").ended = true;
        self.newcomer_added.notify_all();
        let lanes: Vec<_> = self.peers.lock().expect("no panic under the lock").values().flatten().cloned().collect();
        for lane in lanes {
            // A clean end where it costs nothing, so that the source sees no broken connection.
            if let Ok(mut sender) = lane.sender.try_lock() {
                sender.set_stall_deadline(GOODBYE_MAX);
                if let Err(error) = sender.finish() {
                    tracing::debug!(%error, "a connection broke as it ended");
                }
            }
            lane.closer.close();
        }
    }

    fn driver(&self) -> MutexGuard<'_, Driver<L>> {
        self.driver.lock().expect("no panic under the lock")
    }
}

fn ended<L: Landing>(driver: &mut Driver<L>) -> Option<SessionEnd<L::Failure>> {
    if let Some(failure) = driver.failure.take() {
        return Some(SessionEnd::Failed(failure));
    }
    match driver.transfer.outcome() {
        Outcome::Running => None,
        Outcome::Complete => Some(SessionEnd::Complete),
        Outcome::Stuck(stuck) => Some(SessionEnd::Stuck(stuck)),
    }
}

/// How long a source may take to hear that a conversation is over.
const GOODBYE_MAX: Duration = Duration::from_millis(200);
/// The driver looks again at least this often: a wake-up may come between two looks.
const WAIT_MAX: Duration = Duration::from_millis(200);

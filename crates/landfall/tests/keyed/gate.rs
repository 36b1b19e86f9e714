//! A way to other members that a test can hold up, count and falsify.
//!
//! Connections that threads named `ask` or `bulk` open carry bulk; all others are for what cannot wait.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use landfall::core::wire::{Fetch, FetchWhat, Message, NodeRequest};
use landfall::net::{Closer, ConnectError, Connection, ListenError, Listener, PlainTransport, ReceiveError, Transport};

use crate::between::{Between, with_between};

/// Frames of a conversation before the first answer to a request: hello and offer.
const GREETING_FRAMES: u64 = 2;

/// What a test lets through.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Frames of bulk that may still pass.
    bulk_frames_left: u64,
    bulk_frames_passed: u64,
    bulk_bytes_passed: u64,
    /// Requests that could not wait, and what was answered.
    urgent_requests: u64,
    urgent_bytes_passed: u64,
    /// The member at this address falsifies every item.
    liar: Option<String>,
    urgent_connections: u64,
    /// On this one of the connections for what cannot wait, nodes are asked for that nobody has.
    vain_connection: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Bulk,
    Urgent,
}

impl Gate {
    /// Lets `bulk_frames` frames of bulk through, and then no more.
    pub(crate) fn new(bulk_frames: u64) -> Self {
        let state = State {
            bulk_frames_left: bulk_frames,
            bulk_frames_passed: 0,
            bulk_bytes_passed: 0,
            urgent_requests: 0,
            urgent_bytes_passed: 0,
            liar: None,
            urgent_connections: 0,
            vain_connection: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    pub(crate) fn open(&self) {
        self.lock().bulk_frames_left = u64::MAX;
        self.0.changed.notify_all();
    }

    /// Waits until bulk is held up.
    pub(crate) fn wait_until_exhausted(&self) {
        let state = self.lock();
        drop(self.0.changed.wait_while(state, |state| state.bulk_frames_left > 0).unwrap());
    }

    /// Waits until so many frames of bulk came through.
    pub(crate) fn wait_for_bulk(&self, frames: u64) {
        let state = self.lock();
        drop(self.0.changed.wait_while(state, |state| state.bulk_frames_passed < frames).unwrap());
    }

    pub(crate) fn bulk_bytes_passed(&self) -> u64 {
        self.lock().bulk_bytes_passed
    }

    pub(crate) fn urgent_requests(&self) -> u64 {
        self.lock().urgent_requests
    }

    pub(crate) fn urgent_bytes_passed(&self) -> u64 {
        self.lock().urgent_bytes_passed
    }

    pub(crate) fn believe_nothing_from(&self, address: &str) {
        self.lock().liar = Some(address.to_owned());
    }

    /// Lets the `nth` connection for what cannot wait ask in vain.
    pub(crate) fn let_ask_in_vain(&self, nth: u64) {
        self.lock().vain_connection = Some(nth);
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl Transport for Gate {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        let is_bulk = matches!(std::thread::current().name(), Some("ask" | "bulk"));
        let purpose = if is_bulk { Purpose::Bulk } else { Purpose::Urgent };
        let asks_in_vain = purpose == Purpose::Urgent && {
            let mut state = self.lock();
            state.urgent_connections += 1;
            state.vain_connection == Some(state.urgent_connections)
        };
        let connection = PlainTransport.connect(address, deadline)?;
        let (gate, inner) = (self.clone(), connection.closer.clone());
        let closer = Closer::new(move || {
            inner.close();
            gate.0.changed.notify_all();
        });
        let (gate, address) = (self.clone(), address.into());
        let frames = GateFrames { gate, purpose, address, asks_in_vain, frames: 0, closer: closer.clone() };
        Ok(Connection { closer, ..with_between(connection, frames) })
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

/// The frames of one connection.
#[derive(Clone)]
struct GateFrames {
    gate: Gate,
    purpose: Purpose,
    address: Arc<str>,
    asks_in_vain: bool,
    frames: u64,
    closer: Closer,
}

impl Between for GateFrames {
    fn before_frame(&mut self) -> Result<(), ReceiveError> {
        if self.purpose == Purpose::Urgent || self.frames < GREETING_FRAMES {
            return Ok(());
        }
        let state = self.gate.lock();
        let held_up = |state: &mut State| state.bulk_frames_left == 0 && !self.closer.is_closed();
        let mut state = self.gate.0.changed.wait_while(state, held_up).unwrap();
        if self.closer.is_closed() {
            return Err(ReceiveError::Closed);
        }
        state.bulk_frames_left -= 1;
        state.bulk_frames_passed += 1;
        self.gate.0.changed.notify_all();
        Ok(())
    }

    fn came(&mut self, frame: &mut [u8]) {
        self.frames += 1;
        match self.purpose {
            Purpose::Bulk => self.gate.lock().bulk_bytes_passed += frame.len() as u64,
            Purpose::Urgent => self.gate.lock().urgent_bytes_passed += frame.len() as u64,
        }
        let is_item = matches!(Message::decode(frame), Ok(Message::Item(_)));
        let lies = self.gate.lock().liar.as_deref() == Some(&*self.address);
        if lies && is_item {
            *frame.last_mut().unwrap() ^= 1;
        }
    }

    fn leaves(&mut self, head: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        let Ok(Message::Fetch(fetch)) = Message::decode(head) else { return None };
        if self.purpose == Purpose::Urgent {
            self.gate.lock().urgent_requests += 1;
        }
        let Fetch { request, what: Some(FetchWhat::Nodes(nodes)) } = fetch else { return None };
        let ids = nodes.ids.iter().map(|id| id.iter().rev().copied().collect()).collect();
        let what = Some(FetchWhat::Nodes(NodeRequest { ids, ..nodes }));
        self.asks_in_vain.then(|| Message::Fetch(Fetch { request, what }).encode())
    }
}

//! Owns the connections to one source: opens them, listens on them, and opens them again when they break.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::{Duration, Instant};

use landfall_core::Pauses;
use landfall_core::transfer::{Lane, PeerCost, PeerId, RequestId};
use landfall_core::wire::{ItemReader, Lease, Message};
use landfall_net::{Connection, FrameReceiver, ReceiveError, Transport};

use super::greet::{Greeted, Question, SourceError, Trust, greet};
use super::landing::Landing;
use super::session::{LaneHandle, Session, Workbench};
use crate::background::Courtesy;

/// Silence of a source that has work is the transfer's to judge; this only ends threads that nobody needs.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often a lane on which nothing comes looks whether its lease needs renewing.
const LEASE_CHECK: Duration = Duration::from_secs(5);
/// How often a lane on which a long item comes slowly tells that its bytes do.
const BYTES_CHECK: Duration = Duration::from_secs(1);
/// A lease is renewed no more often than this, however short it is.
const RENEWAL_MIN: Duration = Duration::from_secs(3);
/// The first pause before a broken source is tried again; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(3);

/// How many connections one source gets: enough for its cores and ours.
pub(crate) fn lanes() -> u32 {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32).clamp(1, 4)
}

/// One source of a transfer.
pub(crate) struct Source<'a> {
    pub(crate) peer: PeerId,
    pub(crate) address: &'a str,
    pub(crate) transport: &'a Arc<dyn Transport>,
    pub(crate) trust: &'a dyn Trust,
    pub(crate) question: Question,
    pub(crate) lanes: u32,
}

impl Source<'_> {
    /// Keeps the source connected until the transfer ends or the source is of no use. `first` is a connection that asked already.
    pub(crate) fn keep<L: Landing>(&self, session: &Session<L>, first: Option<Greeted>) {
        let mut first = first;
        let mut pauses = Pauses::new(RETRY_FIRST, RETRY_LONGEST);
        while !session.is_over() {
            match self.connect(first.take()) {
                Ok(lanes) => {
                    pauses.reset();
                    self.serve(session, lanes);
                    if session.is_over() || session.is_dropped(self.peer) {
                        return;
                    }
                    session.status.note(format!("{}: the connection broke; connecting again", self.address));
                }
                Err(error) if is_final(&error) => {
                    session.status.note(format!("{} is of no use: {error}", self.address));
                    session.give_up_peer(self.peer);
                    return;
                }
                Err(error) => tracing::debug!(address = self.address, %error, "cannot reach a source"),
            }
            if session.wait_for_end(pauses.lengthen()) {
                return;
            }
        }
    }

    fn connect(&self, first: Option<Greeted>) -> Result<Vec<Greeted>, SourceError> {
        let mut lanes: Vec<Greeted> = first.into_iter().collect();
        while lanes.len() < self.lanes as usize {
            match greet(self.transport, self.trust, self.address, &self.question) {
                Ok(lane) => lanes.push(lane),
                // One lane is slower than several, and much better than none.
                Err(error) if !lanes.is_empty() => {
                    tracing::debug!(address = self.address, %error, "no further connection");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lanes)
    }

    /// Listens on all lanes until one of them breaks.
    fn serve<L: Landing>(&self, session: &Session<L>, lanes: Vec<Greeted>) {
        let source = &lanes[0].connection.peer;
        let is_writer = source.writer_of.iter().any(|state| state == self.question.state.as_str());
        let cost = if is_writer { PeerCost::WRITER } else { PeerCost::NEAR };
        let name = source.name.clone();
        session.status.note_connected(self.peer, self.address, &name);
        let mut handles = Vec::new();
        let mut receivers = Vec::new();
        for greeted in lanes {
            let Connection { sender, mut receiver, closer, .. } = greeted.connection;
            receiver.set_idle_deadline(LEASE_CHECK);
            receiver.set_unfinished_interval(BYTES_CHECK);
            handles.push(Arc::new(LaneHandle { sender: Mutex::new(sender), closer }));
            receivers.push((receiver, greeted.lease));
        }
        session.join_peer(self.peer, handles.clone(), cost);
        std::thread::scope(|scope| {
            for (index, (receiver, lease)) in receivers.into_iter().enumerate() {
                let lane = Lane { peer: self.peer, index: index as u32 };
                let end = move |why: &dyn fmt::Display| {
                    if !session.is_over() {
                        tracing::debug!(%lane, %why, "a connection ended");
                        // One broken lane ends them all: the source is asked anew from the start.
                        session.lose_peer(self.peer);
                    }
                };
                let listen = move || end(&listen(session, lane, receiver, lease));
                if let Err(error) = Builder::new().name("lane".into()).spawn_scoped(scope, listen) {
                    end(&error);
                    break;
                }
            }
        });
        for handle in handles {
            let pressure = handle.sender.lock().expect("no panic under the lock").pressure();
            session.status.note_wire(0, pressure.bytes_sent);
        }
        session.status.note_disconnected(self.peer);
    }
}

/// Takes what comes on one lane until it ends; says why it ended.
fn listen<L: Landing>(session: &Session<L>, lane: Lane, mut receiver: Box<dyn FrameReceiver>, lease: Lease) -> String {
    let (mut reader, mut bench) = (ItemReader::new(), Workbench::new());
    let mut courtesy = Courtesy::of_this_thread();
    let mut renewal = Renewal { lease, renewed: Instant::now(), heard: Instant::now() };
    let mut counted = 0;
    let why = loop {
        let heard = match receiver.receive() {
            Ok(Some(frame)) => hear(session, lane, frame, &mut reader, &mut bench),
            Ok(None) => break "the source ended the conversation".to_owned(),
            Err(ReceiveError::Unfinished { .. }) => Ok(Heard::Bytes),
            Err(ReceiveError::TimedOut { .. }) if renewal.heard.elapsed() < SILENCE_MAX => Ok(Heard::Nothing),
            Err(error) => break error.to_string(),
        };
        let received = receiver.bytes_received();
        match heard {
            Ok(Heard::Something) => renewal.heard = Instant::now(),
            Ok(Heard::Bytes) => {
                renewal.heard = Instant::now();
                session.tell(|transfer, now| transfer.handle_bytes(lane.peer, received - counted, now));
            }
            Ok(Heard::Nothing) => {}
            Err(why) => break why,
        }
        renewal.renew_in_time(session, lane);
        session.status.note_wire(received - counted, 0);
        counted = received;
        if let Some(courtesy) = &mut courtesy {
            courtesy.let_others_go();
        }
    };
    session.status.note_wire(receiver.bytes_received() - counted, 0);
    why
}

/// When a lane's lease must be renewed.
struct Renewal {
    lease: Lease,
    renewed: Instant,
    heard: Instant,
}

impl Renewal {
    fn renew_in_time<L: Landing>(&mut self, session: &Session<L>, lane: Lane) {
        let interval = Duration::from_millis(self.lease.duration_ms / 3).max(RENEWAL_MIN);
        if self.renewed.elapsed() >= interval {
            self.renewed = Instant::now();
            session.say(lane, &Message::Renew(self.lease.clone()));
        }
    }
}

enum Heard {
    Something,
    /// A part of a message.
    Bytes,
    Nothing,
}

fn hear<L: Landing>(
    session: &Session<L>,
    lane: Lane,
    frame: &[u8],
    reader: &mut ItemReader,
    bench: &mut Workbench,
) -> Result<Heard, String> {
    match Message::decode(frame).map_err(|error| error.to_string())? {
        Message::Item(item) => {
            let travelled = item.payload().len();
            // What nobody wants any more is read too: what comes after it may build on it.
            let item = reader.read(item).map_err(|error| error.to_string())?;
            session.take_item(lane, &item, travelled, bench).map_err(|_| "an item that answers no want".to_owned())?;
        }
        Message::Done { request } => session
            .end_request(lane, RequestId(request))
            .map_err(|_| "the end of a request that was not asked here".to_owned())?,
        Message::Renewed(_) => {}
        Message::Refusal(refusal) => return Err(refusal.message),
        _ => return Err("a message that no source sends now".to_owned()),
    }
    Ok(Heard::Something)
}

/// Will asking again never help?
fn is_final(error: &SourceError) -> bool {
    use landfall_net::{ConnectError, HandshakeError};
    match error {
        SourceError::Connect(ConnectError::BadAddress { .. }) => true,
        SourceError::Connect(ConnectError::Handshake { source, .. }) => matches!(
            source,
            HandshakeError::Untrusted { .. } | HandshakeError::Refused { .. } | HandshakeError::Protocol { .. }
        ),
        SourceError::Connect(ConnectError::Unreachable { .. }) => false,
        SourceError::Receive(ReceiveError::Refused { .. }) => true,
        SourceError::OtherSnapshot
        | SourceError::Busy(_)
        | SourceError::Silent
        | SourceError::Receive(_)
        | SourceError::Send(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use landfall_core::codec::{Codec, WireCodec, WireEncoder};
    use landfall_core::transfer::{Arrival, Command, Transfer, TreePair, Want};
    use landfall_core::tree::{NodeWant, Root, Value};
    use landfall_core::wire::{Fetch, FetchWhat, Item, ItemBody, ItemForm, NodeRequest};
    use landfall_core::{Chunk, ChunkId, Domain, Proven, Time};
    use landfall_net::{Closer, FrameSender, Pressure, SendError};
    use landfall_store::vfs::faulty::FaultyVfs;
    use landfall_store::{Store, StoreOptions};

    use super::super::landing::{Inspection, Kept};
    use super::super::status::Status;
    use super::*;
    use crate::clock::Clock;
    use crate::nodes::NodeCache;
    use crate::pull::AssemblyError;

    /// Where nothing ever lands, and no node is.
    struct Nowhere(NodeCache);

    impl Nowhere {
        fn new() -> Arc<Self> {
            let store = Store::open(Arc::new(FaultyVfs::new(0)), "store".as_ref(), StoreOptions::default()).unwrap();
            Arc::new(Self(NodeCache::with_cache_bytes(Arc::new(store), 0)))
        }
    }

    impl Landing for Nowhere {
        type Place = String;
        type Unchanged = Infallible;
        type Failure = AssemblyError;

        fn nodes(&self) -> &NodeCache {
            &self.0
        }

        fn inspect(&self, _: usize, _: ChunkId) -> Result<Inspection<Infallible>, AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn take_unchanged(&self, _: Vec<Infallible>) -> Result<Vec<Want>, AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn put_node(&self, _: &NodeWant, _: &Chunk, _: &ItemForm<'_, Codec>) -> Result<Kept, AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn place_of(&self, _: &Bytes, _: &Value) -> Result<String, AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn put(&self, _: &String, _: Proven<'_>) -> Result<(), AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn read_base(&self, _: &String, _: ChunkId, _: &mut Vec<u8>) -> Result<bool, AssemblyError> {
            unreachable!("nothing is fetched")
        }

        fn node_lost(&self, node: ChunkId) -> AssemblyError {
            AssemblyError::NodeLost(node)
        }

        fn no_thread(&self) -> AssemblyError {
            AssemblyError::NoThread
        }

        fn no_such_chunk(&self) -> AssemblyError {
            AssemblyError::NotAFileTree
        }

        fn base_gone(&self, place: &String) -> Result<(), AssemblyError> {
            Err(AssemblyError::BaseChanged(place.clone()))
        }
    }

    fn frame(encoder: &mut WireEncoder, plain: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        encoder.encode(WireCodec::ZstdStream, plain, None, &mut payload).unwrap();
        let form = ItemForm { codec: WireCodec::ZstdStream, plain_bytes: plain.len() as u32, payload: &payload };
        Message::Item(Item { request: 7, want: 0, body: ItemBody::Chunk(form) }).encode()
    }

    #[test]
    fn a_transfer_for_which_no_thread_compares_what_is_here_has_failed() {
        let session = Session::new(Vec::new(), Nowhere::new(), Arc::new(Status::default()));
        let mut left = Some(());
        let mut spawn = || left.take().ok_or(std::io::ErrorKind::WouldBlock.into());
        session.begin_inspecting(2, &mut spawn);
        assert!(session.late_failure().is_none(), "one is enough");
        session.begin_inspecting(2, &mut spawn);
        assert!(matches!(session.late_failure(), Some(AssemblyError::NoThread)));
    }

    #[test]
    fn items_of_requests_that_are_over_are_read_all_the_same() {
        let session = Session::new(Vec::new(), Nowhere::new(), Arc::new(Status::default()));
        let lane = Lane { peer: PeerId(0), index: 0 };
        let (mut encoder, mut reader, mut bench) = (WireEncoder::new(), ItemReader::new(), Workbench::new());
        let [first, second, third] = [&b"what stands here"[..], b"stands here", b"what stands here again"]
            .map(|plain| frame(&mut encoder, plain));
        for late in [&first, &second] {
            assert!(hear(&session, lane, late, &mut reader, &mut bench).is_ok());
        }
        let Ok(Message::Item(item)) = Message::decode(&third) else { panic!("it is an item") };
        assert_eq!(reader.read(item).unwrap().payload(), b"what stands here again");

        let lost = hear(&session, lane, &second, &mut ItemReader::new(), &mut bench);
        assert!(lost.is_err_and(|why| why.contains("the stream of the connection is lost")));
    }

    /// What was said on all lanes, in order.
    type Said = Arc<Mutex<Vec<String>>>;

    fn told(lane: Lane, message: &Message<'_>) -> String {
        format!("{lane} <- {message:?}")
    }

    /// The sending side of a lane on which what is said is written down and goes nowhere.
    struct WrittenDown {
        lane: Lane,
        said: Said,
    }

    impl FrameSender for WrittenDown {
        fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
            assert_eq!(body, b"", "a joiner only asks");
            self.said.lock().unwrap().push(told(self.lane, &Message::decode(head).unwrap()));
            Ok(())
        }

        fn flush(&mut self) -> Result<(), SendError> {
            Ok(())
        }

        fn finish(&mut self) -> Result<(), SendError> {
            Ok(())
        }

        fn pressure(&self) -> Pressure {
            Pressure::default()
        }

        fn set_stall_deadline(&mut self, _: Duration) {}
    }

    fn lanes_of(peer: PeerId, count: u32, said: &Said) -> Vec<Arc<LaneHandle>> {
        let sender = |index| Box::new(WrittenDown { lane: Lane { peer, index }, said: said.clone() });
        let lane = |index| LaneHandle { sender: Mutex::new(sender(index)), closer: Closer::new(|| ()) };
        (0..count).map(|index| Arc::new(lane(index))).collect()
    }

    /// What a source is to hear of a command.
    fn message_of(command: Command) -> (Lane, Message<'static>) {
        match command {
            Command::FetchNodes { request, lane, wants } => {
                let ids = wants.iter().map(|want| want.id.to_bytes()).collect();
                let bases = wants.iter().map(|want| want.base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect();
                let what = Some(FetchWhat::Nodes(NodeRequest { ids, bases }));
                (lane, Message::Fetch(Fetch { request: request.0, what }))
            }
            Command::Cancel { request, lane } => (lane, Message::Cancel { request: request.0 }),
            other => panic!("no source hears of {other:?}"),
        }
    }

    #[test]
    fn sources_hear_what_the_transfer_commands_and_nothing_else() {
        let root =
            Root { id: ChunkId::of(Domain::Node, b"the root"), level: 1, entries: 2, payload_bytes: 2, chunk_refs: 0 };
        let trees = vec![TreePair { base: None, target: root }];
        let (landing, said) = (Nowhere::new(), Said::default());
        let mut session = Session::new(trees.clone(), landing.clone(), Arc::new(Status::default()));
        let [first, second] = [PeerId(0), PeerId(1)];
        session.join_peer(first, lanes_of(first, 2, &said), PeerCost::NEAR);
        session.join_peer(second, lanes_of(second, 1, &said), PeerCost::NEAR);
        // The first is silent for so long that the second is asked as well, and that one is slow. The times lie far apart, so that it makes no
        // difference how long this test takes.
        let [silent, slow] = [2, 12].map(Duration::from_secs);
        session.clock = Clock::started_before(silent);
        session.tell(|_, _| ());
        session.clock = Clock::started_before(slow);
        session.tell(|transfer, now| transfer.handle_arrival(RequestId(1), 0, Arrival::Stored, now));
        let (mut reader, mut bench) = (ItemReader::new(), Workbench::new());
        let lane = Lane { peer: first, index: 1 };
        let missing = Message::Item(Item { request: 2, want: 0, body: ItemBody::Missing });
        for answer in [missing, Message::Done { request: 2 }] {
            assert!(hear(&session, lane, &answer.encode(), &mut reader, &mut bench).is_ok());
        }
        session.lose_peer(second);
        session.join_peer(second, lanes_of(second, 1, &said), PeerCost::NEAR);

        let mut transfer = Transfer::new(trees, Time::ZERO);
        let mut commanded = Vec::new();
        let mut tell = |now, fact: &dyn Fn(&mut Transfer, Time)| {
            fact(&mut transfer, now);
            while let Some(command) = transfer.poll_command(landing.nodes(), now) {
                let (lane, message) = message_of(command);
                commanded.push(told(lane, &message));
            }
        };
        let [begun, silent, slow] = [Duration::ZERO, silent, slow].map(|after| Time::ZERO + after);
        tell(begun, &|transfer, now| transfer.handle_peer_joined(first, 2, PeerCost::NEAR, now));
        tell(begun, &|transfer, now| transfer.handle_peer_joined(second, 1, PeerCost::NEAR, now));
        tell(silent, &|_, _| ());
        tell(slow, &|transfer, now| transfer.handle_arrival(RequestId(1), 0, Arrival::Stored, now));
        tell(slow, &|transfer, now| transfer.handle_arrival(RequestId(2), 0, Arrival::Missing, now));
        tell(slow, &|transfer, now| transfer.handle_request_ended(RequestId(2), now));
        tell(slow, &|transfer, now| transfer.handle_peer_lost(second, now));
        tell(slow, &|transfer, now| transfer.handle_peer_joined(second, 1, PeerCost::NEAR, now));
        assert_eq!(*said.lock().unwrap(), commanded);
        assert!(commanded.len() > 4 && commanded.iter().any(|message| message.contains("Cancel")), "{commanded:?}");
    }
}

//! Owns the control messages and the byte that tells them apart.

use bytes::Bytes;
use prost::Message as _;

use super::item::Item;
use super::{CONTROL_BYTES_MAX, SERVICE_NAME_BYTES_MAX, WANTS_PER_REQUEST_MAX, WireError};
use crate::limits::KEY_BYTES_MAX;
use crate::snapshot::SECTIONS_MAX;

/// Anything that a frame can hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// The first message in both directions.
    Hello(Hello),
    /// A joiner asks for a state.
    Ask(Ask),
    /// The contract that the source offers.
    Offer(Box<Offer>),
    /// Why there is no offer, or why the conversation ends.
    Refusal(Refusal),
    /// A joiner asks for nodes or chunks.
    Fetch(Fetch),
    /// A joiner no longer needs a request's items.
    Cancel {
        /// The request.
        request: u32,
    },
    /// One node or chunk.
    Item(Item<'a>),
    /// Every want of a request has been answered.
    Done {
        /// The request.
        request: u32,
    },
    /// A joiner keeps its lease alive.
    Renew(Lease),
    /// The lease as it stands now.
    Renewed(Lease),
    /// The connection is to be handed to a service of the member, in place of a question for a state.
    Open(Open),
    /// The service has the connection: from here on every frame is the service's own.
    Opened,
}

/// Who speaks, and what it understands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Oldest protocol version that it speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest protocol version that it speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Feature bits; none is defined yet.
    #[prost(uint64, tag = "3")]
    pub features: u64,
    /// Codecs that it can decode, as the bytes that items carry.
    #[prost(uint32, repeated, tag = "4")]
    pub codecs: Vec<u32>,
    /// Its software and version, for people.
    #[prost(string, tag = "5")]
    pub software: String,
}

/// Names the service that is to have the connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// The service, as its member registered it; at most [`super::SERVICE_NAME_BYTES_MAX`] bytes.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// What a joiner wants, and what it has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// The state.
    #[prost(string, tag = "1")]
    pub state: String,
    /// The sections it wants; all where none is named. At most [`SECTIONS_MAX`].
    #[prost(string, repeated, tag = "2")]
    pub sections: Vec<String>,
    /// Ids of the snapshots it holds whole, newest first.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub snapshots_held: Vec<Bytes>,
    /// A snapshot that it must have, because other sources already offered it.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub snapshot_wanted: Option<Bytes>,
    /// Keys that it wants to hear of at most which readers of the source touched lately.
    #[prost(uint32, tag = "5")]
    pub touches_max: u32,
    /// An [`Urgency`]: who waits for what it will fetch on this connection.
    #[prost(uint32, tag = "6")]
    pub urgency: u32,
}

/// Who waits for what a joiner fetches on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Urgency {
    /// Nobody in particular: it gives way to everything else that the source does.
    Bulk = 0,
    /// A reader, or a joiner that does not serve yet.
    Reads = 1,
}

impl Ask {
    /// Who waits for what is fetched; a number from the future is somebody.
    pub fn urgency(&self) -> Urgency {
        if self.urgency == Urgency::Bulk as u32 { Urgency::Bulk } else { Urgency::Reads }
    }
}

/// The contract of one transfer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Offer {
    /// The manifest of the offered snapshot; its hash is the snapshot's id.
    #[prost(bytes = "bytes", tag = "1")]
    pub manifest: Bytes,
    /// The writer's claim that this snapshot is the newest; nothing on a plain connection.
    #[prost(message, optional, tag = "2")]
    pub head: Option<SignedHead>,
    /// The joiner's snapshot against which the source can make patches.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub base: Option<Bytes>,
    /// How the transfer will go, as [`crate::offer::Strategy`] numbers it.
    #[prost(uint32, tag = "4")]
    pub strategy: u32,
    /// Bytes that the source expects to send.
    #[prost(uint64, tag = "5")]
    pub expected_bytes: u64,
    /// What keeps the snapshot alive while the transfer runs.
    #[prost(message, optional, tag = "6")]
    pub lease: Option<Lease>,
    /// Addresses of other members that can serve the snapshot.
    #[prost(string, repeated, tag = "7")]
    pub members: Vec<String>,
    /// The source serves files in place: it holds the snapshot but cannot pin it.
    #[prost(bool, tag = "8")]
    pub volatile: bool,
    /// Keys that readers of the source touched lately, the newest first: a hint for the order of the transfer.
    #[prost(message, repeated, tag = "9")]
    pub touches: Vec<TouchedKey>,
    /// The sections that the source holds; all where none is named. At most [`SECTIONS_MAX`].
    #[prost(string, repeated, tag = "10")]
    pub sections: Vec<String>,
}

/// A key that a reader touched.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TouchedKey {
    /// The place of its section among the sections of the manifest.
    #[prost(uint32, tag = "1")]
    pub section: u32,
    /// The key, or the beginning of a long one.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

/// A head with the proof that the writer made it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignedHead {
    /// The head's bytes, as signed.
    #[prost(bytes = "bytes", tag = "1")]
    pub head: Bytes,
    /// The writer's certificate and its chain, in DER, the writer's first.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub certificates: Vec<Bytes>,
    /// The signature over the head's bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub signature: Bytes,
}

/// A pin that expires unless it is renewed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Lease {
    /// Names the lease at its source.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Grows with every holder, so that an old holder is fenced.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// How long it lasts from now, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub duration_ms: u64,
}

/// Why a source does not do what was asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// The reason, for programs: [`RefusalReason`].
    #[prost(uint32, tag = "1")]
    pub reason: u32,
    /// The reason and the next step, for people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Why a source refuses, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusalReason {
    /// No protocol version in common.
    Version = 1,
    /// No such state here.
    UnknownState = 2,
    /// The state has no snapshot yet, or not the one that was wanted.
    NoSnapshot = 3,
    /// This member may not have the state.
    Forbidden = 4,
    /// The request breaks the protocol.
    Protocol = 5,
    /// The source cannot go on.
    Broken = 6,
    /// Too many joiners at once: come back later.
    Busy = 7,
    /// No such service here.
    UnknownService = 8,
}

/// A request for nodes or chunks. Its answers come as items, in order, and then a `Done`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fetch {
    /// Names the request on this connection.
    #[prost(uint32, tag = "1")]
    pub request: u32,
    /// What is asked for.
    #[prost(oneof = "FetchWhat", tags = "2, 3, 4, 5")]
    pub what: Option<FetchWhat>,
}

/// What a request asks for.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FetchWhat {
    /// Tree nodes by id.
    #[prost(message, tag = "2")]
    Nodes(NodeRequest),
    /// Chunks that a leaf refers to.
    #[prost(message, tag = "3")]
    Unit(UnitRequest),
    /// Everything that reading one key of a keyed state needs.
    #[prost(message, tag = "4")]
    Path(PathRequest),
    /// Chunks by id, of a source that keeps its chunks in packs.
    #[prost(message, tag = "5")]
    Chunks(ChunkRequest),
}

/// Names nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeRequest {
    /// The ids.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub ids: Vec<Bytes>,
    /// For each id the node of the joiner that a patch may be made against; empty where there is none.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub bases: Vec<Bytes>,
}

/// Names chunks by their place in a leaf, which tells a source where they are without an index.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnitRequest {
    /// The leaf.
    #[prost(bytes = "bytes", tag = "1")]
    pub leaf: Bytes,
    /// Which of its entries, counted from 0.
    #[prost(uint32, repeated, tag = "2")]
    pub entries: Vec<u32>,
    /// For each entry the chunk of the joiner that a patch may be made against; empty where there is none.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub bases: Vec<Bytes>,
}

/// Names a key of a tree: a cold read is one request.
///
/// The items are the nodes on the way from the root down to the leaf that covers the key, want 0 being the first that the joiner lacks; then,
/// if the leaf has the key and its value is a chunk, that chunk. A `Missing` item ends the way: what follows it is not sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PathRequest {
    /// The root node of a section of a snapshot that the source holds.
    #[prost(bytes = "bytes", tag = "1")]
    pub root: Bytes,
    /// The key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// How many of the way's nodes, from the root on, the joiner has.
    #[prost(uint32, tag = "3")]
    pub levels_held: u32,
    /// For each further node, from the first on, the node of the joiner that a patch may be made against; empty where there is none.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub bases: Vec<Bytes>,
}

/// Names chunks of data. A source that serves files in place answers `Missing`: it finds chunks by their place only.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChunkRequest {
    /// The ids.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub ids: Vec<Bytes>,
}

/// The byte that begins a frame.
const KIND_HELLO: u8 = 1;
const KIND_ASK: u8 = 2;
const KIND_OFFER: u8 = 3;
const KIND_REFUSAL: u8 = 4;
const KIND_FETCH: u8 = 5;
const KIND_CANCEL: u8 = 6;
pub(super) const KIND_ITEM: u8 = 7;
const KIND_DONE: u8 = 8;
const KIND_RENEW: u8 = 9;
const KIND_RENEWED: u8 = 10;
const KIND_OPEN: u8 = 11;
const KIND_OPENED: u8 = 12;

impl<'a> Message<'a> {
    /// The bytes of the frame. Items are better sent as head and payload, without a copy.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => control(KIND_HELLO, hello),
            Self::Ask(ask) => control(KIND_ASK, ask),
            Self::Offer(offer) => control(KIND_OFFER, &**offer),
            Self::Refusal(refusal) => control(KIND_REFUSAL, refusal),
            Self::Fetch(fetch) => control(KIND_FETCH, fetch),
            Self::Renew(lease) => control(KIND_RENEW, lease),
            Self::Renewed(lease) => control(KIND_RENEWED, lease),
            Self::Open(open) => control(KIND_OPEN, open),
            Self::Opened => control(KIND_OPENED, &Opened {}),
            Self::Cancel { request } => numbered(KIND_CANCEL, *request),
            Self::Done { request } => numbered(KIND_DONE, *request),
            Self::Item(item) => [&item.head()[..], item.payload()].concat(),
        }
    }

    /// Reads a frame from a peer.
    pub fn decode(frame: &'a [u8]) -> Result<Self, WireError> {
        let (&kind, body) = frame.split_first().ok_or(WireError::Malformed("an empty frame"))?;
        if kind == KIND_ITEM {
            return Item::decode(frame).map(Self::Item);
        }
        if body.len() > CONTROL_BYTES_MAX {
            return Err(WireError::TooLong { bytes: body.len() });
        }
        Ok(match kind {
            KIND_HELLO => Self::Hello(Hello::decode(body)?),
            KIND_ASK => Self::Ask(Ask::decode(body)?).with_sections_counted()?,
            KIND_OFFER => Self::Offer(Box::new(Offer::decode(body)?)).with_sections_counted()?,
            KIND_REFUSAL => Self::Refusal(Refusal::decode(body)?),
            KIND_FETCH => Self::Fetch(within_limits(Fetch::decode(body)?)?),
            KIND_RENEW => Self::Renew(Lease::decode(body)?),
            KIND_RENEWED => Self::Renewed(Lease::decode(body)?),
            KIND_OPEN => Self::Open(named(Open::decode(body)?)?),
            KIND_OPENED => Opened::decode(body).map(|_| Self::Opened)?,
            KIND_CANCEL => Self::Cancel { request: number(body)? },
            KIND_DONE => Self::Done { request: number(body)? },
            _ => return Err(WireError::Malformed("an unknown kind of message")),
        })
    }
}

impl Message<'_> {
    /// More sections than any state has are refused before anybody looks for them.
    fn with_sections_counted(self) -> Result<Self, WireError> {
        let sections = match &self {
            Self::Ask(ask) => ask.sections.len(),
            Self::Offer(offer) => offer.sections.len(),
            _ => 0,
        };
        if sections > SECTIONS_MAX { Err(WireError::Malformed("more sections than any state has")) } else { Ok(self) }
    }
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason: reason as u32, message: message.into() }
    }
}

/// Nothing yet; fields may follow.
#[derive(Clone, PartialEq, prost::Message)]
struct Opened {}

/// A name longer than any is refused before anybody looks for it.
fn named(open: Open) -> Result<Open, WireError> {
    if open.service.len() > SERVICE_NAME_BYTES_MAX {
        return Err(WireError::Malformed("a name of a service longer than any"));
    }
    Ok(open)
}

/// A request that names more than any may is refused before it waits anywhere.
fn within_limits(fetch: Fetch) -> Result<Fetch, WireError> {
    let counts = match &fetch.what {
        Some(FetchWhat::Nodes(nodes)) => [nodes.ids.len(), nodes.bases.len()],
        Some(FetchWhat::Unit(unit)) => [unit.entries.len(), unit.bases.len()],
        Some(FetchWhat::Path(path)) if path.key.len() > KEY_BYTES_MAX as usize => {
            return Err(WireError::Malformed("a key longer than any"));
        }
        Some(FetchWhat::Path(path)) => [1, path.bases.len()],
        Some(FetchWhat::Chunks(chunks)) => [chunks.ids.len(), 0],
        None => return Err(WireError::Malformed("a request for nothing")),
    };
    if counts.into_iter().any(|count| count > WANTS_PER_REQUEST_MAX) {
        return Err(WireError::Malformed("a request for too much at once"));
    }
    Ok(fetch)
}

fn control(kind: u8, message: &impl prost::Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.encoded_len() + 1);
    out.push(kind);
    message.encode(&mut out).expect("a vector grows");
    out
}

fn numbered(kind: u8, number: u32) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&number.to_le_bytes());
    out
}

fn number(body: &[u8]) -> Result<u32, WireError> {
    let bytes = body.try_into().map_err(|_| WireError::Malformed("not one number"))?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &Message<'_>) {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(message));
    }

    #[test]
    fn every_message_survives_its_encoding() {
        let id = Bytes::from(vec![7; 32]);
        let lease = Lease { id: 1, version: 2, duration_ms: 60_000 };
        check(&Message::Hello(Hello { version_min: 1, version_max: 1, codecs: vec![0, 2], ..Hello::default() }));
        check(&Message::Ask(Ask { state: "orders".into(), snapshots_held: vec![id.clone()], ..Ask::default() }));
        check(&Message::Offer(Box::new(Offer {
            base: Some(id.clone()),
            lease: Some(lease.clone()),
            ..Offer::default()
        })));
        check(&Message::Refusal(Refusal::new(RefusalReason::UnknownState, "no such state")));
        let nodes = NodeRequest { ids: vec![id.clone()], bases: vec![Bytes::new()] };
        check(&Message::Fetch(Fetch { request: 3, what: Some(FetchWhat::Nodes(nodes)) }));
        let unit = UnitRequest { leaf: id, entries: vec![0, 5, 6], bases: vec![] };
        check(&Message::Fetch(Fetch { request: 3, what: Some(FetchWhat::Unit(unit)) }));
        let path = PathRequest {
            root: vec![7; 32].into(),
            key: Bytes::from_static(b"key"),
            levels_held: 2,
            bases: vec![vec![8; 32].into(), Bytes::new()],
        };
        check(&Message::Fetch(Fetch { request: 3, what: Some(FetchWhat::Path(path)) }));
        let chunks = ChunkRequest { ids: vec![vec![7; 32].into()] };
        check(&Message::Fetch(Fetch { request: 3, what: Some(FetchWhat::Chunks(chunks)) }));
        check(&Message::Cancel { request: 3 });
        check(&Message::Done { request: 3 });
        check(&Message::Renew(lease.clone()));
        check(&Message::Renewed(lease));
        check(&Message::Open(Open { service: "raft.orders".into() }));
        check(&Message::Opened);
    }

    #[test]
    fn fields_from_the_future_are_skipped() {
        let mut frame = Message::Hello(Hello { version_max: 4, ..Hello::default() }).encode();
        // Field 99, a number.
        frame.extend_from_slice(&[0x98, 0x06, 0x01]);
        assert_eq!(Message::decode(&frame), Ok(Message::Hello(Hello { version_max: 4, ..Hello::default() })));
    }

    #[test]
    fn the_request_for_a_path_is_frozen() {
        let path = |key: Bytes| {
            let bases = vec![Bytes::new(), Bytes::from_static(b"B")];
            let path = PathRequest { root: Bytes::from_static(b"R"), key, levels_held: 2, bases };
            Message::Fetch(Fetch { request: 3, what: Some(FetchWhat::Path(path)) }).encode()
        };
        let expected = b"\x05\x08\x03\x22\x0f\x0a\x01R\x12\x03key\x18\x02\x22\x00\x22\x01B";
        assert_eq!(path(Bytes::from_static(b"key")), expected);
        assert!(Message::decode(&path(vec![0; KEY_BYTES_MAX as usize].into())).is_ok());
        assert!(Message::decode(&path(vec![0; KEY_BYTES_MAX as usize + 1].into())).is_err());
    }

    #[test]
    fn what_is_asked_and_told_of_touched_keys_is_frozen() {
        let ask = Message::Ask(Ask { touches_max: 7, ..Ask::default() });
        assert_eq!(ask.encode(), b"\x02\x28\x07");
        let touches = vec![TouchedKey { section: 1, key: Bytes::from_static(b"key") }];
        let offer = Message::Offer(Box::new(Offer { touches, ..Offer::default() }));
        assert_eq!(offer.encode(), b"\x03\x4a\x07\x08\x01\x12\x03key".as_slice());
    }

    #[test]
    fn who_waits_for_an_answer_is_frozen_and_bulk_where_nothing_is_said() {
        let ask = |urgency| Ask { urgency, ..Ask::default() };
        assert_eq!(Message::Ask(ask(Urgency::Bulk as u32)).encode(), b"\x02");
        assert_eq!(Message::Ask(ask(Urgency::Reads as u32)).encode(), b"\x02\x30\x01");
        assert_eq!([0, 1, 2].map(|number| ask(number).urgency()), [Urgency::Bulk, Urgency::Reads, Urgency::Reads]);
    }

    #[test]
    fn what_is_asked_and_offered_of_sections_is_frozen_and_limited() {
        let sections = |count: usize| vec!["east".to_owned(); count];
        let ask = |count| Message::Ask(Ask { sections: sections(count), ..Ask::default() }).encode();
        let offer = |count| Message::Offer(Box::new(Offer { sections: sections(count), ..Offer::default() })).encode();
        assert_eq!(ask(1), b"\x02\x12\x04east");
        assert_eq!(offer(1), b"\x03\x52\x04east");
        for encode in [&ask as &dyn Fn(usize) -> Vec<u8>, &offer] {
            assert!(Message::decode(&encode(SECTIONS_MAX)).is_ok());
            assert!(Message::decode(&encode(SECTIONS_MAX + 1)).is_err());
        }
    }

    #[test]
    fn the_words_that_open_a_service_are_frozen() {
        let open = Message::Open(Open { service: "raft".into() });
        assert_eq!(open.encode(), b"\x0b\x0a\x04raft");
        assert_eq!(Message::Opened.encode(), b"\x0c");
        // Field 99, a number: from the future.
        assert_eq!(Message::decode(b"\x0c\x98\x06\x01"), Ok(Message::Opened));
        let long = Message::Open(Open { service: "s".repeat(SERVICE_NAME_BYTES_MAX + 1) });
        assert!(Message::decode(&long.encode()).is_err());
    }

    #[test]
    fn refuses_requests_beyond_the_limit() {
        let request = |entries| {
            let unit = UnitRequest { leaf: Bytes::new(), entries, bases: Vec::new() };
            Message::Fetch(Fetch { request: 1, what: Some(FetchWhat::Unit(unit)) }).encode()
        };
        assert!(Message::decode(&request(vec![0; WANTS_PER_REQUEST_MAX])).is_ok());
        assert!(Message::decode(&request(vec![0; WANTS_PER_REQUEST_MAX + 1])).is_err());
        assert!(Message::decode(&Message::Fetch(Fetch { request: 1, what: None }).encode()).is_err());
    }

    #[test]
    fn refuses_frames_that_are_no_message() {
        for frame in [&b""[..], b"\0", b"\x63abc", b"\x06\x01", b"\x08\x01\0\0\0\0", b"\x01\xff"] {
            assert!(Message::decode(frame).is_err(), "{frame:?}");
        }
        let long = vec![KIND_HELLO; CONTROL_BYTES_MAX + 2];
        assert_eq!(Message::decode(&long), Err(WireError::TooLong { bytes: CONTROL_BYTES_MAX + 1 }));
    }
}

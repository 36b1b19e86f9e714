//! Owns the first words of a joiner to a source: hello, ask, offer. It decides nothing; it says what came of them.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::ChunkId;
use landfall_core::keyed::Sections;
use landfall_core::offer::Strategy;
use landfall_core::snapshot::{Head, Manifest, SnapshotError, StateName};
use landfall_core::wire::{
    Ask, Lease, Message, Offer, Refusal, RefusalReason, SignedHead, TouchedKey, Urgency, VERSION_MAX, VERSION_MIN,
    WireError, common_version,
};
use landfall_core::{Chunk, Domain, HashMismatch};
use landfall_net::{ConnectError, Connection, ReceiveError, SendError, Transport};

use crate::source::own_hello;

/// Time for a connection with its handshake.
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// Silence that is accepted while a source thinks.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Why a source cannot be used, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nobody trusted answers at the address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The source does not do what was asked, and says why.
    #[error("{0}")]
    Refused(String),
    /// It cannot serve now: try again later.
    #[error("{0}")]
    Busy(String),
    /// It holds other snapshots than the one that is wanted: another source is needed.
    #[error("it does not hold the snapshot that is being fetched")]
    OtherSnapshot,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Receive(#[from] ReceiveError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Send(#[from] SendError),
    /// It ended the conversation without an answer.
    #[error("it ended the conversation without an answer")]
    Silent,
    /// It breaks the protocol: do not use it.
    #[error("it breaks the protocol: {0}")]
    Protocol(&'static str),
    /// It breaks the protocol: do not use it.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It offers a manifest that is none.
    #[error("it offers a broken manifest: {0}")]
    Manifest(#[from] SnapshotError),
    /// It offers another manifest than it names.
    #[error("it offers a manifest that is not the snapshot asked for: {0}")]
    Mismatch(#[from] HashMismatch),
    /// It cannot prove that the state's writer made the snapshot.
    #[error("it cannot prove that the writer of the state made this snapshot: {0}")]
    Head(String),
}

/// How a joiner reaches its sources, and whom it believes.
pub trait Trust: Send + Sync {
    /// Checks that the state's writer signed `head`, if there is one; the error says what is wrong, for people.
    fn verify_head(&self, state: &StateName, head: Option<&SignedHead>) -> Result<(), String>;
}

/// Believes every source: for plain connections on one machine, where there are no certificates.
#[derive(Debug, Clone, Copy)]
pub struct TrustAll;

impl Trust for TrustAll {
    fn verify_head(&self, _: &StateName, _: Option<&SignedHead>) -> Result<(), String> {
        Ok(())
    }
}

/// Believes heads that a certified writer of the state signed.
impl Trust for landfall_net::Trust {
    fn verify_head(&self, state: &StateName, head: Option<&SignedHead>) -> Result<(), String> {
        let head = head.ok_or("it sent no head")?;
        let chain: Vec<Vec<u8>> = head.certificates.iter().map(|certificate| certificate.to_vec()).collect();
        let verified = Self::verify_head(self, &chain, state.as_str(), &head.head, &head.signature);
        verified.map(drop).map_err(|error| error.to_string())
    }
}

/// What a joiner says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) state: StateName,
    pub(crate) sections: Sections,
    pub(crate) held: Vec<ChunkId>,
    pub(crate) wanted: Option<ChunkId>,
    /// Touched keys that it wants to hear of at most.
    pub(crate) touches_max: u32,
    /// Who waits for what it will fetch.
    pub(crate) urgency: Urgency,
}

impl Question {
    /// Asks for all of a snapshot, or of the newest; says nothing of what is held, and nobody waits for it.
    pub(crate) fn for_snapshot(state: StateName, wanted: Option<ChunkId>) -> Self {
        let (sections, urgency) = (Sections::All, Urgency::Bulk);
        Self { state, sections, held: Vec::new(), wanted, touches_max: 0, urgency }
    }
}

/// A source that answered.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) snapshot: ChunkId,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_chunk: Chunk,
    pub(crate) head: Option<SignedHead>,
    pub(crate) strategy: Strategy,
    pub(crate) lease: Lease,
    /// Keys that readers of the source touched lately.
    pub(crate) touches: Vec<TouchedKey>,
    /// The sections that it holds.
    pub(crate) sections: Sections,
}

/// Connects to a source and asks.
pub(crate) fn greet(
    transport: &Arc<dyn Transport>,
    trust: &dyn Trust,
    address: &str,
    question: &Question,
) -> Result<Greeted, SourceError> {
    let mut connection = connect(transport, address)?;
    // Both messages in one flight: asking costs one round trip.
    connection.sender.send(&Message::Hello(own_hello()).encode(), &[])?;
    connection.sender.send(&Message::Ask(ask(question)).encode(), &[])?;
    connection.sender.flush()?;
    hear_hello(&mut connection)?;
    let offer = hear_offer(&mut connection, question)?;
    accept(connection, *offer, question, trust)
}

/// Connects, with deadlines for a first exchange.
pub(crate) fn connect(transport: &Arc<dyn Transport>, address: &str) -> Result<Connection, SourceError> {
    let mut connection = transport.connect(address, CONNECT_MAX)?;
    connection.receiver.set_idle_deadline(ANSWER_MAX);
    connection.sender.set_stall_deadline(ANSWER_MAX);
    Ok(connection)
}

fn ask(question: &Question) -> Ask {
    Ask {
        state: question.state.as_str().to_owned(),
        sections: question.sections.to_names(),
        snapshots_held: question.held.iter().map(|id| id.to_bytes()).collect(),
        snapshot_wanted: question.wanted.map(ChunkId::to_bytes),
        touches_max: question.touches_max,
        urgency: question.urgency as u32,
    }
}

/// Takes the first message of the other side.
pub(crate) fn hear_hello(connection: &mut Connection) -> Result<(), SourceError> {
    let frame = connection.receiver.receive()?.ok_or(SourceError::Silent)?;
    match Message::decode(frame)? {
        Message::Hello(hello) if common_version(hello.version_min, hello.version_max).is_some() => Ok(()),
        Message::Hello(hello) => Err(SourceError::Refused(format!(
            "it speaks protocol versions {} to {}, this member {VERSION_MIN} to {VERSION_MAX}: update the older of the two",
            hello.version_min, hello.version_max
        ))),
        Message::Refusal(refusal) => Err(refused(refusal)),
        _ => Err(SourceError::Protocol("its first message is not a hello")),
    }
}

fn hear_offer(connection: &mut Connection, question: &Question) -> Result<Box<Offer>, SourceError> {
    let frame = connection.receiver.receive()?.ok_or(SourceError::Silent)?;
    match Message::decode(frame)? {
        Message::Offer(offer) => Ok(offer),
        Message::Refusal(refusal)
            if question.wanted.is_some() && refusal.reason == RefusalReason::NoSnapshot as u32 =>
        {
            Err(SourceError::OtherSnapshot)
        }
        Message::Refusal(refusal) => Err(refused(refusal)),
        _ => Err(SourceError::Protocol("it answers a question with something else than an offer")),
    }
}

fn accept(
    connection: Connection,
    offer: Offer,
    question: &Question,
    trust: &dyn Trust,
) -> Result<Greeted, SourceError> {
    if offer.manifest.len() > landfall_core::limits::CHUNK_BYTES_MAX as usize {
        return Err(SourceError::Protocol("its manifest is longer than any"));
    }
    let manifest_chunk = Chunk::new(Domain::Manifest, offer.manifest);
    let snapshot = manifest_chunk.id();
    if question.wanted.is_some_and(|wanted| wanted != snapshot) {
        return Err(SourceError::OtherSnapshot);
    }
    let manifest = Manifest::decode(manifest_chunk.bytes())?;
    if manifest.state != question.state {
        return Err(SourceError::Protocol("it offers another state than it was asked for"));
    }
    // The id of what was asked for proves it; what only claims to be the newest needs its writer's word.
    if question.wanted.is_none() || offer.head.is_some() {
        check_head(offer.head.as_ref(), snapshot, &manifest, trust)?;
    }
    let strategy = Strategy::from_number(offer.strategy).ok_or(SourceError::Protocol("its offer has no strategy"))?;
    let lease = offer.lease.ok_or(SourceError::Protocol("its offer has no lease"))?;
    let (touches, sections) = (offer.touches, Sections::of_names(&offer.sections));
    Ok(Greeted { connection, snapshot, manifest, manifest_chunk, head: offer.head, strategy, lease, touches, sections })
}

/// The head must name this snapshot, and the writer must have signed it.
fn check_head(
    head: Option<&SignedHead>,
    snapshot: ChunkId,
    manifest: &Manifest,
    trust: &dyn Trust,
) -> Result<(), SourceError> {
    trust.verify_head(&manifest.state, head).map_err(SourceError::Head)?;
    let Some(signed) = head else { return Ok(()) };
    let head = Head::decode(&signed.head)?;
    if (head.state != manifest.state) || head.snapshot != snapshot || head.position != manifest.position {
        return Err(SourceError::Head("its head names another snapshot".into()));
    }
    Ok(())
}

pub(crate) fn refused(refusal: Refusal) -> SourceError {
    if refusal.reason == RefusalReason::Busy as u32 || refusal.reason == RefusalReason::Broken as u32 {
        return SourceError::Busy(refusal.message);
    }
    SourceError::Refused(refusal.message)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use landfall_core::snapshot::{LogHash, Position};
    use landfall_net::PeerIdentity;
    use landfall_net::memory::MemoryNetwork;

    use super::*;

    fn manifest(state: &str, index: u64) -> Manifest {
        let (state, position) = (StateName::new(state).unwrap(), Position { epoch: 1, index });
        Manifest { state, position, log_hash: LogHash::default(), sections: Vec::new() }
    }

    /// What the writer says of a manifest.
    fn head(of: &Manifest) -> Head {
        Head { state: of.state.clone(), snapshot: of.to_chunk().id(), position: of.position, previous: None }
    }

    fn signed(head: &Head) -> SignedHead {
        SignedHead { head: head.encode().into(), certificates: Vec::new(), signature: Bytes::new() }
    }

    fn offer(manifest: &Manifest, head: Option<SignedHead>) -> Offer {
        let lease = Some(Lease { id: 1, ..Lease::default() });
        let strategy = Strategy::Full as u32;
        Offer { manifest: manifest.to_chunk().into_bytes(), head, strategy, lease, ..Offer::default() }
    }

    /// What a joiner makes of an offer that came over some connection.
    fn taken(offer: Offer, wanted: Option<ChunkId>) -> Result<ChunkId, SourceError> {
        let network = MemoryNetwork::new();
        let member = |name| network.member(PeerIdentity::unproven(name));
        let _listener = member("source").listen("source").unwrap();
        let connection = member("joiner").connect("source", CONNECT_MAX).unwrap();
        let question = Question::for_snapshot(StateName::new("state").unwrap(), wanted);
        accept(connection, offer, &question, &TrustAll).map(|greeted| greeted.snapshot)
    }

    #[test]
    fn a_snapshot_is_taken_if_it_is_what_was_asked_for() {
        let (one, other) = (manifest("state", 1), manifest("state", 2));
        let id = one.to_chunk().id();
        assert_eq!(taken(offer(&one, None), Some(id)).unwrap(), id);
        assert_eq!(taken(offer(&one, Some(signed(&head(&one)))), None).unwrap(), id);

        assert!(matches!(taken(offer(&other, None), Some(id)), Err(SourceError::OtherSnapshot)));
        let elsewhere = manifest("elsewhere", 1);
        assert!(matches!(taken(offer(&elsewhere, None), None), Err(SourceError::Protocol(_))));
        let mut damaged = offer(&one, None);
        damaged.manifest = damaged.manifest.slice(1..);
        assert!(matches!(taken(damaged, None), Err(SourceError::Manifest(_))));
    }

    #[test]
    fn a_head_counts_for_the_snapshot_that_it_names() {
        let (one, other) = (manifest("state", 1), manifest("state", 2));
        let heads = [
            Head { snapshot: other.to_chunk().id(), ..head(&one) },
            Head { position: other.position, ..head(&one) },
            Head { state: StateName::new("elsewhere").unwrap(), ..head(&one) },
        ];
        for wrong in heads {
            for wanted in [None, Some(one.to_chunk().id())] {
                let taken = taken(offer(&one, Some(signed(&wrong))), wanted);
                assert!(matches!(taken, Err(SourceError::Head(_))), "{wrong:?}");
            }
        }
    }
}

//! Owns one conversation with a joiner: who is there, what it asks, and the order of the answers.
//!
//! One thread reads, so that a cancel is seen while an answer is under way; another answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::Builder;
use std::time::Duration;

use landfall_core::codec::{CodecSet, WireCodec, WireEncoder};
use landfall_core::limits::REQUESTS_WAITING_MAX;
use landfall_core::snapshot::StateName;
use landfall_core::wire::{
    Ask, Fetch, Hello, Lease, Message, Open, Refusal, RefusalReason, VERSION_MAX, VERSION_MIN, common_version,
};
use landfall_net::{Connection, FrameSender, SendError};

use super::answer::{Answers, Encoding};
use super::lease::LEASE_DURATION;
use super::offering;
use super::state::{ServedState, ServedStates};
use crate::clock::Clock;

/// A joiner that says nothing for this long is gone; it renews its lease well before.
const SILENCE_MAX: Duration = LEASE_DURATION;

/// Takes a connection that a peer opened for a service. It runs on a thread of the connection's own, which it may keep as long as it
/// likes; the connection ends when it returns.
pub type ConnectionService = Arc<dyn Fn(Connection) + Send + Sync>;

/// What a conversation needs to know of its member.
pub(crate) struct ServingMember {
    pub(crate) states: std::sync::RwLock<ServedStates>,
    pub(crate) services: BTreeMap<String, ConnectionService>,
    pub(crate) encoding: Encoding,
    pub(crate) clock: Clock,
}

/// What the reading thread tells the answering thread.
#[derive(Default)]
struct Inbox {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Todo>,
    cancelled: BTreeSet<u32>,
    ended: bool,
}

enum Todo {
    Hello(Hello),
    Ask(Ask),
    Fetch(Fetch),
    Renew(Lease),
    Open(Open),
    /// The joiner broke the protocol.
    Refuse(Refusal),
}

/// Talks with one joiner until it goes, or hands the connection to the service that it opens.
pub(crate) fn converse(member: &ServingMember, connection: Connection) {
    let Connection { peer, address, mut receiver, mut sender, closer } = connection;
    let inbox = Arc::new(Inbox::default());
    receiver.set_idle_deadline(SILENCE_MAX);
    sender.set_stall_deadline(SILENCE_MAX);
    let ended = std::thread::scope(|scope| {
        let reading = inbox.clone();
        let read = move || {
            while let Ok(Some(frame)) = receiver.receive() {
                if reading.take(frame) == More::No {
                    break;
                }
            }
            reading.end();
            receiver
        };
        let reader = match Builder::new().name("inbox".into()).spawn_scoped(scope, read) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::warn!(peer = %peer.name, %error, "no thread for a conversation");
                closer.close();
                return None;
            }
        };
        let mut talk = Talk {
            member,
            peer: &peer.name,
            sender: &mut *sender,
            inbox: &inbox,
            known: None,
            asked: None,
            opened: None,
        };
        let end = talk.run().unwrap_or_else(|error| {
            tracing::debug!(peer = %peer.name, %error, "conversation ended");
            TalkEnd::Over
        });
        talk.end_lease();
        if matches!(end, TalkEnd::Over) {
            // The reading thread may still wait for a joiner that will not speak again.
            closer.close();
        }
        Some((end, reader.join().expect("reading does not panic")))
    });
    if let Some((TalkEnd::HandOver(service), receiver)) = ended {
        service(Connection { peer, address, sender, receiver, closer: closer.clone() });
        closer.close();
    }
}

/// Will more frames of this conversation be taken?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Inbox {
    /// Takes one frame.
    fn take(&self, frame: &[u8]) -> More {
        let refuse = |message: &str| Todo::Refuse(Refusal::new(RefusalReason::Protocol, message));
        let todo = match Message::decode(frame) {
            Ok(Message::Hello(hello)) => Todo::Hello(hello),
            Ok(Message::Ask(ask)) => Todo::Ask(ask),
            Ok(Message::Fetch(fetch)) => Todo::Fetch(fetch),
            Ok(Message::Renew(lease)) => Todo::Renew(lease),
            Ok(Message::Open(open)) => Todo::Open(open),
            Ok(Message::Cancel { request }) => {
                self.cancel(request);
                return More::Yes;
            }
            Ok(_) => refuse("only a joiner's messages are expected here"),
            Err(error) => refuse(&error.to_string()),
        };
        let mut queue = self.lock();
        let todo =
            if queue.messages.len() < REQUESTS_WAITING_MAX as usize { todo } else { refuse("too many requests wait") };
        // What follows an opening is the service's to read.
        let more = if matches!(todo, Todo::Refuse(_) | Todo::Open(_)) { More::No } else { More::Yes };
        queue.messages.push_back(todo);
        drop(queue);
        self.filled.notify_one();
        more
    }

    fn cancel(&self, request: u32) {
        let mut queue = self.lock();
        // Only what waits can be cancelled; an unknown number is a request that was answered meanwhile.
        let waits = |todo: &Todo| matches!(todo, Todo::Fetch(fetch) if fetch.request == request);
        if queue.messages.iter().any(waits) {
            queue.cancelled.insert(request);
        }
    }

    fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_one();
    }

    /// The next thing to do, if there is one now.
    fn next_now(&self) -> Option<Todo> {
        self.lock().messages.pop_front()
    }

    /// The next thing to do; nothing once the joiner is gone.
    fn next(&self) -> Option<Todo> {
        let mut queue = self.lock();
        loop {
            if let Some(todo) = queue.messages.pop_front() {
                return Some(todo);
            }
            if queue.ended {
                return None;
            }
            queue = self.filled.wait(queue).expect("no panic under the lock");
        }
    }

    fn was_cancelled(&self, request: u32) -> bool {
        self.lock().cancelled.remove(&request)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic under the lock")
    }
}

/// The answering side of a conversation.
struct Talk<'a> {
    member: &'a ServingMember,
    peer: &'a str,
    sender: &'a mut dyn FrameSender,
    inbox: &'a Inbox,
    /// The codecs that the joiner knows, once it said hello.
    known: Option<CodecSet>,
    asked: Option<Asked>,
    /// The service that is to have the connection.
    opened: Option<ConnectionService>,
}

/// The state that the joiner asked for, and what answering it needs.
struct Asked {
    state: Arc<ServedState>,
    lease: Option<Lease>,
    answers: Answers,
}

/// How a conversation ended.
enum TalkEnd {
    Over,
    /// The rest of the connection belongs to a service.
    HandOver(ConnectionService),
}

impl Talk<'_> {
    fn run(&mut self) -> Result<TalkEnd, SendError> {
        loop {
            let todo = match self.inbox.next_now() {
                Some(todo) => todo,
                None => {
                    // Nothing waits: what was gathered leaves before this thread sleeps.
                    self.sender.flush()?;
                    match self.inbox.next() {
                        Some(todo) => todo,
                        None => return self.sender.finish().map(|()| TalkEnd::Over),
                    }
                }
            };
            if let Err(refusal) = self.carry_out(todo)? {
                tracing::info!(peer = self.peer, reason = %refusal.message, "refused");
                self.say(&Message::Refusal(refusal))?;
                return self.sender.finish().map(|()| TalkEnd::Over);
            }
            if let Some(service) = self.opened.take() {
                return Ok(TalkEnd::HandOver(service));
            }
        }
    }

    fn carry_out(&mut self, todo: Todo) -> Result<Result<(), Refusal>, SendError> {
        match (todo, self.known) {
            (Todo::Hello(hello), _) => self.greet(&hello),
            (Todo::Refuse(refusal), _) => Ok(Err(refusal)),
            (_, None) => Ok(Err(Refusal::new(RefusalReason::Protocol, "the first message must be a hello"))),
            (Todo::Ask(ask), Some(known)) => self.answer_ask(&ask, known),
            (Todo::Fetch(fetch), _) => self.answer_fetch(&fetch),
            (Todo::Renew(lease), _) => self.renew(&lease),
            (Todo::Open(open), _) => self.open(&open),
        }
    }

    fn open(&mut self, open: &Open) -> Result<Result<(), Refusal>, SendError> {
        let Some(service) = self.member.services.get(&open.service) else {
            let message = format!("no service '{}' here", open.service);
            return Ok(Err(Refusal::new(RefusalReason::UnknownService, message)));
        };
        self.say(&Message::Opened)?;
        self.sender.flush()?;
        self.opened = Some(service.clone());
        Ok(Ok(()))
    }

    fn greet(&mut self, theirs: &Hello) -> Result<Result<(), Refusal>, SendError> {
        let ours = own_hello();
        if common_version(theirs.version_min, theirs.version_max).is_none() {
            let message = format!(
                "this member ({}) speaks protocol versions {VERSION_MIN} to {VERSION_MAX}, you ({}) speak {} to {}: update the older of the two",
                ours.software, theirs.software, theirs.version_min, theirs.version_max
            );
            return Ok(Err(Refusal::new(RefusalReason::Version, message)));
        }
        self.known = Some(CodecSet::of_numbers(&theirs.codecs));
        self.say(&Message::Hello(ours))?;
        Ok(Ok(()))
    }

    fn answer_ask(&mut self, ask: &Ask, known: CodecSet) -> Result<Result<(), Refusal>, SendError> {
        let encoder = self.end_lease().unwrap_or_default();
        let states = self.member.states.read().expect("no panic under the lock").clone();
        let state = StateName::new(&ask.state).ok().and_then(|name| states.get(&name).cloned());
        let Some(state) = state else {
            let names: Vec<&str> = states.keys().map(StateName::as_str).collect();
            let message = format!("no state '{}' here; this member serves: {}", ask.state, names.join(", "));
            return Ok(Err(Refusal::new(RefusalReason::UnknownState, message)));
        };
        let (held, mut offer) = match offering::offer(&state, ask) {
            Ok(offered) => offered,
            Err(refusal) => return Ok(Err(refusal)),
        };
        offer.lease = state.leases.grant(held.id, self.member.clock.now());
        if state.find(held.id).is_none() {
            return Ok(Err(Refusal::new(RefusalReason::Busy, "a new snapshot came just now: ask again")));
        }
        if offer.lease.is_none() {
            return Ok(Err(Refusal::new(RefusalReason::Busy, "too many transfers run at once: try again later")));
        }
        let answers = Answers::new(state.clone(), known, self.member.encoding, encoder, ask.urgency());
        self.asked = Some(Asked { state, lease: offer.lease.clone(), answers });
        self.say(&Message::Offer(Box::new(offer)))?;
        Ok(Ok(()))
    }

    fn answer_fetch(&mut self, fetch: &Fetch) -> Result<Result<(), Refusal>, SendError> {
        let Some(asked) = &mut self.asked else {
            return Ok(Err(Refusal::new(RefusalReason::Protocol, "ask for a state before its chunks")));
        };
        if !self.inbox.was_cancelled(fetch.request)
            && let Err(refusal) = asked.answers.answer(fetch, &mut *self.sender)?
        {
            return Ok(Err(refusal));
        }
        self.say(&Message::Done { request: fetch.request })?;
        Ok(Ok(()))
    }

    fn renew(&mut self, lease: &Lease) -> Result<Result<(), Refusal>, SendError> {
        let renewed = self.asked.as_ref().and_then(|asked| {
            let own = asked.lease.as_ref()?.id == lease.id;
            if own { asked.state.leases.renew(lease.id, self.member.clock.now()) } else { None }
        });
        match renewed {
            Some(lease) => self.say(&Message::Renewed(lease))?,
            None => return Ok(Err(Refusal::new(RefusalReason::NoSnapshot, "the lease has expired: ask anew"))),
        }
        Ok(Ok(()))
    }

    fn say(&mut self, message: &Message<'_>) -> Result<(), SendError> {
        self.sender.send(&message.encode(), &[])
    }

    /// Ends the lease, if there is one; gives back the encoder, which goes on where it was however often the joiner asks.
    fn end_lease(&mut self) -> Option<WireEncoder> {
        let Asked { state, lease, answers } = self.asked.take()?;
        if let Some(lease) = lease {
            state.leases.end(lease.id);
        }
        Some(answers.into_encoder())
    }
}

/// How this member introduces itself.
pub(crate) fn own_hello() -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        features: 0,
        codecs: WireCodec::ALL.map(|codec| u32::from(codec.to_byte())).to_vec(),
        software: concat!("landfall ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::wire::{FetchWhat, NodeRequest};

    use super::*;

    fn fetch(request: u32) -> Vec<u8> {
        let what =
            Some(FetchWhat::Nodes(NodeRequest { ids: vec![bytes::Bytes::from_static(&[7; 32])], bases: Vec::new() }));
        Message::Fetch(Fetch { request, what }).encode()
    }

    #[test]
    fn requests_that_wait_have_a_limit_and_one_more_ends_the_conversation() {
        let inbox = Inbox::default();
        for request in 0..REQUESTS_WAITING_MAX {
            assert_eq!(inbox.take(&fetch(request)), More::Yes);
        }
        assert_eq!(inbox.take(&fetch(REQUESTS_WAITING_MAX)), More::No);

        // What came before is answered all the same, and then the joiner is told why it ends.
        for request in 0..REQUESTS_WAITING_MAX {
            assert!(matches!(inbox.next_now(), Some(Todo::Fetch(fetch)) if fetch.request == request));
        }
        let Some(Todo::Refuse(refusal)) = inbox.next_now() else { panic!("no refusal") };
        assert_eq!(refusal.reason, RefusalReason::Protocol as u32);
        assert!(inbox.next_now().is_none());
    }

    #[test]
    fn what_was_answered_makes_room() {
        let inbox = Inbox::default();
        for request in 0..10 * REQUESTS_WAITING_MAX {
            assert_eq!(inbox.take(&fetch(request)), More::Yes);
            assert!(inbox.next_now().is_some());
        }
    }
}

//! Owns one conversation with a joiner: who is there, what it asks, and the order of the answers.
//!
//! One thread reads, so that a cancel is seen while an answer is under way; another answers.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use landfall_core::codec::{Codec, CodecSet};
use landfall_core::snapshot::StateName;
use landfall_core::wire::{
    Ask, Fetch, Hello, Lease, Message, Refusal, RefusalReason, VERSION_MAX, VERSION_MIN, common_version,
};
use landfall_net::{Connection, FrameSender, SendError};

use super::answer::Answers;
use super::lease::LEASE_DURATION;
use super::offering;
use super::state::{ServedState, ServedStates};
use crate::clock::Clock;

/// Requests that a joiner may have waiting on one connection.
const REQUESTS_WAITING_MAX: usize = 256;
/// A joiner that says nothing for this long is gone; it renews its lease well before.
const SILENCE_MAX: Duration = LEASE_DURATION;

/// What a conversation needs to know of its member.
pub(crate) struct ServingMember {
    pub(crate) states: std::sync::RwLock<ServedStates>,
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
    /// The joiner broke the protocol.
    Refuse(Refusal),
}

/// Talks with one joiner until it goes.
pub(crate) fn converse(member: &ServingMember, connection: Connection) {
    let peer = connection.peer.name.clone();
    let inbox = Arc::new(Inbox::default());
    let Connection { mut receiver, mut sender, closer, .. } = connection;
    receiver.set_idle_deadline(SILENCE_MAX);
    sender.set_stall_deadline(SILENCE_MAX);
    std::thread::scope(|scope| {
        let reading = inbox.clone();
        scope.spawn(move || {
            while let Ok(Some(frame)) = receiver.receive() {
                if !reading.take(frame) {
                    break;
                }
            }
            reading.end();
        });
        let mut talk = Talk { member, peer: &peer, sender: &mut *sender, inbox: &inbox, known: None, asked: None };
        if let Err(error) = talk.run() {
            tracing::debug!(%peer, %error, "conversation ended");
        }
        talk.end_lease();
        // The reading thread may still wait for a joiner that will not speak again.
        closer.close();
    });
}

impl Inbox {
    /// Takes one frame. False if nothing more can be taken.
    fn take(&self, frame: &[u8]) -> bool {
        let refuse = |message: &str| Todo::Refuse(Refusal::new(RefusalReason::Protocol, message));
        let todo = match Message::decode(frame) {
            Ok(Message::Hello(hello)) => Todo::Hello(hello),
            Ok(Message::Ask(ask)) => Todo::Ask(ask),
            Ok(Message::Fetch(fetch)) => Todo::Fetch(fetch),
            Ok(Message::Renew(lease)) => Todo::Renew(lease),
            Ok(Message::Cancel { request }) => {
                self.cancel(request);
                return true;
            }
            Ok(_) => refuse("only a joiner's messages are expected here"),
            Err(error) => refuse(&error.to_string()),
        };
        let mut queue = self.lock();
        let todo = if queue.messages.len() < REQUESTS_WAITING_MAX { todo } else { refuse("too many requests wait") };
        let more = !matches!(todo, Todo::Refuse(_));
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
}

/// The state that the joiner asked for, and what answering it needs.
struct Asked {
    state: Arc<ServedState>,
    lease: Option<Lease>,
    answers: Answers,
}

impl Talk<'_> {
    fn run(&mut self) -> Result<(), SendError> {
        loop {
            let todo = match self.inbox.next_now() {
                Some(todo) => todo,
                None => {
                    // Nothing waits: what was gathered leaves before this thread sleeps.
                    self.sender.flush()?;
                    match self.inbox.next() {
                        Some(todo) => todo,
                        None => return self.sender.finish(),
                    }
                }
            };
            if let Err(refusal) = self.carry_out(todo)? {
                tracing::info!(peer = self.peer, reason = %refusal.message, "refused");
                self.say(&Message::Refusal(refusal))?;
                return self.sender.finish();
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
        }
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
        self.end_lease();
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
        let answers = Answers::new(state.clone(), known);
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

    fn end_lease(&mut self) {
        if let Some(Asked { state, lease: Some(lease), .. }) = self.asked.take() {
            state.leases.end(lease.id);
        }
    }
}

/// How this member introduces itself.
pub(crate) fn own_hello() -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        features: 0,
        codecs: [Codec::Raw, Codec::Lz4, Codec::Zstd, Codec::ZstdPatch].map(|codec| codec as u32).to_vec(),
        software: concat!("landfall ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

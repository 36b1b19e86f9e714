//! Owns one connection for requests that cannot wait. Several threads ask on it at once; each gets its own answers.
//!
//! It carries no bulk and shares no lock with what does.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_core::codec::Codec;
use landfall_core::limits::REQUESTS_UNANSWERED_MAX;
use landfall_core::wire::{Fetch, FetchWhat, Item, ItemBody, ItemReader, Lease, Message};
use landfall_net::{Closer, Connection, FrameReceiver, FrameSender, ReceiveError};

use crate::fetch::greet::Greeted;
use crate::fetch::status::Status;

/// A source that owes an answer and of which nothing comes for this long is not waited for. While bytes come it is, however few: what they
/// become is as large as one value.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// How often a line on which a long item comes slowly notes that its bytes do.
const BYTES_CHECK: Duration = Duration::from_secs(1);
/// How often a quiet line looks whether its lease needs renewing.
const LEASE_CHECK: Duration = Duration::from_secs(5);
/// Items of one request that wait to be taken.
const ITEMS_WAITING_MAX: usize = 64;

/// One thing that a source said about a request.
pub(super) enum Answer {
    Item { want: u32, came: Came },
    Done,
}

/// What came of a want.
pub(super) enum Came {
    Bytes(Encoded),
    /// The source does not have it, or has it damaged.
    Nothing,
}

/// Bytes as they travelled, if they did so by themselves.
pub(super) struct Encoded {
    pub(super) codec: Codec,
    pub(super) plain_bytes: u32,
    pub(super) payload: Bytes,
}

/// The line cannot be used any more.
#[derive(Debug)]
pub(super) struct LineBroken;

/// A connection on which requests are asked as they come up.
pub(super) struct Line {
    sender: Mutex<Box<dyn FrameSender>>,
    requests: Arc<Requests>,
    closer: Closer,
    listening: Mutex<Option<JoinHandle<()>>>,
}

/// What was asked on a line, shared by those who ask and the thread that listens.
#[derive(Default)]
struct Requests {
    pending: Mutex<Pending>,
    /// A request was answered to its end, or the line broke.
    ended: Condvar,
}

#[derive(Default)]
struct Pending {
    last: u32,
    /// Where the answers go of those that were not answered to their end, whether or not anybody still waits.
    answers: HashMap<u32, SyncSender<Answer>>,
    /// When something last came of any answer. A lease that was renewed is none.
    heard: Option<Instant>,
    broken: bool,
}

impl Line {
    /// A line on a connection that has asked.
    ///
    /// # Errors
    /// The system gives no thread to listen on it.
    pub(super) fn new(greeted: Greeted, status: Arc<Status>) -> io::Result<Arc<Self>> {
        let Connection { sender, mut receiver, closer, .. } = greeted.connection;
        receiver.set_idle_deadline(LEASE_CHECK);
        receiver.set_unfinished_interval(BYTES_CHECK);
        let line = Arc::new(Self {
            sender: Mutex::new(sender),
            requests: Arc::default(),
            closer,
            listening: Mutex::new(None),
        });
        let (weak, requests, lease) = (Arc::downgrade(&line), line.requests.clone(), greeted.lease);
        let listen = move || {
            let mut renewal = Renewal { lease, renewed: Instant::now() };
            let (mut reader, mut counted) = (ItemReader::new(), 0);
            while hear(&mut *receiver, &mut reader, &requests) == Heard::GoOn {
                let received = receiver.bytes_received();
                status.note_wire(received - counted, 0);
                counted = received;
                let Some(line) = weak.upgrade() else { break };
                renewal.renew_in_time(&line);
            }
            requests.break_off();
        };
        let listening = Builder::new().name("line".into()).spawn(listen)?;
        *line.listening.lock().expect("no panic under the lock") = Some(listening);
        Ok(line)
    }

    /// Asks, and gives back where the answers come. It waits while too many requests are unanswered.
    pub(super) fn ask(&self, what: FetchWhat) -> Result<Answers, LineBroken> {
        let (sender, answers) = sync_channel(ITEMS_WAITING_MAX);
        let request = self.requests.begin(sender)?;
        self.say(&Message::Fetch(Fetch { request, what: Some(what) }))?;
        Ok(Answers { answers, requests: self.requests.clone() })
    }

    fn say(&self, message: &Message<'_>) -> Result<(), LineBroken> {
        let mut sender = self.sender.lock().expect("no panic under the lock");
        let sent = sender.send(&message.encode(), &[]).and_then(|()| sender.flush());
        sent.map_err(|_| {
            self.closer.close();
            LineBroken
        })
    }

    /// Ends the connection; whoever waits for an answer is told.
    pub(super) fn close(&self) {
        self.closer.close();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.closer.is_closed() || self.requests.lock().broken
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.closer.close();
        let Some(listening) = self.listening.lock().expect("no panic under the lock").take() else { return };
        // The last owner may be the listening thread itself, for the moment in which it renews the lease.
        if listening.thread().id() != std::thread::current().id() {
            listening.join().expect("listening does not panic");
        }
    }
}

/// Where the answers to one request come.
pub(super) struct Answers {
    answers: Receiver<Answer>,
    requests: Arc<Requests>,
}

impl Answers {
    /// The next answer. An error if the line broke or the source is silent.
    pub(super) fn next(&self) -> Result<Answer, LineBroken> {
        let mut wait = SILENCE_MAX;
        loop {
            match self.answers.recv_timeout(wait) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => {
                    wait = left_to_wait(self.requests.lock().heard, Instant::now()).ok_or(LineBroken)?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(LineBroken),
            }
        }
    }
}

/// How long one who waited in vain waits yet, for what comes of a line on which something was heard then; nothing if that is too long ago.
fn left_to_wait(heard: Option<Instant>, now: Instant) -> Option<Duration> {
    let silence = now.saturating_duration_since(heard?);
    SILENCE_MAX.checked_sub(silence).filter(|left| !left.is_zero())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    GoOn,
    End,
}

/// Takes one message of the source to whoever asked.
fn hear(receiver: &mut dyn FrameReceiver, reader: &mut ItemReader, requests: &Requests) -> Heard {
    let frame = match receiver.receive() {
        Ok(Some(frame)) => frame,
        Err(ReceiveError::TimedOut { .. }) => return Heard::GoOn,
        Err(ReceiveError::Unfinished { .. }) => {
            requests.lock().heard = Some(Instant::now());
            return Heard::GoOn;
        }
        Ok(None) | Err(_) => return Heard::End,
    };
    match Message::decode(frame) {
        Ok(Message::Item(item)) => {
            // What nobody waits for any more is read too: what comes after it may build on it.
            let Ok(item) = reader.read(item) else { return Heard::End };
            take_item(item, requests);
            Heard::GoOn
        }
        Ok(Message::Done { request }) => {
            requests.end(request);
            Heard::GoOn
        }
        Ok(Message::Renewed(_)) => Heard::GoOn,
        _ => Heard::End,
    }
}

fn take_item(item: Item<'_, Codec>, requests: &Requests) {
    let came = match item.body {
        ItemBody::Chunk(form) => Came::Bytes(Encoded {
            codec: form.codec,
            plain_bytes: form.plain_bytes,
            payload: Bytes::copy_from_slice(form.payload),
        }),
        ItemBody::Missing | ItemBody::Damaged => Came::Nothing,
    };
    let asked = {
        let mut pending = requests.lock();
        pending.heard = Some(Instant::now());
        pending.answers.get(&item.request).cloned()
    };
    if let Some(asked) = asked {
        // Who does not wait any more has gone to another source.
        drop(asked.send(Answer::Item { want: item.want, came }));
    }
}

/// When the line's lease must be renewed.
struct Renewal {
    lease: Lease,
    renewed: Instant,
}

impl Renewal {
    fn renew_in_time(&mut self, line: &Line) {
        if self.renewed.elapsed() >= Duration::from_millis(self.lease.duration_ms / 3) {
            self.renewed = Instant::now();
            // A line that breaks here is noticed when it is next read.
            drop(line.say(&Message::Renew(self.lease.clone())));
        }
    }
}

impl Requests {
    /// The number of a new request, whose answers go to `sender`, as soon as there may be one more.
    fn begin(&self, sender: SyncSender<Answer>) -> Result<u32, LineBroken> {
        let mut pending = self.lock();
        let mut wait = SILENCE_MAX;
        while pending.is_full() && !pending.broken {
            let (locked, waited) = self.ended.wait_timeout(pending, wait).expect("no panic under the lock");
            pending = locked;
            if waited.timed_out() && pending.is_full() {
                wait = left_to_wait(pending.heard, Instant::now()).ok_or(LineBroken)?;
            }
        }
        if pending.broken {
            return Err(LineBroken);
        }
        pending.last = pending.last.wrapping_add(1);
        let request = pending.last;
        pending.answers.insert(request, sender);
        Ok(request)
    }

    /// A request is answered to its end.
    fn end(&self, request: u32) {
        let asked = self.lock().answers.remove(&request);
        self.ended.notify_one();
        if let Some(asked) = asked {
            drop(asked.send(Answer::Done));
        }
    }

    /// Nothing comes any more.
    fn break_off(&self) {
        let mut pending = self.lock();
        pending.broken = true;
        // Whoever waits finds its channel closed.
        pending.answers.clear();
        self.ended.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no panic under the lock")
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.answers.len() >= REQUESTS_UNANSWERED_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use landfall_core::codec::{WireCodec, WireEncoder};
    use landfall_core::wire::ItemForm;

    use super::*;

    /// Frames that came; an empty one is the part of one that is not whole yet.
    struct Frames(VecDeque<Vec<u8>>, Vec<u8>);

    impl FrameReceiver for Frames {
        fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
            let Some(frame) = self.0.pop_front() else { return Ok(None) };
            if frame.is_empty() {
                return Err(ReceiveError::Unfinished { after: BYTES_CHECK });
            }
            self.1 = frame;
            Ok(Some(&self.1))
        }

        fn bytes_received(&self) -> u64 {
            0
        }

        fn set_idle_deadline(&mut self, _: Duration) {}

        fn set_unfinished_interval(&mut self, _: Duration) {}
    }

    /// Items of one stream, each the answer to the request of its number.
    fn frames(plains: &[&[u8]]) -> Frames {
        let mut encoder = WireEncoder::new();
        let frame = |(request, plain): (usize, &&[u8])| {
            let mut payload = Vec::new();
            encoder.encode(WireCodec::ZstdStream, plain, None, &mut payload).unwrap();
            let form = ItemForm { codec: WireCodec::ZstdStream, plain_bytes: plain.len() as u32, payload: &payload };
            Message::Item(Item { request: request as u32, want: 0, body: ItemBody::Chunk(form) }).encode()
        };
        Frames(plains.iter().enumerate().map(frame).collect(), Vec::new())
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_read_all_the_same() {
        let mut frames = frames(&[b"what stands here", b"stands here", b"what stands here again"]);
        let (sender, answers) = sync_channel(ITEMS_WAITING_MAX);
        let requests = Requests::default();
        requests.lock().answers.insert(2, sender);
        let mut reader = ItemReader::new();
        for _ in 0..3 {
            assert_eq!(hear(&mut frames, &mut reader, &requests), Heard::GoOn);
        }
        let Answer::Item { came: Came::Bytes(came), .. } = answers.recv().unwrap() else { panic!("bytes came") };
        assert_eq!((came.codec, &came.payload[..]), (Codec::Raw, &b"what stands here again"[..]));
        assert_eq!(hear(&mut frames, &mut reader, &requests), Heard::End, "nothing more came");
    }

    #[test]
    fn a_line_is_heard_while_bytes_of_an_answer_come_but_not_while_only_its_lease_is_renewed() {
        let mut frames = frames(&[b"an answer"]);
        frames.0.push_front(Message::Renewed(Lease::default()).encode());
        frames.0.push_back(Vec::new());
        let (requests, mut reader) = (Requests::default(), ItemReader::new());
        for is_heard in [false, true, true] {
            assert_eq!(hear(&mut frames, &mut reader, &requests), Heard::GoOn);
            assert_eq!(requests.lock().heard.take().is_some(), is_heard);
        }
    }

    #[test]
    fn no_more_are_asked_at_once_than_a_source_lets_wait() {
        let requests = Requests::default();
        // Nobody waits for these any more; the source has them before it all the same.
        let begin = || requests.begin(sync_channel(ITEMS_WAITING_MAX).0);
        let first = begin().unwrap();
        while !requests.lock().is_full() {
            begin().unwrap();
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(begin);
            requests.end(first);
            waiting.join().unwrap().unwrap();
            assert_eq!(requests.lock().answers.len(), REQUESTS_UNANSWERED_MAX as usize);
            let waiting = scope.spawn(begin);
            requests.break_off();
            waiting.join().unwrap().unwrap_err();
        });
    }

    #[test]
    fn whoever_waits_goes_on_while_something_was_heard_lately() {
        let now = Instant::now();
        let left_after = |silence| left_to_wait(Some(now), now + silence);
        assert_eq!(left_after(Duration::ZERO), Some(SILENCE_MAX));
        assert_eq!(left_after(SILENCE_MAX - BYTES_CHECK), Some(BYTES_CHECK));
        assert_eq!(left_after(SILENCE_MAX), None);
        assert_eq!(left_after(SILENCE_MAX * 2), None);
        assert_eq!(left_to_wait(None, now), None, "nothing ever came");
    }

    #[test]
    fn a_stream_that_is_out_of_step_ends_the_line() {
        let mut frames = frames(&[b"what stands here", b"what stands here again"]);
        frames.0.pop_front();
        assert_eq!(hear(&mut frames, &mut ItemReader::new(), &Requests::default()), Heard::End);
    }
}

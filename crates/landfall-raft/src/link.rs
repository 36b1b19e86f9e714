//! Owns the connection to one other member: requests go out in order, answers find whoever asked, by number.
//!
//! Connections block and callers do not: one thread sends, one receives. It never retries a request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall::member::open_service;
use landfall::net::{Connection, FrameReceiver, FrameSender, ReceiveError, SendError, Transport};
use landfall::pull::SourceError;
use tokio::sync::mpsc;

use crate::identity::{ClusterId, Identity};
use crate::message::{Answer, Reply, Request, SERVICE};

/// Frames that wait to be sent; beyond it a peer is too slow to be asked more.
const FRAMES_WAITING_MAX: usize = 256;
/// A connection on which somebody waits and nothing comes is dead after this long.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A way to one member. Cheap to share; it connects when somebody asks something.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    identity: Arc<Identity>,
    address: String,
    live: Mutex<Option<Live>>,
    number: AtomicU64,
}

/// A connection, or one that is being made.
struct Live {
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

/// Who waits for answers on one connection.
#[derive(Default)]
struct Waiting {
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    by_number: HashMap<u64, mpsc::UnboundedSender<Result<Answer, LinkError>>>,
    ended: Option<LinkError>,
}

/// Why there is no answer. Whether the request was done is not known, but for [`LinkError::Unreachable`] and [`LinkError::Busy`].
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    /// Nobody answers there: it was not done.
    #[error("cannot reach {address}: {reason}")]
    Unreachable { address: String, reason: String },
    /// The peer takes nothing more for now: it was not done.
    #[error("{address} is too slow to be asked more")]
    Busy { address: String },
    /// The connection ended before the answer.
    #[error("the connection to {address} ended: {reason}")]
    Lost { address: String, reason: String },
    /// The peer said that it cannot.
    #[error("{address} cannot do it: {reason}")]
    Failed { address: String, reason: String },
    /// The peer belongs to another cluster: it was not done, and never will be.
    #[error("{address} belongs to cluster {}, this member to {}", named(.theirs), named(.own))]
    OtherCluster { address: String, theirs: Option<ClusterId>, own: Option<ClusterId> },
}

fn named(cluster: &Option<ClusterId>) -> String {
    cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string())
}

/// Answers to one request.
pub(crate) struct Call {
    number: u64,
    answers: mpsc::UnboundedReceiver<Result<Answer, LinkError>>,
    waiting: Arc<Waiting>,
    address: String,
    cluster: Option<ClusterId>,
}

impl Link {
    pub(crate) fn new(transport: Arc<dyn Transport>, identity: Arc<Identity>, address: String) -> Self {
        Self { transport, identity, address, live: Mutex::new(None), number: AtomicU64::new(1) }
    }

    /// Asks, and waits for the end of the answer.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Reply, LinkError> {
        let mut call = self.call(request)?;
        loop {
            if let Answer::Reply(reply) = call.next().await? {
                return Ok(reply);
            }
        }
    }

    /// Asks; the answers come one by one.
    pub(crate) fn call(&self, request: &Request) -> Result<Call, LinkError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let cluster = self.identity.own();
        let frame = request.encode(number, cluster);
        let mut live = lock(&self.live);
        let connection = match live.take().filter(|live| !live.waiting.has_ended()) {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let connection = live.insert(connection);
        let answers = connection.waiting.enter(number)?;
        let waiting = connection.waiting.clone();
        let call = Call { number, answers, waiting, address: self.address.clone(), cluster };
        connection.frames.try_send(frame).map_err(|_| LinkError::Busy { address: self.address.clone() })?;
        Ok(call)
    }

    fn connect(&self) -> Result<Live, LinkError> {
        let (frames, to_send) = mpsc::channel(FRAMES_WAITING_MAX);
        let waiting = Arc::new(Waiting::default());
        let (transport, address, callers) = (self.transport.clone(), self.address.clone(), waiting.clone());
        let thread = std::thread::Builder::new().name("raft-link".into());
        thread.spawn(move || carry(&transport, &address, to_send, &callers)).map_err(|error| {
            LinkError::Unreachable { address: self.address.clone(), reason: format!("no thread: {error}") }
        })?;
        Ok(Live { frames, waiting })
    }
}

impl Call {
    /// Waits for the next answer.
    pub(crate) async fn next(&mut self) -> Result<Answer, LinkError> {
        let lost = || LinkError::Lost { address: self.address.clone(), reason: "nothing comes any more".into() };
        match self.answers.recv().await.unwrap_or_else(|| Err(lost()))? {
            Answer::Failure(reason) => Err(LinkError::Failed { address: self.address.clone(), reason }),
            Answer::OtherCluster(theirs) => {
                Err(LinkError::OtherCluster { address: self.address.clone(), theirs, own: self.cluster })
            }
            answer => Ok(answer),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.waiting.callers).by_number.remove(&self.number);
    }
}

impl Waiting {
    fn enter(&self, number: u64) -> Result<mpsc::UnboundedReceiver<Result<Answer, LinkError>>, LinkError> {
        let mut callers = lock(&self.callers);
        if let Some(error) = &callers.ended {
            return Err(error.clone());
        }
        let (answer, answers) = mpsc::unbounded_channel();
        callers.by_number.insert(number, answer);
        Ok(answers)
    }

    /// Passes an answer on; whoever asked may have gone.
    fn answer(&self, number: u64, answer: Answer) {
        if let Some(caller) = lock(&self.callers).by_number.get(&number) {
            let _ = caller.send(Ok(answer));
        }
    }

    fn end(&self, error: LinkError) {
        let mut callers = lock(&self.callers);
        for (_, caller) in callers.by_number.drain() {
            let _ = caller.send(Err(error.clone()));
        }
        callers.ended = Some(error);
    }

    fn has_ended(&self) -> bool {
        lock(&self.callers).ended.is_some()
    }

    fn is_empty(&self) -> bool {
        lock(&self.callers).by_number.is_empty()
    }
}

/// The life of one connection, on the thread that sends.
fn carry(transport: &Arc<dyn Transport>, address: &str, mut frames: mpsc::Receiver<Vec<u8>>, waiting: &Arc<Waiting>) {
    let connection = match open_service(transport, address, SERVICE) {
        Ok(connection) => connection,
        Err(error) => return refuse_all(address, &error, frames, waiting),
    };
    let Connection { mut sender, mut receiver, closer, .. } = connection;
    receiver.set_idle_deadline(SILENCE_MAX);
    sender.set_stall_deadline(SILENCE_MAX);
    let receiving = {
        let (waiting, address, closer) = (waiting.clone(), address.to_owned(), closer.clone());
        let thread = std::thread::Builder::new().name("raft-link-in".into());
        thread.spawn(move || {
            let reason = hear(&mut *receiver, &waiting);
            waiting.end(LinkError::Lost { address, reason });
            closer.close();
        })
    };
    let Ok(receiving) = receiving else {
        return waiting.end(LinkError::Lost { address: address.to_owned(), reason: "no thread".into() });
    };
    if let Err(error) = speak(&mut *sender, &mut frames, waiting) {
        waiting.end(LinkError::Lost { address: address.to_owned(), reason: error.to_string() });
    }
    closer.close();
    let _ = receiving.join();
}

/// Nobody is there. Requests handed over until the channel is closed were not sent either.
fn refuse_all(address: &str, error: &SourceError, mut frames: mpsc::Receiver<Vec<u8>>, waiting: &Waiting) {
    frames.close();
    waiting.end(LinkError::Unreachable { address: address.to_owned(), reason: error.to_string() });
}

/// Sends what is handed over, until nobody can hand over more or the connection ends.
fn speak(
    sender: &mut dyn FrameSender,
    frames: &mut mpsc::Receiver<Vec<u8>>,
    waiting: &Waiting,
) -> Result<(), SendError> {
    while let Some(frame) = frames.blocking_recv() {
        if lock(&waiting.callers).ended.is_some() {
            return Ok(());
        }
        sender.send(&frame, &[])?;
        while let Ok(frame) = frames.try_recv() {
            sender.send(&frame, &[])?;
        }
        sender.flush()?;
    }
    sender.finish()
}

/// Passes answers on until the connection ends; says why it did.
fn hear(receiver: &mut dyn FrameReceiver, waiting: &Waiting) -> String {
    loop {
        match receiver.receive() {
            Ok(Some(frame)) => match Answer::decode(frame) {
                Ok((number, answer)) => waiting.answer(number, answer),
                Err(error) => return error.to_string(),
            },
            Ok(None) => return "the peer finished".into(),
            Err(ReceiveError::TimedOut { .. }) if waiting.is_empty() => {}
            Err(error) => return error.to_string(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

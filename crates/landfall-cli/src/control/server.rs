//! Owns the answering side: a thread that accepts, and one for each request.
//!
//! It never decides what an answer says, and never speaks to another user's process.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Answer, REQUEST_BYTES_MAX, Reply, Request, socket};
use crate::failure::Failure;

/// Requests that are answered at one time.
const CONVERSATIONS_MAX: usize = 32;
/// Whoever connects has this long to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Whoever asks has this long to take some bytes of the answer.
const REPLY_DEADLINE: Duration = Duration::from_secs(60);

/// A control socket that is being answered. Dropping it takes the socket away.
pub(crate) struct ControlServer {
    data: PathBuf,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Answers requests in `data`, which this process owns.
    pub(crate) fn start(data: &Path, answer: Arc<dyn Answer>) -> io::Result<Self> {
        let listener = socket::listen(data)?;
        let closing = Arc::new(AtomicBool::new(false));
        let accepting = closing.clone();
        let acceptor = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_until_closing(&listener, &accepting, &answer))?;
        Ok(Self { data: data.to_owned(), closing, acceptor: Some(acceptor) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // The acceptor sleeps in `accept`: a connection wakes it.
        let woken = socket::connect(&self.data).is_ok_and(|stream| stream.is_some());
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            acceptor.join().expect("the acceptor does not panic");
        }
        if let Err(error) = socket::remove(&self.data) {
            tracing::debug!("the control socket in {} stays behind: {error}", self.data.display());
        }
    }
}

fn accept_until_closing(listener: &UnixListener, closing: &AtomicBool, answer: &Arc<dyn Answer>) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if closing.load(Ordering::Acquire) {
            return;
        }
        match stream {
            Ok(stream) => admit(stream, answer, &busy),
            Err(error) => {
                tracing::warn!("cannot accept a control connection: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn admit(stream: UnixStream, answer: &Arc<dyn Answer>, busy: &Arc<AtomicUsize>) {
    if !socket::is_own_user(&stream) {
        return refuse(stream, Failure::new("this process answers only its own user and root"));
    }
    if busy.fetch_add(1, Ordering::AcqRel) >= CONVERSATIONS_MAX {
        busy.fetch_sub(1, Ordering::AcqRel);
        return refuse(stream, Failure::new("too many requests at one time").next("try again in a moment"));
    }
    let (answer, busy_after) = (answer.clone(), busy.clone());
    let started = std::thread::Builder::new().name("control request".to_owned()).spawn(move || {
        if let Err(error) = converse(&stream, &*answer) {
            tracing::debug!("a control connection ended early: {error}");
        }
        busy_after.fetch_sub(1, Ordering::AcqRel);
    });
    if let Err(error) = started {
        busy.fetch_sub(1, Ordering::AcqRel);
        tracing::warn!("cannot answer a control connection: {error}");
    }
}

fn refuse(stream: UnixStream, failure: Failure) {
    let refused =
        stream.set_write_timeout(Some(REQUEST_DEADLINE)).and_then(|()| send(&stream, &Reply::Failed(failure)));
    if let Err(error) = refused {
        tracing::debug!("a control connection ended early: {error}");
    }
}

fn converse(stream: &UnixStream, answer: &dyn Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_DEADLINE))?;
    stream.set_write_timeout(Some(REPLY_DEADLINE))?;
    let mut line = String::new();
    BufReader::new(stream).take(REQUEST_BYTES_MAX).read_line(&mut line)?;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let failure = Failure::new("the server does not know this request").because(&error);
            return send(stream, &Reply::Failed(failure.next("restart `landfall serve` with this version")));
        }
    };
    let mut writer = BufWriter::with_capacity(64 * 1024, stream);
    let mut broken = None;
    let result = answer.answer(&request, &mut |item| {
        if broken.is_none() {
            broken = send(&mut writer, &Reply::Item(item)).err();
        }
    });
    if let Some(error) = broken {
        return Err(error);
    }
    send(&mut writer, &result.map_or_else(Reply::Failed, Reply::Done))?;
    writer.flush()
}

fn send(mut writer: impl Write, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line)
}

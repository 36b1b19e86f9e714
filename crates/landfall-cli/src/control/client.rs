//! Owns the asking side: it reaches the process that has a data directory open and reads its answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{REPLY_BYTES_MAX, Reply, Request, socket};
use crate::failure::Failure;
use crate::reports::{Item, Report};

/// A process that has a data directory open.
pub(crate) struct Server {
    stream: UnixStream,
}

impl Server {
    /// Reaches the process that has `data` open; nothing if none has.
    pub(crate) fn find(data: &Path) -> Result<Option<Self>, Failure> {
        let stream = socket::connect(data)
            .map_err(|error| Failure::new(format!("cannot ask the server of {}", data.display())).because(&error))?;
        Ok(stream.map(|stream| Self { stream }))
    }

    /// Asks, and tells every item of the answer. It waits as long as the server works.
    pub(crate) fn ask(self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let lost = |error: io::Error| {
            Failure::new("the server ended while it answered")
                .because(&error)
                .next("look at the output of `landfall serve`")
        };
        let mut line = serde_json::to_vec(request).expect("requests are plain data");
        line.push(b'\n');
        (&self.stream).write_all(&line).map_err(lost)?;
        let mut reader = BufReader::with_capacity(64 * 1024, &self.stream);
        loop {
            match receive(&mut reader).map_err(lost)? {
                Reply::Item(item) => tell(item),
                Reply::Done(report) => return Ok(report),
                Reply::Failed(failure) => return Err(failure),
            }
        }
    }
}

fn receive(reader: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    if reader.take(REPLY_BYTES_MAX).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

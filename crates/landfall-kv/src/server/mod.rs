//! Owns the sockets of clients: who is connected, when their bytes are read, when their answers go out.

mod conversation;
mod cursors;
mod introspection;
mod queue;
mod survey;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use conversation::{After, Conversation};

use crate::limits::{CONNECTIONS_MAX, OUTPUT_KEPT_BYTES_MAX, WALKS_AT_ONCE_MAX};
use crate::replica::Replica;
use cursors::Cursors;

/// What all connections of a server share.
#[derive(Debug)]
pub struct Desk {
    /// Where clients connect.
    pub address: String,
    started: Instant,
    connections: AtomicU64,
    connections_ever: AtomicU64,
    commands: AtomicU64,
    cursors: Cursors,
    /// Turns of walks through the keys: each has a stretch of them in memory.
    walks: Arc<Semaphore>,
}

impl Desk {
    /// The desk of a server at `address`.
    pub fn new(address: String) -> Self {
        Self {
            address,
            started: Instant::now(),
            connections: AtomicU64::new(0),
            connections_ever: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            cursors: Cursors::default(),
            walks: Arc::new(Semaphore::new(WALKS_AT_ONCE_MAX)),
        }
    }

    /// A number that no connection had before.
    fn next_id(&self) -> u64 {
        self.connections_ever.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Serves clients until `stop` says so. Whoever is being answered then is answered first.
pub async fn serve<R: Replica>(
    listener: TcpListener,
    replica: Arc<R>,
    desk: Arc<Desk>,
    mut stop: watch::Receiver<Running>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    let conversation = Conversation::new(replica.clone(), desk.clone());
                    connections.spawn(converse(stream, conversation, stop.clone()));
                }
                Ok((stream, _)) => turn_away(&stream),
                // Too many open files, mostly. A pause keeps this from turning in circles until one is closed.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = stop.changed() => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Whether the server goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// It does.
    On,
    /// It ends.
    Stopping,
}

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

fn turn_away(stream: &TcpStream) {
    // The socket is new, so its buffer takes the line; if not, the client sees the connection close.
    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}

async fn converse<R: Replica>(
    mut stream: TcpStream,
    mut conversation: Conversation<R>,
    mut stop: watch::Receiver<Running>,
) {
    conversation.desk().connections.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = talk(&mut stream, &mut conversation, &mut stop).await {
        tracing::debug!(%error, "a connection ended");
    }
    conversation.desk().connections.fetch_sub(1, Ordering::Relaxed);
}

/// One read, all answers, one write: as long as the client goes on.
async fn talk<R: Replica>(
    stream: &mut TcpStream,
    conversation: &mut Conversation<R>,
    stop: &mut watch::Receiver<Running>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    loop {
        input.reserve(READ_BYTES);
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut input) => read?,
            _ = stop.changed() => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
        loop {
            let after = conversation.answer(&mut input).await;
            let output = conversation.output();
            stream.write_all(output).await?;
            output.clear();
            if output.capacity() > OUTPUT_KEPT_BYTES_MAX {
                *output = BytesMut::new();
            }
            match after {
                After::Read => break,
                After::Answer => {}
                After::Close => return stream.shutdown().await,
            }
        }
    }
}

/// Room for one read.
const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;

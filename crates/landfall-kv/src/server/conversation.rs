//! Owns one connection's side of the protocol: bytes in, bytes out, in order. It knows no socket.
//!
//! Writes that stand next to each other in the input are proposed together and awaited together. Reads of one input
//! share one barrier: they were all here when it began.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::queue::Queue;
use super::{Desk, introspection, survey};
use crate::command::{Command, Connection, Read, Server, Survey, parse, texts};
use crate::keyspace::{Clock, Step, read};
use crate::limits::{OUTPUT_BYTES_MAX, REPLY_BYTES_MAX, WRITES_BYTES_MAX};
use crate::replica::{Replica, Unavailable, Waiting};
use crate::reply::{Reply, Version};
use crate::request::Cutter;

/// What the connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Write the output, then read more.
    Read,
    /// Write the output, then let the rest of the input be answered.
    Answer,
    /// Write the output, then close.
    Close,
}

/// One client.
#[derive(Debug)]
pub struct Conversation<R> {
    replica: Arc<R>,
    desk: Arc<Desk>,
    id: u64,
    name: Bytes,
    version: Version,
    reads: Reads,
    queue: Option<Queue>,
    cutter: Cutter,
    output: BytesMut,
    /// Writes that wait for company.
    steps: Vec<Step>,
    steps_bytes: usize,
    /// What the replies to them take at most.
    replies_bytes: usize,
    freshness: Freshness,
    /// The log's time for reads, once one of this input asked for it.
    log_time_ms: Option<u64>,
}

/// Which state reads are answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Linearizable,
    Stale,
}

/// What is known about the state since the input arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Freshness {
    Unknown,
    /// All that was acknowledged before the input arrived has been applied.
    Fresh,
    Refused(Unavailable),
}

impl<R: Replica> Conversation<R> {
    /// A client who has not said anything yet.
    pub fn new(replica: Arc<R>, desk: Arc<Desk>) -> Self {
        let id = desk.next_id();
        Self {
            replica,
            desk,
            id,
            name: Bytes::new(),
            version: Version::default(),
            reads: Reads::Linearizable,
            queue: None,
            cutter: Cutter::default(),
            output: BytesMut::new(),
            steps: Vec::new(),
            steps_bytes: 0,
            replies_bytes: 0,
            freshness: Freshness::Unknown,
            log_time_ms: None,
        }
    }

    /// What all connections share.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Answers that have not gone out. The connection writes and clears them.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Answers every request that is whole, and takes it out of the input.
    pub async fn answer(&mut self, input: &mut BytesMut) -> After {
        self.freshness = Freshness::Unknown;
        self.log_time_ms = None;
        let mut commands = 0;
        let after = loop {
            if self.output.len() >= OUTPUT_BYTES_MAX {
                break After::Answer;
            }
            match self.cutter.cut(input) {
                Ok(None) => break After::Read,
                Ok(Some(length)) => {
                    let request = input.split_to(length).freeze();
                    commands += 1;
                    if self.take(&request).await == After::Close {
                        break After::Close;
                    }
                }
                Err(error) => {
                    self.settle().await;
                    self.say(&Reply::error(format!("ERR Protocol error: {error}")));
                    break After::Close;
                }
            }
        };
        self.settle().await;
        self.desk.commands.fetch_add(commands, Ordering::Relaxed);
        after
    }

    async fn take(&mut self, request: &Bytes) -> After {
        let arguments = self.cutter.arguments(request);
        if arguments.count() == 0 {
            return After::Read;
        }
        let parsed = parse(arguments);
        match (parsed, self.queue.is_some()) {
            (Ok(Command::Connection(command)), _) if ends_queue(&command) => self.connection(command).await,
            (Ok(command), true) => self.enqueue(command).await,
            (Ok(command), false) => self.perform(command).await,
            (Err(refusal), _) => {
                self.queue.iter_mut().for_each(Queue::spoil);
                self.reply(&refusal.into()).await;
                After::Read
            }
        }
    }

    async fn enqueue(&mut self, command: Command) -> After {
        let Some(queue) = &mut self.queue else { return After::Read };
        let reply = match queue.push(command) {
            Ok(()) => Reply::Status("QUEUED".into()),
            Err(refusal) => {
                queue.spoil();
                refusal.into()
            }
        };
        self.reply(&reply).await;
        After::Read
    }

    async fn perform(&mut self, command: Command) -> After {
        match command {
            Command::Read(command) => self.read(&command).await,
            Command::Write(command) => self.write(Step::Write(command)).await,
            Command::Once(command) => self.write(Step::Once(command)).await,
            Command::Survey(command) => self.survey(command).await,
            Command::Server(command) => self.server(&command).await,
            Command::Connection(command) => return self.connection(command).await,
        }
        After::Read
    }

    /// Lets a write wait for those behind it in the input.
    async fn write(&mut self, step: Step) {
        let weight = step.weight();
        if weight > WRITES_BYTES_MAX {
            return self.reply(&Reply::refused(texts::WRITE_TOO_LARGE)).await;
        }
        let reply_bytes = step.reply_bytes_max();
        if self.steps_bytes + weight > WRITES_BYTES_MAX || self.replies_bytes + reply_bytes > REPLY_BYTES_MAX {
            self.settle().await;
        }
        self.steps_bytes += weight;
        self.replies_bytes += reply_bytes;
        self.steps.push(step);
    }

    /// Proposes the writes that wait, and says their replies.
    async fn settle(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        (self.steps_bytes, self.replies_bytes) = (0, 0);
        self.log_time_ms = None;
        let steps = std::mem::take(&mut self.steps);
        let slots: Vec<_> = steps.iter().map(Step::first_key).collect();
        match self.replica.propose(steps).await {
            Ok(replies) => {
                debug_assert_eq!(replies.len(), slots.len());
                replies.iter().for_each(|reply| self.say(reply));
                // What was applied with them includes all that was acknowledged before they came.
                self.freshness = Freshness::Fresh;
            }
            Err(unavailable) => {
                for key in slots {
                    self.say(&unavailable.refusal(key.as_deref()));
                }
            }
        }
    }

    async fn read(&mut self, command: &Read) {
        if let Err(unavailable) = self.refresh().await {
            return self.say(&unavailable.refusal(Some(command.first_key())));
        }
        let clock = match command {
            Read::TimeLeft(..) => self.replica.clock(),
            _ => Clock::log(*self.log_time_ms.get_or_insert_with(|| self.replica.log_time_ms())),
        };
        let look = || read(clock, command, &*self.replica);
        let answer = match self.replica.may_wait() {
            Waiting::Never => look(),
            Waiting::Sometimes => tokio::task::block_in_place(look),
        };
        let reply = answer.unwrap_or_else(|unavailable| unavailable.refusal(Some(command.first_key())));
        self.say(&reply);
    }

    async fn survey(&mut self, command: Survey) {
        if let Err(unavailable) = self.refresh().await {
            return self.say(&unavailable.refusal(None));
        }
        let (replica, desk) = (self.replica.clone(), self.desk.clone());
        // Nobody closes it.
        let Ok(turn) = self.desk.walks.clone().acquire_owned().await else { return };
        let walk = tokio::task::spawn_blocking(move || {
            let walked = survey::survey(&command, &*replica, &desk.cursors);
            drop(turn);
            walked
        });
        let reply = match walk.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(unavailable)) => unavailable.refusal(None),
            Err(_) => Unavailable::Stopping.refusal(None),
        };
        self.say(&reply);
    }

    /// Returns once a read may be answered from here. Writes that stand before it have taken effect.
    async fn refresh(&mut self) -> Result<(), Unavailable> {
        self.settle().await;
        if self.reads == Reads::Stale {
            return self.replica.check_soundness();
        }
        if self.freshness == Freshness::Unknown {
            self.freshness = match self.replica.barrier().await {
                Ok(()) => Freshness::Fresh,
                Err(unavailable) => Freshness::Refused(unavailable),
            };
        }
        match &self.freshness {
            Freshness::Refused(unavailable) => Err(unavailable.clone()),
            Freshness::Fresh | Freshness::Unknown => Ok(()),
        }
    }

    async fn server(&mut self, command: &Server) {
        let reply = match command {
            Server::Describe(sections) => introspection::info(sections, &self.desk, &self.replica.standing()),
            Server::Settings(patterns) => introspection::settings(patterns),
            Server::Commands(names) => introspection::commands(names.as_deref()),
            Server::CommandCount => introspection::command_count(),
            Server::CommandDocumentation(names) => introspection::documentation(names),
            Server::Status => Reply::Bulk(self.replica.status().await.to_string().into()),
            Server::Audit => match self.replica.audit().await {
                Ok(audit) => Reply::Bulk(audit.to_string().into()),
                Err(unavailable) => unavailable.refusal(None),
            },
            Server::Remove(member) => match self.replica.remove(*member).await {
                Ok(()) => Reply::Ok,
                Err(unavailable) => unavailable.refusal(None),
            },
        };
        self.reply(&reply).await;
    }

    async fn connection(&mut self, command: Connection) -> After {
        let reply = match command {
            Connection::Execute => match self.queue.take().map(Queue::finish) {
                Some(Ok(transaction)) => {
                    self.write(transaction).await;
                    return After::Read;
                }
                Some(Err(refusal)) => refusal.into(),
                None => Reply::refused("ERR EXEC without MULTI"),
            },
            Connection::Quit => {
                self.reply(&Reply::Ok).await;
                return After::Close;
            }
            other => {
                // What was written before is answered before: `HELLO` may change how answers look.
                self.settle().await;
                self.small_talk(other)
            }
        };
        self.reply(&reply).await;
        After::Read
    }

    /// Commands that change nothing but the connection.
    fn small_talk(&mut self, command: Connection) -> Reply {
        match command {
            Connection::Ping(None) => Reply::Status("PONG".into()),
            Connection::Ping(Some(text)) | Connection::Echo(text) => Reply::Bulk(text),
            Connection::Name if self.name.is_empty() => Reply::Nothing,
            Connection::Name => Reply::Bulk(self.name.clone()),
            Connection::Id => Reply::Integer(i64::try_from(self.id).unwrap_or(i64::MAX)),
            Connection::Describe => introspection::client(self.id, &self.name, self.version),
            Connection::Hello(version, name) => {
                self.version = version.unwrap_or(self.version);
                self.name = name.unwrap_or_else(|| self.name.clone());
                introspection::hello(self.version, self.id, &self.replica.standing())
            }
            Connection::Begin if self.queue.is_some() => Reply::refused("ERR MULTI calls can not be nested"),
            Connection::Discard => match self.queue.take() {
                Some(_) => Reply::Ok,
                None => Reply::refused("ERR DISCARD without MULTI"),
            },
            accepted => {
                self.accept(accepted);
                Reply::Ok
            }
        }
    }

    /// Commands whose answer is always the word of success.
    fn accept(&mut self, command: Connection) {
        match command {
            Connection::SetName(name) => self.name = name,
            Connection::AllowStaleReads => self.reads = Reads::Stale,
            Connection::ForbidStaleReads => self.reads = Reads::Linearizable,
            Connection::Begin => self.queue = Some(Queue::default()),
            _ => {}
        }
    }

    /// Says something after the replies of the writes that stand before it.
    async fn reply(&mut self, reply: &Reply) {
        self.settle().await;
        self.say(reply);
    }

    fn say(&mut self, reply: &Reply) {
        reply.encode(self.version, &mut self.output);
    }
}

/// Commands that are carried out at once although commands are being queued.
fn ends_queue(command: &Connection) -> bool {
    matches!(command, Connection::Begin | Connection::Execute | Connection::Discard | Connection::Quit)
}

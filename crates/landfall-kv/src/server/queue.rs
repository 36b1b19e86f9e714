//! Owns what is queued between `MULTI` and `EXEC`. It stays in the connection until it becomes one step of the log.

use crate::command::{Command, Connection, Refusal, texts};
use crate::keyspace::Step;
use crate::limits::{QUEUED_COMMANDS_MAX, WRITES_BYTES_MAX};
use crate::reply::Reply;

/// A transaction that is being put together.
#[derive(Debug, Default)]
pub(super) struct Queue {
    steps: Vec<Step>,
    bytes: usize,
    /// A command was refused: `EXEC` will refuse all.
    is_spoilt: bool,
}

impl Queue {
    /// Takes a command, or says why the transaction cannot hold it.
    pub(super) fn push(&mut self, command: Command) -> Result<(), Refusal> {
        let step = step(command)?;
        self.bytes += step.weight();
        if self.bytes > WRITES_BYTES_MAX || self.steps.len() == QUEUED_COMMANDS_MAX {
            return Err(Refusal::fixed(texts::WRITE_TOO_LARGE));
        }
        self.steps.push(step);
        Ok(())
    }

    /// Notes that a command was refused.
    pub(super) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    /// The finished transaction.
    pub(super) fn finish(self) -> Result<Step, Refusal> {
        if self.is_spoilt {
            return Err(Refusal::fixed("EXECABORT Transaction discarded because of previous errors."));
        }
        Ok(Step::Transaction(self.steps))
    }
}

fn step(command: Command) -> Result<Step, Refusal> {
    Ok(match command {
        Command::Read(read) => Step::Read(read),
        Command::Write(write) => Step::Write(write),
        Command::Once(once) => Step::Once(once),
        Command::Connection(Connection::Ping(None)) => Step::Say(Reply::Status("PONG".into())),
        Command::Connection(Connection::Ping(Some(text)) | Connection::Echo(text)) => Step::Say(Reply::Bulk(text)),
        Command::Connection(Connection::Select) => Step::Say(Reply::Ok),
        Command::Survey(_) | Command::Connection(_) | Command::Server(_) => {
            return Err(Refusal::fixed("ERR Command not allowed inside a transaction"));
        }
    })
}

//! A bank whose accounts are replicated: everything that a service of your own needs, in one file.
//!
//! `cargo run -p landfall-raft --example bank` lets three members run in this process, moves money, lets the leader go, and has all members
//! prove that they hold the same accounts.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_raft::landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
use landfall_raft::landfall::net::PlainTransport;
use landfall_raft::{
    Aim, JoinConfig, LOG_KEPT_BYTES_DEFAULT, LogTime, Node, NodeConfig, ReadError, Role, SectionId, SectionSchema,
    Service, Timing, Transaction,
};
use serde::{Deserialize, Serialize};

/// Sections are numbered in the order of their names: `accounts`, `config`.
const ACCOUNTS: SectionId = SectionId(0);
const PATIENCE: Duration = Duration::from_secs(60);

struct Bank;

#[derive(Debug, Serialize, Deserialize)]
enum Command {
    Deposit { account: String, cents: u64 },
    Transfer { from: String, to: String, cents: u64 },
}

#[derive(Debug, PartialEq)]
enum Reply {
    Balance(u64),
    NotEnough { balance: u64 },
}

impl Service for Bank {
    type Command = Command;
    type Reply = Reply;

    fn sections(&self) -> Vec<SectionSchema> {
        // A joiner serves as soon as the vital sections are there; the rest follows while it does.
        let section = |name: &str, priority| SectionSchema {
            name: StateName::new(name).expect("a legal name"),
            priority,
            range: KeyRange::default(),
        };
        vec![section("accounts", SectionPriority::Bulk), section("config", SectionPriority::Vital)]
    }

    fn apply(&self, _: LogTime, command: &Command, state: &mut Transaction<'_>) -> Result<Reply, ReadError> {
        match command {
            Command::Deposit { account, cents } => {
                let balance = balance(state, account)? + cents;
                put(state, account, balance)?;
                Ok(Reply::Balance(balance))
            }
            Command::Transfer { from, to, cents } => {
                let balance_before = balance(state, from)?;
                let Some(rest) = balance_before.checked_sub(*cents) else {
                    return Ok(Reply::NotEnough { balance: balance_before });
                };
                put(state, from, rest)?;
                let received = balance(state, to)? + cents;
                put(state, to, received)?;
                Ok(Reply::Balance(rest))
            }
        }
    }
}

fn balance(state: &mut Transaction<'_>, account: &str) -> Result<u64, ReadError> {
    Ok(state.get(ACCOUNTS, account.as_bytes())?.map_or(0, |bytes| cents_of(&bytes)))
}

fn put(state: &mut Transaction<'_>, account: &str, cents: u64) -> Result<(), ReadError> {
    Ok(state.put(ACCOUNTS, account.to_owned(), cents.to_le_bytes().to_vec())?)
}

fn cents_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn config(directory: &Path, member: u64) -> NodeConfig {
    NodeConfig {
        member,
        state: StateName::new("bank").expect("a legal name"),
        directory: directory.join(member.to_string()),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        clients: format!("bank-{member}.example:80"),
        transport: Arc::new(PlainTransport),
        cache_bytes: 64 * 1024 * 1024,
        log_kept_bytes_max: LOG_KEPT_BYTES_DEFAULT,
        timing: Timing::default(),
        back_pressure: None,
    }
}

pub(crate) async fn run(directory: &Path) -> Result<String, Box<dyn Error>> {
    let first = Node::open(Bank, config(directory, 1)).await?;
    first.bootstrap().await?;
    first.wait_for(PATIENCE, |status| status.role == Role::Leader).await.map_err(|_| "nobody leads")?;
    first.propose(&Command::Deposit { account: "ann".into(), cents: 1000 }).await?;

    // Two more join while the first one serves. They vote once their accounts were compared with the others'.
    let join =
        JoinConfig { seeds: vec![first.address().peers], patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let mut nodes = vec![first];
    for member in [2, 3] {
        let node = Node::join(Bank, config(directory, member), join.clone()).await?;
        node.wait_for(PATIENCE, |status| status.role == Role::Voter).await.map_err(|_| "no vote")?;
        nodes.push(node);
    }
    let transfer = Command::Transfer { from: "ann".into(), to: "bob".into(), cents: 300 };
    assert_eq!(nodes[0].propose(&transfer).await?, Reply::Balance(700));

    // The leader goes; another one takes over, and nothing that was acknowledged is lost.
    nodes.remove(0).close().await;
    let status = nodes[0].wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|l| l.member != 1)).await;
    let leader = status.map_err(|_| "nobody took over")?.leader.ok_or("no leader")?;
    let new = nodes.iter().find(|node| node.member() == leader.member).ok_or("a stranger leads")?;
    new.read_linearizable().await?;
    let bob = new.state().get(ACCOUNTS, b"bob")?.map_or(0, |bytes| cents_of(&bytes));
    let audit = new.audit(PATIENCE.min(Duration::from_secs(3))).await?;
    let report = format!("bob has {bob} cents; at position {}: {:?}", audit.position, audit.verdict);
    for node in nodes {
        node.close().await;
    }
    Ok(report)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    println!("{}", run(directory.path()).await?);
    Ok(())
}

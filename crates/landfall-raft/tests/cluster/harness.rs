//! A small replicated map, and members of it in this process, each in a directory of its own, over loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_raft::landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
use landfall_raft::landfall::net::PlainTransport;
use landfall_raft::{
    Aim, JoinConfig, LOG_KEPT_BYTES_DEFAULT, LogTime, Node, NodeConfig, NodeStatus, ProposeError, ReadError, Role,
    SectionId, SectionSchema, Service, Timing, Transaction,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Long enough for a machine with other things to do; nothing waits this long unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const DATA: SectionId = SectionId(1);

pub(crate) struct Map;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    Set { key: String, value: Vec<u8> },
    Add { key: String, amount: u64 },
}

impl Service for Map {
    type Command = Command;
    type Reply = u64;

    fn sections(&self) -> Vec<SectionSchema> {
        let section = |name: &str, priority| SectionSchema {
            name: StateName::new(name).unwrap(),
            priority,
            range: KeyRange::default(),
        };
        vec![section("config", SectionPriority::Vital), section("data", SectionPriority::Bulk)]
    }

    fn apply(&self, time: LogTime, command: &Command, state: &mut Transaction<'_>) -> Result<u64, ReadError> {
        match command {
            Command::Set { key, value } => {
                state.put(DATA, key.clone(), value.clone())?;
                Ok(time.0)
            }
            Command::Add { key, amount } => {
                let sum = number(state.get(DATA, key.as_bytes())?.as_deref()) + amount;
                state.put(DATA, key.clone(), sum.to_le_bytes().to_vec())?;
                Ok(sum)
            }
        }
    }
}

/// What an [`Command::Add`] left.
pub(crate) fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

pub(crate) fn add(key: &str, amount: u64) -> Command {
    Command::Add { key: key.to_owned(), amount }
}

pub(crate) fn set(key: String, value: Vec<u8>) -> Command {
    Command::Set { key, value }
}

pub(crate) struct Stage {
    pub(crate) directory: TempDir,
    pub(crate) log_kept_bytes_max: u64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), log_kept_bytes_max: LOG_KEPT_BYTES_DEFAULT }
    }

    pub(crate) fn config(&self, member: u64) -> NodeConfig {
        let config = config(&self.directory.path().join(member.to_string()), member);
        NodeConfig { log_kept_bytes_max: self.log_kept_bytes_max, ..config }
    }

    /// A cluster of one.
    pub(crate) async fn first(&self) -> Node<Map> {
        self.first_with(self.config(1)).await
    }

    /// A cluster of one, opened as its configuration says.
    pub(crate) async fn first_with(&self, config: NodeConfig) -> Node<Map> {
        let node = Node::open(Map, config).await.unwrap();
        node.bootstrap().await.unwrap();
        until(&node, |status| status.role == Role::Leader).await;
        node
    }

    pub(crate) async fn join(&self, member: u64, seed: &Node<Map>, aim: Aim) -> Node<Map> {
        let join = JoinConfig { seeds: vec![seed.address().peers], patience: PATIENCE, aim, commit_hook: None };
        Node::join(Map, self.config(member), join).await.unwrap()
    }

    /// Three members that all vote; the first one leads.
    pub(crate) async fn three(&self) -> Vec<Node<Map>> {
        let first = self.first().await;
        let mut nodes = vec![first];
        for member in [2, 3] {
            let node = self.join(member, &nodes[0], Aim::Voter).await;
            until(&node, |status| status.role == Role::Voter).await;
            nodes.push(node);
        }
        nodes
    }

    /// Opens a member again, where its directory says.
    pub(crate) async fn reopen(&self, member: u64, at: &str) -> Node<Map> {
        Node::open(Map, NodeConfig { listen: at.to_owned(), ..self.config(member) }).await.unwrap()
    }
}

fn config(directory: &Path, member: u64) -> NodeConfig {
    NodeConfig {
        member,
        state: StateName::new("map").unwrap(),
        directory: directory.to_owned(),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        clients: format!("clients-of-{member}"),
        transport: Arc::new(PlainTransport),
        cache_bytes: 8 * 1024 * 1024,
        log_kept_bytes_max: LOG_KEPT_BYTES_DEFAULT,
        timing: Timing {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(800),
            election_max: Duration::from_millis(1600),
        },
        back_pressure: None,
    }
}

pub(crate) async fn until<S: Service>(node: &Node<S>, is_met: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    node.wait_for(PATIENCE, is_met).await.unwrap_or_else(|status| panic!("it never came to that: {status:#?}"))
}

/// Proposes to whoever leads, until it is confirmed; for commands that may take effect twice.
pub(crate) async fn propose_somewhere(nodes: &[Node<Map>], command: &Command) -> u64 {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "nobody took the command");
        for node in nodes {
            match node.propose(command).await {
                Ok(reply) => return reply,
                Err(
                    ProposeError::NotLeader(_)
                    | ProposeError::NoQuorum
                    | ProposeError::Unknown
                    | ProposeError::Unconfirmed,
                ) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        let led = |status: &NodeStatus| status.leader.is_some();
        // Whoever leads may be none of these; then the deadline tells.
        let _ = nodes[0].wait_for(Duration::from_millis(100), led).await;
    }
}

/// Bytes that nothing makes shorter.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// All entries of the data section.
pub(crate) fn content<S: Service>(node: &Node<S>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let from = found.last().map_or_else(Vec::new, |(key, _)| [&key[..], b"\0"].concat());
        let page = node.state().scan(DATA, &from, 1000).unwrap();
        let is_last = page.len() < 1000;
        found.extend(page.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        if is_last {
            return found;
        }
    }
}

pub(crate) async fn close(nodes: Vec<Node<Map>>) {
    close_all(nodes).await;
}

pub(crate) async fn close_all<S: Service>(nodes: Vec<Node<S>>) {
    for node in nodes {
        node.close().await;
    }
}

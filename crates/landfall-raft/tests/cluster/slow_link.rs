//! A link that takes longer for entries than openraft waits for an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::between::{Between, with_between};
use crate::harness::{Map, PATIENCE, Stage, close, content, set, until};
use landfall_raft::landfall::net::{ConnectError, Connection, ListenError, Listener, PlainTransport, Transport};
use landfall_raft::{Aim, JoinConfig, Node, NodeConfig, Role};

/// Loopback, but long frames that this side sends take their time.
#[derive(Clone, Default)]
struct SlowTransport {
    long_frames: Arc<AtomicU64>,
}

/// Longer than a heartbeat of the tests, shorter than it takes to stand for election.
const LONG: Duration = Duration::from_millis(400);
const LONG_FRAME_BYTES: usize = 500_000;

impl Transport for SlowTransport {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        Ok(with_between(PlainTransport.connect(address, deadline)?, self.clone()))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

impl Between for SlowTransport {
    fn leaves(&mut self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        if head.len() + body.len() > LONG_FRAME_BYTES {
            self.long_frames.fetch_add(1, Ordering::AcqRel);
            std::thread::sleep(LONG);
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_entries_pass_a_slow_link_and_are_sent_once() {
    const ENTRIES: u64 = 5;
    let stage = Stage::new();
    let slow = Arc::new(SlowTransport::default());
    let first = Node::open(Map, NodeConfig { transport: slow.clone(), ..stage.config(1) }).await.unwrap();
    first.bootstrap().await.unwrap();
    until(&first, |status| status.role == Role::Leader).await;
    let join =
        JoinConfig { seeds: vec![first.address().peers], patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let second = Node::join(Map, stage.config(2), join).await.unwrap();
    until(&second, |status| status.role == Role::Voter).await;
    let before = slow.long_frames.load(Ordering::Acquire);
    for number in 0..ENTRIES {
        first.propose(&set(format!("long {number}"), vec![7; 900_000])).await.unwrap();
    }
    let position = first.status().applied;
    until(&second, |status| status.applied >= position).await;
    assert_eq!(content(&second), content(&first));
    assert_eq!(slow.long_frames.load(Ordering::Acquire) - before, ENTRIES);
    close(vec![first, second]).await;
}

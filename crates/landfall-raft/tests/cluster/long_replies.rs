//! Commands that are short and whose replies are long, many at the same time.

use crate::harness::{Command, DATA, Map, Stage, add, number, until};
use landfall_raft::{
    LogTime, Node, ProposeError, REPLIES_BYTES_MAX, ReadError, Role, SectionSchema, Service, Transaction,
};

/// The map; its replies count as a third of what is kept together, and a little.
struct Talkative;

impl Service for Talkative {
    type Command = Command;
    type Reply = u64;

    fn sections(&self) -> Vec<SectionSchema> {
        Map.sections()
    }

    fn apply(&self, time: LogTime, command: &Command, state: &mut Transaction<'_>) -> Result<u64, ReadError> {
        Map.apply(time, command, state)
    }

    fn reply_bytes(&self, _: &u64) -> usize {
        REPLIES_BYTES_MAX / 3 + 1
    }
}

// On one thread: what is proposed without a pause stands in one entry.
#[tokio::test]
async fn of_long_replies_that_share_an_entry_those_that_do_not_fit_are_told_to_be_dropped_and_all_commands_took_effect()
{
    const COMMANDS: u64 = 16;
    let stage = Stage::new();
    let node = Node::open(Talkative, stage.config(1)).await.unwrap();
    node.bootstrap().await.unwrap();
    until(&node, |status| status.role == Role::Leader).await;
    let proposed: Vec<_> = (0..COMMANDS).map(|_| node.submit(&add("sum", 1)).unwrap()).collect();
    let mut heard = Vec::new();
    for proposed in proposed {
        heard.push(proposed.await);
    }
    assert_eq!(heard[..2], [Ok(1), Ok(2)]);
    assert!(heard[2..].iter().all(|heard| *heard == Err(ProposeError::ReplyDropped)), "{heard:?}");
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), COMMANDS);
    assert_eq!(node.propose(&add("sum", 1)).await, Ok(COMMANDS + 1), "alone, it is answered");
    node.close().await;
}

//! How often members are troubled by one that cannot be helped, by a clock that the test moves.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::fickle::{FickleMap, POISON};
use crate::gate::Gate;
use crate::harness::{PATIENCE, Stage, add, close_all, set, until};
use landfall_raft::landfall::keyed::Milestone;
use landfall_raft::{Aim, JoinConfig, Node, NodeConfig, NodeStatus, Role, Verdict};

/// Stops the clock of the test's one thread. While a blocking task runs it does not even move when nobody has anything to do; dropping this ends
/// that task.
fn stop_clock() -> oneshot::Sender<()> {
    let (release, released) = oneshot::channel::<()>();
    tokio::task::spawn_blocking(move || released.blocking_recv());
    tokio::time::pause();
    release
}

/// Less than raft waits for an answer.
const STEP: Duration = Duration::from_millis(200);

/// Lets time pass, and everybody do after each step what it brings.
async fn pass(time: Duration, first: &Node<FickleMap>, node: &Node<FickleMap>) {
    for _ in 0..time.as_millis() / STEP.as_millis() {
        tokio::time::advance(STEP).await;
        first.propose(&add("sum", 1)).await.unwrap();
        let position = first.status().applied;
        until(node, |status| status.applied >= position).await;
    }
}

/// Marks at which a joiner sealed something else than the leader.
fn marks(status: &NodeStatus) -> u64 {
    status.divergences.len() as u64 + status.divergences_forgotten
}

#[tokio::test]
async fn a_joiner_that_cannot_be_healed_has_a_mark_written_less_and_less_often() {
    let stage = Stage::new();
    let first = Node::open(FickleMap::sound(), stage.config(1)).await.unwrap();
    first.bootstrap().await.unwrap();
    until(&first, |status| status.role == Role::Leader).await;
    // What is sealed before it is what the joiner takes.
    assert_eq!(first.audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    first.propose(&set(POISON.into(), vec![])).await.unwrap();
    let (gate, (service, tell)) = (Gate::open_for(u64::MAX), FickleMap::wrong_once_told());
    let seeds = vec![first.address().peers];
    let joining = JoinConfig { seeds, patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let node = Node::join(service, NodeConfig { transport: gate.clone(), ..stage.config(2) }, joining).await.unwrap();
    let is_complete = |status: &NodeStatus| {
        let joined = status.joined.as_ref();
        joined.is_some_and(|joined| joined.reached.iter().any(|(reached, _)| *reached == Milestone::Complete))
    };
    until(&node, is_complete).await;
    gate.close();
    let clock = stop_clock();
    tell.send(()).unwrap();
    let first_mark = async {
        while marks(&node.status()) == 0 {
            pass(STEP, &first, &node).await;
        }
    };
    tokio::time::timeout(PATIENCE, first_mark).await.expect("it is found to differ");
    let mut written = Vec::new();
    for _ in 0..4 {
        pass(Duration::from_secs(15), &first, &node).await;
        written.push(marks(&node.status()));
    }
    // After pauses of 1, 2, 4, 8, 16 and 30 seconds, and one more where a mark was passed over; without longer pauses there would be tens.
    assert!(written[0] >= 3, "{written:?}");
    assert!(written[3] <= 8, "{written:?}");
    assert!(written[3] - written[1] <= 3, "{written:?}");
    tokio::time::resume();
    drop(clock);
    close_all(vec![node, first]).await;
}

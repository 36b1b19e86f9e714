//! Members that vote and go wrong: healed once without giving up log or vote, and out of the way for as long as they are wrong.

use std::sync::Arc;

use crate::fickle::{FickleMap, OWN_KEY, POISON};
use crate::gate::Gate;
use crate::harness::{DATA, PATIENCE, Stage, add, close_all, content, number, set, until};
use landfall_raft::landfall::net::Transport;
use landfall_raft::{
    Aim, CommitHook, JoinConfig, Node, NodeConfig, NodeStatus, ProposeError, ReadBarrierError, Role, Soundness,
    Verdict, Vote,
};

/// Three members that vote, the first of which leads; each goes wrong at so many poisons.
async fn three(stage: &Stage, wrong: [u32; 3], transport_of_third: Option<Arc<dyn Transport>>) -> [Node<FickleMap>; 3] {
    let first = Node::open(FickleMap::wrong(wrong[0]), stage.config(1)).await.unwrap();
    first.bootstrap().await.unwrap();
    until(&first, |status| status.role == Role::Leader).await;
    let join =
        JoinConfig { seeds: vec![first.address().peers], patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let second = Node::join(FickleMap::wrong(wrong[1]), stage.config(2), join.clone()).await.unwrap();
    until(&second, |status| status.role == Role::Voter).await;
    let mut config = stage.config(3);
    config.transport = transport_of_third.unwrap_or(config.transport);
    let third = Node::join(FickleMap::wrong(wrong[2]), config, join).await.unwrap();
    until(&third, |status| status.role == Role::Voter).await;
    [first, second, third]
}

/// Has somebody go wrong, and everybody seal.
async fn poison(leader: &Node<FickleMap>) {
    leader.propose(&set(POISON.into(), vec![])).await.unwrap();
    for _ in 0..10 {
        leader.propose(&add("sum", 1)).await.unwrap();
    }
    assert_eq!(leader.audit(PATIENCE).await.unwrap().verdict, Verdict::Diverged);
}

fn has_told(times: usize) -> impl Fn(&NodeStatus) -> bool {
    move |status| status.different_keys.len() == times
}

fn is_healed(status: &NodeStatus) -> bool {
    !status.different_keys.is_empty() && status.soundness == Soundness::Sound
}

fn voters(status: &NodeStatus) -> usize {
    status.members.iter().filter(|(.., vote)| *vote == Vote::Counts).count()
}

/// Everything that the log says is at a member once, and the same as at the leader.
async fn check_equal(leader: &Node<FickleMap>, node: &Node<FickleMap>, sum: u64) {
    let position = leader.status().applied;
    until(node, |status| status.applied >= position).await;
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), sum);
    assert_eq!(content(node), content(leader));
    assert_eq!(leader.audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
}

/// Members that do not lead neither take commands nor confirm reads.
async fn check_takes_nothing(node: &Node<FickleMap>) {
    assert!(matches!(node.propose(&add("sum", 1)).await, Err(ProposeError::NotLeader(_))));
    assert!(matches!(node.read_linearizable().await, Err(ReadBarrierError::NotLeader(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_goes_wrong_is_healed_and_keeps_its_log_and_its_vote() {
    let stage = Stage::new();
    let [first, second, third] = three(&stage, [0, 0, 1], None).await;
    let term = third.status().term;
    poison(&first).await;
    let status = until(&third, is_healed).await;
    let found = &status.different_keys[0];
    let keys: Vec<_> = found.keys.iter().map(|key| (key.section.as_str(), &key.key[..])).collect();
    assert_eq!((keys, &found.members[..]), (vec![("data", OWN_KEY.as_bytes())], &[1, 2][..]));
    assert_eq!((status.role, status.term, voters(&status)), (Role::Voter, term, 3), "{status:?}");
    check_equal(&first, &third, 10).await;
    // It counts for durability as before, and the two that are left elect one of them.
    second.close().await;
    assert_eq!(first.propose(&add("sum", 1)).await, Ok(11));
    check_applied(&first, &third, 11).await;
    close_all(vec![first, third]).await;
}

async fn check_applied(leader: &Node<FickleMap>, node: &Node<FickleMap>, sum: u64) {
    let position = leader.status().applied;
    until(node, |status| status.applied >= position).await;
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_waits_to_be_healed_takes_nothing_and_does_not_lead() {
    let stage = Stage::new();
    let gate = Gate::open_for(u64::MAX);
    let [first, second, third] = three(&stage, [0, 0, 1], Some(gate.clone())).await;
    gate.close();
    poison(&first).await;
    until(&third, |status| status.soundness == Soundness::Healing).await;
    check_takes_nothing(&third).await;
    // With the leader gone the two that are left need each other, and only one of them may lead.
    first.close().await;
    until(&second, |status| status.role == Role::Leader).await;
    assert_eq!(third.role(), Role::Voter);
    gate.open();
    until(&third, is_healed).await;
    assert_eq!(second.propose(&add("sum", 1)).await, Ok(11), "it still counts for durability");
    check_applied(&second, &third, 11).await;
    assert_eq!(third.state().get(DATA, OWN_KEY.as_bytes()).unwrap(), None);
    close_all(vec![second, third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_goes_wrong_again_after_it_was_healed_steps_out() {
    let stage = Stage::new();
    let [first, second, third] = three(&stage, [0, 0, u32::MAX], None).await;
    poison(&first).await;
    until(&third, is_healed).await;
    poison(&first).await;
    let status = until(&third, has_told(2)).await;
    let Soundness::SteppedOut { members: 2, .. } = status.soundness else { panic!("{status:?}") };
    check_takes_nothing(&third).await;
    // It follows, and the others do not mind.
    assert_eq!(first.propose(&add("sum", 1)).await, Ok(21));
    check_applied(&first, &third, 21).await;
    first.close().await;
    until(&second, |status| status.role == Role::Leader).await;
    assert_eq!(second.propose(&add("sum", 1)).await, Ok(22));
    assert_eq!(third.role(), Role::Voter);
    close_all(vec![second, third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_wrong_lets_somebody_else_lead_and_is_healed() {
    let stage = Stage::new();
    let [first, second, third] = three(&stage, [1, 0, 0], None).await;
    poison(&first).await;
    let status = until(&first, is_healed).await;
    assert_eq!(status.role, Role::Voter, "{status:?}");
    check_takes_nothing(&first).await;
    let status = until(&second, |status| status.leader.as_ref().is_some_and(|leader| leader.member != 1)).await;
    let (leader, other) =
        if status.leader.is_some_and(|leader| leader.member == 2) { (second, third) } else { (third, second) };
    until(&leader, |status| status.role == Role::Leader).await;
    assert_eq!(leader.propose(&add("sum", 1)).await, Ok(11));
    check_equal(&leader, &first, 11).await;
    close_all(vec![first, leader, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_went_wrong_between_its_audit_and_its_vote_is_refused_healed_and_given_the_vote() {
    let stage = Stage::new();
    let first = Arc::new(Node::open(FickleMap::sound(), stage.config(1)).await.unwrap());
    first.bootstrap().await.unwrap();
    until(&first, |status| status.role == Role::Leader).await;
    first.propose(&add("sum", 10)).await.unwrap();
    // The hook runs once the state is verified; from then on nothing is pulled.
    let (leader, gate) = (Arc::downgrade(&first), Gate::open_for(u64::MAX));
    let closed = gate.clone();
    let hook = CommitHook::new(move |_| {
        let leader = leader.upgrade().expect("it leads");
        closed.close();
        async move { Ok(leader.propose(&set(POISON.into(), vec![])).await.map(drop)?) }
    });
    let seeds = vec![first.address().peers];
    let join = JoinConfig { seeds, patience: PATIENCE, aim: Aim::Voter, commit_hook: Some(hook) };
    let config = NodeConfig { transport: gate.clone(), ..stage.config(2) };
    let second = Node::join(FickleMap::wrong(1), config, join).await.unwrap();
    let status = until(&second, |status| status.vote_refused.is_some()).await;
    assert!(status.vote_refused.as_ref().unwrap().reason.contains("does not agree"), "{status:?}");
    gate.open();
    // Which keys were wrong is told only if the others could be asked at that moment.
    let has_vote = |status: &NodeStatus| status.role == Role::Voter && status.vote_refused.is_none();
    until(&second, |status| has_vote(status) && status.soundness == Soundness::Sound).await;
    check_equal(&first, &second, 10).await;
    second.close().await;
    Arc::into_inner(first).expect("nobody else holds it").close().await;
}

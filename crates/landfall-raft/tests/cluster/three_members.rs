//! Three members replicate a service on real disks and connections.

use std::time::Duration;

use crate::harness::{DATA, Map, PATIENCE, Stage, add, close, content, number, propose_somewhere, set, until};
use landfall_raft::{Aim, JoinConfig, Node, NodeConfig, ProposeError, ReadBarrierError, Role, Verdict};

#[tokio::test(flavor = "multi_thread")]
async fn one_member_takes_writes_and_has_them_after_a_restart() {
    let stage = Stage::new();
    let node = stage.first().await;
    for round in 1..=20 {
        assert_eq!(node.propose(&add("sum", 2)).await.unwrap(), 2 * round);
    }
    let address = node.address().peers;
    node.close().await;
    let node = stage.reopen(1, &address).await;
    until(&node, |status| status.role == Role::Leader).await;
    node.read_linearizable().await.unwrap();
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), 40);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_closed_can_be_opened_again_at_once() {
    let stage = Stage::new();
    let mut node = stage.first().await;
    let address = node.address().peers;
    for _ in 0..10 {
        // Answers that nobody awaits, and a seal that is under way.
        let proposed: Vec<_> = (0..200).map(|_| node.submit(&add("sum", 1)).unwrap()).collect();
        let audited = node.audit(PATIENCE).await.unwrap();
        assert_eq!(audited.verdict, Verdict::Equal);
        drop(proposed);
        node.close().await;
        node = stage.reopen(1, &address).await;
        until(&node, |status| status.role == Role::Leader).await;
    }
    assert_eq!(node.propose(&add("sum", 0)).await.unwrap(), 2000);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_apply_the_same() {
    let stage = Stage::new();
    let nodes = stage.three().await;
    for number in 0..200 {
        nodes[0].propose(&set(format!("key {number}"), vec![number as u8; 100])).await.unwrap();
    }
    let position = nodes[0].status().applied;
    for node in &nodes {
        until(node, |status| status.applied >= position).await;
        assert_eq!(content(node), content(&nodes[0]));
    }
    let audit = nodes[0].audit(PATIENCE).await.unwrap();
    assert_eq!(audit.verdict, Verdict::Equal, "{audit:?}");
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_lead_names_the_leader() {
    let stage = Stage::new();
    let nodes = stage.three().await;
    until(&nodes[1], |status| status.leader.is_some()).await;
    let refused = nodes[1].propose(&add("sum", 1)).await.unwrap_err();
    let ProposeError::NotLeader(Some(leader)) = refused else { panic!("{refused}") };
    assert_eq!((leader.member, leader.address.clients.as_str()), (1, "clients-of-1"));
    let refused = nodes[2].read_linearizable().await.unwrap_err();
    assert!(matches!(refused, ReadBarrierError::NotLeader(_)), "{refused}");
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_leader() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    for _ in 0..50 {
        nodes[0].propose(&add("sum", 1)).await.unwrap();
    }
    let old = nodes.remove(0);
    let address = old.address().peers;
    old.close().await;
    propose_somewhere(&nodes, &set("after".into(), b"x".to_vec())).await;
    for node in &nodes {
        let led = until(node, |status| status.leader.as_ref().is_some_and(|leader| leader.member != 1)).await;
        assert_ne!(led.leader.unwrap().member, 1);
    }
    let leader = nodes.iter().position(|node| node.role() == Role::Leader).unwrap();
    assert_eq!(nodes[leader].propose(&add("sum", 0)).await.unwrap(), 50);
    // The old leader returns with what its disk holds and hears the rest.
    let back = stage.reopen(1, &address).await;
    let position = nodes[leader].status().applied;
    until(&back, |status| status.applied >= position).await;
    assert_eq!(content(&back), content(&nodes[leader]));
    nodes.push(back);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_lost_its_majority_says_so_and_goes_on_when_it_is_back() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    for sum in 1..=5 {
        assert_eq!(nodes[0].propose(&add("sum", 1)).await.unwrap(), sum);
    }
    let mut addresses = Vec::new();
    for node in nodes.drain(1..) {
        addresses.push((node.member(), node.address().peers));
        node.close().await;
    }
    let alone = nodes.remove(0);
    // More than are on their way at once: some of them never come as far as raft.
    let proposed: Vec<_> = (0..8).map(|_| alone.submit(&set("long".into(), vec![7; 600_000])).unwrap()).collect();
    let (mut unconfirmed, mut refused) = (0, 0);
    for fate in proposed {
        match tokio::time::timeout(PATIENCE, fate).await.expect("nobody waits for ever").unwrap_err() {
            ProposeError::Unconfirmed => unconfirmed += 1,
            ProposeError::NoQuorum => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(unconfirmed > 0 && refused > 0, "{unconfirmed} and {refused}");
    assert_eq!(alone.propose(&add("sum", 100)).await, Err(ProposeError::NoQuorum));
    nodes.push(alone);
    for (member, address) in addresses {
        nodes.push(stage.reopen(member, &address).await);
    }
    // What was acknowledged is there, and what was refused never happened.
    assert_eq!(propose_somewhere(&nodes, &add("sum", 0)).await, 5);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_back_though_the_one_that_it_joined_by_is_gone() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    let away = nodes.remove(2);
    let seed = nodes.remove(0);
    let (address, seeds) = (away.address().peers, vec![seed.address().peers]);
    away.close().await;
    seed.close().await;
    let config = NodeConfig { listen: address, ..stage.config(3) };
    let join = JoinConfig { seeds, patience: Duration::ZERO, aim: Aim::Voter, commit_hook: None };
    nodes.push(Node::join(Map, config, join).await.expect("it belongs to the cluster"));
    assert_eq!(propose_somewhere(&nodes, &add("sum", 1)).await, 1);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_share_an_entry_and_each_gets_its_own_reply() {
    let stage = Stage::new();
    let node = stage.first().await;
    let before = node.status().log_last.unwrap();
    let proposed: Vec<_> = (0..500).map(|_| node.submit(&add("sum", 1)).unwrap()).collect();
    let mut replies = Vec::new();
    for reply in proposed {
        replies.push(reply.await.unwrap());
    }
    assert_eq!(replies, (1..=500).collect::<Vec<_>>());
    let entries = node.status().log_last.unwrap() - before;
    assert!(entries < 100, "{entries} entries for 500 commands");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_follows_and_does_not_vote() {
    let stage = Stage::new();
    let first = stage.first().await;
    first.propose(&add("sum", 7)).await.unwrap();
    let learner = stage.join(2, &first, Aim::Learner).await;
    first.propose(&add("sum", 1)).await.unwrap();
    let position = first.status().applied;
    let status = until(&learner, |status| status.applied >= position).await;
    assert_eq!(status.role, Role::Learner);
    assert_eq!(number(learner.state().get(DATA, b"sum").unwrap().as_deref()), 8);
    close(vec![first, learner]).await;
}

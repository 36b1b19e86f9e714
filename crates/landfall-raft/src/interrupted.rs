//! What members find when openraft was stopped in the middle of something: of an install, before which it purges the log, and of a change of
//! the membership, which it makes in two steps.

use std::path::Path;
use std::time::Duration;

use landfall::core::keyed::{ReadError, SectionSchema, Transaction};
use landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
use openraft::ChangeMembers;

use crate::ballot::{Facts, Pending};
use crate::cluster::Role;
use crate::consensus::log_id_of;
use crate::entry::LogTime;
use crate::joining::{Aim, JoinConfig};
use crate::message::Newcomer;
use crate::node::{Node, NodeConfig};
use crate::open::Parts;
use crate::reference::Reference;
use crate::roster;
use crate::service::Service;
use crate::suite;

const PATIENCE: Duration = Duration::from_secs(60);

/// A leader that holds a snapshot after so many more seals never lets it go.
const SEALS_MAX: u64 = 32;

/// A service that counts under one key.
struct Counter;

impl Service for Counter {
    type Command = u64;
    type Reply = ();

    fn sections(&self) -> Vec<SectionSchema> {
        let name = StateName::new("config").unwrap();
        vec![SectionSchema { name, priority: SectionPriority::Vital, range: KeyRange::default() }]
    }

    fn apply(&self, _: LogTime, command: &u64, state: &mut Transaction<'_>) -> Result<(), ReadError> {
        let config = state.schema().id("config").expect("the only section");
        state.put(config, "count", command.to_le_bytes().to_vec())?;
        Ok(())
    }
}

fn config(directory: &Path, member: u64) -> NodeConfig {
    let state = StateName::new("counter").unwrap();
    NodeConfig { member, state, ..suite::config(&directory.join(member.to_string())) }
}

/// A leader with a seal, and what it would have told a follower to install.
async fn leader(directory: &Path) -> (Node<Counter>, Pending) {
    let node = Node::open(Counter, config(directory, 1)).await.unwrap();
    node.bootstrap().await.unwrap();
    node.wait_for(PATIENCE, |status| status.role == Role::Leader).await.unwrap();
    for count in 0..30 {
        node.propose(&count).await.unwrap();
    }
    node.audit(PATIENCE).await.unwrap();
    let sealed = node.cluster.seals.newest().unwrap();
    let pending = Pending { meta: sealed.meta(), reference: node.cluster.seals.reference(&sealed) };
    (node, pending)
}

/// Leaves on the disk of member 2 what a kill leaves there.
async fn leave_behind(leader: &Node<Counter>, directory: &Path, pending: &Pending, log: Purged) {
    let (config, pending, cluster) = (config(directory, 2), pending.clone(), leader.status().cluster);
    let leave = move || {
        let parts = Parts::open(&Counter, &config).unwrap();
        if log == Purged::ThroughTheReference {
            parts.log.purge_through(pending.reference.position()).unwrap();
        }
        let facts = move |facts: &mut Facts| (facts.pending, facts.cluster) = (Some(pending), cluster);
        parts.disk.hand(move |ballot| ballot.change(facts).unwrap()).unwrap();
        drop(parts);
    };
    tokio::task::spawn_blocking(leave).await.unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purged {
    Nothing,
    ThroughTheReference,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_purge_and_install_leaves_a_member_that_stands_on_the_reference() {
    let directory = tempfile::tempdir().unwrap();
    let (leader, pending) = leader(directory.path()).await;
    leave_behind(&leader, directory.path(), &pending, Purged::ThroughTheReference).await;
    let node = Node::open(Counter, config(directory.path(), 2)).await.unwrap();
    let status = node.status();
    assert_eq!(status.applied, pending.reference.position());
    assert_eq!(status.log_hash, pending.reference.log_hash());
    // The membership came with it, and the log goes on from there.
    assert_eq!(status.members.len(), 1);
    check_goes_on(&leader, &node).await;
    node.close().await;
    leader.close().await;
}

/// Has the log sent to a member, which comes to the same as the leader by it.
async fn check_goes_on(leader: &Node<Counter>, node: &Node<Counter>) {
    let newcomer = Newcomer { member: 2, address: node.address() };
    roster::try_admit(&leader.cluster, newcomer).await.unwrap();
    leader.propose(&77).await.unwrap();
    let position = leader.status().applied;
    node.wait_for(PATIENCE, |status| status.applied >= position).await.unwrap();
    assert_eq!(node.status().log_hash, leader.status().log_hash);
}

/// Has a leader go on until it holds a snapshot no more.
async fn let_go(leader: &Node<Counter>, reference: &Reference) {
    let holds = || leader.state().snapshots().iter().any(|held| held.id == reference.snapshot());
    for count in 0..SEALS_MAX {
        leader.propose(&count).await.unwrap();
        leader.audit(PATIENCE).await.unwrap();
        if !holds() {
            return;
        }
    }
    panic!("it is held for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_reference_was_let_go_while_it_was_down_stands_on_what_others_sealed_since() {
    let directory = tempfile::tempdir().unwrap();
    let (leader, pending) = leader(directory.path()).await;
    leave_behind(&leader, directory.path(), &pending, Purged::ThroughTheReference).await;
    let_go(&leader, &pending.reference).await;
    let node = Node::open(Counter, config(directory.path(), 2)).await.unwrap();
    let sealed = leader.cluster.seals.newest().unwrap();
    assert!(sealed.position > pending.reference.position());
    assert_eq!((node.status().applied, node.status().log_hash), (sealed.position, sealed.log_hash));
    check_goes_on(&leader, &node).await;
    node.close().await;
    leader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moved_on_meanwhile_need_not_install_what_is_older() {
    let directory = tempfile::tempdir().unwrap();
    let (leader, pending) = leader(directory.path()).await;
    let_go(&leader, &pending.reference).await;
    let newer = leader.cluster.seals.reference(&leader.cluster.seals.newest().unwrap());
    let config = config(directory.path(), 2);
    let install = move || {
        let parts = Parts::open(&Counter, &config).unwrap();
        parts.arrivals.adopt(&newer).unwrap();
        parts.arrivals.adopt_or_newer(&pending).unwrap();
        assert_eq!(parts.keyed.position(), newer.position());
        parts.arrivals.stop();
    };
    tokio::task::spawn_blocking(install).await.unwrap();
    leader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_purge_leaves_a_member_that_goes_on_by_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let (leader, pending) = leader(directory.path()).await;
    leave_behind(&leader, directory.path(), &pending, Purged::Nothing).await;
    // Nobody needs to be reachable: the reference does not count.
    leader.close().await;
    let node = Node::open(Counter, config(directory.path(), 2)).await.unwrap();
    assert_eq!(log_id_of(node.status().applied), None);
    assert!(node.status().joined.is_none());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_membership_that_was_left_half_done_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let (leader, _) = leader(directory.path()).await;
    let join =
        JoinConfig { seeds: vec![leader.address().peers], patience: PATIENCE, aim: Aim::Learner, commit_hook: None };
    let learner = Node::join(Counter, config(directory.path(), 2), join).await.unwrap();
    let raft = leader.cluster.raft.clone();
    let mut metrics = raft.server_metrics();
    let steps = |metrics: &openraft::metrics::RaftServerMetrics<u64, crate::consensus::MemberAddress>| {
        metrics.membership_config.membership().get_joint_config().len()
    };
    let change = raft.change_membership(ChangeMembers::AddVoterIds([2].into()), true);
    // Whoever asks for the second step goes away after the first one.
    tokio::select! {
        biased;
        half_done = metrics.wait_for(|metrics| steps(metrics) == 2) => drop(half_done.unwrap()),
        _ = change => panic!("both steps were made"),
    }
    tokio::time::timeout(PATIENCE, metrics.wait_for(|metrics| steps(metrics) == 1)).await.unwrap().unwrap();
    leader.propose(&5).await.unwrap();
    learner.wait_for(PATIENCE, |status| status.role == Role::Voter).await.unwrap();
    learner.close().await;
    leader.close().await;
}

//! Joiners on their way to a vote: compared, committed by their hook, healed when they went wrong, sent back when they stay wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::fickle::{FickleMap, OWN_KEY, POISON};
use crate::gate::Gate;
use crate::harness::{Command, DATA, PATIENCE, Stage, add, content, number, set, until};
use landfall_raft::landfall::core::join::RollBackReason;
use landfall_raft::landfall::keyed::Milestone;
use landfall_raft::{Aim, CommitHook, JoinConfig, Node, NodeConfig, NodeStatus, Role, Verdict, Vote};

/// What a hook saw each time it ran: the lease's version, and whether the member voted by then, as the leader sees it.
type Runs = Arc<Mutex<Vec<(u64, Vote)>>>;

/// A hook that fails so many times before it works.
fn hook(leader: &Arc<Node<FickleMap>>, member: u64, failures: usize) -> (CommitHook, Runs) {
    let runs = Runs::default();
    let (seen, leader) = (runs.clone(), Arc::downgrade(leader));
    let run = move |lease| {
        let members = leader.upgrade().map(|leader| leader.status().members).unwrap_or_default();
        let vote = members.iter().find(|(known, ..)| *known == member).map(|(.., vote)| *vote);
        let mut seen = seen.lock().unwrap();
        seen.push((lease, vote.expect("the leader knows who is to be promoted")));
        let has_failed = seen.len() <= failures;
        async move { if has_failed { Err("not now".into()) } else { Ok(()) } }
    };
    (CommitHook::new(run), runs)
}

/// A leader alone, with something sealed and something after that, among it the poison.
async fn leader_with_poison(stage: &Stage) -> Arc<Node<FickleMap>> {
    let first = Node::open(FickleMap::sound(), stage.config(1)).await.unwrap();
    first.bootstrap().await.unwrap();
    until(&first, |status| status.role == Role::Leader).await;
    for part in 0..200 {
        first.propose(&set(format!("key {part}"), vec![part as u8; 100])).await.unwrap();
    }
    assert_eq!(first.audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    first.propose(&set(POISON.into(), vec![])).await.unwrap();
    for _ in 0..10 {
        first.propose(&add("sum", 1)).await.unwrap();
    }
    Arc::new(first)
}

async fn join(
    stage: &Stage,
    service: FickleMap,
    member: u64,
    seed: &Node<FickleMap>,
    aim: Aim,
    commit_hook: Option<CommitHook>,
) -> Node<FickleMap> {
    let join = JoinConfig { seeds: vec![seed.address().peers], patience: PATIENCE, aim, commit_hook };
    Node::join(service, stage.config(member), join).await.unwrap()
}

/// Writes the same until told to stop; says how often.
async fn write_until(first: &Node<FickleMap>, command: &Command, stop: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::Acquire) {
        first.propose(command).await.unwrap();
        written += 1;
    }
    written
}

fn has_reached(status: &NodeStatus, milestone: Milestone) -> bool {
    status.joined.as_ref().is_some_and(|joined| joined.reached.iter().any(|(reached, _)| *reached == milestone))
}

fn rolled_back(status: &NodeStatus) -> Option<RollBackReason> {
    Some(status.joined.as_ref()?.rolled_back?.0)
}

async fn close(first: Arc<Node<FickleMap>>, others: Vec<Node<FickleMap>>) {
    for node in others {
        node.close().await;
    }
    Arc::into_inner(first).expect("nobody else holds it").close().await;
}

/// Everything that the log says is at a member once, and the same as at the leader.
async fn check_equal(first: &Node<FickleMap>, node: &Node<FickleMap>, sum: u64) {
    let position = first.status().applied;
    until(node, |status| status.applied >= position).await;
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), sum);
    assert_eq!(content(node), content(first));
    let audit = first.audit(PATIENCE).await.unwrap();
    assert_eq!(audit.verdict, Verdict::Equal, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_and_a_voter_reach_every_milestone_and_the_hook_runs_before_the_vote_until_it_works() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let (mut nodes, mut leases) = (Vec::new(), Vec::new());
    for (member, aim, failures) in [(2, Aim::Learner, 0), (3, Aim::Voter, 1)] {
        let (hook, runs) = hook(&first, member, failures);
        let node = join(&stage, FickleMap::sound(), member, &first, aim, Some(hook)).await;
        let status = until(&node, |status| has_reached(status, Milestone::Promoted)).await;
        let reached = status.joined.unwrap().reached;
        assert_eq!(reached.len(), Milestone::ALL.len(), "{reached:?}");
        let after = |milestone| reached.iter().find(|(reached, _)| *reached == milestone).unwrap().1.after;
        let last = [Milestone::Viable, Milestone::CaughtUp, Milestone::Verified, Milestone::Promoted].map(after);
        assert!(last.is_sorted() && after(Milestone::Complete) <= after(Milestone::Verified), "{reached:?}");
        if aim == Aim::Voter {
            until(&node, |status| status.role == Role::Voter).await;
        }
        let runs = runs.lock().unwrap().clone();
        assert_eq!(
            runs,
            vec![(runs[0].0, Vote::DoesNotCount); failures + 1],
            "its tries are told from those of others"
        );
        leases.push(runs[0].0);
        nodes.push(node);
    }
    assert!(0 < leases[0] && leases[0] < leases[1], "{leases:?}");
    assert_eq!(nodes[0].role(), Role::Learner, "it never wanted a vote");
    check_equal(&first, &nodes[0], 10).await;
    close(first, nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_whose_hook_never_works_is_rolled_back_and_gives_its_lease_back() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let (hook, runs) = hook(&first, 2, usize::MAX);
    let node = join(&stage, FickleMap::sound(), 2, &first, Aim::Voter, Some(hook)).await;
    let status = until(&node, |status| rolled_back(status).is_some()).await;
    assert_eq!(rolled_back(&status), Some(RollBackReason::HookFailed { tries: 10 }));
    assert_eq!(runs.lock().unwrap().len(), 10);
    // Without a lease, nothing keeps the log that everybody has.
    let purged = first.status().log_first;
    first.propose(&add("sum", 1)).await.unwrap();
    check_equal(&first, &node, 11).await;
    assert_eq!(first.audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    until(&first, |status| status.log_first > purged).await;
    assert_eq!(node.role(), Role::Learner);
    close(first, vec![node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_vote_the_leader_refuses_says_so_and_asks_again() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let leader = Arc::downgrade(&first);
    // Once it is verified nobody knows it any more.
    let hook = CommitHook::new(move |_| {
        let leader = leader.upgrade().expect("it leads");
        async move { Ok(leader.remove(2).await?) }
    });
    let node = join(&stage, FickleMap::sound(), 2, &first, Aim::Voter, Some(hook)).await;
    let status = until(&node, |status| status.vote_refused.is_some()).await;
    let refused = status.vote_refused.unwrap();
    assert!(refused.reason.contains("member 2 is not known"), "{refused:?}");
    assert_eq!(node.role(), Role::Learner);
    first.add_member(2, node.address()).await.unwrap();
    let status = until(&node, |status| status.role == Role::Voter && status.vote_refused.is_none()).await;
    assert_eq!(rolled_back(&status), None);
    check_equal(&first, &node, 10).await;
    close(first, vec![node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_went_wrong_once_is_healed_and_promoted() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let stop = AtomicBool::new(false);
    let joining = async {
        let node = join(&stage, FickleMap::wrong(1), 2, &first, Aim::Voter, None).await;
        let status = until(&node, |status| has_reached(status, Milestone::Promoted)).await;
        stop.store(true, Ordering::Release);
        (node, status)
    };
    // What is written while it is healed is applied again, from the log.
    let one_more = add("sum", 1);
    let ((node, status), written) = tokio::join!(joining, write_until(&first, &one_more, &stop));
    assert_eq!((status.different_keys.len(), rolled_back(&status)), (1, None), "{status:?}");
    let found = &status.different_keys[0];
    let keys: Vec<_> = found.keys.iter().map(|key| (key.section.as_str(), &key.key[..])).collect();
    assert_eq!((keys, &found.members[..]), (vec![("data", OWN_KEY.as_bytes())], &[1][..]));
    assert!(status.divergences.iter().any(|divergence| divergence.position == found.position), "{status:?}");
    until(&node, |status| status.role == Role::Voter).await;
    assert_eq!(node.state().get(DATA, OWN_KEY.as_bytes()).unwrap(), None);
    check_equal(&first, &node, 10 + written).await;
    close(first, vec![node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_is_healed_and_restarted_goes_on_from_there() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let node = join(&stage, FickleMap::wrong(1), 2, &first, Aim::Learner, None).await;
    until(&node, |status| has_reached(status, Milestone::Promoted)).await;
    let listen = node.address().peers;
    node.close().await;
    first.propose(&add("sum", 1)).await.unwrap();
    let seeds = vec![first.address().peers];
    let again = JoinConfig { seeds, patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let node = Node::join(FickleMap::sound(), NodeConfig { listen, ..stage.config(2) }, again).await.unwrap();
    until(&node, |status| status.role == Role::Voter).await;
    assert!(has_reached(&node.status(), Milestone::Promoted), "what was left of the join is taken up");
    check_equal(&first, &node, 11).await;
    close(first, vec![node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_cannot_be_healed_with_one_snapshot_is_healed_with_a_newer_one() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let (gate, (service, tell)) = (Gate::open_for(u64::MAX), FickleMap::wrong_once_told());
    let seeds = vec![first.address().peers];
    let joining = JoinConfig { seeds, patience: PATIENCE, aim: Aim::Voter, commit_hook: None };
    let config = NodeConfig { transport: gate.clone(), ..stage.config(2) };
    let node = Node::join(service, config, joining).await.unwrap();
    until(&node, |status| has_reached(status, Milestone::Complete)).await;
    gate.close();
    tell.send(()).unwrap();
    // What the others sealed at the first mark cannot be pulled; so there is another mark.
    until(&node, |status| status.divergences.len() >= 2).await;
    gate.open();
    until(&node, |status| status.role == Role::Voter).await;
    assert_eq!(node.state().get(DATA, OWN_KEY.as_bytes()).unwrap(), None);
    check_equal(&first, &node, 10).await;
    close(first, vec![node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_stays_wrong_is_healed_once_and_then_rolled_back() {
    let stage = Stage::new();
    let first = leader_with_poison(&stage).await;
    let stop = AtomicBool::new(false);
    let joining = async {
        let node = join(&stage, FickleMap::wrong(u32::MAX), 2, &first, Aim::Voter, None).await;
        let is_told = |status: &NodeStatus| rolled_back(status).is_some() && status.different_keys.len() == 2;
        let status = until(&node, is_told).await;
        stop.store(true, Ordering::Release);
        (node, status)
    };
    // The snapshot that heals it has all that was wrong until then put right.
    let poison = set(POISON.into(), vec![]);
    let ((node, status), _) = tokio::join!(joining, write_until(&first, &poison, &stop));
    let reason = rolled_back(&status);
    assert!(matches!(reason, Some(RollBackReason::Diverged { members: 1, .. })), "{reason:?}");
    assert!(status.members.contains(&(2, node.address(), Vote::DoesNotCount)), "{status:?}");
    // The cluster goes on without it, and it follows.
    assert_eq!(first.propose(&add("sum", 1)).await.unwrap(), 11);
    let position = first.status().applied;
    until(&node, |status| status.applied >= position).await;
    assert_eq!(number(node.state().get(DATA, b"sum").unwrap().as_deref()), 11);
    close(first, vec![node]).await;
}

//! Members come, return and fall behind while the others go on writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::between::{Between, with_between};
use crate::gate::Gate;
use crate::harness::{DATA, Map, PATIENCE, Stage, add, close, content, noise, set, until};
use landfall_raft::landfall::keyed::{Extent, Milestone};
use landfall_raft::landfall::net::{ConnectError, Connection, ListenError, Listener, PlainTransport, Transport};
use landfall_raft::{Aim, COMMAND_BYTES_MAX, JoinConfig, JoinError, Node, NodeConfig, NodeStatus, Role, Verdict, Vote};

/// Writes until told to stop; says how many writes were acknowledged.
async fn write_on(node: &Node<Map>, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let mut next = 0_u64;
    while !stop.load(Ordering::Acquire) {
        let batch: Vec<_> = (next..next + 16)
            .map(|number| node.submit(&set(format!("key {}", number % 5000), number.to_le_bytes().to_vec())).unwrap())
            .collect();
        for written in batch {
            written.await.unwrap();
            acknowledged.fetch_add(1, Ordering::AcqRel);
        }
        next += 16;
    }
}

/// A cluster of three with a state of some megabytes, sealed, and the log before the seal purged.
async fn three_with_purged_log(stage: &Stage) -> Vec<Node<Map>> {
    let nodes = stage.three().await;
    for number in 0..400 {
        let batch: Vec<_> = (0..50)
            .map(|part| {
                let value = vec![number as u8; 200];
                nodes[0].submit(&set(format!("old {number} {part}"), value)).unwrap()
            })
            .collect();
        for written in batch {
            written.await.unwrap();
        }
    }
    assert_eq!(nodes[0].audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    // The first mark says what others still need; what it allows goes at the next one.
    assert_eq!(nodes[0].audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    until(&nodes[0], |status| status.log_first > 100).await;
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_member_joins_by_reference_under_writes_and_gets_a_vote() {
    let stage = Stage::new();
    let nodes = three_with_purged_log(&stage).await;
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let joining = async {
        let node = stage.join(4, &nodes[2], Aim::Voter).await;
        let joined = node.status().joined.expect("it took a snapshot");
        assert!(joined.reached.iter().any(|(milestone, _)| *milestone == Milestone::Viable), "{joined:?}");
        // It serves at once what the snapshot holds, here or not.
        let value = node.state().get(DATA, b"old 7 7").unwrap().expect("a key of the snapshot");
        assert_eq!(value, vec![7; 200]);
        until(&node, |status| status.role == Role::Voter).await;
        assert_eq!(node.state().sealed().unwrap().extent, Extent::Whole);
        stop.store(true, Ordering::Release);
        node
    };
    let (node, ()) = tokio::join!(joining, write_on(&nodes[0], &stop, &acknowledged));
    assert!(acknowledged.load(Ordering::Acquire) > 0);
    let position = nodes[0].status().applied;
    until(&node, |status| status.applied >= position).await;
    assert_eq!(content(&node), content(&nodes[0]));
    let audit = nodes[0].audit(PATIENCE).await.unwrap();
    assert_eq!((audit.verdict, audit.members.len()), (Verdict::Equal, 4), "{audit:?}");
    // Its lease is given back: nothing holds the log any more.
    let purged = nodes[0].status().log_first;
    nodes[0].audit(PATIENCE).await.unwrap();
    until(&nodes[0], |status| status.log_first > purged).await;
    node.close().await;
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_kept_for_a_member_that_is_away() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    let away = nodes.remove(2);
    let (address, last) = (away.address().peers, away.status().log_last.unwrap());
    away.close().await;
    for _ in 0..3 {
        for _ in 0..50 {
            nodes[0].propose(&add("sum", 1)).await.unwrap();
        }
        // Not everybody reports; those that do agree.
        let audit = nodes[0].audit(std::time::Duration::from_secs(1)).await.unwrap();
        assert_eq!(audit.verdict, Verdict::EqualSoFar);
    }
    assert!(nodes[0].status().log_first <= last + 1, "{:?}", nodes[0].status());
    let back = stage.reopen(3, &address).await;
    let position = nodes[0].status().applied;
    until(&back, |status| status.applied >= position).await;
    assert!(back.status().joined.is_none(), "it needed no snapshot");
    nodes.push(back);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_is_sent_entries_of_every_length() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    let away = nodes.remove(2);
    let address = away.address().peers;
    away.close().await;
    // Longer ones and shorter ones by turns: whatever is sent together has to fit a frame.
    for length in [100, COMMAND_BYTES_MAX - 100, 100, 300_000, 900_000, 300_000, 700_000, 700_000, 100] {
        nodes[0].propose(&set(format!("of {length}"), vec![7; length])).await.unwrap();
    }
    let back = stage.reopen(3, &address).await;
    let position = nodes[0].status().applied;
    until(&back, |status| status.applied >= position).await;
    assert_eq!(content(&back), content(&nodes[0]));
    nodes.push(back);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_join_and_get_their_vote_while_a_voter_is_away() {
    let stage = Stage::new();
    let mut nodes = three_with_purged_log(&stage).await;
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let leader = nodes.remove(0);
    let joining = async {
        let fourth = stage.join(4, &leader, Aim::Voter).await;
        until(&fourth, |status| status.role == Role::Voter).await;
        let fifth = stage.join(5, &leader, Aim::Voter).await;
        nodes.remove(0).close().await;
        until(&fifth, |status| status.role == Role::Voter).await;
        stop.store(true, Ordering::Release);
        [fourth, fifth]
    };
    let (joined, ()) = tokio::join!(joining, write_on(&leader, &stop, &acknowledged));
    assert!(acknowledged.load(Ordering::Acquire) > 0);
    let position = leader.status().applied;
    nodes.extend(joined);
    for node in &nodes {
        until(node, |status| status.applied >= position).await;
        assert_eq!(content(node), content(&leader));
    }
    nodes.push(leader);
    close(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_for_which_the_log_is_gone_pulls_all_of_a_snapshot_before_it_goes_on() {
    let stage = Stage { log_kept_bytes_max: 0, ..Stage::new() };
    let mut nodes = stage.three().await;
    let away = nodes.remove(2);
    let (address, last) = (away.address().peers, away.status().log_last.unwrap());
    away.close().await;
    for number in 0..200 {
        nodes[0].propose(&set(format!("key {number}"), vec![1; 100])).await.unwrap();
    }
    // Not everybody reports.
    nodes[0].audit(std::time::Duration::from_secs(1)).await.unwrap();
    until(&nodes[0], |status| status.log_first > last + 1).await;
    let back = stage.reopen(3, &address).await;
    let position = nodes[0].status().applied;
    let status = until(&back, |status| status.applied >= position).await;
    let joined = status.joined.expect("it took a snapshot");
    assert!(joined.reached.iter().any(|(milestone, _)| *milestone == Milestone::Complete), "{joined:?}");
    assert_eq!(content(&back), content(&nodes[0]));
    nodes.push(back);
    assert_eq!(nodes[0].audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
    close(nodes).await;
}

const NOISE_BYTES: u64 = 4_000_000;

/// A cluster of one with some megabytes that travel as they are, sealed.
async fn one_with_noise(stage: &Stage) -> Node<Map> {
    let first = stage.first().await;
    fill_with_noise(&first).await;
    first
}

async fn fill_with_noise(first: &Node<Map>) {
    const VALUES: u64 = 400;
    for number in 0..VALUES {
        let value = noise(number, (NOISE_BYTES / VALUES) as usize);
        first.propose(&set(format!("noise {number}"), value)).await.unwrap();
    }
    assert_eq!(first.audit(PATIENCE).await.unwrap().verdict, Verdict::Equal);
}

/// A learner that serves, and that holds only a part of its snapshot until the gate is opened.
async fn fill_half_way(stage: &Stage, first: &Node<Map>) -> (Node<Map>, Arc<Gate>) {
    let gate = Gate::open_for(NOISE_BYTES / 4);
    let join =
        JoinConfig { seeds: vec![first.address().peers], patience: PATIENCE, aim: Aim::Learner, commit_hook: None };
    let config = NodeConfig { transport: gate.clone(), ..stage.config(2) };
    let node = Node::join(Map, config, join).await.unwrap();
    let some_bytes = |status: &NodeStatus| status.joined.as_ref().is_some_and(|joined| joined.figures.bytes_done > 0);
    until(&node, |status| gate.is_closed() && some_bytes(status)).await;
    assert_eq!(node.state().sealed().unwrap().extent, Extent::Filling);
    (node, gate)
}

/// A learner that serves and is closed before all of its snapshot is there; where it was.
async fn stop_half_way(stage: &Stage, first: &Node<Map>) -> String {
    let (node, _) = fill_half_way(stage, first).await;
    let address = node.address().peers;
    node.close().await;
    address
}

fn is_complete(status: &NodeStatus) -> bool {
    has_reached(status, Milestone::Complete)
}

fn has_reached(status: &NodeStatus, wanted: Milestone) -> bool {
    let joined = status.joined.as_ref();
    joined.is_some_and(|joined| joined.reached.iter().any(|(milestone, _)| *milestone == wanted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_stops_half_way_goes_on_from_what_it_has() {
    let stage = Stage::new();
    let first = one_with_noise(&stage).await;
    let address = stop_half_way(&stage, &first).await;
    first.propose(&add("sum", 3)).await.unwrap();
    let node = stage.reopen(2, &address).await;
    let status = until(&node, is_complete).await;
    let again = status.joined.unwrap().figures.bytes_done;
    assert!(again > 0 && again < NOISE_BYTES * 9 / 10, "{again} bytes came after the restart");
    let position = first.status().applied;
    until(&node, |status| status.applied >= position).await;
    assert_eq!(content(&node), content(&first));
    close(vec![node, first]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_whose_sources_all_failed_goes_on_when_they_are_back() {
    let stage = Stage::new();
    let first = one_with_noise(&stage).await;
    let address = stop_half_way(&stage, &first).await;
    let gate = Gate::open_for(0);
    let config = NodeConfig { transport: gate.clone(), listen: address, ..stage.config(2) };
    let node = Node::open(Map, config).await.unwrap();
    until(&node, |status| status.joined.as_ref().is_some_and(|joined| joined.failure.is_some())).await;
    assert_eq!(node.state().sealed().unwrap().extent, Extent::Filling);
    gate.open();
    until(&node, is_complete).await;
    let position = first.status().applied;
    until(&node, |status| status.applied >= position).await;
    assert_eq!(content(&node), content(&first));
    close(vec![node, first]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_whole_gets_no_vote_before_it_is() {
    let stage = Stage::new();
    let first = one_with_noise(&stage).await;
    let (node, gate) = fill_half_way(&stage, &first).await;
    let sealed = |status: &NodeStatus| status.sealed.as_ref().map(|sealed| sealed.position());
    let seals_again = async || {
        let before = sealed(&first.status());
        sealed(&until(&first, |status| sealed(status) > before).await).unwrap()
    };
    let mut promoting = Box::pin(first.promote(2));
    let without_its_seal = async {
        // The leader seals to compare, waits for the member in vain, and has everybody seal once more.
        seals_again().await;
        let position = seals_again().await;
        until(&node, |status| status.applied >= position).await;
    };
    tokio::select! {
        biased;
        promoted = &mut promoting => panic!("it is not whole: {promoted:?}"),
        () = without_its_seal => {}
    }
    assert_eq!(node.state().sealed().unwrap().extent, Extent::Filling);
    let votes =
        |status: &NodeStatus| status.members.iter().any(|(member, _, vote)| (*member, *vote) == (2, Vote::Counts));
    assert!(!votes(&first.status()));
    gate.open();
    tokio::time::timeout(PATIENCE, promoting).await.expect("it is whole soon").unwrap();
    assert!(votes(&first.status()));
    until(&node, |status| status.role == Role::Voter).await;
    assert_eq!(node.state().sealed().unwrap().extent, Extent::Whole);
    close(vec![node, first]).await;
}

/// Loopback on which frames of some length that this side sends are counted: each has entries of the log in it, by the length of their values.
#[derive(Clone, Default)]
struct CountsEntries {
    sent: Arc<AtomicU64>,
}

const ENTRY_BYTES: usize = 10_000;

impl Transport for CountsEntries {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        Ok(with_between(PlainTransport.connect(address, deadline)?, self.clone()))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

impl Between for CountsEntries {
    fn leaves(&mut self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        if head.len() + body.len() > ENTRY_BYTES {
            self.sent.fetch_add(1, Ordering::AcqRel);
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_fills_up_takes_what_was_written_meanwhile_in_one_append() {
    /// It answers at most so often. Each answer leads to one frame at most.
    const INTERVAL: Duration = Duration::from_millis(10);
    let stage = Stage::new();
    let counted = CountsEntries::default();
    let transport = Arc::new(counted.clone());
    let first = stage.first_with(NodeConfig { transport, ..stage.config(1) }).await;
    fill_with_noise(&first).await;
    let (node, gate) = fill_half_way(&stage, &first).await;
    let write_some = async |names: &str| {
        let (began, before) = (Instant::now(), counted.sent.load(Ordering::Acquire));
        for number in 0..200 {
            first.propose(&set(format!("{names} {number}"), vec![7; ENTRY_BYTES])).await.unwrap();
        }
        let position = first.status().applied;
        until(&node, |status| status.applied >= position).await;
        let intervals = began.elapsed().as_millis() / INTERVAL.as_millis();
        (counted.sent.load(Ordering::Acquire) - before, intervals as u64)
    };
    let (frames, intervals) = write_some("early").await;
    // Before the first interval, and after the last one.
    assert!(frames <= intervals + 2, "{frames} frames in {intervals} intervals");
    assert_eq!(node.state().sealed().unwrap().extent, Extent::Filling);
    gate.open();
    until(&node, is_complete).await;
    write_some("late").await;
    assert_eq!(content(&node), content(&first));
    close(vec![node, first]).await;
}

/// Loopback on which no member that asks to be admitted is understood, for a while.
#[derive(Clone)]
struct AdmitsNobody {
    is_over: Arc<AtomicBool>,
}

impl Transport for AdmitsNobody {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        Ok(with_between(PlainTransport.connect(address, deadline)?, self.clone()))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

impl Between for AdmitsNobody {
    fn leaves(&mut self, head: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        const QUESTION: &[u8] = b"Admit";
        let at = head.windows(QUESTION.len()).position(|part| part == QUESTION)?;
        let mut garbled = head.to_vec();
        garbled[at] ^= 0x20;
        (!self.is_over.load(Ordering::Acquire)).then_some(garbled)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_nobody_admits_gives_its_directory_back() {
    let stage = Stage::new();
    let first = stage.first().await;
    first.propose(&add("sum", 1)).await.unwrap();
    let transport = AdmitsNobody { is_over: Arc::default() };
    let join = |patience| {
        let seeds = vec![first.address().peers];
        let config = NodeConfig { transport: Arc::new(transport.clone()), ..stage.config(2) };
        Node::join(Map, config, JoinConfig { seeds, patience, aim: Aim::Learner, commit_hook: None })
    };
    let refused = join(Duration::ZERO).await.err().expect("nobody admits it");
    assert!(matches!(refused, JoinError::Nobody(_)), "{refused}");
    transport.is_over.store(true, Ordering::Release);
    let node = join(PATIENCE).await.expect("the directory is free");
    until(&node, |status| has_reached(status, Milestone::Promoted)).await;
    close(vec![node, first]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_with_the_same_identity_is_refused() {
    let stage = Stage::new();
    let first = stage.first().await;
    let second = stage.join(2, &first, Aim::Learner).await;
    let elsewhere = NodeConfig { directory: stage.directory.path().join("twin"), ..stage.config(2) };
    let join =
        JoinConfig { seeds: vec![first.address().peers], patience: PATIENCE, aim: Aim::Learner, commit_hook: None };
    let refused = Node::join(Map, elsewhere, join).await.err().expect("two members of one name");
    assert!(matches!(refused, landfall_raft::JoinError::Refused(_)), "{refused}");
    second.close().await;
    first.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_removed_is_not_waited_for() {
    let stage = Stage::new();
    let mut nodes = stage.three().await;
    nodes[0].remove(3).await.unwrap();
    nodes.remove(2).close().await;
    nodes[0].propose(&add("sum", 1)).await.unwrap();
    let audit = nodes[0].audit(PATIENCE).await.unwrap();
    assert_eq!((audit.verdict, audit.members.len()), (Verdict::Equal, 2));
    close(nodes).await;
}

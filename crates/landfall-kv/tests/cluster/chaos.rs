//! Members are killed, paused and started again while another one joins and clients write and read; what clients saw must be explained by
//! one order of instants, and at the end all members must hold the same.
//!
//! A seed decides who is hit when. `LANDFALL_SEEDS=7,8` runs those instead of the usual ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::client::Client;
use super::history::{self, Deed, Operation, Recorder};
use super::server::{Cluster, until};

#[test]
fn what_clients_saw_under_kills_and_pauses_is_explained_by_one_order() {
    let seeds = std::env::var("LANDFALL_SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
    for seed in seeds.split(',') {
        run(seed.trim().parse().expect("seeds are numbers"));
    }
}

const SEEDS: &str = "1,2";

/// What befalls the cluster; whoever is hit is well again before the next blow, so a majority always lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillLeader,
    PauseLeader,
    KillFollower,
    PauseFollower,
    KillJoiner,
}

const BLOWS: [Blow; 5] =
    [Blow::KillLeader, Blow::PauseLeader, Blow::KillFollower, Blow::PauseFollower, Blow::KillJoiner];

/// How far the joiner is when a blow falls.
const STAGES: [&str; 4] = ["asks", "serves", "whole", "votes"];

fn run(seed: u64) {
    let mut random = Random(seed);
    let cluster = Cluster::of_three();
    let (recorder, stop) = (Arc::new(Recorder::default()), Arc::new(AtomicBool::new(false)));
    let clients = begin_clients(&cluster, seed, &recorder, &stop);
    let mut story = Story { cluster, recorder: recorder.clone() };
    story.wait_for_answers();
    let joiner = story.cluster.prepare_joiner();
    for stage in STAGES {
        story.bring_joiner_to(joiner, stage);
        let blow = BLOWS[random.below(BLOWS.len())];
        eprintln!("seed {seed}: {blow:?} when the joiner {stage}");
        story.strike(blow, joiner, &mut random);
    }
    story.wait_for_answers();
    stop.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().expect("clients do not panic"));
    story.check_that_all_are_equal();
    story.read_all();
    drop(story);
    let recorder = Arc::into_inner(recorder).expect("everybody else is done");
    let histories = recorder.histories();
    let operations: usize = histories.values().map(Vec::len).sum();
    eprintln!("seed {seed}: {operations} operations on {} keys", histories.len());
    for (key, operations) in histories {
        assert_eq!(history::check(&operations), Ok(()), "seed {seed}, {key}");
    }
}

struct Story {
    cluster: Cluster,
    recorder: Arc<Recorder>,
}

impl Story {
    /// Until clients were answered a while longer.
    fn wait_for_answers(&self) {
        let enough = self.recorder.answered() + ANSWERS_BETWEEN;
        until("clients are answered", || self.recorder.answered() >= enough);
    }

    fn bring_joiner_to(&mut self, joiner: usize, stage: &str) {
        let says = |word: &str| self.cluster.try_status(joiner).is_some_and(|status| status.contains(word));
        match stage {
            "asks" => self.cluster.spawn(joiner),
            "serves" => until("the joiner serves", || self.cluster.serves(joiner)),
            "whole" => until("the joiner is whole", || says(r#""whole":true"#)),
            _ => until("the joiner votes", || says(r#""role":"follower""#) || says(r#""role":"leader""#)),
        }
    }

    fn strike(&mut self, blow: Blow, joiner: usize, random: &mut Random) {
        let leader = self.cluster.leading();
        let followers: Vec<_> = (0..joiner).filter(|member| *member != leader).collect();
        let follower = followers[random.below(followers.len())];
        match blow {
            Blow::KillLeader => self.kill_for_a_while(leader, Another::MustLead),
            Blow::KillFollower => self.kill_for_a_while(follower, Another::NeedNotLead),
            Blow::KillJoiner if joiner != leader => self.kill_for_a_while(joiner, Another::NeedNotLead),
            Blow::KillJoiner => self.kill_for_a_while(joiner, Another::MustLead),
            Blow::PauseLeader => self.pause_for_a_while(leader, Another::MustLead),
            Blow::PauseFollower => self.pause_for_a_while(follower, Another::NeedNotLead),
        }
    }

    fn kill_for_a_while(&mut self, member: usize, another: Another) {
        self.cluster.kill(member);
        self.wait_without(member, another);
        self.cluster.spawn(member);
    }

    fn pause_for_a_while(&mut self, member: usize, another: Another) {
        self.cluster.signal(member, "-STOP");
        self.wait_without(member, another);
        self.cluster.signal(member, "-CONT");
    }

    fn wait_without(&self, member: usize, another: Another) {
        if another == Another::MustLead {
            until("another member leads", || self.cluster.find_leading().is_some_and(|leader| leader != member));
        }
        self.wait_for_answers();
    }

    fn check_that_all_are_equal(&self) {
        let equal = |audit: &str| audit.contains(r#""verdict":"equal""#) && audit.matches(r#""root":""#).count() == 4;
        until("all members hold the same", || {
            let asked = self.cluster.find_leading().and_then(|leader| Client::connect(self.cluster.clients(leader)));
            asked.and_then(|mut leader| leader.try_ask("LANDFALL AUDIT")).is_some_and(|audit| equal(&audit))
        });
    }

    /// Nothing that was acknowledged may be missing at the end.
    fn read_all(&self) {
        let mut client = self.cluster.leader();
        for key in 0..KEYS {
            let (key, asked) = (format!("key:{key}"), self.recorder.moment());
            let deed = read_in(&client.ask(&format!("GET {key}"))).expect("the leader answers");
            self.recorder.note(&key, Operation { deed, asked, answered: Some(self.recorder.moment()) });
        }
    }
}

/// Whether the one who is away led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Another {
    MustLead,
    NeedNotLead,
}

const KEYS: usize = 5;
const CLIENTS: u64 = 4;
/// Answers to all clients between two things that happen.
const ANSWERS_BETWEEN: usize = 300;

fn begin_clients(
    cluster: &Cluster,
    seed: u64,
    recorder: &Arc<Recorder>,
    stop: &Arc<AtomicBool>,
) -> Vec<thread::JoinHandle<()>> {
    let addresses: Vec<_> = (0..3).map(|member| cluster.clients(member).to_owned()).collect();
    let written = Arc::new(AtomicU64::new(1));
    let begin = |number: u64| {
        let mut user = User {
            addresses: addresses.clone(),
            at: 0,
            // A patient one hears what a member answers that was paused; an impatient one asks another.
            patience: Duration::from_millis(if number.is_multiple_of(2) { 400 } else { 20_000 }),
            connection: None,
            random: Random(seed * 100 + number),
            recorder: recorder.clone(),
            written: written.clone(),
        };
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                user.do_something();
            }
        })
    };
    (0..CLIENTS).map(begin).collect()
}

/// A client that writes and reads, and writes down what it sees.
struct User {
    addresses: Vec<String>,
    at: usize,
    patience: Duration,
    connection: Option<Client>,
    random: Random,
    recorder: Arc<Recorder>,
    /// The value that was written last by anybody.
    written: Arc<AtomicU64>,
}

/// What became of a request.
enum Fate {
    Done(Deed),
    Unknown,
    NotDone,
}

impl User {
    fn do_something(&mut self) {
        let key = format!("key:{}", self.random.below(KEYS));
        let value = (self.random.below(2) == 0).then(|| self.written.fetch_add(1, Ordering::Relaxed));
        let request = match value {
            Some(value) => format!("SET {key} {value}"),
            None => format!("GET {key}"),
        };
        let asked = self.recorder.moment();
        let answer = self.ask(&request);
        let answered = self.recorder.moment();
        match (fate(value, answer.as_deref()), value) {
            (Fate::Done(deed), _) => self.recorder.note(&key, Operation { deed, asked, answered: Some(answered) }),
            (Fate::Unknown, Some(value)) => {
                self.recorder.note(&key, Operation { deed: Deed::Wrote(value), asked, answered: None });
                self.go_elsewhere(None);
            }
            _ => self.go_elsewhere(answer.as_deref()),
        }
    }

    fn ask(&mut self, request: &str) -> Option<String> {
        if self.connection.is_none() {
            self.connection = Client::connect_with_patience(&self.addresses[self.at], self.patience);
        }
        self.connection.as_mut().and_then(|connection| connection.try_ask(request))
    }

    /// Where the refusal says, or to the next member.
    fn go_elsewhere(&mut self, refusal: Option<&str>) {
        self.connection = None;
        let moved = refusal.and_then(|refusal| refusal.strip_prefix("-MOVED ")?.split(' ').nth(1));
        let known = moved.and_then(|to| self.addresses.iter().position(|address| address == to));
        match (moved, known) {
            (_, Some(known)) => self.at = known,
            // The joiner leads.
            (Some(new), None) => {
                self.addresses.push(new.to_owned());
                self.at = self.addresses.len() - 1;
            }
            (None, None) => {
                self.at = (self.at + 1) % self.addresses.len();
                // Elections take a while; asking all the time would only take the machine from them.
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn fate(value: Option<u64>, answer: Option<&str>) -> Fate {
    match (value, answer) {
        (Some(value), Some("+OK")) => Fate::Done(Deed::Wrote(value)),
        (_, Some(refused)) if ["-MOVED", "-CLUSTERDOWN"].iter().any(|word| refused.starts_with(word)) => Fate::NotDone,
        (None, Some(answer)) => read_in(answer).map_or(Fate::NotDone, Fate::Done),
        // Unknown, or the connection broke.
        (Some(_), _) => Fate::Unknown,
        (None, None) => Fate::NotDone,
    }
}

fn read_in(answer: &str) -> Option<Deed> {
    match answer.strip_prefix('$') {
        Some(value) => Some(Deed::Read(Some(value.parse().expect("only numbers were written")))),
        None => (answer == "nothing").then_some(Deed::Read(None)),
    }
}

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

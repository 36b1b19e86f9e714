//! Owns the two joins of the story: one whose joiner is killed half way, one that loses a source half way.

use std::time::{Duration, Instant};

use super::picture::{Picture, View, milliseconds, share, sources};
use super::status::{JoinFigures, MemberStatus};
use super::visitor::Visitor;
use super::{ALPHA, DELTA, EPSILON, Story, fares, shown, wrong};
use crate::failure::Failure;
use crate::output;

/// A member that is joining, as the story follows it.
struct Joining {
    index: usize,
    /// When its process was started.
    began: Instant,
    visitor: Visitor,
    picture: Picture,
    milestones_told: usize,
    first_read: Option<Duration>,
    complete: Option<Duration>,
    caught_up: Option<Duration>,
    votes: Option<Duration>,
}

/// How far a joiner is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Half of its snapshot is here, and it was read from.
    HalfWay,
    /// It votes.
    Voting,
}

impl Story<'_> {
    /// A joiner that is killed half way, and goes on.
    pub(super) fn join_cut_short(&mut self) -> Result<(), Failure> {
        self.narrator.begin("delta joins while the clients go on; kill -9 half way; it goes on");
        self.narrator.tell(
            "milestones count from its first question; first read, caught up and votes\nfrom the start of its process",
        );
        let began = Instant::now();
        let mut joining = self.begin_join(DELTA)?;
        let before = self.follow(&mut joining, Until::HalfWay)?;
        self.members[DELTA].kill();
        let first_read = joining.first_read;
        joining.visitor.stop().map_err(|error| wrong(&error))?;
        drop(joining.picture);
        self.narrator.tell(format!(
            "kill -9 when {} of it was here: {} had come",
            share(&before),
            output::bytes(before.bytes())
        ));
        let mut joining = self.begin_join(DELTA)?;
        let after = self.follow(&mut joining, Until::Voting)?;
        let reads = joining.visitor.reads().between(joining.began, Instant::now());
        drop(joining.picture);
        joining.visitor.stop().map_err(|error| wrong(&error))?;
        self.tell_sources(&after);
        self.narrator.tell(format!(
            "its own clients read {} times meanwhile: {}",
            output::count(reads.requests),
            fares(&reads)
        ));
        let (writes, reads) = self.clients_between(began, Instant::now());
        self.narrator.tell("the cluster's clients, from before the first start until now:");
        self.tell_fares(&writes, &reads);
        self.measure_clients(
            "joins",
            "reads at the leader, during the join",
            "writes, during the join",
            &writes,
            &reads,
        );
        self.measure_cut(first_read, joining.complete, &before, &after);
        Ok(())
    }

    fn tell_sources(&mut self, figures: &JoinFigures) {
        let told = match figures.bytes() {
            0 => "everything was here already".to_owned(),
            _ => format!("from {}", sources(figures)),
        };
        self.narrator.tell(told);
    }

    fn measure_cut(
        &mut self,
        first_read: Option<Duration>,
        complete: Option<Duration>,
        before: &JoinFigures,
        after: &JoinFigures,
    ) {
        if let Some(first_read) = first_read {
            let label = "delta: first right read after its start";
            self.narrator.measured("first_read_ms", label, milliseconds(first_read), shown(first_read));
        }
        // What came in both lives, less what is there: bytes that were lost with the kill, up to the few that came after the last look.
        let here = before.leaf_bytes_here.max(after.leaf_bytes_here);
        let twice = (before.node_bytes + after.node_bytes).saturating_sub(here);
        self.narrator.measured(
            "killed_after_bytes",
            "  killed with kill -9 after",
            before.bytes(),
            format!("{} ({})", output::bytes(before.bytes()), share(before)),
        );
        if let Some(complete) = complete {
            let label = "  whole, after it was started again";
            self.narrator.measured("complete_ms", label, milliseconds(complete), shown(complete));
        }
        self.narrator.measured(
            "received_twice_bytes",
            "  received twice because of the kill",
            twice,
            format!("{} ({}), by the last look before it", output::bytes(twice), output::percent(twice, here)),
        );
    }

    /// A joiner that loses one of its sources half way.
    pub(super) fn join_losing_a_source(&mut self) -> Result<(), Failure> {
        self.narrator.begin("epsilon joins; one of its sources is killed with kill -9 half way");
        let mut joining = self.begin_join(EPSILON)?;
        let before = self.follow(&mut joining, Until::HalfWay)?;
        let victim = self.busiest_source(&before)?;
        self.members[victim].kill();
        let name = self.members[victim].name;
        let given = output::bytes(given_by(name, &before));
        let said = format!("kill -9 of {name}, which had sent {given} of {}", output::bytes(before.bytes()));
        joining.picture.pause(|| self.narrator.tell(said));
        let after = self.follow(&mut joining, Until::Voting)?;
        drop(joining.picture);
        joining.visitor.stop().map_err(|error| wrong(&error))?;
        self.tell_sources(&after);
        if let Some(complete) = joining.complete {
            let shown = format!("{}, {} on the wire", shown(complete), output::bytes(after.wire_received));
            self.narrator.measured("join_ms", "epsilon: whole, although a source died", milliseconds(complete), shown);
        }
        if let Some(caught_up) = joining.caught_up {
            self.narrator.measured("caught_up_ms", "  and caught up", milliseconds(caught_up), shown(caught_up));
        }
        let took = self.start(victim)?;
        self.narrator.tell(format!("{name} is started again, and serves after {}", shown(took)));
        Ok(())
    }

    /// The source that gave most, of those that do not lead.
    fn busiest_source(&mut self, figures: &JoinFigures) -> Result<usize, Failure> {
        let leader = self.leader()?;
        let given = |index: &usize| given_by(self.members[*index].name, figures);
        let others = (ALPHA..EPSILON).filter(|index| *index != leader);
        others.max_by_key(given).ok_or_else(|| Failure::new("there is no source but the leader"))
    }

    fn begin_join(&mut self, index: usize) -> Result<Joining, Failure> {
        let began = Instant::now();
        let served = self.start(index)?;
        let address = self.members[index].clients();
        let visitor = Visitor::start(address, self.ledger.clone());
        let visitor = visitor.map_err(|error| Failure::new("cannot start a client").because(&error))?;
        let name = self.members[index].name;
        self.narrator.tell(format!("{name} is started, and serves reads after {}", shown(served)));
        let picture = Picture::new(self.narrator.format());
        Ok(Joining {
            index,
            began,
            visitor,
            picture,
            milestones_told: 0,
            first_read: None,
            complete: None,
            caught_up: None,
            votes: None,
        })
    }

    /// Shows how a joiner comes on, and returns its last figures.
    fn follow(&mut self, joining: &mut Joining, until: Until) -> Result<JoinFigures, Failure> {
        let mut leader = self.leader()?;
        self.until("the joiner comes on", |story| {
            let status = story.members[joining.index].status()?;
            let ahead = match story.members[leader].status() {
                Ok(status) => status.position.index,
                Err(_) => {
                    leader = story.leader()?;
                    return Ok(None);
                }
            };
            let lag = ahead.saturating_sub(status.position.index);
            story.note(joining, &status, lag);
            story.draw(joining, &status, lag);
            // One that had everything before it was started again fetches nothing.
            let figures = status.join.unwrap_or_default();
            if let Some(failure) = &figures.failure {
                return Err(Failure::new(format!("{} does not get on: {failure}", story.members[joining.index].name)));
            }
            let is_there = match until {
                Until::HalfWay => joining.first_read.is_some() && (figures.is_half_way() || joining.complete.is_some()),
                Until::Voting => joining.complete.is_some() && joining.caught_up.is_some() && joining.votes.is_some(),
            };
            Ok(is_there.then_some(figures))
        })
    }

    /// Tells what is new: the first read, and each milestone.
    fn note(&mut self, joining: &mut Joining, status: &MemberStatus, lag: u64) {
        let name = self.members[joining.index].name;
        let mut news = Vec::new();
        if let (None, Some(first)) = (joining.first_read, joining.visitor.first()) {
            let after = first - joining.began;
            joining.first_read = Some(after);
            news.push(("first read", after, "right, at the joiner".to_owned()));
        }
        let reached = status.join.iter().flat_map(|join| &join.reached);
        for milestone in reached.clone().skip(joining.milestones_told) {
            let after = Duration::from_millis(milestone.after_ms);
            // Those beyond are told as they are seen from outside.
            let Some((_, meaning)) = MILESTONES.iter().find(|(word, _)| *word == milestone.milestone) else { continue };
            let came = match milestone.bytes {
                0 => String::new(),
                bytes => format!("; {} had come", output::bytes(bytes)),
            };
            news.push((milestone.milestone.as_str(), after, format!("{meaning}{came}")));
        }
        joining.milestones_told = reached.count();
        joining.complete = match &status.join {
            Some(join) => join.reached("complete"),
            None if status.is_whole() => joining.complete.or_else(|| Some(joining.began.elapsed())),
            None => None,
        };
        if joining.caught_up.is_none() && joining.complete.is_some() && lag <= CAUGHT_UP_ENTRIES {
            let after = joining.began.elapsed();
            joining.caught_up = Some(after);
            news.push(("caught up", after, format!("{lag} log entries behind the leader")));
        }
        if joining.votes.is_none() && status.votes() {
            let after = joining.began.elapsed();
            joining.votes = Some(after);
            news.push(("votes", after, "it counts for durability".to_owned()));
        }
        for (word, after, meaning) in news {
            let value = serde_json::json!({ "member": name, "milestone": word, "ms": milliseconds(after) });
            let line = format!("{name} {word:>10} {:>8}  {meaning}", shown(after));
            joining.picture.pause(|| self.narrator.show("reached", &value, &line));
        }
    }

    fn draw(&mut self, joining: &mut Joining, status: &MemberStatus, lag: u64) {
        let now = Instant::now();
        let (writes, reads) = self.clients_between(now - RECENT, now);
        let view = View {
            joiner: self.members[joining.index].name,
            elapsed: joining.began.elapsed(),
            figures: status.join.as_ref(),
            lag,
            writes,
            reads,
        };
        if let Some((value, line)) = joining.picture.show(&view) {
            self.narrator.show("live", &value, &line);
        }
    }
}

fn given_by(name: &str, figures: &JoinFigures) -> u64 {
    figures.sources.iter().filter(|source| source.name == name).map(|source| source.bytes).sum()
}

/// What milestones mean to somebody who hears of them for the first time.
const MILESTONES: [(&str, &str); 7] = [
    ("asked", "every source was asked"),
    ("planned", "it knows which snapshot to fetch"),
    ("viable", "it serves reads"),
    ("warm", "what others read often is here"),
    ("complete", "everything is here, and durable"),
    ("verified", "it sealed the same as the others, at one position"),
    ("promoted", "it asks for its vote"),
];

/// A joiner that is so close behind has caught up: the load alone is some entries per look.
const CAUGHT_UP_ENTRIES: u64 = 20;
/// The moments that a picture shows.
const RECENT: Duration = Duration::from_secs(1);

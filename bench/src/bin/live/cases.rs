//! Owns the list of what is compared: each case is plain data, with the goals that Landfall has set itself. It never
//! runs anything.

use anyhow::ensure;
use landfall_bench::netns::Rate;

use crate::courses::Pace;
use crate::figure::Figure;
use crate::servers::{Durability, Landfall, Redis, Server};

/// One comparison.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) course: Course,
    pub(crate) load: Load,
    pub(crate) load_began: LoadBegan,
    pub(crate) rate: Rate,
    pub(crate) pinning: Pinning,
    pub(crate) contestants: Vec<Box<dyn Server>>,
    pub(crate) goals: Vec<Goal>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// A new member joins one that serves.
    Join,
    /// The same, but it is killed when half of the bytes have come, and started again.
    Killed,
    /// A new member joins behind a short log, while clients write faster than its link carries, and then slower.
    Outrun(Pace),
    /// A member is stopped, one key of a hundred is written, it comes back.
    Return(History),
    /// No member joins: as many requests as the servers take.
    Throughput(Request),
}

/// What the others still know of the time a member was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    Held,
    Gone,
}

/// What `redis-benchmark` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Set,
}

/// What the source's clients write while something happens; the probes always run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Idle,
    WritesPerSecond(u32),
}

/// How long the load has lasted when somebody joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadBegan {
    /// Some seconds: little waits to be sealed.
    Lately,
    /// Long enough for changes to have been sealed as often, and as many at a time, as the load makes it.
    LongAgo,
}

/// On which cores everybody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pinning {
    Free,
    /// The source and its clients on core 0, the joiner and its reader on core 1.
    Apart,
}

/// One promise: the least that must hold, and what is aimed at.
pub(crate) struct Goal {
    pub(crate) figure: Figure,
    pub(crate) measure: Measure,
    pub(crate) at_least: f64,
    pub(crate) aim: f64,
}

/// What is held against a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Landfall's figure.
    Alone,
    /// Landfall's figure as a share of Redis'.
    OfRedis,
}

impl Case {
    fn new(name: &'static str, title: &'static str, course: Course) -> Self {
        Self {
            name,
            title,
            course,
            load: Load::Idle,
            load_began: LoadBegan::Lately,
            rate: Rate::Unlimited,
            pinning: Pinning::Free,
            contestants: Vec::new(),
            goals: Vec::new(),
        }
    }

    fn with(mut self, server: impl Server + 'static) -> Self {
        self.contestants.push(Box::new(server));
        self
    }

    fn goal(mut self, figure: Figure, measure: Measure, at_least: f64, aim: f64) -> Self {
        self.goals.push(Goal { figure, measure, at_least, aim });
        self
    }

    fn join_goals(self) -> Self {
        use Figure::{FirstReadSeconds, FreshReadSeconds, WholeSeconds};
        self.goal(FirstReadSeconds, Measure::Alone, 0.25, 0.05)
            .goal(FreshReadSeconds, Measure::Alone, 2.0, 0.5)
            .goal(WholeSeconds, Measure::OfRedis, 0.4, 0.2)
            .goal(Figure::HeldGrowthShare, Measure::Alone, 0.1, 0.03)
    }

    fn latency_goals(self) -> Self {
        use Figure::{ReadsP99Growth, ReadsP999Growth, WritesP99Growth, WritesP999Growth};
        let figures = [ReadsP99Growth, ReadsP999Growth, WritesP99Growth, WritesP999Growth];
        figures.into_iter().fold(self, |case, figure| case.goal(figure, Measure::Alone, 1.5, 1.1))
    }
}

/// All cases, or those whose name, or its first word, is named.
pub(crate) fn select(names: &[String], landfall: &Landfall, keys: u32) -> anyhow::Result<Vec<Case>> {
    let mut cases = join_cases(landfall);
    cases.extend(return_cases(landfall, keys));
    cases.extend(throughput_cases(landfall));
    let all: Vec<_> = cases.iter().map(|case| case.name).collect();
    let is_named = |case: &Case, name: &str| {
        // A whole name may begin another: it means the one.
        case.name == name
            || !all.contains(&name) && case.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    for name in names {
        ensure!(cases.iter().any(|case| is_named(case, name)), "no case {name}; there are {}", all.join(", "));
    }
    cases.retain(|case| names.is_empty() || names.iter().any(|name| is_named(case, name)));
    Ok(cases)
}

fn join_cases(landfall: &Landfall) -> Vec<Case> {
    let join = |name, title, load| Case {
        load,
        ..Case::new(name, title, Course::Join).with(Redis::plain()).with(landfall.clone()).join_goals()
    };
    let idle = |name, title| join(name, title, Load::Idle);
    let apart = |case: Case| Case { pinning: Pinning::Apart, ..case }.latency_goals();
    // Where the link does not bind, bytes are sent as they are: processors are for the source's clients.
    let capped = |case: Case, megabits| {
        let case = Case { rate: Rate::MegabitsPerSecond(megabits), ..case };
        case.goal(Figure::ReceivedMegabytes, Measure::OfRedis, 0.6, 0.4)
    };
    let (steady, twice) = (Load::WritesPerSecond(STEADY_WRITES), Load::WritesPerSecond(2 * STEADY_WRITES));
    let long_ago = |case: Case| Case { load_began: LoadBegan::LongAgo, ..case };
    vec![
        idle("join-idle", "A new member joins an idle source").latency_goals(),
        join("join-load", "The same at 20 000 SET/s", steady).latency_goals(),
        long_ago(join("join-load-long", "The same at a source that has been under it for a while", steady)),
        join("join-load-twice", "The same at 40 000 SET/s", twice).latency_goals(),
        apart(idle("join-apart-idle", "Idle, source and clients on core 0, joiner on core 1")),
        apart(join("join-apart-load", "20 000 SET/s, source and clients on core 0, joiner on core 1", steady)),
        capped(idle("join-gigabit", "Idle, links of 1 Gbit/s"), 1000),
        capped(idle("join-200-megabit", "Idle, links of 200 Mbit/s"), 200),
        Case::new("killed", "The joiner is killed half way and started again", Course::Killed)
            .with(Redis::plain())
            .with(landfall.clone())
            .goal(Figure::RepeatedShare, Measure::Alone, 0.01, 0.01)
            .goal(Figure::RepeatedMegabytes, Measure::Alone, f64::INFINITY, 8.4),
        Case {
            rate: Rate::MegabitsPerSecond(OUTRUN_MEGABITS),
            ..Case::new(
                "log-outrun",
                "A short log, and writes at twice what the joiner's link carries",
                Course::Outrun(OUTRUN),
            )
            .with(Redis::plain())
            .with(landfall.clone().keeping_log(OUTRUN_LOG_BYTES))
            .goal(Figure::CopiesAndWrites, Measure::Alone, 1.3, 1.1)
        },
    ]
}

fn return_cases(landfall: &Landfall, keys: u32) -> Vec<Case> {
    let (held, gone) = (Course::Return(History::Held), Course::Return(History::Gone));
    // The default backlog would hold all that a small run writes.
    let short = if keys >= FULL_KEYS { Redis::BACKLOG_BYTES } else { SHORT_BACKLOG_BYTES };
    vec![
        Case::new("return-log-held", "A member returns after 1 % of the keys were written, log still held", held)
            .with(Redis { backlog_bytes: LONG_BACKLOG_BYTES, ..Redis::plain() })
            .with(landfall.clone())
            .goal(Figure::WholeSeconds, Measure::Alone, 1.0, 0.5)
            .goal(Figure::ReceivedOfChanged, Measure::Alone, 1.3, 0.7),
        Case::new("return-log-gone", "The same, log gone, its old state still known", gone)
            .with(Redis { backlog_bytes: short, ..Redis::plain() })
            .with(landfall.clone().keeping_log(SHORT_LOG_BYTES))
            .goal(Figure::WholeSeconds, Measure::Alone, 2.0, 1.0)
            .goal(Figure::ReceivedOfChanged, Measure::Alone, 2.2, 1.1),
    ]
}

fn throughput_cases(landfall: &Landfall) -> Vec<Case> {
    let (get, set) = (Course::Throughput(Request::Get), Course::Throughput(Request::Set));
    let durable = Redis { durability: Durability::EveryWrite, ..Redis::plain() };
    vec![
        Case::new("throughput-get", "redis-benchmark -P 16 -c 50, GET", get)
            .with(Redis::plain())
            .with(landfall.clone())
            .goal(Figure::OperationsPerSecond, Measure::OfRedis, 0.5, 1.0),
        Case::new("throughput-set", "redis-benchmark -P 16 -c 50, SET, durable", set)
            .with(durable)
            .with(landfall.clone())
            .goal(Figure::OperationsPerSecond, Measure::OfRedis, 0.3, 1.0),
    ]
}

const STEADY_WRITES: u32 = 20_000;
/// A link that carries about 13 000 writes a second, and a log that holds a second of twice as many.
const OUTRUN_MEGABITS: u32 = 16;
const OUTRUN: Pace = Pace { first_per_second: 26_000, later_per_second: 6_500 };
const OUTRUN_LOG_BYTES: u64 = 4 << 20;
/// From here on 1 % of the keys is more than Redis' default backlog holds.
const FULL_KEYS: u32 = 1_000_000;
const SHORT_BACKLOG_BYTES: u64 = 16 << 10;
const LONG_BACKLOG_BYTES: u64 = 64 << 20;
const SHORT_LOG_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check_selected(name: &str, expected: &[&str]) {
        let landfall = Landfall::new(Path::new("/nowhere"), Path::new("/nowhere"));
        let cases = select(&[name.to_owned()], &landfall, FULL_KEYS).unwrap();
        assert_eq!(cases.iter().map(|case| case.name).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_name_or_its_first_words_select_cases() {
        check_selected("return-log-held", &["return-log-held"]);
        check_selected("return", &["return-log-held", "return-log-gone"]);
    }

    #[test]
    fn a_whole_name_selects_its_case_also_where_it_begins_others() {
        check_selected("join-load", &["join-load"]);
        check_selected("join-load-twice", &["join-load-twice"]);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let landfall = Landfall::new(Path::new("/nowhere"), Path::new("/nowhere"));
        assert!(select(&["joi".to_owned()], &landfall, FULL_KEYS).is_err());
    }
}

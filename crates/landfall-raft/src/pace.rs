//! Owns how a joiner's pace is judged: what comes to it each second, beside what the log grows by meanwhile, and whether with that its join ends.
//!
//! It holds no clock and tells nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use landfall::core::Time;
use landfall::keyed::LAG_MAX;
use serde::{Deserialize, Serialize};

use crate::consensus::MemberId;
use crate::message::{Lacks, PaceReport};
use crate::reserved::LEASES_MAX;

/// How often a joiner reports.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(5);
/// A pace is that of so long; of whom nothing was heard for longer, nothing is known.
const PACE_OF: Duration = Duration::from_secs(30);
/// Reports of less than this say nothing: what comes, comes in bursts.
const PACE_OF_MIN: Duration = Duration::from_secs(10);
/// Reports that follow each other sooner count as one, so that whoever sends many of them takes no memory.
const REPORT_EVERY_MIN: Duration = Duration::from_secs(1);
/// As many joiners as may hold a lease on the log.
const JOINERS_MAX: usize = LEASES_MAX;
/// What a joiner needs while it lacks parts of the snapshot, in times of what the log grows by: the log itself, and as much of the snapshot
/// before what it holds is old.
const LOG_TIMES_WHILE_FILLING: u64 = 2;
/// A log that grows by less, in bytes per second, keeps nobody from joining: members write as much by themselves.
const LOG_PER_SECOND_MIN: u64 = 1024;
const _: () = assert!(REPORT_EVERY.as_millis() * 2 <= PACE_OF_MIN.as_millis());
const _: () = assert!(PACE_OF_MIN.as_millis() < PACE_OF.as_millis());

/// How fast a joiner gets on, and how fast it must so that its join ends: in bytes per second, of at most the last half minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Who joins.
    pub joiner: MemberId,
    /// What comes to it: parts of the snapshot, counted as they are and not as they travel, and the log.
    pub received_per_second: u64,
    /// What the leader's log grows by.
    pub log_per_second: u64,
    /// What must come. It is twice what the log grows by while parts of the snapshot are missing, as much where only the log lags, and 0 where
    /// nothing does: then little comes because little is wanted.
    pub needed_per_second: u64,
}

impl Pace {
    /// Whether less comes than must.
    pub fn is_too_slow(&self) -> bool {
        self.received_per_second < self.needed_per_second
    }
}

/// The leader's own log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogEnd {
    /// The index of its last entry.
    pub(crate) last: u64,
    /// Bytes that were ever appended to it, in this life of the member.
    pub(crate) appended_bytes: u64,
}

/// What joiners reported to a leader lately.
#[derive(Default)]
pub(crate) struct Paces {
    term: u64,
    joiners: BTreeMap<MemberId, Reports>,
}

/// What one joiner reported, oldest first.
#[derive(Default)]
struct Reports {
    life: u64,
    kept: VecDeque<Kept>,
}

/// A report, and where the leader's log was when it came.
struct Kept {
    at: Time,
    received_bytes: u64,
    lacks: Lacks,
    log_last: u64,
    leader: LogEnd,
}

impl Paces {
    /// Takes what a joiner reports to the leader of `term`; says how fast it gets on, once enough was reported to know.
    pub(crate) fn handle_report(&mut self, report: &PaceReport, leader: LogEnd, term: u64, now: Time) -> Option<Pace> {
        if self.term != term {
            *self = Self { term, joiners: BTreeMap::new() };
        }
        self.forget_silent(now);
        if self.joiners.len() >= JOINERS_MAX && !self.joiners.contains_key(&report.joiner) {
            return None;
        }
        let reports = self.joiners.entry(report.joiner).or_default();
        reports.keep(report, leader, now);
        reports.pace(report.joiner)
    }

    /// Forgets of whom nothing was heard for long.
    pub(crate) fn forget_silent(&mut self, now: Time) {
        let is_heard = |reports: &Reports| reports.kept.back().is_some_and(|newest| now.since(newest.at) <= PACE_OF);
        self.joiners.retain(|_, reports| is_heard(reports));
    }

    /// Forgets everybody.
    pub(crate) fn clear(&mut self) {
        self.joiners.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.joiners.is_empty()
    }
}

impl Reports {
    fn keep(&mut self, report: &PaceReport, leader: LogEnd, now: Time) {
        // One that was started anew counts anew.
        if self.life != report.life {
            *self = Self { life: report.life, kept: VecDeque::new() };
        }
        if let Some(newest) = self.kept.back() {
            // In one life the count never falls: a later report overtook this one.
            let is_old = report.received_bytes < newest.received_bytes;
            if is_old || now.since(newest.at) < REPORT_EVERY_MIN {
                return;
            }
        }
        let PaceReport { received_bytes, lacks, log_last, .. } = *report;
        self.kept.push_back(Kept { at: now, received_bytes, lacks, log_last, leader });
        while self.kept.front().is_some_and(|oldest| now.since(oldest.at) > PACE_OF) {
            self.kept.pop_front();
        }
    }

    fn pace(&self, joiner: MemberId) -> Option<Pace> {
        let (oldest, newest) = (self.kept.front()?, self.kept.back()?);
        let span = newest.at.since(oldest.at);
        if span < PACE_OF_MIN {
            return None;
        }
        let per_second = |before: u64, after: u64| {
            let per_second = u128::from(after.saturating_sub(before)) * 1_000_000_000 / span.as_nanos();
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        let received_per_second = per_second(oldest.received_bytes, newest.received_bytes);
        let log_per_second = per_second(oldest.leader.appended_bytes, newest.leader.appended_bytes);
        let needed_per_second = match newest.lacks {
            _ if log_per_second < LOG_PER_SECOND_MIN => 0,
            Lacks::Snapshot => log_per_second.saturating_mul(LOG_TIMES_WHILE_FILLING),
            Lacks::Log if self.lags() => log_per_second,
            Lacks::Log => 0,
        };
        Some(Pace { joiner, received_per_second, log_per_second, needed_per_second })
    }

    /// Whether a joiner lacks what the leader's log held when the report before the last one came: what was written since may be on its way,
    /// however fast the link, and is more than a few entries where many are written.
    fn lags(&self) -> bool {
        let mut latest = self.kept.iter().rev();
        let (newest, before) = (latest.next(), latest.next());
        newest.zip(before).is_some_and(|(newest, before)| newest.log_last.saturating_add(LAG_MAX) < before.leader.last)
    }
}

/// What was found of joiners last, as long as something is heard of them.
#[derive(Default)]
pub(crate) struct Findings {
    by_joiner: BTreeMap<MemberId, (Pace, Time)>,
}

/// What is to be said of a joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It has become too slow.
    TooSlow(Pace),
    /// It still is.
    StillTooSlow(Pace),
    /// It is no longer, or nothing is known of it any more; nothing needs to come.
    Over(Pace),
}

impl Findings {
    /// Takes what was found of a joiner, or that nothing is known.
    pub(crate) fn note(&mut self, joiner: MemberId, found: Option<Pace>, now: Time) -> Option<News> {
        let before = match found {
            Some(pace) => self.by_joiner.insert(joiner, (pace, now)),
            None => self.by_joiner.remove(&joiner),
        };
        let before = before.map(|(pace, _)| pace).filter(Pace::is_too_slow);
        match (before, found) {
            (None, Some(pace)) => pace.is_too_slow().then_some(News::TooSlow(pace)),
            (Some(_), Some(pace)) if pace.is_too_slow() => Some(News::StillTooSlow(pace)),
            (Some(_), Some(pace)) => Some(News::Over(pace)),
            (before, None) => before.map(over),
        }
    }

    /// Forgets joiners of which nothing was heard for long.
    pub(crate) fn forget_silent(&mut self, now: Time) -> Vec<News> {
        self.forget(|_, found_at| now.since(found_at) > PACE_OF)
    }

    /// Forgets everybody but one.
    pub(crate) fn forget_all_but(&mut self, joiner: MemberId) -> Vec<News> {
        self.forget(|of, _| of != joiner)
    }

    fn forget(&mut self, is_over: impl Fn(MemberId, Time) -> bool) -> Vec<News> {
        let forgotten = self.by_joiner.extract_if(.., |of, (_, found_at)| is_over(*of, *found_at));
        let paces = forgotten.map(|(_, (pace, _))| pace);
        paces.filter(Pace::is_too_slow).map(over).collect()
    }

    /// What was found of a joiner last.
    pub(crate) fn of(&self, joiner: MemberId) -> Option<Pace> {
        self.by_joiner.get(&joiner).map(|(pace, _)| *pace)
    }

    /// Everybody of whom something is known.
    pub(crate) fn all(&self) -> impl Iterator<Item = Pace> {
        self.by_joiner.values().map(|(pace, _)| *pace)
    }
}

fn over(pace: Pace) -> News {
    News::Over(Pace { needed_per_second: 0, ..pace })
}

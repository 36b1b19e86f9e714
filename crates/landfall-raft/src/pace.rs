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

#[cfg(test)]
mod tests {
    use super::*;

    const JOINER: MemberId = 7;
    const MB: u64 = 1_000_000;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// A leader that hears of joiners. Its log grows by 2 MB a second, in entries of a thousand bytes, unless said otherwise.
    struct Leader {
        paces: Paces,
        term: u64,
        log_per_second: u64,
    }

    impl Leader {
        fn new() -> Self {
            Self { paces: Paces::default(), term: 1, log_per_second: 2 * MB }
        }

        fn log(&self, second: u64) -> LogEnd {
            LogEnd { last: second * self.log_per_second / 1000, appended_bytes: 500 + second * self.log_per_second }
        }

        fn hear(&mut self, second: u64, report: PaceReport) -> Option<Pace> {
            let log = self.log(second);
            self.paces.handle_report(&report, log, self.term, at(second))
        }

        /// Hears every five seconds, until one of these, of a joiner to which so much comes each second.
        fn hear_until(&mut self, second: u64, received_per_second: u64, report: PaceReport) -> Option<Pace> {
            let mut found = None;
            for second in (0..=second).step_by(5) {
                let received_bytes = report.received_bytes + second * received_per_second;
                found = self.hear(second, PaceReport { received_bytes, ..report });
            }
            found
        }
    }

    /// A joiner that has begun, and lacks parts of the snapshot.
    fn filling() -> PaceReport {
        PaceReport { joiner: JOINER, life: 3, received_bytes: 100, lacks: Lacks::Snapshot, log_last: 0 }
    }

    fn pace(received_per_second: u64, log_per_second: u64, needed_per_second: u64) -> Option<Pace> {
        Some(Pace { joiner: JOINER, received_per_second, log_per_second, needed_per_second })
    }

    #[track_caller]
    fn check(received_per_second: u64, log_per_second: u64, needed_per_second: u64, is_too_slow: bool) {
        let mut leader = Leader { log_per_second, ..Leader::new() };
        let found = leader.hear_until(20, received_per_second, filling());
        assert_eq!(found, pace(received_per_second, log_per_second, needed_per_second));
        assert_eq!(found.unwrap().is_too_slow(), is_too_slow);
    }

    #[test]
    fn who_fills_needs_twice_what_the_log_grows_by_and_not_a_byte_more() {
        check(4 * MB, 2 * MB, 4 * MB, false);
        check(4 * MB + 1, 2 * MB, 4 * MB, false);
        check(4 * MB - 1, 2 * MB, 4 * MB, true);
        check(0, 2 * MB, 4 * MB, true);
        check(u64::from(u32::MAX), 2 * MB, 4 * MB, false);
    }

    #[test]
    fn nothing_needs_to_come_where_nobody_writes() {
        check(0, 0, 0, false);
        check(0, LOG_PER_SECOND_MIN - 1, 0, false);
        check(0, LOG_PER_SECOND_MIN, 2 * LOG_PER_SECOND_MIN, true);
    }

    #[test]
    fn counts_without_sense_are_no_reason_to_panic() {
        let mut leader = Leader::new();
        for (second, received_bytes) in [(0, 0), (10, u64::MAX), (20, u64::MAX)] {
            leader.hear(second, PaceReport { received_bytes, log_last: u64::MAX, ..filling() });
        }
        let mut paces = Paces::default();
        let log = |appended_bytes| LogEnd { last: 0, appended_bytes };
        paces.handle_report(&filling(), log(0), 1, at(0));
        let found = paces.handle_report(&filling(), log(u64::MAX), 1, at(10)).unwrap();
        assert_eq!((found.log_per_second, found.is_too_slow()), (u64::MAX / 10, true));
        // A clock that stands still, or goes back.
        assert_eq!(paces.handle_report(&filling(), log(0), 1, at(10)), Some(found));
        assert_eq!(paces.handle_report(&filling(), log(0), 1, at(3)), Some(found));
    }

    #[test]
    fn ten_seconds_of_reports_are_needed_to_say_anything() {
        let mut leader = Leader::new();
        assert_eq!(leader.hear(0, filling()), None);
        assert_eq!(leader.hear(9, filling()), None);
        assert_eq!(leader.hear(10, filling()), pace(0, 2 * MB, 4 * MB));
    }

    #[test]
    fn what_came_more_than_half_a_minute_ago_does_not_count() {
        let mut leader = Leader::new();
        let report = |received_bytes| PaceReport { received_bytes, ..filling() };
        let came = |second: u64| 300 * MB + second * MB;
        leader.hear(0, report(0));
        for second in (5..30).step_by(5) {
            leader.hear(second, report(came(second)));
        }
        // The first five seconds brought 305 MB.
        assert_eq!(leader.hear(30, report(came(30))), pace(11 * MB, 2 * MB, 4 * MB));
        assert_eq!(leader.hear(35, report(came(35))), pace(MB, 2 * MB, 4 * MB));
    }

    /// A joiner that is whole, after reports that it had so much of the log at each of these seconds.
    fn following(log_last_at: impl Fn(u64) -> u64, received_per_second: u64) -> Option<Pace> {
        let mut leader = Leader::new();
        let mut found = None;
        for second in (0..=30).step_by(5) {
            let (received_bytes, log_last) = (second * received_per_second, log_last_at(second));
            found = leader.hear(second, PaceReport { received_bytes, lacks: Lacks::Log, log_last, ..filling() });
        }
        found
    }

    #[test]
    fn who_is_whole_and_follows_needs_nothing_however_little_comes() {
        // 2000 entries are written each second: those since the last report may be on their way, and 64 more.
        let ends = |second: u64| second * 2000;
        assert_eq!(following(ends, 0), pace(0, 2 * MB, 0));
        let late = |second: u64| ends(second.saturating_sub(5));
        assert_eq!(following(late, 0), pace(0, 2 * MB, 0));
        assert_eq!(following(|second| late(second).saturating_sub(LAG_MAX), 0), pace(0, 2 * MB, 0));
    }

    #[test]
    fn who_is_whole_and_lags_needs_what_the_log_grows_by() {
        let lags = |second: u64| (second.saturating_sub(5) * 2000).saturating_sub(LAG_MAX + 1);
        for (received_per_second, is_too_slow) in [(2 * MB, false), (2 * MB - 1, true), (0, true)] {
            let found = following(lags, received_per_second);
            assert_eq!(found, pace(received_per_second, 2 * MB, 2 * MB));
            assert_eq!(found.unwrap().is_too_slow(), is_too_slow);
        }
        assert_eq!(following(|_| u64::MAX, 0), pace(0, 2 * MB, 0), "nobody is ahead of the leader");
    }

    #[test]
    fn a_joiner_that_was_started_anew_counts_anew() {
        let mut leader = Leader::new();
        assert!(leader.hear_until(20, MB, filling()).is_some());
        let again = |received_bytes| PaceReport { life: 4, received_bytes, ..filling() };
        assert_eq!(leader.hear(25, again(5)), None);
        assert_eq!(leader.hear(30, again(5)), None);
        assert_eq!(leader.hear(35, again(5 + 10 * MB)), pace(MB, 2 * MB, 4 * MB));
        // Also where it has come further by then than it had before.
        assert_eq!(leader.hear(40, PaceReport { life: 5, received_bytes: 900 * MB, ..filling() }), None);
    }

    #[test]
    fn a_report_that_was_overtaken_or_comes_twice_changes_nothing() {
        let report = |second: u64| PaceReport { received_bytes: second * MB, ..filling() };
        let mut leader = Leader::new();
        for second in [0, 5, 10, 15] {
            leader.hear(second, report(second));
        }
        let found = pace(MB, 2 * MB, 4 * MB);
        assert_eq!(leader.hear(18, report(10)), found, "overtaken");
        assert_eq!(leader.hear(15, report(15)), found, "the same again");
        assert_eq!(leader.hear(20, report(20)), found);
    }

    #[test]
    fn many_reports_at_once_count_as_one() {
        let mut leader = Leader::new();
        for number in 0..1000 {
            leader.paces.handle_report(&filling(), leader.log(0), 1, Time::from_millis(number));
        }
        assert_eq!(leader.paces.joiners[&JOINER].kept.len(), 1);
        for second in 0..1000 {
            leader.hear(second, filling());
        }
        assert_eq!(leader.paces.joiners[&JOINER].kept.len(), 31);
    }

    #[test]
    fn a_leader_knows_nothing_of_what_was_reported_to_another_or_in_another_term() {
        let mut leader = Leader::new();
        assert!(leader.hear_until(20, MB, filling()).is_some());
        leader.term = 2;
        let report = |second: u64| PaceReport { received_bytes: second * MB, ..filling() };
        assert_eq!(leader.hear(25, report(25)), None);
        assert_eq!(leader.hear(30, report(30)), None);
        assert_eq!(leader.hear(35, report(35)), pace(MB, 2 * MB, 4 * MB));
    }

    #[test]
    fn who_falls_silent_is_forgotten() {
        let mut leader = Leader::new();
        assert!(leader.hear_until(20, MB, filling()).is_some());
        leader.paces.forget_silent(at(50));
        assert!(!leader.paces.is_empty());
        leader.paces.forget_silent(at(51));
        assert!(leader.paces.is_empty());
        assert!(leader.hear_until(20, MB, filling()).is_some());
        assert_eq!(leader.hear(51, filling()), None, "one report of the last half minute");
    }

    #[test]
    fn as_many_joiners_are_known_as_may_be_and_one_more_once_another_is_silent() {
        let mut leader = Leader::new();
        let of = |joiner| PaceReport { joiner, ..filling() };
        for second in [0, 10] {
            for joiner in 0..JOINERS_MAX as u64 {
                leader.hear(second, of(joiner));
            }
        }
        let one_more = JOINERS_MAX as u64;
        for second in [10, 20, 30] {
            assert_eq!(leader.hear(second, of(one_more)), None);
            assert_eq!(leader.paces.joiners.len(), JOINERS_MAX);
            assert!(leader.hear(second, of(0)).is_some(), "who is known stays known");
        }
        assert_eq!(leader.hear(41, of(one_more)), None);
        assert_eq!(leader.paces.joiners.len(), 2, "who was heard at 30, and the one more");
        assert!(leader.hear(51, of(one_more)).is_some());
    }

    fn slow(joiner: MemberId) -> Pace {
        Pace { joiner, received_per_second: 1, log_per_second: 2, needed_per_second: 4 }
    }

    fn fast(joiner: MemberId) -> Pace {
        Pace { received_per_second: 4, ..slow(joiner) }
    }

    #[test]
    fn what_is_new_is_said_when_it_begins_while_it_lasts_and_once_when_it_is_over() {
        let mut findings = Findings::default();
        let mut note = |found| findings.note(JOINER, found, at(0));
        assert_eq!(note(None), None);
        assert_eq!(note(Some(fast(JOINER))), None);
        assert_eq!(note(Some(slow(JOINER))), Some(News::TooSlow(slow(JOINER))));
        assert_eq!(note(Some(slow(JOINER))), Some(News::StillTooSlow(slow(JOINER))));
        assert_eq!(note(Some(fast(JOINER))), Some(News::Over(fast(JOINER))));
        assert_eq!(note(Some(fast(JOINER))), None);
        assert_eq!(note(None), None);
        assert_eq!(note(Some(slow(JOINER))), Some(News::TooSlow(slow(JOINER))));
        assert_eq!(note(None), Some(over(slow(JOINER))));
        assert_eq!(note(None), None);
    }

    #[test]
    fn of_whom_nothing_is_known_any_more_it_is_said_that_it_is_over() {
        let mut findings = Findings::default();
        findings.note(1, Some(slow(1)), at(0));
        findings.note(2, Some(fast(2)), at(0));
        findings.note(3, Some(slow(3)), at(10));
        assert_eq!(findings.forget_silent(at(30)), []);
        assert_eq!(findings.forget_silent(at(31)), [over(slow(1))]);
        assert_eq!(findings.all().collect::<Vec<_>>(), [slow(3)]);
        let News::Over(pace) = over(slow(1)) else { panic!("it is not over") };
        assert!(!pace.is_too_slow());
        findings.note(4, Some(slow(4)), at(31));
        assert_eq!(findings.forget_all_but(3), [over(slow(4))]);
        assert_eq!((findings.of(3), findings.of(4)), (Some(slow(3)), None));
        assert_eq!(findings.forget_all_but(9), [over(slow(3))]);
    }
}

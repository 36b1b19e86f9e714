//! Owns which source is asked next for what cannot wait, and when to give up. It asks nobody, and does not know what is asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Pauses, Time};

/// How long something is asked for before it counts as not to be had.
pub const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// The first pause after every source failed; it doubles up to the longest.
pub const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
pub const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// A source that sends so many things that do not match their hash is not asked any more.
const CORRUPT_MAX: u32 = 3;

/// A source, as its place among all that were ever named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// What is known of the sources, over all that was asked of them. New ones may come; none is ever taken out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Of each, how often it sent what does not match its hash.
    corrupt: Vec<u32>,
    /// The one that answered last.
    preferred: u32,
}

impl Sources {
    /// Takes one more source in.
    pub fn add(&mut self) -> SourceId {
        self.corrupt.push(0);
        SourceId(self.corrupt.len() as u32 - 1)
    }

    /// How many there are, whether or not they may be asked.
    pub fn count(&self) -> usize {
        self.corrupt.len()
    }

    /// A source gave all that it was asked for: it is the first to be asked next time.
    pub fn handle_answered(&mut self, source: SourceId) {
        self.preferred = source.0;
    }

    /// A source sent something that does not match its hash.
    pub fn handle_corrupt(&mut self, source: SourceId) {
        if let Some(count) = self.corrupt.get_mut(source.0 as usize) {
            *count += 1;
        }
    }

    /// Whether a source may be asked.
    pub fn trusts(&self, source: SourceId) -> bool {
        self.corrupt.get(source.0 as usize).is_some_and(|&count| count < CORRUPT_MAX)
    }

    /// All of them, the one that answered last first.
    fn in_order(&self) -> impl Iterator<Item = SourceId> + use<> {
        let (count, preferred) = (self.corrupt.len() as u32, self.preferred);
        (0..count).map(move |at| SourceId((preferred + at) % count))
    }
}

/// What one source left to be desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// It does not have all of it.
    Lacking,
    /// It cannot be reached, or sent what nobody can use: it may be better soon.
    Unusable,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask this source, and tell what it left to be desired, if anything.
    Ask(SourceId),
    /// Wait until then, or until a source is added.
    Wait {
        /// When to look again.
        until: Time,
    },
    /// It is not to be had.
    GiveUp(GiveUp),
}

/// Why something is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Every source that may be asked was asked, and lacks some of it.
    AllLack,
    /// Sources that may have it could not be reached for too long.
    Patience,
}

/// One thing on its way from source to source, until one gives all of it.
#[derive(Debug, Clone)]
pub struct Asking {
    patience_ends: Time,
    pauses: Pauses,
    /// Sources that were asked since the last pause, and those of them that lack it.
    asked: BTreeSet<SourceId>,
    lacking: BTreeSet<SourceId>,
    /// When the pause ends, if there is one.
    pauses_until: Option<Time>,
}

impl Asking {
    /// Nobody was asked yet.
    pub fn new(now: Time) -> Self {
        Self {
            patience_ends: now + PATIENCE_MAX,
            pauses: Pauses::new(PAUSE_FIRST, PAUSE_LONGEST),
            asked: BTreeSet::new(),
            lacking: BTreeSet::new(),
            pauses_until: None,
        }
    }

    /// A source did not give all of it.
    pub fn handle_shortfall(&mut self, source: SourceId, shortfall: Shortfall) {
        if shortfall == Shortfall::Lacking {
            self.lacking.insert(source);
        }
    }

    /// What to do next.
    pub fn next(&mut self, sources: &Sources, now: Time) -> Next {
        if self.pauses_until.is_some_and(|until| until <= now) {
            // Who lacked it may be one that is being filled itself.
            self.asked.clear();
            self.lacking.clear();
            self.pauses_until = None;
        }
        let trusted = || sources.in_order().filter(|&source| sources.trusts(source));
        if let Some(source) = trusted().find(|source| !self.asked.contains(source)) {
            self.asked.insert(source);
            return Next::Ask(source);
        }
        if trusted().all(|source| self.lacking.contains(&source)) {
            return Next::GiveUp(GiveUp::AllLack);
        }
        if now >= self.patience_ends {
            return Next::GiveUp(GiveUp::Patience);
        }
        let until = *self.pauses_until.get_or_insert_with(|| now + self.pauses.lengthen());
        Next::Wait { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = SourceId(0);
    const B: SourceId = SourceId(1);
    const C: SourceId = SourceId(2);

    fn sources(count: usize) -> Sources {
        let mut sources = Sources::default();
        for _ in 0..count {
            sources.add();
        }
        sources
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn whoever_answered_last_is_asked_first_and_the_others_after_it() {
        let mut sources = sources(3);
        sources.handle_answered(B);
        let mut asking = Asking::new(at(0));
        let asked = [(); 3].map(|()| asking.next(&sources, at(0)));
        assert_eq!(asked, [B, C, A].map(Next::Ask));
    }

    #[test]
    fn what_all_lack_is_given_up_at_once() {
        let sources = sources(2);
        let mut asking = Asking::new(at(0));
        for source in [A, B] {
            assert_eq!(asking.next(&sources, at(5)), Next::Ask(source));
            asking.handle_shortfall(source, Shortfall::Lacking);
        }
        assert_eq!(asking.next(&sources, at(5)), Next::GiveUp(GiveUp::AllLack));
        assert_eq!(Asking::new(at(0)).next(&Sources::default(), at(0)), Next::GiveUp(GiveUp::AllLack));
    }

    #[test]
    fn who_cannot_be_reached_is_asked_again_after_pauses_that_grow_and_so_is_who_lacked_it() {
        let sources = sources(2);
        let mut asking = Asking::new(at(0));
        let mut now = 0;
        for pause in [20, 40, 80, 160, 320, 640, 1000, 1000] {
            for source in [A, B] {
                assert_eq!(asking.next(&sources, at(now)), Next::Ask(source));
            }
            asking.handle_shortfall(A, Shortfall::Lacking);
            asking.handle_shortfall(B, Shortfall::Unusable);
            assert_eq!(asking.next(&sources, at(now)), Next::Wait { until: at(now + pause) });
            // To look too early changes nothing.
            assert_eq!(asking.next(&sources, at(now + 1)), Next::Wait { until: at(now + pause) });
            now += pause;
        }
    }

    #[test]
    fn patience_ends() {
        let sources = sources(1);
        let mut asking = Asking::new(at(0));
        let mut now = at(0);
        let why = loop {
            match asking.next(&sources, now) {
                Next::Ask(source) => asking.handle_shortfall(source, Shortfall::Unusable),
                Next::Wait { until } => now = until,
                Next::GiveUp(why) => break why,
            }
        };
        assert_eq!(why, GiveUp::Patience);
        assert!(now >= at(0) + PATIENCE_MAX && now <= at(0) + PATIENCE_MAX + PAUSE_LONGEST, "{now}");
    }

    #[test]
    fn a_source_that_is_added_during_a_pause_is_asked_at_once() {
        let mut sources = sources(1);
        let mut asking = Asking::new(at(0));
        assert_eq!(asking.next(&sources, at(0)), Next::Ask(A));
        asking.handle_shortfall(A, Shortfall::Unusable);
        let until = at(20);
        assert_eq!(asking.next(&sources, at(0)), Next::Wait { until });
        assert_eq!(sources.add(), B);
        assert_eq!(asking.next(&sources, at(3)), Next::Ask(B));
        asking.handle_shortfall(B, Shortfall::Unusable);
        assert_eq!(asking.next(&sources, at(4)), Next::Wait { until });
    }

    #[test]
    fn who_lies_too_often_is_not_asked_any_more() {
        let mut sources = sources(2);
        for _ in 0..CORRUPT_MAX {
            assert!(sources.trusts(A));
            sources.handle_corrupt(A);
        }
        let mut asking = Asking::new(at(0));
        assert_eq!(asking.next(&sources, at(0)), Next::Ask(B));
        asking.handle_shortfall(B, Shortfall::Lacking);
        assert_eq!(asking.next(&sources, at(0)), Next::GiveUp(GiveUp::AllLack));
    }
}

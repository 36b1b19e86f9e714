//! Owns what clients saw of registers, and whether one order of instants explains it: every write and every read at a moment between its
//! question and its answer. It never talks to anybody.
//!
//! Every write of a key writes another value, which makes the question easy: a write and the reads of its value stand together in any order
//! that explains them (Gibbons and Korach, "Testing Shared Memories", 1997, section 4).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a client did with a key. Nothing stands for a key that was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Wrote(u64),
    Read(Option<u64>),
}

/// Something that a client did, between two moments. A write without an answer has no end: it may take effect at any time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) deed: Deed,
    pub(crate) asked: u64,
    pub(crate) answered: Option<u64>,
}

/// Why no order explains what clients saw of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// A value was read that nobody had begun to write.
    FromNowhere { value: u64 },
    /// Of two values, each was there after the other had been: somebody read what had been overwritten, or a write was lost.
    Interleaved { one: Option<u64>, other: Option<u64> },
}

/// Writes down what clients do while they do it.
#[derive(Default)]
pub(crate) struct Recorder {
    clock: AtomicU64,
    operations: Mutex<BTreeMap<String, Vec<Operation>>>,
}

impl Recorder {
    /// The present moment; no two are equal.
    pub(crate) fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn note(&self, key: &str, operation: Operation) {
        let mut operations = self.operations.lock().expect("no panic under the lock");
        operations.entry(key.to_owned()).or_default().push(operation);
    }

    /// How much was noted with an answer.
    pub(crate) fn answered(&self) -> usize {
        let operations = self.operations.lock().expect("no panic under the lock");
        operations.values().flatten().filter(|operation| operation.answered.is_some()).count()
    }

    /// What each key saw.
    pub(crate) fn histories(self) -> BTreeMap<String, Vec<Operation>> {
        self.operations.into_inner().expect("no panic under the lock")
    }
}

/// When a value certainly was there: from the first answer that proves it to the last question that found it. Where the answer comes later
/// than the question, all of it fits one instant between the two.
#[derive(Debug, Clone, Copy)]
struct Zone {
    value: Option<u64>,
    first_answer: u64,
    last_question: u64,
    /// When the write was asked for; the value of the beginning was always there.
    written_after: Option<u64>,
}

impl Zone {
    fn is_long(&self) -> bool {
        self.first_answer < self.last_question
    }
}

/// Looks for an order that explains what clients saw of one key.
pub(crate) fn check(history: &[Operation]) -> Result<(), Anomaly> {
    let zones = zones(history)?;
    let (mut long, short): (Vec<_>, Vec<_>) = zones.into_iter().partition(Zone::is_long);
    long.sort_by_key(|zone| zone.first_answer);
    if let Some(pair) = long.windows(2).find(|pair| pair[1].first_answer < pair[0].last_question) {
        return Err(Anomaly::Interleaved { one: pair[0].value, other: pair[1].value });
    }
    for zone in short {
        // The last long one that begins before it, for they do not overlap.
        let before = long.partition_point(|long| long.first_answer < zone.last_question);
        let around = before.checked_sub(1).map(|at| long[at]);
        if let Some(around) = around.filter(|around| zone.first_answer < around.last_question) {
            return Err(Anomaly::Interleaved { one: around.value, other: zone.value });
        }
    }
    Ok(())
}

fn zones(history: &[Operation]) -> Result<Vec<Zone>, Anomaly> {
    let beginning = Zone { value: None, first_answer: 0, last_question: 0, written_after: None };
    let mut zones = BTreeMap::from([(None, Zone { written_after: Some(0), ..beginning })]);
    // Moments are counted from one here, so that the beginning comes before all of them.
    for operation in history {
        if let Deed::Wrote(value) = operation.deed {
            let (asked, answered) = (operation.asked + 1, operation.answered.map_or(u64::MAX, |answered| answered + 1));
            let zone =
                Zone { value: Some(value), first_answer: answered, last_question: asked, written_after: Some(asked) };
            assert!(zones.insert(Some(value), zone).is_none(), "no value is written twice");
        }
    }
    for operation in history {
        let (Deed::Read(value), Some(answered)) = (operation.deed, operation.answered) else { continue };
        let nowhere = Anomaly::FromNowhere { value: value.unwrap_or_default() };
        let zone = zones.get_mut(&value).ok_or(nowhere.clone())?;
        if zone.written_after.is_some_and(|asked| answered + 1 < asked) {
            return Err(nowhere);
        }
        zone.first_answer = zone.first_answer.min(answered + 1);
        zone.last_question = zone.last_question.max(operation.asked + 1);
    }
    // A write that nobody heard of and nobody saw need not have happened.
    Ok(zones.into_values().filter(|zone| zone.first_answer != u64::MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(value: u64, asked: u64, answered: u64) -> Operation {
        Operation { deed: Deed::Wrote(value), asked, answered: Some(answered) }
    }

    fn wrote_perhaps(value: u64, asked: u64) -> Operation {
        Operation { deed: Deed::Wrote(value), asked, answered: None }
    }

    fn read(value: impl Into<Option<u64>>, asked: u64, answered: u64) -> Operation {
        Operation { deed: Deed::Read(value.into()), asked, answered: Some(answered) }
    }

    #[track_caller]
    fn check_explained(history: &[Operation]) {
        assert_eq!(check(history), Ok(()));
    }

    #[track_caller]
    fn check_refused(history: &[Operation]) {
        assert!(check(history).is_err(), "{history:?}");
    }

    #[test]
    fn one_after_the_other_is_explained() {
        check_explained(&[read(None, 0, 1), wrote(1, 2, 3), read(1, 4, 5), wrote(2, 6, 7), read(2, 8, 9)]);
    }

    #[test]
    fn a_lost_write_is_found() {
        check_refused(&[wrote(1, 0, 1), read(None, 2, 3)]);
        check_refused(&[wrote(1, 0, 1), wrote(2, 2, 3), read(1, 4, 5)]);
    }

    #[test]
    fn a_stale_read_is_found_even_if_later_ones_are_right() {
        check_refused(&[wrote(1, 0, 1), wrote(2, 2, 3), read(1, 4, 5), read(2, 6, 7)]);
    }

    #[test]
    fn reads_never_go_back() {
        check_explained(&[wrote(1, 0, 1), wrote(2, 2, 9), read(1, 3, 4), read(2, 5, 6)]);
        check_refused(&[wrote(1, 0, 1), wrote(2, 2, 9), read(2, 3, 4), read(1, 5, 6)]);
    }

    #[test]
    fn nothing_is_read_before_it_is_written() {
        check_refused(&[read(7, 0, 1)]);
        check_refused(&[read(7, 0, 1), wrote(7, 2, 3)]);
    }

    #[test]
    fn a_write_of_unknown_fate_happens_late_or_never_but_not_twice() {
        check_explained(&[wrote_perhaps(1, 0), read(None, 1, 2), read(None, 3, 4)]);
        check_explained(&[wrote_perhaps(1, 0), read(None, 1, 2), read(1, 3, 4)]);
        check_refused(&[wrote_perhaps(1, 0), read(1, 1, 2), read(None, 3, 4)]);
        check_refused(&[wrote_perhaps(1, 0), read(1, 1, 2), wrote(2, 3, 4), read(2, 5, 6), read(1, 7, 8)]);
    }

    #[test]
    fn writes_at_the_same_time_come_in_either_order() {
        check_explained(&[wrote(1, 0, 5), wrote(2, 1, 4), read(1, 6, 7)]);
        check_explained(&[wrote(1, 0, 5), wrote(2, 1, 4), read(2, 6, 7)]);
        check_refused(&[wrote(1, 0, 5), wrote(2, 1, 4), read(1, 6, 7), read(2, 8, 9)]);
    }

    /// Tries every order.
    fn is_explained_by_some_order(history: &[Operation]) -> bool {
        fn go_on(left: &[Operation], value: Option<u64>) -> bool {
            let deadline = left.iter().filter_map(|operation| operation.answered).min();
            if deadline.is_none() {
                return true;
            }
            (0..left.len()).any(|at| {
                let next = left[at];
                let rest = [&left[..at], &left[at + 1..]].concat();
                let is_in_time = deadline.is_none_or(|deadline| next.asked <= deadline);
                is_in_time
                    && match next.deed {
                        Deed::Wrote(written) => go_on(&rest, Some(written)),
                        Deed::Read(read) => read == value && go_on(&rest, value),
                    }
            })
        }
        go_on(history, None)
    }

    #[test]
    fn it_says_of_small_histories_what_trying_every_order_says() {
        let mut random = 1_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        let mut explained = 0;
        for _ in 0..4000 {
            let mut moments: Vec<u64> = (0..12).collect();
            (1..moments.len()).rev().for_each(|at| moments.swap(at, below(at as u64 + 1) as usize));
            let mut history = Vec::new();
            for (number, pair) in moments.chunks(2).enumerate() {
                let (asked, answered) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                let operation = match number {
                    0..2 => wrote(number as u64 + 1, asked, answered),
                    2 => wrote_perhaps(3, asked),
                    _ => read(Some(below(4)).filter(|value| *value > 0), asked, answered),
                };
                history.push(operation);
            }
            let expected = is_explained_by_some_order(&history);
            assert_eq!(check(&history).is_ok(), expected, "{history:?}");
            explained += usize::from(expected);
        }
        assert!((100..3900).contains(&explained), "{explained} of them are explained");
    }
}

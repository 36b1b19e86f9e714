//! Owns what the link of one connection did: while requests were answered, and in between for as long as bytes still waited to leave.
//! It decides nothing.

use std::time::{Duration, Instant};

use landfall_core::codec::LinkFacts;
use landfall_net::Pressure;

use super::core_wait::CoreWait;

/// A silence that is longer says nothing of the link, whatever the system still holds.
const GAP_MAX: Duration = Duration::from_secs(1);

/// Watches one link. It belongs to the thread that answers.
pub(super) struct LinkWatch {
    core_wait: CoreWait,
    answered: Option<Moment>,
}

/// What was known at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    pressure: Pressure,
    /// How long this thread had waited for a core.
    waited: Duration,
}

impl LinkWatch {
    pub(super) fn of_this_thread() -> Self {
        Self { core_wait: CoreWait::of_this_thread(), answered: None }
    }

    /// An answer begins.
    pub(super) fn begin(&self, pressure: Pressure) -> Moment {
        Moment { at: Instant::now(), pressure, waited: self.core_wait.so_far() }
    }

    /// An answer ended that began at `began`, while so many cores were spare.
    pub(super) fn end(&mut self, began: Moment, pressure: Pressure, spare_cores: f64) -> LinkFacts {
        let ended = Moment { at: Instant::now(), pressure, waited: self.core_wait.so_far() };
        LinkFacts { spare_cores, ..facts(self.answered.replace(ended), began, ended) }
    }
}

/// What the link did until `ended`: since `began`, or since the answer `before` if what that had left was not all gone.
fn facts(before: Option<Moment>, began: Moment, ended: Moment) -> LinkFacts {
    let since = before.filter(|before| began.pressure.unsent_bytes > 0 && began.at - before.at <= GAP_MAX);
    let (since, gap) = since.map_or((began, Duration::ZERO), |since| (since, began.at - since.at));
    let in_send = ended.pressure.blocked.saturating_sub(since.pressure.blocked);
    // Neither a receiver that is slow to take bytes nor a want of cores is cured by more work for the cores.
    let blocked = (in_send + gap)
        .saturating_sub(ended.pressure.receiver_limited.saturating_sub(since.pressure.receiver_limited))
        .saturating_sub(ended.waited.saturating_sub(since.waited));
    let left = |moment: Moment| moment.pressure.bytes_sent.saturating_sub(moment.pressure.unsent_bytes);
    LinkFacts {
        sent_bytes: left(ended).saturating_sub(left(since)),
        elapsed: ended.at - since.at,
        blocked,
        spare_cores: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// After `at_ms`, so much was given to the system, of which so much waits.
    fn moment(start: Instant, at_ms: u32, bytes_sent: u64, unsent_bytes: u64) -> Moment {
        let pressure = Pressure { bytes_sent, unsent_bytes, ..Pressure::default() };
        Moment { at: start + MS * at_ms, pressure, waited: Duration::ZERO }
    }

    #[test]
    fn a_link_that_still_has_bytes_to_send_was_what_everybody_waited_for() {
        let start = Instant::now();
        let before = moment(start, 0, 500_000, 400_000);
        let (began, ended) = (moment(start, 8, 500_000, 100_000), moment(start, 10, 1_000_000, 550_000));
        let facts = facts(Some(before), began, ended);
        assert_eq!((facts.sent_bytes, facts.elapsed, facts.blocked), (350_000, MS * 10, MS * 8));
    }

    #[test]
    fn a_link_that_had_nothing_to_send_says_nothing_by_its_silence() {
        let start = Instant::now();
        let before = moment(start, 0, 500_000, 400_000);
        let (began, ended) = (moment(start, 8, 500_000, 0), moment(start, 10, 1_000_000, 0));
        let facts = facts(Some(before), began, ended);
        assert_eq!((facts.sent_bytes, facts.elapsed, facts.blocked), (500_000, MS * 2, Duration::ZERO));
    }

    #[test]
    fn a_slow_receiver_and_a_want_of_cores_are_not_the_link() {
        let start = Instant::now();
        let before = moment(start, 0, 500_000, 400_000);
        let (mut began, mut ended) = (moment(start, 8, 500_000, 100_000), moment(start, 10, 500_000, 100_000));
        ended.pressure.receiver_limited = MS * 5;
        (began.waited, ended.waited) = (MS, MS * 2);
        assert_eq!(facts(Some(before), began, ended).blocked, MS);
    }
}

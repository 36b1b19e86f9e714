//! Owns what was asked when, and how long it took from the time it was due: percentiles over a window of time. It never
//! asks anything.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Every request of a probe, by the time it was due.
#[derive(Default)]
pub struct Timeline(Vec<(Instant, Duration)>);

/// How long requests of a window took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many there were.
    pub requests: usize,
    /// The middle.
    pub p50_ms: f64,
    /// 99 of 100 were quicker.
    pub p99_ms: f64,
    /// Only of a thousand or more: of fewer it is the greatest.
    pub p999_ms: Option<f64>,
    /// The slowest.
    pub max_ms: f64,
}

impl Timeline {
    /// Keeps one.
    pub fn note(&mut self, due: Instant, took: Duration) {
        self.0.push((due, took));
    }

    /// Of the requests that were due in a window; nothing if none was.
    pub fn within(&self, window: &Range<Instant>) -> Option<Latencies> {
        let within = self.0.iter().filter(|(due, _)| window.contains(due));
        let mut sorted: Vec<Duration> = within.map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let of_rank = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map(|took| took.as_secs_f64() * 1e3)
        };
        Some(Latencies {
            requests: sorted.len(),
            p50_ms: of_rank(0.5)?,
            p99_ms: of_rank(0.99)?,
            p999_ms: of_rank(0.999).filter(|_| sorted.len() >= 1000),
            max_ms: of_rank(1.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(start: Instant, requests: u32) -> Timeline {
        let mut timeline = Timeline::default();
        for number in 1..=requests {
            timeline.note(start + Duration::from_millis(number.into()), Duration::from_millis(number.into()));
        }
        timeline
    }

    #[test]
    fn a_percentile_is_the_request_of_that_rank() {
        let start = Instant::now();
        let all = timeline(start, 1000).within(&(start..start + Duration::from_secs(2))).unwrap();
        assert_eq!((all.p50_ms, all.p99_ms, all.p999_ms, all.max_ms), (500.0, 990.0, Some(999.0), 1000.0));
    }

    #[test]
    fn only_what_was_due_in_the_window_counts_and_few_requests_have_no_thousandth() {
        let start = Instant::now();
        let window = start + Duration::from_millis(10)..start + Duration::from_millis(20);
        let some = timeline(start, 1000).within(&window).unwrap();
        assert_eq!((some.requests, some.max_ms, some.p999_ms), (10, 19.0, None));
        assert_eq!(timeline(start, 3).within(&(start..start)), None);
    }
}

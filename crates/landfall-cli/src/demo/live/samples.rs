//! Owns how long requests took and when: latencies are counted from the moment a request was due, not from when it was sent.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Requests that were answered.
#[derive(Default)]
pub(super) struct Samples(Mutex<Vec<Sample>>);

/// Requests that were answered together.
#[derive(Debug, Clone, Copy)]
struct Sample {
    answered: Instant,
    took: Duration,
    requests: u32,
}

/// What came of the requests of a period.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Summary {
    /// Requests that were answered in it.
    pub(super) requests: u64,
    /// Of them, per second.
    pub(super) per_second: f64,
    /// Half of them took at most so long.
    pub(super) p50: Duration,
    /// All but one of a hundred took at most so long.
    pub(super) p99: Duration,
    /// The longest time in which none was answered.
    pub(super) longest_pause: Duration,
}

impl Samples {
    /// Some requests that were due at the same moment were answered now.
    pub(super) fn add(&self, due: Instant, requests: u32) {
        let answered = Instant::now();
        let sample = Sample { answered, took: answered.saturating_duration_since(due), requests };
        self.0.lock().expect("no panic under the lock").push(sample);
    }

    /// The requests that were answered between two moments.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Summary {
        let samples = self.0.lock().expect("no panic under the lock");
        // They were added in order, up to the few that threads add at the same moment.
        let first = samples.partition_point(|sample| sample.answered < from);
        let mut period: Vec<_> = samples[first..].iter().copied().take_while(|sample| sample.answered <= to).collect();
        drop(samples);
        let longest_pause = longest_pause(&period, from, to);
        period.sort_unstable_by_key(|sample| sample.took);
        let requests: u64 = period.iter().map(|sample| u64::from(sample.requests)).sum();
        Summary {
            requests,
            per_second: requests as f64 / (to - from).as_secs_f64().max(1e-9),
            p50: quantile(&period, requests, 50),
            p99: quantile(&period, requests, 99),
            longest_pause,
        }
    }
}

fn longest_pause(period: &[Sample], from: Instant, to: Instant) -> Duration {
    let answered = period.iter().map(|sample| sample.answered);
    let ends = answered.clone().chain([to]);
    let begins = [from].into_iter().chain(answered);
    begins.zip(ends).map(|(begin, end)| end.saturating_duration_since(begin)).max().unwrap_or_default()
}

/// How long the fastest `percent` of the requests took at most.
fn quantile(sorted: &[Sample], requests: u64, percent: u64) -> Duration {
    let wanted = (requests * percent).div_ceil(100);
    let mut passed = 0;
    let reached = sorted.iter().find(|sample| {
        passed += u64::from(sample.requests);
        passed >= wanted
    });
    reached.map_or(Duration::ZERO, |sample| sample.took)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(began: Instant, of: &[(u64, u64, u32)]) -> Samples {
        let sample = |(at, took, requests): &(u64, u64, u32)| Sample {
            answered: began + Duration::from_millis(*at),
            took: Duration::from_millis(*took),
            requests: *requests,
        };
        Samples(Mutex::new(of.iter().map(sample).collect()))
    }

    #[test]
    fn quantiles_count_requests_and_only_those_of_the_period() {
        let began = Instant::now();
        let samples = samples(began, &[(1, 900, 1000), (10, 2, 98), (20, 70, 1), (30, 50, 1), (2000, 900, 1)]);
        let summary = samples.between(began + Duration::from_millis(5), began + Duration::from_millis(1005));
        assert_eq!((summary.requests, summary.per_second), (100, 100.0));
        assert_eq!((summary.p50, summary.p99), (Duration::from_millis(2), Duration::from_millis(50)));
        assert_eq!(summary.longest_pause, Duration::from_millis(975));
    }

    #[test]
    fn a_period_without_requests_is_one_pause() {
        let began = Instant::now();
        let summary = samples(began, &[]).between(began, began + Duration::from_secs(3));
        assert_eq!(summary, Summary { longest_pause: Duration::from_secs(3), ..Summary::default() });
    }
}

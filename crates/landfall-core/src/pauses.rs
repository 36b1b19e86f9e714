//! Owns how long to pause before something that failed is tried again: each time twice as long, up to a limit. It never waits itself.

use std::time::Duration;

/// The pauses between tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// None has been made yet.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause to make now; the one after it is longer.
    pub fn lengthen(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// It worked: the next failure is the first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_the_last_up_to_the_longest_until_something_works() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(5));
        let mut next = |count: usize| (0..count).map(|_| pauses.lengthen().as_secs()).collect::<Vec<_>>();
        assert_eq!(next(5), [1, 2, 4, 5, 5]);
        pauses.reset();
        assert_eq!(pauses.lengthen(), Duration::from_secs(1));
    }
}

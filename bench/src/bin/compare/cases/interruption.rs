//! Owns the course of a transfer that is killed half way: what the second attempt receives again. It never says how a
//! tool ought to resume.

use std::time::Duration;

use super::runner::Turn;
use crate::sample::Sample;
use landfall_bench::measure::wait_until;

impl Turn<'_> {
    /// Receives the whole once for its bytes, then again into nothing with a kill at half of them, then to the end.
    ///
    /// The sample is that of the last attempt, with the bytes of both attempts beyond those of a whole transfer.
    pub(super) fn transfer_killed_half_way(&mut self) -> anyhow::Result<Sample> {
        let start_bytes = self.to_joiner_bytes()?;
        self.receive()?;
        let whole_bytes = self.to_joiner_bytes()? - start_bytes;
        self.clear_target()?;

        let first_attempt_bytes = self.to_joiner_bytes()?;
        let joiner = self.start_receiving()?;
        wait_until(HALF_LIMIT, || {
            Ok(self.to_joiner_bytes()? - first_attempt_bytes >= whole_bytes / 2 || joiner.has_ended()?)
        })?;
        anyhow::ensure!(!joiner.has_ended()?, "the transfer ended before it could be killed");
        joiner.kill()?;

        let mut sample = self.resume()?;
        let received_bytes = self.to_joiner_bytes()? - first_attempt_bytes;
        sample.repeated_bytes = Some(received_bytes.saturating_sub(whole_bytes));
        Ok(sample)
    }
}

const HALF_LIMIT: Duration = Duration::from_secs(600);

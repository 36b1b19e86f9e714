//! Owns durability: one sync for everything that was appended before it began, whoever asked.
//!
//! It never repeats a sync that failed.

use std::sync::Arc;

use crate::lock::lock;

use super::Log;
use super::error::LogError;

impl Log {
    /// Returns once everything that was appended before survives a power cut.
    ///
    /// Callers that come while a sync runs share the next one.
    ///
    /// # Errors
    /// After [`LogError::Reopen`] nobody knows what the disk holds: open the log again.
    pub fn sync(&self) -> Result<(), LogError> {
        self.disk.check()?;
        let wanted = lock(&self.state).end();
        let _turn = lock(&self.turn);
        // The one before may have failed for all.
        self.disk.check()?;
        let state = lock(&self.state);
        if state.synced >= wanted {
            return Ok(());
        }
        let (file, end) = (Arc::clone(&state.tail.file), state.end());
        drop(state);
        self.disk.sync(file.as_ref(), end.segment)?;
        let mut state = lock(&self.state);
        // A segment that was finished meanwhile is durable as a whole.
        state.synced = state.synced.max(end);
        Ok(())
    }
}

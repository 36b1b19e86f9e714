//! Owns on which core a thread, and whatever it starts, runs.

use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where the calling thread, and what it starts from now on, may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Wherever the kernel likes.
    Any,
    /// On one core only.
    One(usize),
}

impl Cores {
    /// Binds the calling thread.
    pub fn bind(self) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        match self {
            Self::Any => (0..CpuSet::MAX_CPU).for_each(|core| set.set(core)),
            Self::One(core) => set.set(core),
        }
        sched_setaffinity(None, &set).with_context(|| format!("bind a thread to {self:?}"))
    }
}

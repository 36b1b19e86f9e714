//! Owns what one measured transfer gave. It never measures.

use landfall_bench::measure::Usage;
use serde::{Deserialize, Serialize};

/// One measured transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// From the first command's start to the last one's end, without any final sync.
    pub(crate) wall_seconds: f64,
    /// What it then took until everything was on disk, a tool's own final sync included.
    pub(crate) sync_seconds: f64,
    pub(crate) source: Usage,
    pub(crate) joiner: Usage,
    pub(crate) to_joiner_bytes: u64,
    pub(crate) to_source_bytes: u64,
    /// What a transfer that was killed and begun again received more than a whole one.
    pub(crate) repeated_bytes: Option<u64>,
    /// What the tool itself reported, if it reports.
    pub(crate) own_report: Option<serde_json::Value>,
}

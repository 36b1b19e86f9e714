//! Owns what Landfall promises of a case and whether a run kept it. It never measures anything.

use crate::datasets::Extent;
use crate::report::Row;
use landfall_bench::figures::{Bound, Spread};

/// One promise: the least that must hold, and what is aimed at.
pub(crate) struct Goal {
    pub(crate) yardstick: Yardstick,
    /// Infinite where only an aim is set.
    pub(crate) at_least: f64,
    pub(crate) aim: Option<f64>,
}

/// What is held against a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Yardstick {
    /// Landfall's wall time as a share of a peer's.
    WallRatio {
        against: &'static str,
    },
    /// How many times the rate of `slower` the row `faster` reached.
    RateRatio {
        faster: &'static str,
        slower: &'static str,
    },
    WallSeconds,
    /// Bytes on the wire in both directions.
    WireBytes,
    /// The same as a multiple of the bytes in the 4 KiB pages that changed.
    WireOfChangedPages,
    /// Bytes received twice.
    RepeatedBytes,
    /// The same as a share of the state.
    RepeatedOfState,
    /// The larger peak of the two ends, the worst of all of Landfall's rows and rounds.
    PeakBytes,
}

/// What the sizes of a case are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) state: Extent,
    /// Bytes in changed pages; nothing where no first version exists.
    pub(crate) changed_bytes: Option<u64>,
}

impl Yardstick {
    pub(crate) fn bound(self) -> Bound {
        match self {
            Self::RateRatio { .. } => Bound::AtLeast,
            _ => Bound::AtMost,
        }
    }

    pub(crate) fn describe(self) -> String {
        match self {
            Self::WallRatio { against } => format!("wall time / {against}"),
            Self::RateRatio { faster, slower } => format!("rate of {faster} / {slower}"),
            Self::WallSeconds => "wall time, s".to_owned(),
            Self::WireBytes => "bytes on the wire, MB".to_owned(),
            Self::WireOfChangedPages => "bytes on the wire / changed bytes".to_owned(),
            Self::RepeatedBytes => "bytes received twice, MB".to_owned(),
            Self::RepeatedOfState => "bytes received twice / state".to_owned(),
            Self::PeakBytes => "peak memory of either side, MB".to_owned(),
        }
    }

    /// What one unit of the figure is in the table: bytes are shown as millions.
    pub(crate) fn unit(self) -> f64 {
        match self {
            Self::WireBytes | Self::RepeatedBytes | Self::PeakBytes => 1e6,
            _ => 1.0,
        }
    }

    /// The figure that a run gave, or nothing if a row it needs has no sample.
    pub(crate) fn read(self, rows: &[Row], sizes: Sizes) -> Option<f64> {
        let landfall = || rows.iter().find(|row| row.is_landfall() && !row.samples.is_empty());
        let wall = |row: &Row| Some(row.spread(|sample| sample.wall_seconds)?.median);
        let wire = || {
            let spread = landfall()?.spread(|sample| (sample.to_joiner_bytes + sample.to_source_bytes) as f64)?;
            Some(spread.median)
        };
        let repeated = || landfall()?.spread_of(|sample| sample.repeated_bytes.map(|bytes| bytes as f64));
        match self {
            Self::WallRatio { against } => Some(wall(landfall()?)? / wall(named(rows, against)?)?),
            Self::RateRatio { faster, slower } => Some(wall(named(rows, slower)?)? / wall(named(rows, faster)?)?),
            Self::WallSeconds => wall(landfall()?),
            Self::WireBytes => wire(),
            Self::WireOfChangedPages => Some(wire()? / sizes.changed_bytes? as f64),
            Self::RepeatedBytes => Some(repeated()?.median),
            Self::RepeatedOfState => Some(repeated()?.median / sizes.state.bytes as f64),
            Self::PeakBytes => rows.iter().filter(|row| row.is_landfall()).filter_map(peak).max_by(f64::total_cmp),
        }
    }
}

fn named<'a>(rows: &'a [Row], label: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.label == label)
}

fn peak(row: &Row) -> Option<f64> {
    let spread: Spread = row.spread(|sample| sample.source.peak_bytes.max(sample.joiner.peak_bytes) as f64)?;
    Some(spread.max)
}

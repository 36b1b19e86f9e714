//! Owns what is measured: the names of all figures, in the order of the tables, and what one turn gave. It never
//! measures.

use std::collections::BTreeMap;

use landfall_bench::figures::Bound;
use serde::{Deserialize, Serialize};

use landfall_bench::latency::Latencies;

/// One kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    FirstReadSeconds,
    FreshReadSeconds,
    WholeSeconds,
    ReceivedMegabytes,
    SentMegabytes,
    ReceivedOfChanged,
    RepeatedMegabytes,
    RepeatedShare,
    Copies,
    CopiesAndWrites,
    ReadsP50Before,
    ReadsP50During,
    ReadsP99Before,
    ReadsP99During,
    ReadsP99Growth,
    ReadsP999Before,
    ReadsP999During,
    ReadsP999Growth,
    WritesP50Before,
    WritesP50During,
    WritesP99Before,
    WritesP99During,
    WritesP99Growth,
    WritesP999Before,
    WritesP999During,
    WritesP999Growth,
    JoinerReadsP50,
    JoinerReadsP99,
    WrittenPerSecond,
    WrittenMegabytes,
    HeldBeforeMegabytes,
    HeldGrowthMegabytes,
    HeldGrowthShare,
    OperationsPerSecond,
    RequestP50Milliseconds,
    RequestP99Milliseconds,
    FlushesPerSecond,
    OperationsPerFlush,
}

/// What one turn of one server gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) figures: BTreeMap<Figure, f64>,
    /// What the servers say of themselves: the source, then the joiner.
    pub(crate) own_reports: Vec<serde_json::Value>,
}

impl Figure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FirstReadSeconds => "first correct read at the joiner, s",
            Self::FreshReadSeconds => "first read not older than the order to join, s",
            Self::WholeSeconds => "whole and caught up, s",
            Self::ReceivedMegabytes => "the joiner received, MB",
            Self::SentMegabytes => "the joiner sent, MB",
            Self::ReceivedOfChanged => "received / changed records",
            Self::RepeatedMegabytes => "received twice, MB",
            Self::RepeatedShare => "received twice / a whole join",
            Self::Copies => "received / an undisturbed copy",
            Self::CopiesAndWrites => "received / an undisturbed copy and every write once",
            Self::ReadsP50Before => "source's reads before, p50 ms",
            Self::ReadsP50During => "source's reads during, p50 ms",
            Self::ReadsP99Before => "source's reads before, p99 ms",
            Self::ReadsP99During => "source's reads during, p99 ms",
            Self::ReadsP99Growth => "source's reads, p99 during / before",
            Self::ReadsP999Before => "source's reads before, p99.9 ms",
            Self::ReadsP999During => "source's reads during, p99.9 ms",
            Self::ReadsP999Growth => "source's reads, p99.9 during / before",
            Self::WritesP50Before => "source's writes before, p50 ms",
            Self::WritesP50During => "source's writes during, p50 ms",
            Self::WritesP99Before => "source's writes before, p99 ms",
            Self::WritesP99During => "source's writes during, p99 ms",
            Self::WritesP99Growth => "source's writes, p99 during / before",
            Self::WritesP999Before => "source's writes before, p99.9 ms",
            Self::WritesP999During => "source's writes during, p99.9 ms",
            Self::WritesP999Growth => "source's writes, p99.9 during / before",
            Self::JoinerReadsP50 => "joiner's reads until it is whole, p50 ms",
            Self::JoinerReadsP99 => "joiner's reads until it is whole, p99 ms",
            Self::WrittenPerSecond => "writes acknowledged during, 1/s",
            Self::WrittenMegabytes => "keys and values written meanwhile, MB",
            Self::HeldBeforeMegabytes => "source's memory, most before, MB",
            Self::HeldGrowthMegabytes => "source's memory, most during − before, MB",
            Self::HeldGrowthShare => "source's memory, growth / before",
            Self::OperationsPerSecond => "operations, 1/s",
            Self::RequestP50Milliseconds => "a request, p50 ms",
            Self::RequestP99Milliseconds => "a request, p99 ms",
            Self::FlushesPerSecond => "flushes of the disk, 1/s",
            Self::OperationsPerFlush => "operations per flush",
        }
    }

    /// On which side of a goal it has to be.
    pub(crate) fn bound(self) -> Bound {
        match self {
            Self::WrittenPerSecond | Self::OperationsPerSecond | Self::OperationsPerFlush => Bound::AtLeast,
            _ => Bound::AtMost,
        }
    }
}

impl Sample {
    pub(crate) fn note(&mut self, figure: Figure, value: f64) {
        if value.is_finite() {
            self.figures.insert(figure, value);
        }
    }

    /// What the source's readers noticed.
    pub(crate) fn note_reads(&mut self, before: Latencies, during: Latencies) {
        self.note(Figure::ReadsP50Before, before.p50_ms);
        self.note(Figure::ReadsP50During, during.p50_ms);
        self.note(Figure::ReadsP99Before, before.p99_ms);
        self.note(Figure::ReadsP99During, during.p99_ms);
        self.note(Figure::ReadsP99Growth, during.p99_ms / before.p99_ms);
        let (before, during) = (before.p999_ms.unwrap_or(f64::NAN), during.p999_ms.unwrap_or(f64::NAN));
        self.note(Figure::ReadsP999Before, before);
        self.note(Figure::ReadsP999During, during);
        self.note(Figure::ReadsP999Growth, during / before);
    }

    /// What the source's writers noticed.
    pub(crate) fn note_writes(&mut self, before: Latencies, during: Latencies) {
        self.note(Figure::WritesP50Before, before.p50_ms);
        self.note(Figure::WritesP50During, during.p50_ms);
        self.note(Figure::WritesP99Before, before.p99_ms);
        self.note(Figure::WritesP99During, during.p99_ms);
        self.note(Figure::WritesP99Growth, during.p99_ms / before.p99_ms);
        let (before, during) = (before.p999_ms.unwrap_or(f64::NAN), during.p999_ms.unwrap_or(f64::NAN));
        self.note(Figure::WritesP999Before, before);
        self.note(Figure::WritesP999During, during);
        self.note(Figure::WritesP999Growth, during / before);
    }
}

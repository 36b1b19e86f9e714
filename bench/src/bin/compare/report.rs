//! Owns what a run says afterwards: medians with their ranges, verdicts on goals, as Markdown and as JSON. It never
//! measures anything and hides no failure.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::cases::{Case, Contestant, Goal, Sizes};
use crate::datasets::Scale;
use crate::sample::Sample;
use landfall_bench::figures::{Spread, Verdict, show, three_digits};
use landfall_bench::machine::Machine;

/// One invocation.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) scale: Scale,
    pub(crate) rounds: usize,
    pub(crate) cases: Vec<CaseReport>,
}

/// One case with all its rows.
#[derive(Serialize, Deserialize)]
pub(crate) struct CaseReport {
    name: String,
    title: String,
    reference: String,
    state_bytes: u64,
    state_files: u64,
    changed_bytes: Option<u64>,
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
}

/// One contestant's samples, each checked against the source.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    landfall: bool,
    pub(crate) not_run: Option<String>,
    pub(crate) samples: Vec<Sample>,
    failures: Vec<String>,
}

impl Row {
    pub(crate) fn new(contestant: &Contestant) -> Self {
        Self {
            label: contestant.label.clone(),
            landfall: contestant.label.starts_with("landfall"),
            not_run: contestant.tool.absent(),
            samples: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn is_landfall(&self) -> bool {
        self.landfall
    }

    /// A run that failed or whose result differs from the source gives no sample.
    pub(crate) fn record(&mut self, outcome: anyhow::Result<Sample>) {
        match outcome {
            Ok(sample) => self.samples.push(sample),
            Err(error) => {
                eprintln!("  failed: {error:#}");
                self.failures.push(format!("{error:#}"));
            }
        }
    }

    pub(crate) fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(figure).collect())
    }

    /// Over those samples that have the figure.
    pub(crate) fn spread_of(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(figure).collect())
    }
}

impl CaseReport {
    pub(crate) fn new(case: &Case, rows: Vec<Row>, sizes: Sizes) -> Self {
        let verdicts = case.goals.iter().map(|goal| judge(goal, &rows, sizes)).collect();
        Self {
            name: case.name.to_owned(),
            title: case.title.to_owned(),
            reference: case.reference.to_owned(),
            state_bytes: sizes.state.bytes,
            state_files: sizes.state.files,
            changed_bytes: sizes.changed_bytes,
            rows,
            verdicts,
        }
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let (bytes, files) = (self.state_bytes as f64 / 1e6, self.state_files);
        let plural = if files == 1 { "" } else { "s" };
        write!(text, "\n### {} (`{}`)\n\n{bytes:.1} MB in {files} file{plural}", self.title, self.name)?;
        if let Some(changed) = self.changed_bytes {
            write!(text, ", {:.1} MB in changed 4 KiB pages", changed as f64 / 1e6)?;
        }
        writeln!(text, ".\n")?;
        self.write_table(text)?;
        let failures = self.rows.iter().flat_map(|row| row.failures.iter().map(|failure| (&row.label, failure)));
        for (label, failure) in failures {
            writeln!(text, "\n{label} failed once: {}", failure.replace('\n', " "))?;
        }
        Ok(())
    }

    fn write_table(&self, text: &mut String) -> std::fmt::Result {
        let killed = self.rows.iter().any(|row| row.spread_of(repeated_megabytes).is_some());
        let extra = if killed { (" MB received twice |", "---:|") } else { ("", "") };
        writeln!(
            text,
            "| tool | n | wall, s | ratio | sync, s | CPU source, s | CPU joiner, s | peak source, MB | peak joiner, MB | MB to joiner | MB to source | equal |{}",
            extra.0
        )?;
        writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|{}", extra.1)?;
        let reference = self.rows.iter().find(|row| row.label == self.reference);
        let reference_seconds = reference.and_then(|row| Some(row.spread(|sample| sample.wall_seconds)?.median));
        for row in &self.rows {
            row.write_line(text, reference_seconds)?;
            if let Some(repeated) = row.spread_of(repeated_megabytes) {
                write!(text, " {} |", show(repeated))?;
            }
            writeln!(text)?;
        }
        Ok(())
    }
}

impl Row {
    fn write_line(&self, text: &mut String, reference_seconds: Option<f64>) -> std::fmt::Result {
        let Some(wall) = self.spread(|sample| sample.wall_seconds) else {
            let reason = if self.not_run.is_some() { "not run" } else { "failed" };
            return write!(text, "| {} | 0 | {reason} | | | | | | | | | |", self.label);
        };
        let ratio = reference_seconds.map(|seconds| format!("{:.2}", wall.median / seconds)).unwrap_or_default();
        write!(text, "| {} | {} | {} | {ratio} |", self.label, self.samples.len(), show(wall))?;
        for figure in DETAILS {
            let median = self.spread(figure).map(|spread| three_digits(spread.median));
            write!(text, " {} |", median.unwrap_or_default())?;
        }
        write!(text, " {} |", if self.failures.is_empty() { "yes" } else { "NO: see below" })
    }
}

impl Report {
    /// The form that is published: the machine, the goals, then every case in full.
    pub(crate) fn to_markdown(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::from("## Machine\n\n");
        self.machine.write_markdown(&mut text)?;
        let (scale, rounds) = (self.scale.name(), self.rounds);
        writeln!(
            text,
            "\nScale `{scale}`, {rounds} rounds; median (min–max). Ratio: wall time / the case's reference."
        )?;
        writeln!(text, "\n## Goals\n\n| case | measure | Landfall | at least | aim | reached |")?;
        writeln!(text, "|---|---|---:|---:|---:|---|")?;
        for case in &self.cases {
            case.verdicts.iter().try_for_each(|verdict| verdict.write_line(&mut text, &case.title))?;
        }
        writeln!(text, "\n## Cases")?;
        self.cases.iter().try_for_each(|case| case.write_markdown(&mut text))?;
        Ok(text)
    }
}

fn judge(goal: &Goal, rows: &[Row], sizes: Sizes) -> Verdict {
    let unit = goal.yardstick.unit();
    Verdict {
        measure: goal.yardstick.describe(),
        bound: goal.yardstick.bound(),
        at_least: Some(goal.at_least / unit).filter(|figure| figure.is_finite()),
        aim: goal.aim.map(|aim| aim / unit),
        figure: goal.yardstick.read(rows, sizes).map(|figure| figure / unit),
    }
}

fn repeated_megabytes(sample: &Sample) -> Option<f64> {
    sample.repeated_bytes.map(|bytes| bytes as f64 / 1e6)
}

/// The columns after the ratio, in the order of the heading.
const DETAILS: [fn(&Sample) -> f64; 7] = [
    |sample| sample.sync_seconds,
    |sample| sample.source.cpu_seconds,
    |sample| sample.joiner.cpu_seconds,
    |sample| sample.source.peak_bytes as f64 / 1e6,
    |sample| sample.joiner.peak_bytes as f64 / 1e6,
    |sample| sample.to_joiner_bytes as f64 / 1e6,
    |sample| sample.to_source_bytes as f64 / 1e6,
];

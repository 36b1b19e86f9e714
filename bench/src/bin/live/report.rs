//! Owns what a run says afterwards: goals, and each case with all its figures side by side, as Markdown and as JSON. It
//! never measures anything and hides no failure.

use std::collections::BTreeSet;
use std::fmt::Write;

use landfall_bench::figures::{Spread, Verdict, show, three_digits};
use landfall_bench::machine::Machine;
use serde::{Deserialize, Serialize};

use crate::cases::{Case, Goal, Measure};
use crate::figure::{Figure, Sample};
use crate::servers::Server;

/// One invocation.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) keys: u32,
    pub(crate) rounds: usize,
    pub(crate) cases: Vec<CaseReport>,
}

/// One case.
#[derive(Serialize, Deserialize)]
pub(crate) struct CaseReport {
    name: String,
    title: String,
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
}

/// One server's samples, each checked.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    is_landfall: bool,
    pub(crate) not_run: Option<String>,
    samples: Vec<Sample>,
    failures: Vec<String>,
}

impl Row {
    pub(crate) fn new(server: &dyn Server) -> Self {
        Self {
            label: server.name(),
            is_landfall: server.family() == crate::servers::LANDFALL,
            not_run: server.absent(),
            samples: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A turn that failed or whose result was not right gives no sample.
    pub(crate) fn record(&mut self, outcome: anyhow::Result<Sample>) {
        match outcome {
            Ok(sample) => self.samples.push(sample),
            Err(error) => {
                eprintln!("  failed: {error:#}");
                self.failures.push(format!("{error:#}"));
            }
        }
    }

    fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.figures.get(&figure).copied()).collect())
    }

    /// A range says nothing of one sample.
    fn show(&self, spread: Spread) -> String {
        if self.samples.len() > 1 { show(spread) } else { three_digits(spread.median) }
    }

    fn heading(&self) -> String {
        match &self.not_run {
            Some(_) => format!("{} (not run)", self.label),
            None => format!("{} (n = {})", self.label, self.samples.len()),
        }
    }
}

impl CaseReport {
    pub(crate) fn new(case: &Case, rows: Vec<Row>) -> Self {
        let verdicts = case.goals.iter().map(|goal| judge(goal, &rows)).collect();
        Self { name: case.name.to_owned(), title: case.title.to_owned(), rows, verdicts }
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n### {} (`{}`)\n", self.title, self.name)?;
        let headings: Vec<String> = self.rows.iter().map(Row::heading).collect();
        writeln!(text, "| | {} | landfall-kv / redis |", headings.join(" | "))?;
        writeln!(text, "|---|{}---:|", "---:|".repeat(self.rows.len()))?;
        let all = self.rows.iter().flat_map(|row| &row.samples).flat_map(|sample| sample.figures.keys());
        for figure in all.copied().collect::<BTreeSet<Figure>>() {
            let cell = |row: &Row| row.spread(figure).map_or("–".to_owned(), |spread| row.show(spread));
            let cells: Vec<String> = self.rows.iter().map(cell).collect();
            let ratio = share_of_redis(&self.rows, figure).map_or(String::new(), three_digits);
            writeln!(text, "| {} | {} | {ratio} |", figure.name(), cells.join(" | "))?;
        }
        for row in &self.rows {
            let reasons = row.not_run.iter().map(|reason| format!("was not run: {reason}"));
            let failures = row.failures.iter().map(|failure| format!("failed once: {}", failure.replace('\n', " ")));
            reasons.chain(failures).try_for_each(|what| writeln!(text, "\n{} {what}", row.label))?;
        }
        Ok(())
    }
}

fn judge(goal: &Goal, rows: &[Row]) -> Verdict {
    let landfall = || Some(rows.iter().find(|row| row.is_landfall)?.spread(goal.figure)?.median);
    let (measure, figure) = match goal.measure {
        Measure::Alone => (goal.figure.name().to_owned(), landfall()),
        Measure::OfRedis => (format!("{} / redis", goal.figure.name()), share_of_redis(rows, goal.figure)),
    };
    Verdict {
        measure,
        bound: goal.figure.bound(),
        at_least: Some(goal.at_least).filter(|goal| goal.is_finite()),
        aim: Some(goal.aim),
        figure,
    }
}

/// Of the medians.
fn share_of_redis(rows: &[Row], figure: Figure) -> Option<f64> {
    let median = |is_landfall| Some(rows.iter().find(|row| row.is_landfall == is_landfall)?.spread(figure)?.median);
    let (landfall, redis): (f64, f64) = (median(true)?, median(false)?);
    Some(landfall / redis).filter(|share| share.is_finite())
}

impl Report {
    /// The form that is published.
    pub(crate) fn to_markdown(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::from("## Machine\n\n");
        self.machine.write_markdown(&mut text)?;
        let (keys, rounds) = (self.keys, self.rounds);
        writeln!(text, "\n{keys} keys, {rounds} rounds; median (min–max).")?;
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

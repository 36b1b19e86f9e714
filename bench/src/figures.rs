//! Owns how figures are condensed, judged and written: medians with ranges, goals and whether they were reached. It
//! never measures.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// A median and its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Nothing of nothing.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = match figures.len() % 2 {
            0 => f64::midpoint(figures[middle - 1], figures[middle]),
            _ => figures[middle],
        };
        Some(Self { median, min, max })
    }
}

/// On which side of its goal a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Less is better.
    AtMost,
    /// More is better.
    AtLeast,
}

impl Bound {
    /// Does a figure reach a goal?
    pub fn holds(self, figure: f64, goal: f64) -> bool {
        match self {
            Self::AtMost => figure <= goal,
            Self::AtLeast => figure >= goal,
        }
    }
}

/// A goal and what became of it.
#[derive(Serialize, Deserialize)]
pub struct Verdict {
    /// What was measured, with its unit.
    pub measure: String,
    /// Which side is good.
    pub bound: Bound,
    /// In the table's unit; nothing where only an aim is set.
    pub at_least: Option<f64>,
    /// What is hoped for.
    pub aim: Option<f64>,
    /// What came out; nothing if it was not run.
    pub figure: Option<f64>,
}

impl Verdict {
    /// The best goal that holds, in a word.
    pub fn word(&self) -> &'static str {
        let holds = |goal: Option<f64>| Some(self.bound.holds(self.figure?, goal?));
        match (self.figure, holds(self.aim), holds(self.at_least)) {
            (None, ..) => "not run",
            (_, Some(true), _) => "aim reached",
            (_, _, Some(true)) => "yes",
            (_, _, Some(false)) => "NO",
            (_, Some(false), None) => "aim not reached",
            (_, None, None) => "",
        }
    }

    /// One line of a table of goals: what, measure, figure, both goals, word.
    pub fn write_line(&self, text: &mut String, title: &str) -> std::fmt::Result {
        let sign = if self.bound == Bound::AtMost { "≤ " } else { "≥ " };
        let goal = |goal: Option<f64>| goal.map_or(String::new(), |goal| format!("{sign}{}", three_digits(goal)));
        let figure = self.figure.map_or("–".to_owned(), three_digits);
        let (at_least, aim) = (goal(self.at_least), goal(self.aim));
        writeln!(text, "| {title} | {} | {figure} | {at_least} | {aim} | {} |", self.measure, self.word())
    }
}

/// A median with its range.
pub fn show(spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(three_digits);
    format!("{median} ({min}–{max})")
}

/// A figure with as many digits as a reader can use.
pub fn three_digits(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        magnitude if magnitude < 0.1 => format!("{figure:.4}"),
        magnitude if magnitude < 1.0 => format!("{figure:.3}"),
        magnitude if magnitude < 100.0 => format!("{figure:.2}"),
        _ => format!("{figure:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_median(figures: &[f64], expected: Option<(f64, f64, f64)>) {
        let spread = Spread::of(figures.to_vec()).map(|spread| (spread.median, spread.min, spread.max));
        assert_eq!(spread, expected);
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_two_middles() {
        check_median(&[], None);
        check_median(&[3.0], Some((3.0, 3.0, 3.0)));
        check_median(&[9.0, 1.0, 2.0], Some((2.0, 1.0, 9.0)));
        check_median(&[4.0, 1.0, 2.0, 9.0], Some((3.0, 1.0, 9.0)));
    }

    #[track_caller]
    fn check_word(bound: Bound, figure: Option<f64>, at_least: Option<f64>, aim: Option<f64>, expected: &str) {
        assert_eq!(Verdict { measure: String::new(), bound, at_least, aim, figure }.word(), expected);
    }

    #[test]
    fn a_verdict_names_the_best_goal_that_holds() {
        check_word(Bound::AtMost, Some(0.5), Some(0.8), Some(0.6), "aim reached");
        check_word(Bound::AtMost, Some(0.7), Some(0.8), Some(0.6), "yes");
        check_word(Bound::AtMost, Some(0.9), Some(0.8), Some(0.6), "NO");
        check_word(Bound::AtLeast, Some(1.9), Some(1.85), Some(1.95), "yes");
        check_word(Bound::AtMost, Some(2.0), None, Some(1.0), "aim not reached");
        check_word(Bound::AtMost, None, Some(0.8), None, "not run");
    }
}

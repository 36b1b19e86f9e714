//! Owns the list of what is compared: each case is plain data, with the goals that Landfall has set itself. It never
//! runs anything.

mod goal;
mod interruption;
mod runner;

use std::path::Path;

use anyhow::ensure;

pub(crate) use goal::{Goal, Sizes, Yardstick};
pub(crate) use runner::Arena;

use crate::datasets::DataSet;
use crate::peers::{Copy, Http, Landfall, Mode, Rsync, Tool};
use landfall_bench::netns::Rate;

/// One comparison.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What the joiners that do not start empty hold.
    first: Option<DataSet>,
    pub(crate) want: DataSet,
    window: Window,
    surface: Surface,
    rate: Rate,
    course: Course,
    rounds_max: usize,
    pub(crate) contestants: Vec<Contestant>,
    /// The row whose wall time is 1.00 in the table.
    pub(crate) reference: &'static str,
    pub(crate) goals: Vec<Goal>,
}

/// A tool and how it takes part in one case.
pub(crate) struct Contestant {
    pub(crate) tool: Box<dyn Tool>,
    start: Start,
    sources: usize,
    pub(crate) label: String,
}

/// What is inside the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    /// The transfer, and making a changed state visible where a tool needs that.
    Transfer,
    /// The start of the server too, with all it does before it accepts joiners.
    ServingAndTransfer,
}

/// Where the joiner writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    WorkingDisk,
    FreshFileSystem,
}

/// What a joiner holds when the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Empty,
    FirstVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Undisturbed,
    /// The joiner is killed half way and started again.
    KilledHalfWay,
}

impl Case {
    fn cold(name: &'static str, title: &'static str, want: DataSet) -> Self {
        Self {
            name,
            title,
            first: None,
            want,
            window: Window::Transfer,
            surface: Surface::WorkingDisk,
            rate: Rate::Unlimited,
            course: Course::Undisturbed,
            rounds_max: usize::MAX,
            contestants: Vec::new(),
            reference: "rsync",
            goals: Vec::new(),
        }
    }

    fn delta(name: &'static str, title: &'static str, first: DataSet, want: DataSet) -> Self {
        Self { first: Some(first), ..Self::cold(name, title, want) }
    }

    fn with(mut self, tool: impl Tool + 'static) -> Self {
        let start = if self.first.is_some() { Start::FirstVersion } else { Start::Empty };
        let label = tool.name();
        self.contestants.push(Contestant { tool: Box::new(tool), start, sources: 1, label });
        self
    }

    fn with_cold(mut self, tool: impl Tool + 'static) -> Self {
        let label = format!("{}, cold", tool.name());
        self.contestants.push(Contestant { tool: Box::new(tool), start: Start::Empty, sources: 1, label });
        self
    }

    fn with_sources(mut self, tool: impl Tool + 'static, sources: usize) -> Self {
        let label = format!("{}, {sources} source{}", tool.name(), if sources == 1 { "" } else { "s" });
        self.contestants.push(Contestant { tool: Box::new(tool), start: Start::Empty, sources, label });
        self
    }

    fn goal(mut self, yardstick: Yardstick, at_least: f64, aim: Option<f64>) -> Self {
        self.goals.push(Goal { yardstick, at_least, aim });
        self
    }

    fn needs_changed_bytes(&self) -> bool {
        self.goals.iter().any(|goal| goal.yardstick == Yardstick::WireOfChangedPages)
    }

    /// The data sets it needs.
    pub(crate) fn data_sets(&self) -> impl Iterator<Item = DataSet> {
        self.first.into_iter().chain([self.want])
    }
}

/// All cases, or those named, in the order of the published table.
pub(crate) fn select(names: &[String], landfall: &Path, work: &Path) -> anyhow::Result<Vec<Case>> {
    let frozen = || Landfall::new(landfall, work, Mode::Frozen);
    let store = || Landfall::new(landfall, work, Mode::Store);
    let mut cases = cold_cases(&frozen);
    cases.extend(delta_cases(&store));
    cases.extend(unchanged_cases(&frozen));
    cases.extend(capped_cases(&frozen, &store));
    cases.extend(hard_cases(&frozen, &store));
    for name in names {
        let known = || cases.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        ensure!(cases.iter().any(|case| case.name == name), "no case {name}; there are {}", known());
    }
    cases.retain(|case| names.is_empty() || names.iter().any(|name| name == case.name));
    Ok(cases)
}

fn cold_cases(frozen: &dyn Fn() -> Landfall) -> Vec<Case> {
    let wall_of = |against| Yardstick::WallRatio { against };
    let served = Case::cold("cold-sqlite", "Cold pull of one SQLite file, already served", DataSet::Sqlite);
    let published = Case::cold("publish-sqlite", "The same, with the time to publish it", DataSet::Sqlite);
    let sources = Case::cold("cold-files", "Cold pull of many small files", DataSet::Sources);
    vec![
        served.with(Copy).with(Http).with(Rsync::PLAIN).with(frozen()).goal(wall_of("rsync"), 0.8, None).goal(
            wall_of("curl from nginx"),
            f64::INFINITY,
            Some(1.0),
        ),
        Case { window: Window::ServingAndTransfer, ..published }.with(Rsync::PLAIN).with(frozen()).goal(
            wall_of("rsync"),
            1.1,
            Some(0.8),
        ),
        Case { surface: Surface::FreshFileSystem, ..sources }.with(Copy).with(Rsync::PLAIN).with(frozen()).goal(
            wall_of("rsync"),
            0.9,
            Some(0.6),
        ),
    ]
}

fn delta_cases(store: &dyn Fn() -> Landfall) -> Vec<Case> {
    let rows = ("delta-sqlite", "SQLite after 1 % of its orders changed: new snapshot and pull");
    let pages = ("delta-pages", "Incompressible file, 1 % of its 4 KiB pages rewritten: new snapshot and pull");
    let append = ("delta-append", "Append-only segments that grew by 5 %: new snapshot and pull");
    vec![
        Case::delta(rows.0, rows.1, DataSet::Sqlite, DataSet::SqliteChanged)
            .with(Rsync::IN_PLACE)
            .with(Rsync::COMPRESSED)
            .with(Rsync::WHOLE)
            .with(store())
            .refer_to("rsync --inplace")
            .goal(Yardstick::WallSeconds, 2.1, Some(1.3))
            .goal(Yardstick::WireBytes, 40e6, Some(25e6)),
        Case::delta(pages.0, pages.1, DataSet::Pages, DataSet::PagesChanged)
            .with(Rsync::PAGES)
            .with(store())
            .refer_to("rsync -B 4096 --inplace")
            .goal(Yardstick::WallRatio { against: "rsync -B 4096 --inplace" }, 0.75, Some(0.5))
            .goal(Yardstick::WireOfChangedPages, 1.15, Some(1.05)),
        Case::delta(append.0, append.1, DataSet::Segments, DataSet::SegmentsGrown)
            .with(Rsync::PLAIN)
            .with(Rsync::NO_DELAY)
            .with(store())
            .goal(Yardstick::WallRatio { against: "rsync" }, 1.0, Some(0.5)),
    ]
}

fn unchanged_cases(frozen: &dyn Fn() -> Landfall) -> Vec<Case> {
    let unchanged = |name, title, set| {
        Case::delta(name, title, set, set).with(Rsync::PLAIN).with(frozen()).goal(
            Yardstick::WallRatio { against: "rsync" },
            0.5,
            None,
        )
    };
    let files = unchanged("unchanged-files", "Nothing changed, pull again: many small files", DataSet::Sources);
    vec![
        unchanged("unchanged-sqlite", "Nothing changed, pull again: one SQLite file", DataSet::Sqlite),
        Case { surface: Surface::FreshFileSystem, ..files },
    ]
}

fn capped_cases(frozen: &dyn Fn() -> Landfall, store: &dyn Fn() -> Landfall) -> Vec<Case> {
    let cold = Case::cold("gigabit-cold", "Cold pull of the SQLite file at 1 Gbit/s", DataSet::Sqlite);
    let (first, changed) = (DataSet::Sqlite, DataSet::SqliteChanged);
    let delta = Case::delta("gigabit-delta", "The SQLite delta at 1 Gbit/s", first, changed);
    let sources = Case::cold("two-sources", "Two sources, each capped at 200 Mbit/s", DataSet::Slice);
    let rates = Yardstick::RateRatio { faster: "landfall frozen, 2 sources", slower: "landfall frozen, 1 source" };
    vec![
        Case { rate: Rate::MegabitsPerSecond(1000), ..cold }
            .with(Rsync::PLAIN)
            .with(Rsync::ZSTD)
            .with(frozen())
            .refer_to("rsync zstd:1")
            .goal(Yardstick::WallRatio { against: "rsync zstd:1" }, 1.0, Some(0.87)),
        Case { rate: Rate::MegabitsPerSecond(1000), ..delta }
            .with(Rsync::IN_PLACE)
            .with_cold(Rsync::ZSTD)
            .with(store())
            .refer_to("rsync --inplace")
            .goal(Yardstick::WallSeconds, 2.5, Some(1.5)),
        Case { rate: Rate::MegabitsPerSecond(200), ..sources }
            .with(Rsync::PLAIN)
            .with_sources(frozen(), 1)
            .with_sources(frozen(), 2)
            .goal(rates, 1.85, Some(1.95)),
    ]
}

fn hard_cases(frozen: &dyn Fn() -> Landfall, store: &dyn Fn() -> Landfall) -> Vec<Case> {
    // Incompressible, so that bytes on the wire are bytes of the state however hard a tool compresses.
    let killed = Case::cold("killed", "Killed half way (kill -9), pulled again", DataSet::Pages);
    let memory = Case::cold("memory", "Peak memory, the SQLite file", DataSet::Sqlite);
    let large = Case::cold("memory-large", "Peak memory, a file of 16 GB", DataSet::Large);
    let peak = Yardstick::PeakBytes;
    let (peak_max, peak_aim) = (200.0 * MEBIBYTE, Some(100.0 * MEBIBYTE));
    vec![
        Case { course: Course::KilledHalfWay, ..killed }
            .with(Http)
            .with(Rsync::DELETE)
            .with(Rsync::IN_PLACE)
            .with(frozen())
            .refer_to("rsync --inplace")
            .goal(Yardstick::RepeatedOfState, 0.01, None)
            .goal(Yardstick::RepeatedBytes, f64::INFINITY, Some(8.0 * MEBIBYTE)),
        memory.with(Http).with(Rsync::PLAIN).with(frozen()).with(store()).goal(peak, peak_max, peak_aim),
        Case { rounds_max: 1, ..large }.with(Rsync::PLAIN).with(frozen()).with(store()).goal(peak, peak_max, peak_aim),
    ]
}

impl Case {
    fn refer_to(mut self, label: &'static str) -> Self {
        self.reference = label;
        self
    }
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_a_row_of_its_case_and_every_name_is_used_once() {
        let cases = select(&[], Path::new("landfall"), Path::new("work")).unwrap();
        for case in &cases {
            let labels: Vec<_> = case.contestants.iter().map(|contestant| contestant.label.as_str()).collect();
            assert!(labels.contains(&case.reference), "{}: {labels:?}", case.name);
            assert_eq!(cases.iter().filter(|other| other.name == case.name).count(), 1);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let names = ["cold-sqlite".to_owned(), "nonsense".to_owned()];
        let error = select(&names, Path::new("landfall"), Path::new("work")).err().unwrap().to_string();
        assert!(error.contains("nonsense") && error.contains("cold-files"), "{error}");
    }
}

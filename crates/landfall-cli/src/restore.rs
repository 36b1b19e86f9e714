//! `landfall restore`: makes a copy again what it was before its last pull. The work is the engine's; this says what came of it.

use std::path::{Path, PathBuf};

use clap::Args;
use landfall::pull::{OnLocalChanges, OnOpenFiles};
use landfall::restore::{RestoreError, RestoreOptions, RestoreReport, restore};
use serde::Serialize;

use crate::Verdict;
use crate::control::client::Server;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Spinner;
use crate::record::StateRecord;
use crate::target::PULLED_DATA;

/// Make a copy again what it was before its last pull, if that pull was told to --keep-previous
///
/// No source is asked and nothing is fetched: the pull kept what it replaced. Only what it changed is changed back, file by
/// file, and cut short in any way, the same command goes on where it was. The way forward again is a pull.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The directory of the copy
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Overwrite what was changed in DEST since the last pull and is in the way; without this all of it is listed and nothing happens
    #[arg(long)]
    discard_local_changes: bool,
    /// Replace files that other processes have open; they keep the newer ones until they open them again
    #[arg(long)]
    while_running: bool,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let options = RestoreOptions {
        destination: arguments.destination.clone(),
        local_changes: if arguments.discard_local_changes { OnLocalChanges::Discard } else { OnLocalChanges::Refuse },
        open_files: if arguments.while_running { OnOpenFiles::Allow } else { OnOpenFiles::Refuse },
    };
    let spinner = Spinner::start("going back", output.format());
    let restored = restore(&options);
    drop(spinner);
    let report = restored.map_err(|error| failed(&error, &arguments.destination))?;
    let summary = Summary::new(&arguments.destination, &report);
    output.result(&summary, || summary.text());
    Ok(Verdict::Good)
}

fn failed(error: &RestoreError, destination: &Path) -> Failure {
    let failure = Failure::of(error);
    match error {
        RestoreError::Open(_) if matches!(Server::find(&destination.join(PULLED_DATA)), Ok(Some(_))) => failure
            .next("it is being served: stop that `landfall serve` while you restore, and start it again afterwards"),
        _ => failure,
    }
}

/// What a restore did, as it is printed.
#[derive(Serialize)]
struct Summary {
    /// The state that the directory is a copy of, where the copy says so.
    state: Option<String>,
    destination: String,
    /// What the copy holds now; nothing where it is no snapshot.
    snapshot: Option<String>,
    position: Option<String>,
    root: Option<String>,
    put_back: u64,
    altered: u64,
    removed: u64,
    /// A restore that was cut short was carried to its end; its paths are not counted.
    recovered: bool,
    seconds: f64,
    notes: Vec<String>,
}

impl Summary {
    fn new(destination: &Path, report: &RestoreReport) -> Self {
        Self {
            state: StateRecord::read(&destination.join(PULLED_DATA)).ok().map(|record| record.state),
            destination: destination.display().to_string(),
            snapshot: report.snapshot.map(|id| id.to_string()),
            position: report.position.map(|position| position.to_string()),
            root: report.state_root.map(|root| root.to_string()),
            put_back: report.put_back,
            altered: report.altered,
            removed: report.removed,
            recovered: report.recovered,
            seconds: report.elapsed.as_secs_f64(),
            notes: report.notes.clone(),
        }
    }

    fn text(&self) -> String {
        let state = self.state.as_deref().unwrap_or("the copy");
        let mut lines = vec![match &self.position {
            Some(position) => format!("{state} at {position} is back in {}", self.destination),
            None => format!("what was there before the last pull is back in {}", self.destination),
        }];
        if self.recovered {
            lines.push("  a restore that was cut short was carried to its end".to_owned());
        } else {
            lines.push(format!(
                "  paths     {} put back, {} with old metadata only, {} removed",
                output::count(self.put_back),
                output::count(self.altered),
                output::count(self.removed)
            ));
        }
        lines.push(format!("  time      {}", output::seconds(self.seconds)));
        lines.extend(self.notes.iter().map(|note| format!("  note      {note}")));
        lines.extend(self.root.iter().map(|root| format!("  root      {root}")));
        lines.join("\n")
    }
}

const EXAMPLES: &str = "\
Examples:
  Pull so that there is a way back, and go it:
    landfall pull orders /srv/orders --from alpha:7400 --identity beta --keep-previous
    landfall restore /srv/orders
  After a service has run on the new state, and written to it:
    landfall restore /srv/orders --discard-local-changes
  Forward again:
    landfall pull orders /srv/orders --from alpha:7400 --identity beta

One step back is kept, until the next pull.";

//! `landfall ls`: what is in a snapshot.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::reports::{Item, ListedEntry, Report};
use crate::target::TargetArguments;

/// List what is in a snapshot: the newest one, unless another is named
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The snapshot, by its id or the beginning of it, as `landfall log` shows it
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let request = Request::List { snapshot: arguments.snapshot.clone() };
    let report = arguments.target.ask(&request, &mut |item| {
        if let Item::Entry(entry) = item {
            output.row(&entry, || text(&entry));
        }
    })?;
    let Report::List(listed) = report else { return Err(Failure::unexpected_answer()) };
    let (paths, bytes) = (output::counted(listed.paths, "path"), output::bytes(listed.bytes));
    output.say(format!("{}: {bytes} in {paths}", listed.state));
    Ok(Verdict::Good)
}

fn text(entry: &ListedEntry) -> String {
    let target = entry.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    format!("{:<9} {:>4o} {:>14} {}{target}", entry.kind, entry.mode, entry.bytes, entry.path.path)
}

const EXAMPLES: &str = "\
Examples:
  landfall ls orders
  landfall ls orders --snapshot 3f2a
  landfall ls orders --json | jq -r 'select(.bytes > 1000000) | .path'";

//! `landfall diff`: what differs between two snapshots, in paths, bytes and chunks.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::reports::{Change, Compared, Difference, Item, Report};
use crate::snapshot::short;
use crate::target::TargetArguments;

/// Compare two snapshots that are held here: paths, bytes, chunks
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The older snapshot, by its id or the beginning of it [default: the one before the newer]
    old: Option<String>,
    /// The newer snapshot [default: the newest]
    #[arg(requires = "old")]
    new: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let request = Request::Diff { old: arguments.old.clone(), new: arguments.new.clone() };
    let report = arguments.target.ask(&request, &mut |item| {
        if let Item::Difference(difference) = item {
            output.row(&difference, || text(&difference));
        }
    })?;
    let Report::Diff(compared) = report else { return Err(Failure::unexpected_answer()) };
    output.result(&compared, || summary(&compared));
    Ok(Verdict::Good)
}

fn text(difference: &Difference) -> String {
    let sign = match difference.change {
        Change::Created => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    };
    format!("{sign} {}", difference.path)
}

fn summary(compared: &Compared) -> String {
    let mut text = String::new();
    if compared.unlisted > 0 {
        text = format!("… and {} more\n", output::counted(compared.unlisted, "path"));
    }
    text.push_str(&format!(
        "{} -> {}: {} created, {} changed, {} removed; {} new, {} before compression",
        short(&compared.old),
        short(&compared.new),
        output::count(compared.created),
        output::count(compared.changed),
        output::count(compared.removed),
        output::counted(compared.new_chunks, "chunk"),
        output::bytes(compared.new_bytes)
    ));
    text
}

const EXAMPLES: &str = "\
Examples:
  landfall diff orders                 the newest snapshot with the one before it
  landfall diff orders 3f2a 90bc";

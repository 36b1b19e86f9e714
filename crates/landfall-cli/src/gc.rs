//! `landfall gc`: drops what no snapshot and no transfer needs.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Spinner;
use crate::reports::Report;
use crate::target::TargetArguments;

/// Drop what no held snapshot and no running transfer needs, and give the space back
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let spinner = Spinner::start("looking for what nothing needs", output.format());
    let report = arguments.target.ask(&Request::Collect, &mut |_| {});
    drop(spinner);
    let Report::Collect(collected) = report? else { return Err(Failure::unexpected_answer()) };
    output.result(&collected, || {
        format!(
            "{}: freed {} in {}, kept {} in finished packs ({})",
            collected.state,
            output::bytes(collected.bytes_before.saturating_sub(collected.bytes_after)),
            output::counted(collected.packs_removed, "pack"),
            output::bytes(collected.bytes_after),
            output::seconds(collected.seconds)
        )
    });
    Ok(Verdict::Good)
}

const EXAMPLES: &str = "\
Example:
  landfall gc orders";

//! `landfall log`: the snapshots of a state that are held here, and why.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::reports::{HeldSnapshot, Item, Report};
use crate::snapshot::short;
use crate::target::TargetArguments;

/// List the snapshots of a state that are held here, the oldest first, and what keeps each of them
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let report = arguments.target.ask(&Request::Log, &mut |item| {
        if let Item::Snapshot(held) = item {
            output.row(&held, || text(&held));
        }
    })?;
    let Report::Log(held) = report else { return Err(Failure::unexpected_answer()) };
    output.say(format!("{}: {} held", held.state, output::counted(held.snapshots, "snapshot")));
    Ok(Verdict::Good)
}

fn text(held: &HeldSnapshot) -> String {
    format!(
        "{}  at {:<6} {:>8} in {:>9} tree records  {} ago  {}{}\n  root {}",
        short(&held.snapshot),
        held.position,
        output::bytes(held.state_bytes),
        output::count(held.entries),
        output::seconds(held.age_seconds as f64),
        held.pins.join(", "),
        if held.signed { ", signed" } else { "" },
        held.root
    )
}

const EXAMPLES: &str = "\
Examples:
  landfall log orders
  landfall log /srv/orders-copy        a pulled copy, by its directory
  landfall log orders --json | jq -r .root";

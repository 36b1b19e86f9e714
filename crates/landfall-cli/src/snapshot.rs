//! `landfall snapshot`: asks the server of a state for a new snapshot.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::reports::{HeldSnapshot, Report, Taken};
use crate::target::TargetArguments;

/// Take a new snapshot of a state that is being served, so that the next pull fetches what changed
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let report = arguments.target.ask_server(&Request::Snapshot, &mut |_| {})?;
    let Report::Snapshot(taken) = report else { return Err(Failure::unexpected_answer()) };
    output.result(&taken, || text(&taken));
    Ok(Verdict::Good)
}

/// A snapshot as people read it.
pub(crate) fn text(taken: &Taken) -> String {
    let Taken { state, position, root, .. } = taken;
    let size = format!("{} in {}", output::bytes(taken.state_bytes), output::counted(taken.entries, "tree record"));
    let work = format!("read {} in {}", output::bytes(taken.read_bytes), output::seconds(taken.seconds));
    let news = if taken.unchanged { "nothing changed; still snapshot" } else { "snapshot" };
    let mut text = format!("{state}: {news} {} at {position}: {size} ({work})\n  root {root}", short(&taken.snapshot));
    for path in &taken.skipped {
        text.push_str(&format!("\n  left out: {path}"));
    }
    for path in &taken.torn {
        text.push_str(&format!("\n  changed while it was read, so it is from no single moment: {path}"));
    }
    text
}

/// A snapshot that is held, as people read it.
pub(crate) fn newest_text(state: &str, held: &HeldSnapshot) -> String {
    let size = format!("{} in {}", output::bytes(held.state_bytes), output::counted(held.entries, "tree record"));
    format!("{state}: snapshot {} at {}: {size}\n  root {}", short(&held.snapshot), held.position, held.root)
}

/// The beginning of an id: enough to tell snapshots apart, and to name one.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

const EXAMPLES: &str = "\
Examples:
  landfall snapshot orders
  landfall snapshot orders --data /var/lib/landfall/orders

The same happens on `kill -HUP` of the server, and regularly with `landfall serve --every 30s`.";

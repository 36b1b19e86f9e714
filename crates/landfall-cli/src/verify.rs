//! `landfall verify`: reads everything that a state consists of again and names what is damaged.

use clap::Args;

use crate::Verdict;
use crate::control::Request;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Spinner;
use crate::reports::{Item, Report, Verified};
use crate::target::TargetArguments;

/// Read everything again, check every byte against its hash, and name every damaged file
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let spinner = Spinner::start("reading everything again", output.format());
    let report = arguments.target.ask(&Request::Verify, &mut |item| {
        if let Item::Damage(damage) = item {
            spinner.pause(|| output.result(&damage, || format!("damaged: {}: {}", damage.path, damage.damage)));
        }
    });
    drop(spinner);
    let Report::Verify(verified) = report? else { return Err(Failure::unexpected_answer()) };
    output.result(&verified, || summary(&verified));
    Ok(if verified.damaged == 0 { Verdict::Good } else { Verdict::Bad })
}

fn summary(verified: &Verified) -> String {
    let verdict = match verified.damaged {
        0 => "all good".to_owned(),
        damaged => format!("{} found", output::counted(damaged, "damage")),
    };
    format!(
        "{}: {verdict}: {} and {} ({}) read and checked in {}\n  root {}",
        verified.state,
        output::counted(verified.entries, "tree record"),
        output::counted(verified.chunks, "chunk"),
        output::bytes(verified.bytes),
        output::seconds(verified.seconds),
        verified.root
    )
}

const EXAMPLES: &str = "\
Examples:
  landfall verify orders
  landfall verify /srv/orders-copy     a pulled copy, by its directory

Damage makes it exit with 1. To mend a pulled copy, remove the files that were named, then fetch them again:
  landfall pull NAME DIR --from ADDR --identity ID --discard-local-changes";

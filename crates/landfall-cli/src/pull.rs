//! `landfall pull`: makes a directory a copy of a state. The work is the engine's; this shows it, and says what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use landfall::core::offer::Strategy;
use landfall::core::snapshot::StateName;
use landfall::files::place::Previous;
use landfall::pull::{
    ChangedPaths, OnLocalChanges, OnOpenFiles, PullError, PullOptions, PullReport, SourceError, SourceStatus, Stage,
    Status, StatusFigures,
};
use serde::Serialize;

use crate::control::client::Server;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::identity::IdentityArguments;
use crate::output::{self, Output};
use crate::progress::{self, TransferBar, TransferView, Watch};
use crate::record::StateRecord;
use crate::target::PULLED_DATA;
use crate::{Verdict, signals, state_name};

/// Make a directory a copy of a state, or bring the copy up to date
///
/// The directory is absent or empty, or a copy that was pulled before. Only what differs travels, every byte is checked
/// against its hash, and the new state appears at once, when all of it is here. Cut short in any way, the same command
/// goes on where it was.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The state
    #[arg(value_name = "NAME", value_parser = state_name)]
    state: StateName,
    /// The directory that becomes a copy of it
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Members that serve it, HOST:PORT; all of them are used at once. May be repeated
    #[arg(long, value_name = "ADDR", required = true, value_delimiter = ',')]
    from: Vec<String>,
    #[command(flatten)]
    identity: IdentityArguments,
    /// Overwrite what was changed in DEST since the last pull; without this it is listed and nothing happens
    #[arg(long)]
    discard_local_changes: bool,
    /// Replace files that other processes have open; they keep the old ones until they open them again
    #[arg(long)]
    while_running: bool,
    /// Keep what is replaced in DEST/.landfall until the next pull, so that `landfall restore DEST` can go back
    #[arg(long)]
    keep_previous: bool,
    /// What to show on stderr while it runs
    #[arg(long, value_enum, default_value_t = Shown::Bar)]
    progress: Shown,
}

/// What is shown while a pull runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    /// A bar on a terminal; nothing elsewhere, nor with --json
    Bar,
    /// A line of JSON whenever the figures change, at most 50 a second
    Json,
    /// Nothing
    None,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let credentials = arguments.identity.load()?;
    let options = PullOptions {
        state: arguments.state.clone(),
        destination: arguments.destination.clone(),
        sources: arguments.from.clone(),
        transport: credentials.transport,
        trust: credentials.trust,
        local_changes: choose(arguments.discard_local_changes, OnLocalChanges::Discard, OnLocalChanges::Refuse),
        open_files: choose(arguments.while_running, OnOpenFiles::Allow, OnOpenFiles::Refuse),
        previous: choose(arguments.keep_previous, Previous::Keep, Previous::Drop),
    };
    let status = Arc::new(Status::default());
    let watch = show(arguments.progress, &status, output)?;
    let pulled = landfall::pull::pull(&options, &status);
    drop(watch);
    let report = pulled.map_err(|error| failed(&error, arguments))?;
    record(arguments)?;
    let summary = Summary::new(arguments, &report);
    output.result(&summary, || summary.text());
    Ok(Verdict::Good)
}

/// The engine says what to do in its own words; what the command line has to do with it is said here.
fn failed(error: &PullError, arguments: &Arguments) -> Failure {
    let failure = Failure::of(error);
    let served = || matches!(Server::find(&arguments.destination.join(PULLED_DATA)), Ok(Some(_)));
    match error {
        PullError::NoSource { failures, .. } if arguments.identity.is_insecure() && failures.iter().any(is_garbled) => {
            failure
                .next("with --insecure only sources that were started with --insecure answer; others need --identity")
        }
        PullError::Open(_) if served() => {
            failure.next("it is being served: stop that `landfall serve` while you pull, and start it again afterwards")
        }
        _ => failure,
    }
}

/// Does a source answer, but nothing that makes sense? It may speak TLS.
fn is_garbled((_, error): &(String, SourceError)) -> bool {
    !matches!(
        error,
        SourceError::Connect(_) | SourceError::Refused(_) | SourceError::Busy(_) | SourceError::OtherSnapshot
    )
}

fn choose<T>(chosen: bool, this: T, other: T) -> T {
    if chosen { this } else { other }
}

/// Says in the copy what it is a copy of, so that the other verbs know.
fn record(arguments: &Arguments) -> Result<(), Failure> {
    let data = arguments.destination.join(PULLED_DATA);
    let record = StateRecord::pulled(arguments.state.as_str());
    if StateRecord::is_in(&data) && StateRecord::read(&data)? == record {
        return Ok(());
    }
    record.write(&data).map_err(|error| {
        Failure::new(format!("{} is pulled, but cannot be recorded", arguments.destination.display())).because(&error)
    })
}

/// Starts to show how far the pull is, and makes Ctrl-C say that nothing is lost.
fn show(shown: Shown, status: &Arc<Status>, output: &Output) -> Result<Watch, Failure> {
    let bar = match shown {
        Shown::Bar => TransferBar::new(progress::draw_target(output.format())),
        Shown::Json | Shown::None => TransferBar::hidden(),
    };
    let bar = Arc::new(bar);
    let (bar_at_signal, status_at_signal) = (bar.clone(), status.clone());
    signals::on(&signals::STOP, move |_| {
        bar_at_signal.clear();
        eprintln!("{}", interrupted(&status_at_signal.figures()));
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    })?;
    let (status, mut last) = (status.clone(), StatusFigures::default());
    let look = move || {
        let figures = status.figures();
        bar.show(&view(&figures));
        if shown == Shown::Json && figures != last {
            eprintln!("{}", serde_json::to_string(&figures).expect("figures are plain data"));
            last = figures;
        }
    };
    let interval = if shown == Shown::Json { JSON_INTERVAL } else { BAR_INTERVAL };
    Watch::every(interval, look).map_err(|error| Failure::new("cannot show progress").because(&error))
}

fn interrupted(figures: &StatusFigures) -> String {
    format!(
        "interrupted: the destination is as it was; {} came and what of it is on disk is kept\n\
         next: run the same command again, and it goes on from there",
        output::bytes(figures.bytes_done)
    )
}

fn view(figures: &StatusFigures) -> TransferView {
    TransferView {
        stage: stage(figures.stage).to_owned(),
        bytes_done: figures.bytes_done,
        bytes_wanted: figures.bytes_wanted,
        all_known: figures.all_known,
        wire_received: figures.wire_received,
        sources: figures.sources.iter().filter(|source| source.connected).count(),
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Preparing => "preparing",
        Stage::Asking => "asking",
        Stage::Fetching => "fetching",
        Stage::Installing => "installing",
        Stage::Done => "done",
    }
}

/// What a pull did, as it is printed.
#[derive(Serialize)]
struct Summary {
    state: String,
    destination: String,
    snapshot: String,
    position: String,
    root: String,
    strategy: &'static str,
    state_bytes: u64,
    /// Content that came, before any encoding.
    received_bytes: u64,
    /// Content that was here already: in the old copy, or from a pull that was cut short.
    reused_bytes: u64,
    /// Content that came although it was here: two sources were asked, or one again.
    duplicate_bytes: u64,
    wire_bytes_received: u64,
    wire_bytes_sent: u64,
    node_bytes: u64,
    chunks: u64,
    chunk_bytes_encoded: u64,
    patch_bytes_plain: u64,
    patch_bytes_encoded: u64,
    changed: ChangedPaths,
    /// A pull that was cut short while it put files in place was carried to its end first.
    recovered: bool,
    seconds: f64,
    sync_seconds: f64,
    sources: Vec<SourceStatus>,
    notes: Vec<String>,
}

impl Summary {
    fn new(arguments: &Arguments, report: &PullReport) -> Self {
        let figures = report.figures.clone();
        Self {
            state: arguments.state.to_string(),
            destination: arguments.destination.display().to_string(),
            snapshot: report.snapshot.to_string(),
            position: report.position.to_string(),
            root: report.state_root.to_string(),
            strategy: strategy(report.strategy),
            state_bytes: report.state_bytes,
            received_bytes: figures.bytes_done,
            reused_bytes: figures.bytes_reused,
            duplicate_bytes: figures.bytes_again,
            wire_bytes_received: figures.wire_received,
            wire_bytes_sent: figures.wire_sent,
            node_bytes: figures.node_bytes,
            chunks: figures.chunks,
            chunk_bytes_encoded: figures.chunk_bytes_encoded,
            patch_bytes_plain: figures.patch_bytes_plain,
            patch_bytes_encoded: figures.patch_bytes_encoded,
            changed: report.changed,
            recovered: report.recovered,
            seconds: report.elapsed.as_secs_f64(),
            sync_seconds: report.sync.as_secs_f64(),
            sources: figures.sources,
            notes: report.notes.clone(),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![self.headline()];
        let changed = &self.changed;
        if *changed != ChangedPaths::default() {
            lines.push(format!(
                "  paths     {} created, {} replaced, {} with new metadata only, {} removed",
                output::count(changed.created),
                output::count(changed.replaced),
                output::count(changed.altered),
                output::count(changed.removed)
            ));
        }
        lines.push(self.traffic());
        lines.push(format!("  reused    {} that were here already", output::bytes(self.reused_bytes)));
        lines.push(format!(
            "  time      {}, of which {} for the final sync",
            output::seconds(self.seconds),
            output::seconds(self.sync_seconds)
        ));
        lines.extend(self.sources.iter().map(source_text));
        lines.extend(self.notes.iter().map(|note| format!("  note      {note}")));
        lines.push(format!("  root      {}", self.root));
        lines.join("\n")
    }

    fn headline(&self) -> String {
        let news = if self.strategy == strategy(Strategy::UpToDate) { "was up to date" } else { "is here" };
        let size = output::bytes(self.state_bytes);
        format!("{} at {} {news}: {size} in {} ({})", self.state, self.position, self.destination, self.strategy)
    }

    fn traffic(&self) -> String {
        let wire = self.wire_bytes_received + self.wire_bytes_sent;
        format!(
            "  received  {} of content; on the wire {} in and {} out, {} of the state",
            output::bytes(self.received_bytes),
            output::bytes(self.wire_bytes_received),
            output::bytes(self.wire_bytes_sent),
            output::percent(wire, self.state_bytes)
        )
    }
}

fn source_text(source: &SourceStatus) -> String {
    let name = if source.name.is_empty() { "never connected" } else { &source.name };
    let mut text = format!("  source    {} ({name}) {}", source.address, output::bytes(source.bytes));
    if source.damaged > 0 {
        text.push_str(&format!(", {} damaged", output::counted(source.damaged, "chunk")));
    }
    text
}

fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::UpToDate => "up-to-date",
        Strategy::Patch => "patch",
        Strategy::TreeCompare => "tree-compare",
        Strategy::Full => "full",
    }
}

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const JSON_INTERVAL: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  The first time, everything travels; afterwards, what changed:
    landfall pull orders /srv/orders --from alpha:7400 --identity beta
  From several sources at once, publisher and relays alike:
    landfall pull orders /srv/orders --from alpha:7400,beta:7400 --identity gamma
  Serve on what was pulled:
    landfall serve --state orders=/srv/orders --listen 0.0.0.0:7400 --identity beta
  In a script:
    landfall pull orders /srv/orders --from alpha:7400 --identity beta --json | jq -r .root";

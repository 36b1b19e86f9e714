//! `landfall serve`: publishes directories, or serves on what was pulled, until it is stopped.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use landfall::core::snapshot::StateName;
use landfall::member::{ChangingFiles, Member, ServeConfig, StateConfig};
use landfall::net::PeerIdentity;
use serde_json::json;
use signal_hook::consts::SIGHUP;

use crate::control::client::Server;
use crate::control::server::ControlServer;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::identity::IdentityArguments;
use crate::output::Output;
use crate::record::{Mode, StateRecord};
use crate::states::OpenState;
use crate::target::{PULLED_DATA, default_data};
use crate::{Verdict, signals, snapshot, state_name};

/// Serve directories to other members: publish one that lives here, or serve on one that was pulled
///
/// At its start it takes a snapshot of every directory that it publishes; later ones are taken by `landfall snapshot`,
/// by SIGHUP, and by --every.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A state and the directory that is its content; may be repeated
    #[arg(long = "state", value_name = "NAME=PATH", required = true,
          value_parser = OsStringValueParser::new().try_map(NamedDirectory::parse))]
    states: Vec<NamedDirectory>,
    /// Where joiners connect, HOST:PORT; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    listen: String,
    #[command(flatten)]
    identity: IdentityArguments,
    /// Where Landfall keeps what it needs; one directory below it per state, if there are several
    /// [default: $XDG_DATA_HOME/landfall/NAME; a pulled directory keeps its own]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How a snapshot stays what it is while the files go on
    #[arg(long, value_enum, default_value_t = Mode::Store)]
    mode: Mode,
    /// What happens if a file changes while a snapshot reads it
    #[arg(long, value_enum, default_value_t = Changing::Refuse)]
    changing_files: Changing,
    /// Take a snapshot again and again, such as 30s or 5m; an unchanged directory makes no new one
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// Run by the shell before a snapshot, to make the files hold still: flush, checkpoint, lock
    #[arg(long, value_name = "CMD")]
    before_snapshot: Option<String>,
    /// Run by the shell after a snapshot has read the files, also if that failed
    #[arg(long, value_name = "CMD")]
    after_snapshot: Option<String>,
}

/// What happens if a file changes while a snapshot reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Changing {
    /// The snapshot fails and names the file; the one before is served on
    Refuse,
    /// The snapshot holds what was read, from no single moment, and names the file
    Accept,
}

/// One `--state NAME=PATH`.
#[derive(Debug, Clone)]
struct NamedDirectory {
    state: StateName,
    directory: PathBuf,
}

impl NamedDirectory {
    fn parse(argument: OsString) -> Result<Self, String> {
        let bytes = argument.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=').ok_or("it has no '=': give NAME=PATH")?;
        let name = std::str::from_utf8(&bytes[..at]).map_err(|_| "the name is not text")?;
        let directory = PathBuf::from(OsString::from_vec(bytes[at + 1..].to_vec()));
        if directory.as_os_str().is_empty() {
            return Err("the path is empty: give NAME=PATH".to_owned());
        }
        Ok(Self { state: state_name(name)?, directory })
    }

    /// A directory that was pulled brings its own data, and makes no snapshots.
    fn is_pulled(&self) -> bool {
        self.directory.join(PULLED_DATA).is_dir()
    }
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let serving = Arc::new(AtomicBool::new(false));
    let events = listen_for_signals(serving.clone())?;
    arguments.states.iter().for_each(|named| say_promise(named, arguments.mode, output));
    let member = Arc::new(start(arguments)?);
    let served = Served::new(arguments, &member)?;
    served.tell_snapshots(output)?;
    serving.store(true, Ordering::Release);
    let address = member.address().unwrap_or_else(|| arguments.listen.clone());
    output.result(&json!({ "event": "listening", "address": address }), || format!("listening on {address}"));
    served.run(&events, arguments.every, output);
    drop(served);
    // Requests that are still being answered hold the member too; they end with the process.
    if let Some(member) = Arc::into_inner(member) {
        member.close();
    }
    let farewell = "stopped; snapshots are kept, and transfers go on where they were once it is served again";
    output.result(&json!({ "event": "stopped" }), || farewell.to_owned());
    Ok(Verdict::Good)
}

fn start(arguments: &Arguments) -> Result<Member, Failure> {
    let credentials = arguments.identity.load()?;
    if let Some(identity) = &credentials.identity {
        arguments.states.iter().for_each(|named| warn_no_writer(named, identity.own()));
    }
    let several = arguments.states.len() > 1;
    let states =
        arguments.states.iter().map(|named| state_config(arguments, named, several)).collect::<Result<Vec<_>, _>>()?;
    if let Some(taken) = states.iter().find(|state| matches!(Server::find(&state.data), Ok(Some(_)))) {
        return Err(Failure::new(format!("another `landfall serve` has {} open", taken.data.display()))
            .next("ask that one (`landfall snapshot`, `log`, …), stop it, or name another directory with --data"));
    }
    let config = ServeConfig {
        listen: Some(arguments.listen.clone()),
        signer: credentials.identity,
        states,
        ..ServeConfig::new(credentials.transport)
    };
    Member::serve(config).map_err(|error| Failure::of(&error))
}

/// Nobody believes what this member publishes without the right to: better heard here than from those who pull.
fn warn_no_writer(named: &NamedDirectory, own: &PeerIdentity) {
    let state = named.state.as_str();
    if !named.is_pulled() && !own.writer_of.iter().any(|written| written == state) {
        eprintln!(
            "warning: the certificate of {} does not let it write '{state}', so no pull will believe its snapshots; create it again with \
             'landfall cert create-member {} … --writer {state}'",
            own.name, own.name
        );
    }
}

fn state_config(arguments: &Arguments, named: &NamedDirectory, several: bool) -> Result<StateConfig, Failure> {
    let data = match &arguments.data {
        _ if named.is_pulled() => named.directory.join(PULLED_DATA),
        Some(data) if several => data.join(named.state.as_str()),
        Some(data) => data.clone(),
        None => default_data(Path::new(named.state.as_str()))?,
    };
    Ok(StateConfig {
        name: named.state.clone(),
        directory: named.directory.clone(),
        data,
        keep: arguments.mode.keep(),
        changing: match arguments.changing_files {
            Changing::Refuse => ChangingFiles::Refuse,
            Changing::Accept => ChangingFiles::Accept,
        },
        before_snapshot: arguments.before_snapshot.clone(),
        after_snapshot: arguments.after_snapshot.clone(),
    })
}

/// Says what is promised to whom, before anything is read.
fn say_promise(named: &NamedDirectory, mode: Mode, output: &mut Output) {
    let promise = match mode {
        _ if named.is_pulled() => "a pulled copy, served on as it is; it must not change",
        Mode::Store => "store: every snapshot keeps its own bytes, so the files may change at any time",
        Mode::Frozen => {
            "frozen: no second copy is kept, so the files must not change; what changed nevertheless is noticed and not sent"
        }
    };
    output.say(format!("{}: {} ({promise})", named.state, named.directory.display()));
}

/// Something that the server does next.
enum Event {
    Snapshot,
    Stop,
}

fn listen_for_signals(serving: Arc<AtomicBool>) -> Result<Receiver<Event>, Failure> {
    let (sender, events): (Sender<Event>, _) = channel();
    let numbers = [signals::STOP[0], signals::STOP[1], SIGHUP];
    signals::on(&numbers, move |number| {
        if !serving.load(Ordering::Acquire) && number != SIGHUP {
            eprintln!("interrupted before anything was served; what was read is kept for the next start");
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
        // The other side is gone only when the process ends anyway.
        let told = sender.send(if number == SIGHUP { Event::Snapshot } else { Event::Stop });
        if told.is_ok() && number != SIGHUP {
            // A snapshot may be under way; whatever is half done then is as good as never begun.
            std::thread::sleep(STOP_PATIENCE);
            std::process::exit(0);
        }
    })?;
    Ok(events)
}

/// The states, each with its control socket.
struct Served {
    states: Vec<(NamedDirectory, Arc<OpenState>)>,
    /// Dropping them takes the sockets away.
    _sockets: Vec<ControlServer>,
}

impl Served {
    fn new(arguments: &Arguments, member: &Arc<Member>) -> Result<Self, Failure> {
        let mut states = Vec::new();
        let mut sockets = Vec::new();
        for named in &arguments.states {
            let state = Arc::new(OpenState::new(member.clone(), named.state.clone()));
            let data = member.data_directory(&named.state).map_err(|error| Failure::of(&error))?;
            let failed = |error: std::io::Error| {
                Failure::new(format!("cannot answer other verbs in {}", data.display())).because(&error)
            };
            let record = match named.is_pulled() {
                true => StateRecord::pulled(named.state.as_str()),
                false => StateRecord::served(named.state.as_str(), &named.directory, arguments.mode).map_err(failed)?,
            };
            record.write(&data).map_err(failed)?;
            sockets.push(ControlServer::start(&data, state.clone()).map_err(failed)?);
            states.push((named.clone(), state));
        }
        Ok(Self { states, _sockets: sockets })
    }

    /// Says what is served.
    fn tell_snapshots(&self, output: &mut Output) -> Result<(), Failure> {
        for (named, state) in &self.states {
            if let Some(newest) = state.log()?.pop() {
                let value = json!({ "event": "serving", "state": named.state.as_str(), "newest": newest });
                output.result(&value, || snapshot::newest_text(named.state.as_str(), &newest));
            }
        }
        Ok(())
    }

    /// Does what signals and the clock ask for, until it is told to stop.
    fn run(&self, events: &Receiver<Event>, every: Option<Duration>, output: &mut Output) {
        let mut due = every.map(|every| Instant::now() + every);
        loop {
            let event = match due {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => events.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Event::Snapshot) | Err(RecvTimeoutError::Timeout) => self.take_all(output),
            }
            due = every.map(|every| Instant::now() + every);
        }
    }

    fn take_all(&self, output: &mut Output) {
        for (named, state) in &self.states {
            if named.is_pulled() {
                continue;
            }
            match state.take() {
                Ok(taken) if taken.unchanged => {}
                Ok(taken) => output.result(&json!({ "event": "snapshot", "taken": taken }), || snapshot::text(&taken)),
                Err(failure) => output.failure(&failure),
            }
        }
    }
}

/// Time for what is under way to end by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

const EXAMPLES: &str = "\
Examples:
  A directory that lives, with certificates:
    landfall serve --state orders=/srv/orders --listen 0.0.0.0:7400 --identity alpha
  Only to see how it works, on this machine:
    landfall serve --state orders=/srv/orders --listen 127.0.0.1:7400 --insecure
  A SQLite database, which must hold still while it is read:
    landfall serve --state shop=/srv/shop --listen 0.0.0.0:7400 --identity alpha --every 30s \\
      --before-snapshot 'sqlite3 /srv/shop/shop.db \"PRAGMA wal_checkpoint(TRUNCATE)\"'
  Model files, which never change, without a second copy:
    landfall serve --state model=/srv/model --mode frozen --listen 0.0.0.0:7400 --identity alpha

Signals:
  HUP        take a snapshot of every state now
  INT, TERM  stop; snapshots are kept, and transfers go on where they were once it is served again";

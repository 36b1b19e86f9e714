//! Owns which data directory a verb is about, and the way to it: the server that has it open, or the directory itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::control::client::Server;
use crate::control::{Answer as _, Request};
use crate::failure::Failure;
use crate::record::StateRecord;
use crate::reports::{Item, Report};
use crate::states::OpenState;

/// The directory that a pulled copy keeps its own data in.
pub(crate) const PULLED_DATA: &str = ".landfall";

/// Which state is meant.
#[derive(Args, Debug)]
pub(crate) struct TargetArguments {
    /// Name of a state that is served on this machine, or the directory of a pulled copy
    state: OsString,
    /// The data directory that `landfall serve --data` named
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl TargetArguments {
    /// The data directory that is meant.
    pub(crate) fn find(&self) -> Result<PathBuf, Failure> {
        let name = Path::new(&self.state);
        let candidates = match &self.data {
            Some(data) => vec![data.join(name), data.clone()],
            None => vec![name.join(PULLED_DATA), default_data(name)?],
        };
        let found = candidates.iter().find(|candidate| StateRecord::is_in(candidate));
        found.cloned().ok_or_else(|| {
            let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            Failure::new(format!("there is no state '{}' in {}", name.display(), looked.join(" or ")))
                .next("name the data directory with --data, or serve the state first: `landfall serve --help`")
        })
    }

    /// Asks the server that has the data directory open, or, where there is none, the directory itself.
    pub(crate) fn ask(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let data = self.find()?;
        match Server::find(&data)? {
            Some(server) => server.ask(request, tell),
            None => OpenState::alone(&data)?.answer(request, tell),
        }
    }

    /// Asks the server that has the data directory open; there must be one.
    pub(crate) fn ask_server(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let data = self.find()?;
        let record = StateRecord::read(&data)?;
        if record.is_pulled() {
            return Err(Failure::new(format!(
                "'{}' is a copy that was pulled: only its publisher takes snapshots",
                record.state
            ))
            .next("take it where the state is published, and pull it here"));
        }
        let server = Server::find(&data)?.ok_or_else(|| {
            Failure::new(format!("no server has {} open, so nobody can do this", data.display()))
                .next("start `landfall serve` for this state; at its start it takes a snapshot anyway")
        })?;
        server.ask(request, tell)
    }
}

/// Where a state's data lies unless `--data` names another place: `$XDG_DATA_HOME/landfall/NAME`.
pub(crate) fn default_data(name: &Path) -> Result<PathBuf, Failure> {
    let absolute = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    let base = base.ok_or_else(|| {
        Failure::new("neither XDG_DATA_HOME nor HOME is set, so there is no default data directory")
            .next("name one with --data")
    })?;
    Ok(base.join("landfall").join(name))
}

//! Owns nginx and curl: one file by sendfile over plain HTTP, the fastest copy without any check of its content.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Seat, Tool};
use crate::equality::Fidelity;
use landfall_bench::measure::Process;

/// A download, from the start or from where an earlier one was cut.
pub(crate) struct Http;

impl Tool for Http {
    fn name(&self) -> String {
        "curl from nginx".to_owned()
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Contents
    }

    fn serve(&self, seat: &Seat<'_>, state: &Path) -> anyhow::Result<Option<Process>> {
        let configuration = seat.directory.join("nginx.conf");
        fs::write(&configuration, configure(&seat.directory, state))?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&configuration).arg("-e").arg(seat.directory.join("nginx.log"));
        seat.start_and_connect(command, PORT).map(Some)
    }

    fn receive(&self, sources: &[Seat<'_>], state: &Path, target: &Path) -> Command {
        let name = only_file(state);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--create-dirs", "--continue-at", "-", "--output"]);
        command.arg(target.join(&name)).arg(format!("http://{}:{PORT}/{name}", sources[0].link.source_address));
        command
    }
}

/// One process, so that its use of the machine is all in one place.
fn configure(directory: &Path, state: &Path) -> String {
    let (directory, state) = (directory.display(), state.display());
    format!(
        "user root; daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
         events {{ worker_connections 64; }}
         http {{
             access_log off; sendfile on; sendfile_max_chunk 2m; tcp_nopush on;
             client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
             uwsgi_temp_path {directory}; scgi_temp_path {directory};
             server {{ listen {PORT}; root {state}; }}
         }}\n"
    )
}

/// Only states of one file are fetched this way.
fn only_file(state: &Path) -> String {
    let listed = fs::read_dir(state).into_iter().flatten();
    let first = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).next();
    first.unwrap_or_default()
}

const PORT: u16 = 8080;

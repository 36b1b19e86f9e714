//! Owns running the command that is given with `--commit-hook`. When it is run, and how often, the member says.

use std::io;
use std::process::{Command, ExitStatus, Stdio};

use landfall_raft::{CommitHook, HookError};
use tokio::sync::oneshot;

/// A hook that has `sh` run a command, which sees the version of the member's lease and the member's number. Exit code 0 is success.
pub(crate) fn of_shell(command: String, member: u64) -> CommitHook {
    CommitHook::new(move |lease| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&command);
        shell.env("LANDFALL_LEASE", lease.to_string()).env("LANDFALL_MEMBER", member.to_string());
        // The server's own output is for whoever started it.
        shell.stdin(Stdio::null()).stdout(io::stderr());
        run(shell)
    })
}

/// Runs it on a thread of its own: one that never ends must not keep the server from ending.
async fn run(mut shell: Command) -> Result<(), HookError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("commit-hook".into()).spawn(move || {
        // Whoever asked may have gone.
        let _ = tell.send(shell.status());
    })?;
    let ended: ExitStatus = told.await??;
    if ended.success() { Ok(()) } else { Err(format!("the command ended with {ended}").into()) }
}

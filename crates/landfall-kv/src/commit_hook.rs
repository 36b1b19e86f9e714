//! Owns running the command that is given with `--commit-hook`. When it is run, and how often, the member says.

use std::io;
use std::process::Stdio;

use landfall_raft::{CommitHook, HookError};
use tokio::process::Command;

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

/// Runs it; whoever no longer waits for it ends it.
async fn run(mut shell: Command) -> Result<(), HookError> {
    let ended = shell.kill_on_drop(true).status().await?;
    if ended.success() { Ok(()) } else { Err(format!("the command ended with {ended}").into()) }
}

//! Owns the place of the control socket, and who may speak there.
//!
//! The path of a unix socket has at most 107 bytes, and data directories may lie deeper: the directory is opened and the
//! socket named through `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The name of the socket in a data directory.
const NAME: &str = "control.sock";

/// Listens in a data directory that this process owns. A socket that a dead process left is replaced.
pub(super) fn listen(data: &Path) -> io::Result<UnixListener> {
    let directory = File::open(data)?;
    let path = short_path(&directory);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(&path)
}

/// Reaches whoever listens in a data directory; nothing if nobody does.
pub(super) fn connect(data: &Path) -> io::Result<Option<UnixStream>> {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    let connected = File::open(data).and_then(|directory| UnixStream::connect(short_path(&directory)));
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the socket away, so that nobody finds it.
pub(super) fn remove(data: &Path) -> io::Result<()> {
    std::fs::remove_file(data.join(NAME))
}

/// Is the other end the same user, or root? The socket lies where others may be able to look.
pub(super) fn is_own_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

fn short_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))
}

//! Owns the small file in a data directory that says what it is about, so that verbs can open it without a server.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What a data directory is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    /// The name of the state.
    pub(crate) state: String,
    /// Bytes of the path of the directory that is served; nothing for a pulled copy, which may be moved.
    directory: Option<Vec<u8>>,
    /// How its snapshots are kept.
    pub(crate) mode: Mode,
}

/// How the snapshots of a directory are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Every snapshot keeps its own bytes: the files may change and be removed at any time
    Store,
    /// Snapshots point at the files where they lie: no second copy, but the files must not change
    Frozen,
}

impl StateRecord {
    /// A directory that is served where it lies.
    pub(crate) fn served(state: &str, directory: &Path, mode: Mode) -> io::Result<Self> {
        let directory = std::path::absolute(directory)?.into_os_string().into_vec();
        Ok(Self { state: state.to_owned(), directory: Some(directory), mode })
    }

    /// A copy that was pulled, with its data inside.
    pub(crate) fn pulled(state: &str) -> Self {
        Self { state: state.to_owned(), directory: None, mode: Mode::Frozen }
    }

    /// Is it a copy that was pulled?
    pub(crate) fn is_pulled(&self) -> bool {
        self.directory.is_none()
    }

    /// The directory that is served.
    pub(crate) fn directory(&self, data: &Path) -> PathBuf {
        match &self.directory {
            Some(bytes) => PathBuf::from(std::ffi::OsStr::from_bytes(bytes)),
            None => data.parent().unwrap_or(data).to_owned(),
        }
    }

    /// Is there one in `data`?
    pub(crate) fn is_in(data: &Path) -> bool {
        data.join(NAME).is_file()
    }

    /// Reads the one in `data`.
    pub(crate) fn read(data: &Path) -> Result<Self, Failure> {
        let path = data.join(NAME);
        let failed = || Failure::new(format!("cannot read {}", path.display()));
        let text = std::fs::read(&path).map_err(|error| failed().because(&error))?;
        serde_json::from_slice(&text).map_err(|error| failed().because(&error))
    }

    /// Writes it into `data`, whole or not at all.
    pub(crate) fn write(&self, data: &Path) -> io::Result<()> {
        let unfinished = data.join(format!("{NAME}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(unfinished, data.join(NAME))
    }
}

const NAME: &str = "state.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(record: &StateRecord, directory: &Path) {
        let data = tempfile::tempdir().unwrap();
        assert!(!StateRecord::is_in(data.path()));
        record.write(data.path()).unwrap();
        assert!(StateRecord::is_in(data.path()));
        let read = StateRecord::read(data.path()).unwrap();
        assert_eq!(read, *record);
        assert_eq!(read.directory(Path::new("/copy/.landfall")), directory);
    }

    #[test]
    fn says_the_same_after_it_was_read_again() {
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xff"));
        check(&StateRecord::served("orders", odd, Mode::Store).unwrap(), odd);
        check(&StateRecord::pulled("orders"), Path::new("/copy"));
    }
}

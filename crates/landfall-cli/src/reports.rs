//! Owns the words that verbs print and that travel over the control socket: plain data, named as `--json` shows it.
//!
//! Ids and roots are hex; a path that is not UTF-8 is shown escaped and given in full as hex beside it.

use serde::{Deserialize, Serialize};

use crate::output;

/// A path inside a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReportedPath {
    /// For people; bytes that are not UTF-8 and control characters are `\xNN`.
    pub(crate) path: String,
    /// The bytes in hex, where `path` is not exactly the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path_hex: Option<String>,
}

impl ReportedPath {
    /// The path with these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let path = output::path(bytes);
        let path_hex = (path.as_bytes() != bytes).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        Self { path, path_hex }
    }
}

/// One of many results of a request, told as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
pub(crate) enum Item {
    /// A path in a snapshot.
    Entry(ListedEntry),
    /// A snapshot that is held.
    Snapshot(HeldSnapshot),
    /// A path that differs between two snapshots.
    Difference(Difference),
    /// Something that is not what its snapshot says.
    Damage(Damage),
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// A snapshot was taken.
    Snapshot(Taken),
    /// What is held.
    Log(Held),
    /// A snapshot was listed.
    List(Listed),
    /// Two snapshots were compared.
    Diff(Compared),
    /// Everything was read again.
    Verify(Verified),
    /// What nothing needs was dropped.
    Collect(Collected),
}

/// A path in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedEntry {
    #[serde(flatten)]
    pub(crate) path: ReportedPath,
    /// `file`, `directory`, `symlink` or `hardlink`.
    pub(crate) kind: String,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    /// Seconds since 1970.
    pub(crate) modified: i64,
    /// Where a symbolic or hard link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

/// A snapshot that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldSnapshot {
    pub(crate) snapshot: String,
    pub(crate) position: String,
    pub(crate) root: String,
    pub(crate) state_bytes: u64,
    pub(crate) entries: u64,
    /// Time since it came to be held.
    pub(crate) age_seconds: u64,
    /// What keeps it: `newest`, `lease` (a running transfer), or `recent` (so that whoever has it gets a patch).
    pub(crate) pins: Vec<String>,
    /// Its writer signed it.
    pub(crate) signed: bool,
}

/// A path that differs between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) path: String,
    pub(crate) change: Change,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Created,
    Changed,
    Removed,
}

/// Something that is not what its snapshot says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// The file, or the part of the data directory.
    pub(crate) path: String,
    /// What is wrong with it.
    pub(crate) damage: String,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) state: String,
    pub(crate) snapshot: String,
    pub(crate) position: String,
    pub(crate) root: String,
    pub(crate) state_bytes: u64,
    pub(crate) entries: u64,
    /// The content is as the snapshot before says, so no new one was made.
    pub(crate) unchanged: bool,
    /// Bytes that were read; the rest was known to be as it was.
    pub(crate) read_bytes: u64,
    pub(crate) seconds: f64,
    /// Paths that no snapshot can keep, with the reason.
    pub(crate) skipped: Vec<String>,
    /// Files that changed while they were read: their content is from no single moment.
    pub(crate) torn: Vec<String>,
}

/// What is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) state: String,
    pub(crate) snapshots: u64,
}

/// A snapshot was listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) state: String,
    pub(crate) paths: u64,
    pub(crate) bytes: u64,
}

/// Two snapshots were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) state: String,
    pub(crate) old: String,
    pub(crate) new: String,
    pub(crate) created: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    /// Paths that differ and are not named, because there are so many.
    pub(crate) unlisted: u64,
    /// Chunks that the old snapshot has not at their place.
    pub(crate) new_chunks: u64,
    /// Their bytes before any encoding, and those of small files that changed.
    pub(crate) new_bytes: u64,
}

/// Everything was read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) state: String,
    pub(crate) snapshot: String,
    pub(crate) root: String,
    pub(crate) entries: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    /// Damages that were found, also those that were too many to name.
    pub(crate) damaged: u64,
    pub(crate) seconds: f64,
}

/// What nothing needs was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Collected {
    pub(crate) state: String,
    /// Bytes of finished packs.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
    pub(crate) packs_removed: u64,
    pub(crate) seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(serde_json::to_string(&ReportedPath::new(bytes)).unwrap(), expected);
    }

    #[test]
    fn a_path_that_cannot_be_shown_is_given_in_hex_too() {
        check(b"plain/path", r#"{"path":"plain/path"}"#);
        check(b"\xffa", r#"{"path":"\\xffa","path_hex":"ff61"}"#);
        check(b"a\\b", r#"{"path":"a\\x5cb","path_hex":"615c62"}"#);
    }
}

//! Owns which paths may stand in a file tree: a manifest from outside can never name a place outside its directory.

use std::fmt;

use bytes::Bytes;

use crate::limits::KEY_BYTES_MAX;

/// A path inside a state, relative to its root, as bytes: names need not be UTF-8.
///
/// No component is empty, `.` or `..`, none holds a NUL, and the path is not absolute. The empty path is the root itself.
/// Symlinks on the way are the business of whoever opens the path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FilePath(Bytes);

impl FilePath {
    /// Longest path: what a key has room for beside its terminator and an offset.
    pub const BYTES_MAX: usize = KEY_BYTES_MAX as usize - 9;

    /// The root of the state.
    pub fn root() -> Self {
        Self(Bytes::new())
    }

    /// Checks bytes that came from a directory, a peer or a user.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        let refuse = |reason| Err(BadPath { path: bytes.clone(), reason });
        if bytes.len() > Self::BYTES_MAX {
            return refuse("it is longer than 4087 bytes");
        }
        if bytes.contains(&0) {
            return refuse("it holds a NUL byte");
        }
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" => return refuse("it is absolute or has an empty component"),
                b"." | b".." => return refuse("it has a component '.' or '..'"),
                _ => {}
            }
        }
        Ok(Self(bytes))
    }

    /// The path of `name` below this one.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        if self.is_root() {
            return Self::new(name.to_vec());
        }
        Self::new([&self.0, name].join(&b'/'))
    }

    /// Is this the state's own directory?
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of the directory that holds this one; nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0.slice(..end)))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePath({self})")
    }
}

/// A path that may not stand in a file tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path '{}' is refused: {reason}", path.escape_ascii())]
pub struct BadPath {
    /// The bytes that were given.
    pub path: Bytes,
    /// What is wrong with them.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &[u8], accepted: bool) {
        assert_eq!(FilePath::new(path.to_vec()).is_ok(), accepted, "{}", path.escape_ascii());
    }

    #[test]
    fn refuses_every_way_out_of_the_directory() {
        for path in ["..", "../a", "a/..", "a/../b", "/", "/etc", "a//b", "a/", ".", "./a", "a\0b"] {
            check(path.as_bytes(), false);
        }
        check(&[b'x'; FilePath::BYTES_MAX + 1], false);
    }

    #[test]
    fn accepts_any_other_bytes() {
        for path in ["", "a", "a/b", "...", "..a", "a b/\u{fc}"] {
            check(path.as_bytes(), true);
        }
        check(b"\xff\xfe", true);
        check(&[b'x'; FilePath::BYTES_MAX], true);
    }

    #[test]
    fn knows_its_parent_and_name() {
        let path = FilePath::new("a/b").unwrap();
        assert_eq!((path.parent(), path.name()), (Some(FilePath::new("a").unwrap()), &b"b"[..]));
        assert_eq!(path.parent().and_then(|parent| parent.parent()), Some(FilePath::root()));
        assert_eq!(FilePath::root().parent(), None);
        assert_eq!(FilePath::root().join(b"a").unwrap().join(b"b").unwrap(), path);
        assert!(path.join(b"..").is_err());
    }
}

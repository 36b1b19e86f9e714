//! Owns the records of the demo: which value a key has in which version, and which version clients may count on.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::random::Random;

/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// The key of a record.
pub(super) fn key(index: u32) -> String {
    format!("order:{index:08}")
}

/// The value of a record in a version; the first version is 0.
pub(super) fn value(index: u32, version: u32) -> String {
    let mut text = format!("{version} ");
    let rest = VALUE_BYTES - text.len();
    Random::new(u64::from(index) << 32 | u64::from(version)).push_words(rest, &mut text);
    text.truncate(VALUE_BYTES);
    text
}

/// The version of a value of that record, if it is one, to the last byte.
pub(super) fn version(index: u32, stored: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(stored).ok()?;
    let version = text.split(' ').next()?.parse().ok()?;
    (value(index, version) == text).then_some(version)
}

/// What every client was told. Each record is written by one client at a time.
pub(super) struct Ledger(Vec<Versions>);

/// Of one record.
#[derive(Default)]
struct Versions {
    sent: AtomicU32,
    acknowledged: AtomicU32,
}

/// What a read proved wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// A key has gone.
    #[error("{0} has no value")]
    Gone(String),
    /// Nobody wrote that.
    #[error("{0} has a value that nobody wrote")]
    Foreign(String),
    /// A write that was acknowledged is lost, or not seen.
    #[error("{key} was read in version {found}, after version {acknowledged} was acknowledged")]
    Stale {
        /// Of the record.
        key: String,
        /// What came.
        found: u32,
        /// What should have come, at least.
        acknowledged: u32,
    },
}

impl Ledger {
    /// Of records in their first version.
    pub(super) fn new(keys: u32) -> Self {
        Self((0..keys).map(|_| Versions::default()).collect())
    }

    /// How many records there are.
    pub(super) fn keys(&self) -> u32 {
        u32::try_from(self.0.len()).expect("as many as were asked for")
    }

    /// The version that the record's next write has.
    pub(super) fn send(&self, index: u32) -> u32 {
        self.at(index).sent.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// A write was acknowledged.
    pub(super) fn acknowledge(&self, index: u32, version: u32) {
        self.at(index).acknowledged.fetch_max(version, Ordering::AcqRel);
    }

    /// The newest version that a client was promised so far.
    pub(super) fn acknowledged(&self, index: u32) -> u32 {
        self.at(index).acknowledged.load(Ordering::Acquire)
    }

    /// Holds a value that was read against what was promised before it was asked for.
    pub(super) fn check(&self, index: u32, stored: Option<&[u8]>, acknowledged: u32) -> Result<(), Wrong> {
        let stored = stored.ok_or_else(|| Wrong::Gone(key(index)))?;
        let sent = self.at(index).sent.load(Ordering::Acquire);
        match version(index, stored) {
            Some(found) if found < acknowledged => Err(Wrong::Stale { key: key(index), found, acknowledged }),
            Some(found) if found <= sent => Ok(()),
            _ => Err(Wrong::Foreign(key(index))),
        }
    }

    fn at(&self, index: u32) -> &Versions {
        &self.0[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_version_and_belongs_to_one_record() {
        assert_eq!(version(7, value(7, 3).as_bytes()), Some(3));
        assert_eq!(value(7, 3).len(), VALUE_BYTES);
        assert_eq!(version(8, value(7, 3).as_bytes()), None);
        assert_eq!(version(7, b"3 something else"), None);
    }

    #[test]
    fn a_read_may_see_what_was_sent_and_must_see_what_was_acknowledged() {
        let ledger = Ledger::new(2);
        assert_eq!((ledger.send(1), ledger.send(1), ledger.send(1)), (1, 2, 3));
        ledger.acknowledge(1, 2);
        let check = |version| ledger.check(1, Some(value(1, version).as_bytes()), ledger.acknowledged(1));
        assert_eq!(check(2), Ok(()));
        assert_eq!(check(3), Ok(()));
        assert_eq!(check(1), Err(Wrong::Stale { key: key(1), found: 1, acknowledged: 2 }));
        assert_eq!(check(4), Err(Wrong::Foreign(key(1))));
        assert_eq!(ledger.check(1, None, 0), Err(Wrong::Gone(key(1))));
    }
}

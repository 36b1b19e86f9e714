//! Owns the bytes of a value in `data` and of a key in the deadline index. It never decides whether a key has expired.

use bytes::{BufMut, Bytes, BytesMut};

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the client set.
    pub value: Bytes,
    /// When it goes, in milliseconds since 1970 by the log's time; nothing if it stays.
    pub deadline_ms: Option<u64>,
}

impl Entry {
    /// Reads a stored value. Nothing if the bytes are none.
    pub fn decode(stored: &Bytes) -> Option<Self> {
        match *stored.first()? {
            STAYS => Some(Self { value: stored.slice(1..), deadline_ms: None }),
            GOES => {
                let deadline = stored.get(1..HEADER_BYTES)?.try_into().ok()?;
                let deadline_ms = Some(u64::from_be_bytes(deadline));
                Some(Self { value: stored.slice(HEADER_BYTES..), deadline_ms })
            }
            _ => None,
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Bytes {
        encode(&self.value, self.deadline_ms)
    }

    /// Is it still there at `time_ms`?
    pub fn is_live(&self, time_ms: u64) -> bool {
        self.deadline_ms.is_none_or(|deadline| deadline > time_ms)
    }
}

/// The stored bytes of a value with its deadline.
pub(super) fn encode(value: &[u8], deadline_ms: Option<u64>) -> Bytes {
    let mut stored = BytesMut::with_capacity(HEADER_BYTES + value.len());
    match deadline_ms {
        None => stored.put_u8(STAYS),
        Some(deadline) => {
            stored.put_u8(GOES);
            stored.put_u64(deadline);
        }
    }
    stored.put_slice(value);
    stored.freeze()
}

/// The key of the deadline index: the earliest deadline is the first key.
pub fn deadline_key(deadline_ms: u64, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + key.len());
    bytes.put_u64(deadline_ms);
    bytes.put_slice(key);
    bytes.freeze()
}

/// The deadline and the key that an entry of the index stands for.
pub fn split_deadline_key(bytes: &Bytes) -> Option<(u64, Bytes)> {
    let (deadline, _) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*deadline), bytes.slice(8..)))
}

/// A string that stays.
const STAYS: u8 = 0;
/// A string with a deadline in the eight bytes that follow.
const GOES: u8 = 1;
/// Kind and deadline.
const HEADER_BYTES: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_bytes_never_change() {
        let stays = Entry { value: Bytes::from_static(b"v"), deadline_ms: None };
        let goes = Entry { value: Bytes::from_static(b"v"), deadline_ms: Some(0x0102) };
        for (entry, stored) in [(stays, &b"\0v"[..]), (goes, b"\x01\0\0\0\0\0\0\x01\x02v")] {
            assert_eq!(entry.encode(), stored);
            assert_eq!(Entry::decode(&Bytes::copy_from_slice(stored)), Some(entry));
        }
        assert_eq!(deadline_key(0x0102, b"k"), &b"\0\0\0\0\0\0\x01\x02k"[..]);
        assert_eq!(split_deadline_key(&deadline_key(7, b"k")), Some((7, Bytes::from_static(b"k"))));
    }

    #[test]
    fn bytes_that_are_no_entry_are_none() {
        for stored in [&b""[..], b"\x02v", b"\x01short"] {
            assert_eq!(Entry::decode(&Bytes::copy_from_slice(stored)), None, "{stored:?}");
        }
        assert_eq!(split_deadline_key(&Bytes::from_static(b"short")), None);
    }
}

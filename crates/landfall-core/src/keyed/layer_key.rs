//! Owns the form in which an overlay holds its keys: ordered as their bytes are, but compared without looking at them where their beginnings
//! differ. Changes are entered among hundreds of thousands of others, and each look at another key's bytes is a wait for memory.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytes::Bytes;

/// Bytes that are held beside a key.
const HEAD_BYTES: usize = 16;

/// A key of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerKey {
    /// The first bytes as a number, zeros behind a shorter key: where two differ, so do the keys, in the same order.
    head: u128,
    bytes: Bytes,
}

impl LayerKey {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl From<Bytes> for LayerKey {
    fn from(bytes: Bytes) -> Self {
        let mut head = [0; HEAD_BYTES];
        let held = bytes.len().min(HEAD_BYTES);
        head[..held].copy_from_slice(&bytes[..held]);
        Self { head: u128::from_be_bytes(head), bytes }
    }
}

impl Ord for LayerKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

impl PartialOrd for LayerKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Equal and ordered as the bytes are, so a key is found by them.
impl Borrow<[u8]> for LayerKey {
    fn borrow(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys that often begin alike, end early, or end with zeros.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(vec![0, 0, 0, 1, 255]);
        prop::collection::vec(byte, 0..HEAD_BYTES + 4)
    }

    proptest! {
        #[test]
        fn keys_are_ordered_as_their_bytes(left in key(), right in key()) {
            let [left_key, right_key] = [&left, &right].map(|bytes| LayerKey::from(Bytes::copy_from_slice(bytes)));
            prop_assert_eq!(left_key.cmp(&right_key), left.cmp(&right));
            prop_assert_eq!(left_key == right_key, left == right);
            prop_assert_eq!(Borrow::<[u8]>::borrow(&left_key), &left[..]);
        }
    }
}

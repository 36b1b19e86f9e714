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
        Self { head: head_of(&bytes), bytes }
    }
}

fn head_of(key: &[u8]) -> u128 {
    let mut head = [0; HEAD_BYTES];
    let held = key.len().min(HEAD_BYTES);
    head[..held].copy_from_slice(&key[..held]);
    u128::from_be_bytes(head)
}

impl Ord for LayerKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self, other)
    }
}

impl PartialOrd for LayerKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a key of a layer is found by: another key, or bytes that are only looked at.
pub(super) trait Wanted {
    fn head(&self) -> u128;
    fn key(&self) -> &[u8];
}

fn compare(left: &(impl Wanted + ?Sized), right: &(impl Wanted + ?Sized)) -> Ordering {
    left.head().cmp(&right.head()).then_with(|| left.key().cmp(right.key()))
}

impl Wanted for LayerKey {
    fn head(&self) -> u128 {
        self.head
    }

    fn key(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that a key is looked up by. Nobody need own them for that.
pub(super) struct Lookup<'a> {
    head: u128,
    key: &'a [u8],
}

impl<'a> Lookup<'a> {
    pub(super) fn of(key: &'a [u8]) -> Self {
        Self { head: head_of(key), key }
    }
}

impl Wanted for Lookup<'_> {
    fn head(&self) -> u128 {
        self.head
    }

    fn key(&self) -> &[u8] {
        self.key
    }
}

/// A map is searched by what its keys can be borrowed as, and a [`Lookup`] is no part of a key: hence the trait object.
impl<'a> Borrow<dyn Wanted + 'a> for LayerKey {
    fn borrow(&self) -> &(dyn Wanted + 'a) {
        self
    }
}

impl Ord for dyn Wanted + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self, other)
    }
}

impl PartialOrd for dyn Wanted + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Wanted + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Wanted + '_ {}

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
            let lookup: &dyn Wanted = &Lookup::of(&left);
            prop_assert_eq!(lookup.cmp(right_key.borrow()), left.cmp(&right));
            prop_assert!(lookup == left_key.borrow());
        }
    }
}

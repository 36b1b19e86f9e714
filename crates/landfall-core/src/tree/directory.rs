//! Owns where the entries of a node lie, and a few bytes of each key beside that: a search reads those, and of the node
//! itself hardly more than what it finds. It is derived from the node's bytes and never leaves memory.

use std::cmp::Ordering;

/// Bytes that all keys begin with are kept beside the heads, up to so many: most searches then read one key.
const COMMON_BYTES_KEPT: usize = 32;

/// Where entries lie, in order.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Where each entry starts; the last one ends where the node does.
    starts: Box<[u16]>,
    /// Of each key, what follows the bytes that all keys of the node begin with.
    heads: Box<[u32]>,
    /// How many bytes all keys begin with.
    common_bytes: usize,
    /// The first of those.
    common: [u8; COMMON_BYTES_KEPT],
}

impl Directory {
    /// Takes where entries start, and how to find the key of each; keys ascend.
    pub(super) fn new<'a>(starts: &[u16], key: impl Fn(usize) -> &'a [u8]) -> Self {
        let Some(last) = starts.len().checked_sub(1) else { return Self::default() };
        // Keys ascend, so what the first and the last begin with, all do.
        let common_bytes = key(0).iter().zip(key(last)).take_while(|(first, last)| first == last).count();
        let heads = starts.iter().enumerate().map(|(index, _)| head(&key(index)[common_bytes..])).collect();
        let mut common = [0; COMMON_BYTES_KEPT];
        let kept = common_bytes.min(COMMON_BYTES_KEPT);
        common[..kept].copy_from_slice(&key(0)[..kept]);
        Self { starts: starts.into(), heads, common_bytes, common }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Where an entry starts.
    pub(super) fn start(&self, index: usize) -> Option<usize> {
        self.starts.get(index).map(|&start| start.into())
    }

    /// Where the entries after `index` start.
    pub(super) fn starts_after(&self, index: usize) -> &[u16] {
        self.starts.get(index + 1..).unwrap_or_default()
    }

    /// The first entry at or after `from` whose key is not below `wanted`.
    pub(super) fn lower_bound<'a>(&self, from: usize, wanted: &[u8], key: impl Fn(usize) -> &'a [u8]) -> usize {
        let Some(heads) = self.heads.get(from..).filter(|heads| !heads.is_empty()) else { return from };
        let common = match self.common.get(..self.common_bytes) {
            Some(common) => common,
            None => &key(from)[..self.common_bytes],
        };
        let begins = &wanted[..wanted.len().min(self.common_bytes)];
        match begins.cmp(common) {
            Ordering::Less => return from,
            Ordering::Greater => return self.len(),
            Ordering::Equal => {}
        }
        let wanted_head = head(&wanted[self.common_bytes..]);
        let mut low = from + heads.partition_point(|&head| head < wanted_head);
        let mut high = low + self.heads[low..].iter().take_while(|&&head| head == wanted_head).count();
        while low < high {
            let middle = low + (high - low) / 2;
            if key(middle) < wanted {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val::<[u16]>(&self.starts) + size_of_val::<[u32]>(&self.heads)
    }
}

/// The first bytes of `rest`, as a number that orders as they do; what is not there counts as the least.
fn head(rest: &[u8]) -> u32 {
    if let Some(first) = rest.first_chunk() {
        return u32::from_be_bytes(*first);
    }
    let mut bytes = [0; size_of::<u32>()];
    bytes[..rest.len()].copy_from_slice(rest);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_search_over_whole_keys_finds(
            keys in prop::collection::btree_set(prop::collection::vec(0_u8..3, 0..9), 0..40),
            prefix in prop_oneof![prop::collection::vec(0_u8..3, 0..3), prop::collection::vec(0_u8..3, 30..35)],
            wanted in prop::collection::vec(prop::collection::vec(0_u8..3, 0..12), 1..20),
            has_prefix: bool,
            from in 0_usize..40,
        ) {
            let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| [&prefix[..], &key].concat()).collect();
            let directory = Directory::new(&(0..keys.len() as u16).collect::<Vec<_>>(), |index| &keys[index]);
            let from = from.min(keys.len());
            for wanted in wanted {
                let wanted = if has_prefix { [&prefix[..], &wanted].concat() } else { wanted };
                let expected = from + keys[from..].partition_point(|key| *key < wanted);
                prop_assert_eq!(directory.lower_bound(from, &wanted, |index| &keys[index]), expected);
            }
        }
    }
}

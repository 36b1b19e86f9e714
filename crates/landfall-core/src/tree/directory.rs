//! Owns where the entries of a node lie, and a few bytes of each key beside that: a search reads those, and of the node
//! itself hardly more than what it finds. It is derived from the node's bytes and never leaves memory.

use std::cmp::Ordering;
use std::sync::OnceLock;

/// Bytes that all keys begin with are kept beside the heads, up to so many: most searches then read one key.
const COMMON_BYTES_KEPT: usize = 32;

/// Where entries lie, in order.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where each entry starts; the last one ends where the node does.
    starts: Box<[u16]>,
    /// Made by the first search: whoever compares or merges whole nodes has no use for it.
    heads: OnceLock<Heads>,
}

/// What a search reads first.
#[derive(Debug)]
struct Heads {
    /// Of each key, what follows the bytes that all keys of the node begin with.
    heads: Box<[u32]>,
    /// How many bytes all keys begin with.
    common_bytes: usize,
    /// The first of those.
    common: [u8; COMMON_BYTES_KEPT],
}

impl Directory {
    /// Takes where entries start.
    pub(super) fn new(starts: Box<[u16]>) -> Self {
        Self { starts, heads: OnceLock::new() }
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

    /// The first entry at or after `from` whose key is not below `wanted`; `key` finds the key of an entry, and keys ascend.
    pub(super) fn lower_bound<'a>(&self, from: usize, wanted: &[u8], key: impl Fn(usize) -> &'a [u8]) -> usize {
        if from >= self.len() {
            return from;
        }
        let Heads { heads, common_bytes, common } = self.heads.get_or_init(|| Heads::new(self.len(), &key));
        let common = common.get(..*common_bytes).unwrap_or_else(|| &key(from)[..*common_bytes]);
        let (begins, rest) = wanted.split_at(wanted.len().min(*common_bytes));
        match begins.cmp(common) {
            Ordering::Less => return from,
            Ordering::Greater => return self.len(),
            Ordering::Equal => {}
        }
        let wanted_head = head(rest);
        let mut low = from + heads[from..].partition_point(|&head| head < wanted_head);
        let mut high = low + heads[low..].iter().take_while(|&&head| head == wanted_head).count();
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

    /// Bytes of memory beside the directory itself, with those that the first search takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.len() * (size_of::<u16>() + size_of::<u32>())
    }
}

impl Heads {
    /// Takes how many entries there are, at least one, and how to find the key of each.
    fn new<'a>(entries: usize, key: impl Fn(usize) -> &'a [u8]) -> Self {
        let (first, last) = (key(0), key(entries - 1));
        // Keys ascend, so what the first and the last begin with, all do.
        let common_bytes = first.iter().zip(last).take_while(|(first, last)| first == last).count();
        let heads = (0..entries).map(|index| head(&key(index)[common_bytes..])).collect();
        let mut common = [0; COMMON_BYTES_KEPT];
        let kept = common_bytes.min(COMMON_BYTES_KEPT);
        common[..kept].copy_from_slice(&first[..kept]);
        Self { heads, common_bytes, common }
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
            let directory = Directory::new((0..keys.len() as u16).collect());
            let from = from.min(keys.len());
            for wanted in wanted {
                let wanted = if has_prefix { [&prefix[..], &wanted].concat() } else { wanted };
                let expected = from + keys[from..].partition_point(|key| *key < wanted);
                prop_assert_eq!(directory.lower_bound(from, &wanted, |index| &keys[index]), expected);
            }
        }
    }
}

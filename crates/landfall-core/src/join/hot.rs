//! Owns which parts of a state its readers use most: keys that were sampled at the source, and the leaves that they make hot at a joiner.
//!
//! It never counts every read and never fetches. What a source says of its readers is a hint: nothing but the order of a transfer
//! depends on it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ChunkId;
use crate::tree::NodeWant;

/// Keys that a source remembers, and reports, at most.
pub const TOUCHES_MAX: usize = 2048;
/// Of a longer key only so many bytes are kept: they lead to the leaf, or near it.
pub const TOUCH_KEY_BYTES_MAX: usize = 64;
/// Leaves that count as hot at most: about 8 MiB.
pub const HOT_UNITS_MAX: usize = 512;
/// Leaves are hot, the most touched first, until they hold this share of all touches, in percent.
const HOT_SHARE_PERCENT: usize = 90;

/// A key that a reader touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The place of its section among the sections of the manifest.
    pub section: u32,
    /// The key, or the beginning of a long one.
    pub key: Bytes,
}

/// The keys that readers touched lately, as far as they were sampled.
#[derive(Debug, Default)]
pub struct Touches {
    /// Oldest first.
    recent: VecDeque<Touch>,
}

impl Touches {
    /// Remembers a key; the oldest is forgotten for it.
    pub fn note(&mut self, section: u32, key: &[u8]) {
        if self.recent.len() == TOUCHES_MAX {
            self.recent.pop_front();
        }
        let key = Bytes::copy_from_slice(&key[..key.len().min(TOUCH_KEY_BYTES_MAX)]);
        self.recent.push_back(Touch { section, key });
    }

    /// What is remembered, the newest first.
    pub fn newest(&self, count_max: usize) -> Vec<Touch> {
        self.recent.iter().rev().take(count_max).cloned().collect()
    }
}

/// The leaves that touches make hot, the hottest first. Each touch is given as the leaf that covers its key.
pub fn hot_units(touched: impl IntoIterator<Item = NodeWant>) -> Vec<NodeWant> {
    let mut counts: BTreeMap<ChunkId, (usize, NodeWant)> = BTreeMap::new();
    let mut all = 0;
    for leaf in touched {
        counts.entry(leaf.id).or_insert((0, leaf)).0 += 1;
        all += 1;
    }
    let mut ranked: Vec<(usize, NodeWant)> = counts.into_values().collect();
    // Leaves that were touched as often as each other stay in the order of their ids: the same everywhere.
    ranked.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let mut held = 0;
    let is_hot = |(count, _): &(usize, NodeWant)| {
        let is_hot = held * 100 < all * HOT_SHARE_PERCENT;
        held += count;
        is_hot
    };
    ranked.into_iter().take_while(is_hot).take(HOT_UNITS_MAX).map(|(_, leaf)| leaf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Domain;

    fn leaf(number: usize) -> NodeWant {
        NodeWant { id: ChunkId::of(Domain::Node, &number.to_le_bytes()), base: None }
    }

    /// So many touches of each leaf.
    fn touches(counts: &[(usize, usize)]) -> Vec<NodeWant> {
        counts.iter().flat_map(|&(number, count)| std::iter::repeat_n(leaf(number), count)).collect()
    }

    #[test]
    fn the_leaves_that_nine_of_ten_touches_fall_into_are_hot_the_most_touched_first() {
        let hot = hot_units(touches(&[(1, 30), (2, 60), (3, 5), (4, 5)]));
        assert_eq!(hot, [leaf(2), leaf(1)]);
    }

    #[test]
    fn nothing_is_hot_where_nobody_reads() {
        assert_eq!(hot_units([]), []);
        assert_eq!(Touches::default().newest(10), []);
    }

    #[test]
    fn uniform_reads_do_not_make_everything_hot() {
        let all: Vec<_> = (0..4 * HOT_UNITS_MAX).map(|number| (number, 1)).collect();
        assert_eq!(hot_units(touches(&all)).len(), HOT_UNITS_MAX);
    }

    #[test]
    fn a_source_remembers_what_was_touched_last_and_no_more_than_it_may() {
        let mut touches = Touches::default();
        for number in 0..TOUCHES_MAX + 5 {
            touches.note(1, &number.to_be_bytes().repeat(20));
        }
        let newest = touches.newest(usize::MAX);
        assert_eq!(newest.len(), TOUCHES_MAX);
        assert!(newest[0].key.starts_with(&(TOUCHES_MAX + 4).to_be_bytes()));
        assert!(newest.iter().all(|touch| touch.key.len() == TOUCH_KEY_BYTES_MAX));
        assert_eq!(touches.newest(3), newest[..3]);
    }
}

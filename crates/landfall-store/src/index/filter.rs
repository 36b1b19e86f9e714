//! Owns the filter of a run: a few bits per chunk that say "certainly not here" without touching the disk.
//!
//! A blocked Bloom filter (Putze, Sanders, Singler: "Cache-, hash- and space-efficient Bloom filters", 2007). Ids are
//! hashes already, so their bytes are used as they are.

use landfall_core::ChunkId;

/// Ten bits per chunk in blocks of one cache line: about 1.2 % of absent ids pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    blocks: Vec<Block>,
}

type Block = [u64; BLOCK_WORDS];

impl Filter {
    /// An empty filter for at most `entries` chunks.
    pub(crate) fn for_entries(entries: u64) -> Self {
        let blocks = (entries * BITS_PER_ENTRY).div_ceil(BLOCK_BITS).max(1);
        Self { blocks: vec![[0; BLOCK_WORDS]; blocks as usize] }
    }

    pub(crate) fn insert(&mut self, id: ChunkId) {
        let block = self.block_of(id);
        for bit in bits_of(id) {
            self.blocks[block][bit / 64] |= 1 << (bit % 64);
        }
    }

    pub(crate) fn may_hold(&self, id: ChunkId) -> bool {
        let block = &self.blocks[self.block_of(id)];
        bits_of(id).all(|bit| block[bit / 64] & (1 << (bit % 64)) != 0)
    }

    pub(crate) fn block_count(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.blocks.iter().flatten().flat_map(|word| word.to_le_bytes()));
    }

    /// Reads what [`Self::write`] wrote; `None` if it is not a whole number of blocks, or none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        let is_filter = rest.is_empty() && !blocks.is_empty();
        is_filter.then(|| Self { blocks: blocks.iter().map(read_block).collect() })
    }

    /// The leading bytes choose the block, so a sorted run fills the filter from front to back.
    fn block_of(&self, id: ChunkId) -> usize {
        ((u128::from(word_of(id, 0)) * self.blocks.len() as u128) >> 64) as usize
    }
}

fn read_block(bytes: &[u8; BLOCK_BYTES]) -> Block {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

fn bits_of(id: ChunkId) -> impl Iterator<Item = usize> {
    let word = word_of(id, 8);
    (0..BITS_SET).map(move |bit| (word >> (9 * bit)) as usize % BLOCK_BITS as usize)
}

fn word_of(id: ChunkId, at: usize) -> u64 {
    let bytes = id.as_bytes();
    u64::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

pub(crate) const BLOCK_BYTES: usize = 64;
const BLOCK_WORDS: usize = BLOCK_BYTES / 8;
const BLOCK_BITS: u64 = BLOCK_BYTES as u64 * 8;
const BITS_PER_ENTRY: u64 = 10;
const BITS_SET: usize = 7;

#[cfg(test)]
mod tests {
    use landfall_core::Domain;

    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId::of(Domain::Data, &number.to_le_bytes())
    }

    #[test]
    fn holds_what_was_inserted_and_little_else() {
        let mut filter = Filter::for_entries(10_000);
        (0..10_000).for_each(|number| filter.insert(id(number)));
        assert!((0..10_000).all(|number| filter.may_hold(id(number))));
        let false_positives = (10_000..110_000).filter(|number| filter.may_hold(id(*number))).count();
        assert!(false_positives < 2_000, "{false_positives} of 100 000");
    }

    #[test]
    fn reads_what_it_wrote() {
        let mut filter = Filter::for_entries(1_000);
        (0..1_000).for_each(|number| filter.insert(id(number)));
        let mut bytes = Vec::new();
        filter.write(&mut bytes);
        assert_eq!(Filter::read(&bytes), Some(filter));
        assert_eq!(Filter::read(&bytes[1..]), None);
        assert_eq!(Filter::read(&[]), None);
    }
}

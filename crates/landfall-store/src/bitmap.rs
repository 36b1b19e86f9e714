//! Owns sets of small numbers as bits: which frames of a pack are alive, asked for, or broken.

/// A set of ordinals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Adds `ordinal`; says whether it was new.
    pub(crate) fn insert(&mut self, ordinal: u32) -> Inserted {
        let word = ordinal as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (ordinal % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        if is_new { Inserted::New } else { Inserted::Again }
    }

    pub(crate) fn contains(&self, ordinal: u32) -> bool {
        self.words.get(ordinal as usize / 64).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        size_of_val(self.words.as_slice()) as u64
    }
}

/// Whether an insertion changed the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    New,
    Again,
}

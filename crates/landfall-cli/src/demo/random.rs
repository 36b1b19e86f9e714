//! Owns the numbers and words that the demo's data is made of: the same on every machine and in every run.

/// A stream of numbers that only its seed decides (SplitMix64; Steele, Lea, Flood: OOPSLA 2014).
pub(super) struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Appends words until at least `length` bytes are there; it compresses about as well as people's notes do.
    pub(super) fn push_words(&mut self, length: usize, text: &mut String) {
        let end = text.len() + length;
        while text.len() < end {
            let number = self.next();
            // Small numbers are likelier, as a few words are in every language.
            let word = (number % WORDS.len() as u64) * ((number >> 32) % WORDS.len() as u64) / WORDS.len() as u64;
            text.push_str(WORDS[word as usize]);
            text.push(if number >> 60 == 0 { '.' } else { ' ' });
        }
    }
}

const WORDS: [&str; 64] = [
    "the",
    "order",
    "of",
    "and",
    "to",
    "ship",
    "customer",
    "a",
    "in",
    "paid",
    "for",
    "was",
    "returned",
    "on",
    "with",
    "at",
    "by",
    "late",
    "from",
    "parcel",
    "no",
    "is",
    "call",
    "before",
    "noon",
    "leave",
    "neighbour",
    "gift",
    "wrapped",
    "urgent",
    "second",
    "address",
    "changed",
    "invoice",
    "sent",
    "again",
    "blue",
    "instead",
    "green",
    "size",
    "large",
    "small",
    "damaged",
    "box",
    "refund",
    "half",
    "price",
    "delivered",
    "signed",
    "warehouse",
    "north",
    "south",
    "express",
    "standard",
    "fragile",
    "glass",
    "weight",
    "kilogram",
    "pallet",
    "truck",
    "driver",
    "evening",
    "morning",
    "holiday",
];

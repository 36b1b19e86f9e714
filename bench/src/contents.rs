//! Owns the data that everybody holds: which keys there are, and which value each has at each of its versions, so that
//! every answer can be checked. It never talks to anybody.

use crate::random::Random;
use crate::text::Words;

/// The keys of a run. Version 0 of a key is what it is filled with.
pub struct Contents {
    keys: u32,
    words: Words,
}

/// Which version of each key was acknowledged last.
#[derive(Clone)]
pub struct Versions(Vec<u32>);

impl Contents {
    /// So many keys.
    pub fn new(keys: u32) -> Self {
        Self { keys, words: Words::new() }
    }

    /// How many there are.
    pub fn keys(&self) -> u32 {
        self.keys
    }

    /// `key:%08d`.
    pub fn key(number: u32) -> String {
        format!("key:{number:08}")
    }

    /// Text that compresses about as people's does; another one for each version.
    pub fn value(&self, number: u32, version: u32) -> Vec<u8> {
        let mut value = Vec::with_capacity(2 * VALUE_BYTES);
        let mut random = Random::stream(u64::from(number) << 32 | u64::from(version));
        self.words.append(&mut value, VALUE_BYTES, &mut random);
        value
    }

    /// A key that no writer ever touches: its value is right at every position.
    pub fn draw_still(&self, random: &mut Random) -> u32 {
        random.below(u64::from(self.keys.div_ceil(STILL_EVERY))) as u32 * STILL_EVERY
    }

    /// A key that writers may change: uniform over all that are not still.
    pub fn draw_changing(&self, random: &mut Random) -> u32 {
        loop {
            let number = random.below(u64::from(self.keys)) as u32;
            if !number.is_multiple_of(STILL_EVERY) {
                return number;
            }
        }
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        u64::from(self.keys) * (KEY_BYTES + VALUE_BYTES) as u64
    }
}

impl Versions {
    /// Every key as it was filled.
    pub fn new(contents: &Contents) -> Self {
        Self(vec![0; contents.keys as usize])
    }

    /// Of one key.
    pub fn of(&self, number: u32) -> u32 {
        self.0[number as usize]
    }

    /// A newer one was acknowledged.
    pub fn set(&mut self, number: u32, version: u32) {
        self.0[number as usize] = version;
    }
}

/// Length of every value.
pub const VALUE_BYTES: usize = 100;
/// Length of every key.
pub const KEY_BYTES: usize = 12;
/// Every so many keys one is still.
const STILL_EVERY: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_key_differ_and_are_reproduced() {
        let (one, other) = (Contents::new(100), Contents::new(100));
        assert_eq!(one.value(7, 1), other.value(7, 1));
        assert_ne!(one.value(7, 1), one.value(7, 2));
        assert_ne!(one.value(7, 1), one.value(8, 1));
        assert_eq!(one.value(7, 1).len(), VALUE_BYTES);
    }

    #[test]
    fn a_still_key_is_never_drawn_for_a_change() {
        let contents = Contents::new(130);
        let mut random = Random::stream(1);
        let still: std::collections::BTreeSet<_> = (0..500).map(|_| contents.draw_still(&mut random)).collect();
        assert_eq!(still.into_iter().collect::<Vec<_>>(), [0, 64, 128]);
        assert!((0..500).all(|_| ![0, 64, 128].contains(&contents.draw_changing(&mut random))));
    }
}

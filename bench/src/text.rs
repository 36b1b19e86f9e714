//! Owns the words that the data sets are written with: a fixed vocabulary, drawn by Zipf's law (exponent 1), so that
//! text compresses about as people's text does. It never touches a file.

use crate::random::Random;

/// A vocabulary and the law by which words are drawn from it.
pub struct Words {
    words: Vec<Vec<u8>>,
    /// Draw `i` of `DRAWS` gives the word `table[i]`: built by division only, so equal on every machine.
    table: Vec<u16>,
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

impl Words {
    /// The one vocabulary.
    pub fn new() -> Self {
        let mut random = Random::stream(STREAM);
        let words = (0..WORDS).map(|rank| word(rank, &mut random)).collect();
        Self { words, table: zipf_table() }
    }

    /// A word, by the law.
    pub fn draw(&self, random: &mut Random) -> &[u8] {
        let draw = random.below(DRAWS as u64) as usize;
        &self.words[usize::from(self.table[draw])]
    }

    /// Any word, all alike; `number` chooses.
    pub fn any(&self, number: u64) -> &[u8] {
        &self.words[(number % WORDS as u64) as usize]
    }

    /// Appends words until at least `bytes` bytes were added, then cuts to exactly that.
    pub fn append(&self, text: &mut Vec<u8>, bytes: usize, random: &mut Random) {
        let end = text.len() + bytes;
        while text.len() < end {
            text.extend_from_slice(self.draw(random));
            text.push(b' ');
        }
        text.truncate(end);
    }

    /// Text of exactly so many bytes.
    pub fn sentence(&self, bytes: usize, random: &mut Random) -> String {
        let mut text = Vec::with_capacity(bytes + WORD_BYTES_MAX);
        self.append(&mut text, bytes, random);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Frequent words are short, as in people's languages.
fn word(rank: usize, random: &mut Random) -> Vec<u8> {
    let shortest = 2 + u64::from((rank + 1).ilog2()) / 3;
    let length = random.between(shortest, shortest + 6);
    (0..length).map(|_| LETTERS[random.below(LETTERS.len() as u64) as usize]).collect()
}

fn zipf_table() -> Vec<u16> {
    let weights = (0..WORDS).map(|rank| 1.0 / (rank + 1) as f64);
    let total: f64 = weights.clone().sum();
    let mut table = Vec::with_capacity(DRAWS);
    let mut reached = 0.0;
    for (rank, weight) in weights.enumerate() {
        reached += weight / total;
        table.resize(((reached * DRAWS as f64) as usize).min(DRAWS), rank as u16);
    }
    table.resize(DRAWS, 0);
    table
}

const STREAM: u64 = 100;
const WORDS: usize = 2_000;
const DRAWS: usize = 1 << 18;
const WORD_BYTES_MAX: usize = 16;
/// Repeated letters stand for their frequency in English.
const LETTERS: &[u8] =
    b"eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllcccuuummmwwffggyyppbbvk";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_exactly_the_length_asked_for() {
        let words = Words::new();
        let mut random = Random::stream(1);
        for bytes in [0, 1, 17, 200] {
            assert_eq!(words.sentence(bytes, &mut random).len(), bytes);
        }
    }

    #[test]
    fn the_first_word_is_drawn_about_as_often_as_zipf_says() {
        let table = zipf_table();
        let first = table.iter().filter(|rank| **rank == 0).count() as f64 / DRAWS as f64;
        assert!((0.11..0.14).contains(&first), "{first}");
    }
}

//! Owns the one source of chance of the data sets: the same seed gives the same bytes everywhere. It never reads a
//! clock or the system's entropy.

/// xoshiro256++ (Blackman and Vigna, 2019), seeded by SplitMix64.
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// Starts the stream number `stream` of the data sets' one seed.
    pub fn stream(stream: u64) -> Self {
        let mut seed = SEED ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        Self { state: [(); 4].map(|()| split_mix(&mut seed)) }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let [c, d] = [c ^ a, d ^ b];
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`, by multiplication; the bias is below 2^-32 for the bounds used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` up to but without `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// Fills with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
    }

    /// A token.
    pub fn bytes_16(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes
    }
}

fn split_mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const SEED: u64 = 0x1a4d_fa11_0000_0001;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_streams_give_equal_numbers_and_others_differ() {
        let numbers = |stream| {
            let mut random = Random::stream(stream);
            [random.number(), random.number(), random.number()]
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }

    #[test]
    fn a_bounded_number_stays_below_its_bound_and_reaches_every_value() {
        let mut random = Random::stream(3);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[random.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
    }

    #[test]
    fn fills_a_length_that_is_no_multiple_of_eight() {
        let mut bytes = [0; 13];
        Random::stream(4).fill(&mut bytes);
        assert!(bytes[8..].iter().any(|byte| *byte != 0));
    }
}

//! Owns the cutting of a stream of bytes, independent of how the stream is split into buffers.

use super::gear::GearScan;
use crate::files::Content;
use crate::limits::PAGE_CHUNK_BYTES;

/// What follows the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// More bytes of the content, or perhaps none: the caller does not know yet.
    MayFollow,
    /// Nothing: the content ends here.
    IsEmpty,
}

/// Finds the ends of the chunks of one content, in order.
#[derive(Debug, Clone)]
pub struct Cutter {
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Whole,
    Pages,
    Gear(GearScan),
}

impl Cutter {
    /// The cutter of a file's content; nothing for inline content, which has no chunks.
    pub fn of(content: &Content) -> Option<Self> {
        match content {
            Content::Inline(_) => None,
            Content::Whole => Some(Self { rule: Rule::Whole }),
            Content::Pages => Some(Self::pages()),
            Content::ContentDefined => Some(Self::content_defined()),
        }
    }

    /// Cuts at multiples of [`PAGE_CHUNK_BYTES`].
    pub fn pages() -> Self {
        Self { rule: Rule::Pages }
    }

    /// Cuts where the content says: [`super::CUT_BYTES_MIN`] to [`super::CUT_BYTES_MAX`] bytes.
    pub fn content_defined() -> Self {
        Self { rule: Rule::Gear(GearScan::default()) }
    }

    /// The length of the chunk that begins at `bytes`, or nothing if more bytes are needed to tell.
    ///
    /// `bytes` begins where the last cut was. When nothing came back, the next call must show the same bytes again with more
    /// after them. Cuts do not depend on how much is shown at once.
    pub fn next_cut(&mut self, bytes: &[u8], rest: Rest) -> Option<usize> {
        let cut = match &mut self.rule {
            Rule::Whole => None,
            Rule::Pages => (bytes.len() >= PAGE_CHUNK_BYTES as usize).then_some(PAGE_CHUNK_BYTES as usize),
            Rule::Gear(scan) => scan.cut(bytes),
        };
        cut.or_else(|| (rest == Rest::IsEmpty && !bytes.is_empty()).then(|| self.cut_at_end(bytes)))
    }

    fn cut_at_end(&mut self, bytes: &[u8]) -> usize {
        if let Rule::Gear(scan) = &mut self.rule {
            *scan = GearScan::default();
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::gear::reference_cut;
    use super::*;

    /// Bytes that repeat for ever only after 2^64: splitmix64.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let number = |index: u64| {
            let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (0..length.div_ceil(8) as u64).flat_map(|index| number(index).to_le_bytes()).take(length).collect()
    }

    fn cuts_of_whole(mut cutter: Cutter, mut bytes: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while let Some(cut) = cutter.next_cut(bytes, Rest::IsEmpty) {
            cuts.push(cut);
            bytes = &bytes[cut..];
        }
        cuts
    }

    /// Shows the bytes in steps, as a reader does.
    fn cuts_of_steps(mut cutter: Cutter, bytes: &[u8], steps: &[usize]) -> Vec<usize> {
        let (mut cuts, mut start, mut end) = (Vec::new(), 0, 0);
        let mut steps = steps.iter().cycle();
        while start < bytes.len() {
            let rest = if end == bytes.len() { Rest::IsEmpty } else { Rest::MayFollow };
            match cutter.next_cut(&bytes[start..end], rest) {
                Some(cut) => {
                    cuts.push(cut);
                    start += cut;
                }
                None => end = bytes.len().min(end + steps.next().unwrap()),
            }
        }
        cuts
    }

    fn cuts_of_reference(mut bytes: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while !bytes.is_empty() {
            cuts.push(reference_cut(bytes));
            bytes = &bytes[*cuts.last().unwrap()..];
        }
        cuts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_arrive(
            seed: u64,
            length in 0..900_000usize,
            zeros in 0..400_000usize,
            steps in proptest::collection::vec(1..150_000usize, 1..8),
        ) {
            let mut bytes = noise(seed, length);
            bytes.splice(length / 2..length / 2, std::iter::repeat_n(0, zeros));
            let expected = cuts_of_reference(&bytes);
            prop_assert_eq!(&cuts_of_whole(Cutter::content_defined(), &bytes), &expected);
            prop_assert_eq!(&cuts_of_steps(Cutter::content_defined(), &bytes, &steps), &expected);
            let pages = cuts_of_steps(Cutter::pages(), &bytes, &steps);
            prop_assert_eq!(pages, cuts_of_whole(Cutter::pages(), &bytes));
        }
    }

    #[test]
    fn content_defined_cuts_are_frozen() {
        let cuts = cuts_of_whole(Cutter::content_defined(), &noise(1, 1_000_000));
        let expected =
            [77706, 34858, 69644, 99999, 69582, 84516, 67739, 19810, 33299, 67718, 80095, 154946, 104605, 35483];
        assert_eq!(cuts, expected);
    }

    #[test]
    fn zeros_are_cut_at_the_longest_length() {
        assert_eq!(cuts_of_whole(Cutter::content_defined(), &vec![0; 600 * 1024]), [256 * 1024, 256 * 1024, 88 * 1024]);
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_around_it() {
        let old = noise(7, 4_000_000);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"seventeen bytes!!");
        let ends = |bytes: &[u8]| {
            let mut from_end = bytes.len();
            cuts_of_whole(Cutter::content_defined(), bytes)
                .iter()
                .map(|cut| {
                    from_end -= cut;
                    from_end
                })
                .collect::<Vec<_>>()
        };
        let (old_ends, new_ends) = (ends(&old), ends(&new));
        let moved = new_ends.iter().filter(|end| !old_ends.contains(end)).count();
        let before = cuts_of_whole(Cutter::content_defined(), &old[..1_000_000]).len();
        assert!(moved <= before + 3, "{moved} of {} cuts moved", new_ends.len());
    }

    #[test]
    fn pages_are_cut_at_their_length_and_at_the_end() {
        assert_eq!(cuts_of_whole(Cutter::pages(), &[1; 150_000]), [65536, 65536, 18928]);
        assert_eq!(cuts_of_whole(Cutter::pages(), &[]), [0usize; 0]);
    }
}

//! Owns the frozen rule of content-defined cuts: a gear hash with two masks.
//!
//! The hash of a position covers the 64 bytes before it (Xia et al., FastCDC, USENIX ATC 2016). Below the mean a strict mask
//! makes short chunks rare, above it a loose one makes long chunks rare.

use std::sync::LazyLock;

use gearhash::{Hasher, Table};

/// Shortest content-defined chunk but for the last of a file.
pub const CUT_BYTES_MIN: u32 = 16 * 1024;
/// Length from which on cuts are sought with the loose mask: most chunks are a little longer.
pub const CUT_BYTES_MEAN: u32 = 64 * 1024;
/// Longest content-defined chunk.
pub const CUT_BYTES_MAX: u32 = 256 * 1024;

/// Where the next cut is sought inside one chunk, however its bytes arrive.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GearScan {
    /// Bytes of the chunk that were looked at; below [`FIRST_HASHED`] nothing was.
    scanned: usize,
    hash: u64,
}

impl GearScan {
    /// The length at which the chunk that begins at `bytes` is cut, if these bytes tell. The next call may show more bytes of
    /// the same chunk; what was looked at is not looked at again.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.scanned < FIRST_TESTED && !self.warm_up(bytes) {
            return None;
        }
        let cut = self.search(bytes, MEAN, STRICT_MASK).or_else(|| self.search(bytes, MAX, LOOSE_MASK));
        let cut = cut.or_else(|| (bytes.len() >= MAX).then_some(MAX));
        if cut.is_some() {
            *self = Self::default();
        }
        cut
    }

    /// Hashes the bytes before the first position that may be a cut.
    fn warm_up(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() < MIN {
            return false;
        }
        let mut hasher = Hasher::new(&GEAR_TABLE);
        hasher.update(&bytes[FIRST_HASHED..FIRST_TESTED]);
        *self = Self { scanned: FIRST_TESTED, hash: hasher.get_hash() };
        true
    }

    /// Looks for a match at a length of at most `until`.
    fn search(&mut self, bytes: &[u8], until: usize, mask: u64) -> Option<usize> {
        let end = until.min(bytes.len());
        if self.scanned >= end {
            return None;
        }
        let mut hasher = Hasher::new(&GEAR_TABLE);
        hasher.set_hash(self.hash);
        let found = hasher.next_match(&bytes[self.scanned..end], mask).map(|length| self.scanned + length);
        *self = Self { scanned: end, hash: hasher.get_hash() };
        found
    }
}

const MIN: usize = CUT_BYTES_MIN as usize;
const MEAN: usize = CUT_BYTES_MEAN as usize;
const MAX: usize = CUT_BYTES_MAX as usize;
const WINDOW: usize = 64;
const FIRST_HASHED: usize = MIN - WINDOW;
/// After one more byte the window is full and the chunk has its shortest length.
const FIRST_TESTED: usize = MIN - 1;

/// 18 bits: one cut in 256 KiB.
const STRICT_MASK: u64 = !0 << (64 - 18);
/// 14 bits: one cut in 16 KiB.
const LOOSE_MASK: u64 = !0 << (64 - 14);

/// 256 numbers, little endian, from the output of BLAKE3 over [`TABLE_SEED`].
static GEAR_TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = [0; 256];
    let mut output = blake3::Hasher::new().update(TABLE_SEED).finalize_xof();
    for number in &mut table {
        let mut bytes = [0; 8];
        output.fill(&mut bytes);
        *number = u64::from_le_bytes(bytes);
    }
    table
});

const TABLE_SEED: &[u8] = b"landfall 2026 gear table 1";

const _: () = assert!(CUT_BYTES_MAX <= crate::limits::CHUNK_BYTES_MAX);
const _: () = assert!(WINDOW < MIN && MIN < MEAN && MEAN < MAX);

/// The rule again, one byte at a time and with nothing remembered: what the fast form must agree with.
#[cfg(test)]
pub(super) fn reference_cut(bytes: &[u8]) -> usize {
    for length in MIN..=bytes.len().min(MAX) {
        let window = &bytes[length - WINDOW..length];
        let hash = window.iter().fold(0u64, |hash, &byte| (hash << 1).wrapping_add(GEAR_TABLE[byte as usize]));
        let mask = if length <= MEAN { STRICT_MASK } else { LOOSE_MASK };
        if hash & mask == 0 {
            return length;
        }
    }
    bytes.len().min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_frozen() {
        let bytes: Vec<u8> = GEAR_TABLE.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(GEAR_TABLE[0], 530_167_645_820_666_921);
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "d35b6a484eb36f19000ea0acf234721f02a2b118297ceaa19aa4da027639db29"
        );
    }
}

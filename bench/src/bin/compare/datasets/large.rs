//! Owns the one data set that is larger than a receiver's memory should ever grow: 16 GB, half of it compressible. It
//! never measures anything.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::{Scale, set_modified};
use landfall_bench::random::Random;
use landfall_bench::text::Words;

pub(crate) fn build(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let path = directory.join("large.bin");
    let (mut random, text) = (Random::stream(40), text());
    let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(&path)?);
    let mut block = vec![0; BLOCK_BYTES];
    for _ in 0..scale.of(BYTES) / BLOCK_BYTES as u64 {
        compose(&mut block, &text, &mut random);
        file.write_all(&block)?;
    }
    file.into_inner()?;
    set_modified(&path, super::FIRST_VERSION_SECONDS)
}

/// One half noise, one half a window of fixed text, cut anew in every block: no block repeats another.
fn compose(block: &mut [u8], text: &[u8], random: &mut Random) {
    let (noise, words) = block.split_at_mut(BLOCK_BYTES / 2);
    random.fill(noise);
    for piece in words.chunks_mut(PIECE_BYTES) {
        let start = random.below((text.len() - piece.len()) as u64) as usize;
        piece.copy_from_slice(&text[start..start + piece.len()]);
    }
}

fn text() -> Vec<u8> {
    let mut text = Vec::new();
    Words::new().append(&mut text, TEXT_BYTES, &mut Random::stream(41));
    text
}

/// What the whole data set takes at full scale.
pub(crate) const BYTES: u64 = 16_000_000_000;
const BLOCK_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 4096;
const TEXT_BYTES: usize = 8 << 20;

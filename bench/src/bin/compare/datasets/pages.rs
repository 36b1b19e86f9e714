//! Owns the incompressible data sets: a 2 GiB image, the same image with 1 % of its 4 KiB pages replaced, and a
//! smaller slice for links that are slow. It never measures anything.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Scale, set_modified};
use landfall_bench::random::Random;

pub(crate) fn build(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    write_noise(&directory.join(FILE_NAME), scale.of(PAGES) * PAGE_BYTES)
}

/// Replaces 1 % of the pages of a copy of the first version, drawn uniformly.
pub(crate) fn change(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let path = directory.join(FILE_NAME);
    let file = File::options().write(true).open(&path)?;
    let mut random = Random::stream(11);
    let mut page = [0; PAGE_BYTES as usize];
    for _ in 0..scale.of(PAGES) / 100 {
        let number = random.below(scale.of(PAGES));
        random.fill(&mut page);
        file.write_all_at(&page, number * PAGE_BYTES)?;
    }
    set_modified(&path, super::SECOND_VERSION_SECONDS)
}

/// The first 256 MiB worth of the same kind, for transfers over capped links.
pub(crate) fn build_slice(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    write_noise(&directory.join(FILE_NAME), scale.of(SLICE_PAGES) * PAGE_BYTES)
}

fn write_noise(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut random = Random::stream(10);
    let mut file = BufWriter::new(File::create(path)?);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64);
        random.fill(&mut block[..length as usize]);
        file.write_all(&block[..length as usize])?;
        left -= length;
    }
    file.into_inner()?;
    set_modified(path, super::FIRST_VERSION_SECONDS)
}

const FILE_NAME: &str = "image.bin";
const PAGE_BYTES: u64 = 4096;
const PAGES: u64 = 2 * 1024 * 1024 * 1024 / PAGE_BYTES;
const SLICE_PAGES: u64 = 256 * 1024 * 1024 / PAGE_BYTES;
const BLOCK_BYTES: usize = 1 << 20;

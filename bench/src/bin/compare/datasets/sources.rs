//! Owns the data set of many small files: a tree shaped as a large C project is, with text that compresses as source
//! does. It never measures anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Scale, set_modified};
use landfall_bench::random::Random;
use landfall_bench::text::Words;

pub(crate) fn build(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let directories = directories(directory, scale.of(DIRECTORIES), &Words::new())?;
    let mut writer = Writer::new();
    for number in 0..scale.of(FILES) {
        let parent = &directories[writer.random.below(directories.len() as u64) as usize];
        writer.write_file(parent, number)?;
    }
    for number in 0..scale.of(LINKS) {
        let parent = &directories[writer.random.below(directories.len() as u64) as usize];
        std::os::unix::fs::symlink("../Makefile", parent.join(format!("link-{number}")))?;
    }
    directories.iter().rev().try_for_each(|path| set_modified(path, super::FIRST_VERSION_SECONDS))
}

/// Every directory hangs below an earlier one, at most six deep, so a few have many children, as in real trees.
fn directories(root: &Path, count: u64, words: &Words) -> anyhow::Result<Vec<PathBuf>> {
    let mut random = Random::stream(30);
    let mut directories = vec![(root.to_path_buf(), 0)];
    while (directories.len() as u64) < count.max(2) {
        let (parent, depth) = &directories[random.below(directories.len() as u64) as usize];
        if *depth < DEPTH_MAX {
            let name = String::from_utf8_lossy(words.any(random.number())).into_owned();
            let child = (parent.join(format!("{name}{}", directories.len() % 10)), depth + 1);
            if !child.0.exists() {
                fs::create_dir(&child.0)?;
                directories.push(child);
            }
        }
    }
    Ok(directories.into_iter().map(|(path, _)| path).collect())
}

struct Writer {
    random: Random,
    words: Words,
    /// Lines that many files share, the earlier the more often.
    lines: Vec<Vec<u8>>,
    text: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        let words = Words::new();
        let mut random = Random::stream(31);
        let lines = (0..SHARED_LINES).map(|_| line(&words, &mut random)).collect();
        Self { random, words, lines, text: Vec::new() }
    }

    fn write_file(&mut self, parent: &Path, number: u64) -> anyhow::Result<()> {
        let (extension, mode) = KINDS[self.random.below(KINDS.len() as u64) as usize];
        let stem = String::from_utf8_lossy(self.words.any(self.random.number())).into_owned();
        let path = parent.join(format!("{stem}-{number}.{extension}"));
        let bytes = file_bytes(&mut self.random);
        self.compose(bytes as usize);
        fs::write(&path, &self.text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        set_modified(&path, super::FIRST_VERSION_SECONDS + number)
    }

    /// Runs of lines shared with other files, lines that the file repeats, and now and then a new one.
    fn compose(&mut self, bytes: usize) {
        self.text.clear();
        let own: Vec<Vec<u8>> = (0..OWN_LINES).map(|_| line(&self.words, &mut self.random)).collect();
        while self.text.len() < bytes {
            match self.random.below(16) {
                0..=2 => self.append_shared_lines(),
                3..=14 => {
                    let pick = self.random.below(OWN_LINES) as usize;
                    self.text.extend_from_slice(&own[pick]);
                }
                _ => {
                    let fresh = line(&self.words, &mut self.random);
                    self.text.extend_from_slice(&fresh);
                }
            }
        }
        self.text.truncate(bytes);
    }

    fn append_shared_lines(&mut self) {
        let bound = 1 + self.random.below(SHARED_LINES - RUN_LINES_MAX);
        let first = self.random.below(bound) as usize;
        let count = self.random.between(1, RUN_LINES_MAX) as usize;
        self.lines[first..first + count].iter().for_each(|line| self.text.extend_from_slice(line));
    }
}

fn line(words: &Words, random: &mut Random) -> Vec<u8> {
    let mut line = vec![b'\t'; random.below(4) as usize];
    for piece in 0..random.between(1, 6) {
        if piece > 0 {
            line.extend_from_slice(JOINTS[random.below(JOINTS.len() as u64) as usize]);
        }
        line.extend_from_slice(words.draw(random));
    }
    line.extend_from_slice(ENDS[random.below(ENDS.len() as u64) as usize]);
    line
}

/// Draws a size between the quantiles of a large source tree, evenly between neighbours.
fn file_bytes(random: &mut Random) -> u64 {
    let draw = random.below(10_000);
    let upper = SIZE_QUANTILES.iter().position(|(share, _)| draw < *share).unwrap_or(SIZE_QUANTILES.len() - 1).max(1);
    let (_, low) = SIZE_QUANTILES[upper - 1];
    let (_, high) = SIZE_QUANTILES[upper];
    random.between(low, high + 1)
}

const FILES: u64 = 78_000;
const LINKS: u64 = 56;
const DIRECTORIES: u64 = 5_100;
const DEPTH_MAX: u32 = 6;
const SHARED_LINES: u64 = 40_000;
const RUN_LINES_MAX: u64 = 12;
const OWN_LINES: u64 = 30;
/// Share of the files in 1/10 000, and the size in bytes that they stay below.
const SIZE_QUANTILES: [(u64, u64); 12] = [
    (0, 0),
    (500, 300),
    (1_000, 700),
    (2_500, 1_800),
    (5_000, 5_200),
    (7_500, 14_000),
    (9_000, 30_000),
    (9_500, 48_000),
    (9_900, 110_000),
    (9_990, 400_000),
    (9_999, 2_500_000),
    (10_000, 16_000_000),
];
const KINDS: [(&str, u32); 8] = [
    ("c", 0o644),
    ("c", 0o644),
    ("c", 0o644),
    ("h", 0o644),
    ("h", 0o644),
    ("rst", 0o644),
    ("yaml", 0o644),
    ("sh", 0o755),
];
const JOINTS: [&[u8]; 7] = [b" ", b"_", b"->", b" = ", b"(", b", ", b" && "];
const ENDS: [&[u8]; 6] = [b";\n", b");\n", b" {\n", b",\n", b"\n", b"\n\n"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_mean_of_a_source_tree() {
        let mut random = Random::stream(1);
        let mean = (0..200_000).map(|_| file_bytes(&mut random)).sum::<u64>() / 200_000;
        assert!((14_500..19_000).contains(&mean), "{mean}");
    }
}

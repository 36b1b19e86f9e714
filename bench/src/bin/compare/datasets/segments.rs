//! Owns the append-only data sets: 16 MiB segments of checksummed records with a `MANIFEST`, and the same log after
//! it grew by 5 %. It never measures anything.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::{Scale, set_modified};
use landfall_bench::random::Random;
use landfall_bench::text::Words;

pub(crate) fn build(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    write_log(directory, scale.of(LOG_BYTES), &|_| super::FIRST_VERSION_SECONDS)
}

/// Writes the grown log: full segments keep their bytes and their times, the last is filled, new ones follow.
pub(crate) fn build_grown(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let untouched = scale.of(LOG_BYTES) / SEGMENT_BYTES;
    let bytes = scale.of(LOG_BYTES + LOG_BYTES / 20);
    write_log(directory, bytes, &|segment| match segment < untouched {
        true => super::FIRST_VERSION_SECONDS,
        false => super::SECOND_VERSION_SECONDS,
    })
}

fn write_log(directory: &Path, bytes: u64, modified_seconds: &dyn Fn(u64) -> u64) -> anyhow::Result<()> {
    let mut records = Records::new();
    let mut manifest = String::from("log 1\n");
    for segment in 0..bytes.div_ceil(SEGMENT_BYTES) {
        let length = (bytes - segment * SEGMENT_BYTES).min(SEGMENT_BYTES);
        let name = format!("segment-{segment:06}.log");
        let checksum = records.write_segment(&directory.join(&name), length)?;
        set_modified(&directory.join(&name), modified_seconds(segment))?;
        manifest += &format!("{name} {length} {checksum:016x}\n");
    }
    let path = directory.join("MANIFEST");
    std::fs::write(&path, manifest)?;
    set_modified(&path, modified_seconds(u64::MAX))
}

/// One endless stream of records; a longer log begins with the bytes of a shorter one.
struct Records {
    random: Random,
    words: Words,
    pending: Vec<u8>,
}

impl Records {
    fn new() -> Self {
        Self { random: Random::stream(20), words: Words::new(), pending: Vec::new() }
    }

    fn write_segment(&mut self, path: &Path, bytes: u64) -> anyhow::Result<u64> {
        let mut file = BufWriter::new(File::create(path)?);
        let (mut left, mut sum) = (bytes as usize, CHECKSUM_START);
        while left > 0 {
            if self.pending.is_empty() {
                self.append_record();
            }
            let length = left.min(self.pending.len());
            file.write_all(&self.pending[..length])?;
            sum = checksum(sum, &self.pending[..length]);
            self.pending.drain(..length);
            left -= length;
        }
        file.into_inner()?;
        Ok(sum)
    }

    /// Half of a record is text, half is noise: it compresses by about two, as logs of binary records do.
    fn append_record(&mut self) {
        let text_bytes = self.random.between(60, 240) as usize;
        let mut payload = Vec::with_capacity(2 * text_bytes);
        self.words.append(&mut payload, text_bytes, &mut self.random);
        let noise = self.random.between(10, 90) as usize;
        payload.resize(text_bytes + noise, 0);
        self.random.fill(&mut payload[text_bytes..]);
        self.pending.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(&checksum(CHECKSUM_START, &payload).to_le_bytes());
        self.pending.extend_from_slice(&payload);
    }
}

/// FNV-1a: only there so that records look as records do; nobody checks it.
fn checksum(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
const LOG_BYTES: u64 = 1_068_149_452;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_log_begins_with_the_bytes_of_the_shorter_one() -> anyhow::Result<()> {
        let directory = super::super::scratch("segments")?;
        let mut content = Vec::new();
        for bytes in [100_000, 105_000] {
            write_log(&directory, bytes, &|_| super::super::FIRST_VERSION_SECONDS)?;
            content.push(std::fs::read(directory.join("segment-000000.log"))?);
        }
        assert_eq!(content[1].len(), 105_000);
        assert!(content[1].starts_with(&content[0]));
        Ok(std::fs::remove_dir_all(directory)?)
    }
}

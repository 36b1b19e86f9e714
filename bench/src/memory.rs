//! Owns that memory is in use before a turn, as on a machine that has been running: by cached pages that nobody needs.
//!
//! The host of a virtual machine takes free memory back and backs it again page by page when it is touched, at ten times
//! the cost of a page that was in use. What a tool writes into would decide its time, not the tool.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;

/// A file of nothing but a hole, larger than any memory: reading it fills the page cache and needs no disk.
pub struct Filler {
    hole: File,
    position: AtomicU64,
}

impl Filler {
    /// `work` is where the file lies; it takes no space.
    pub fn create(work: &Path) -> anyhow::Result<Self> {
        let path = work.join("hole");
        let hole = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let hole = hole.with_context(|| format!("create {}", path.display()))?;
        hole.set_len(HOLE_BYTES)?;
        Ok(Self { hole, position: AtomicU64::new(0) })
    }

    /// Reads on in the hole until hardly any memory is free, or the kernel frees as much as is read. Says so on standard error if much is
    /// left: what is measured then may pay for memory that is backed anew.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut room = Room::new(free_bytes()?);
        // What is read again may be cached still and fill nothing: once through is enough.
        for _ in 0..HOLE_BYTES / PORTION_BYTES {
            if !room.is_left() {
                break;
            }
            self.read_portion(&mut buffer)?;
            room.note(free_bytes()?);
        }
        let left = free_bytes()?;
        if left > FREE_BYTES_MUCH {
            eprintln!("memory could not be filled: {} MB are free", left / 1_000_000);
        }
        Ok(())
    }

    fn read_portion(&self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..PORTION_BYTES / READ_BYTES as u64 {
            let position = self.position.fetch_add(READ_BYTES as u64, Ordering::Relaxed);
            self.hole.read_exact_at(buffer, position % HOLE_BYTES)?;
        }
        Ok(())
    }
}

/// What is known of the room that is left while memory is being filled.
struct Room {
    free_bytes_least: u64,
    /// Portions that were read since.
    portions_since: u64,
}

impl Room {
    fn new(free_bytes: u64) -> Self {
        Self { free_bytes_least: free_bytes, portions_since: 0 }
    }

    /// Takes note of the free memory after one more portion.
    fn note(&mut self, free_bytes: u64) {
        self.portions_since += 1;
        if free_bytes < self.free_bytes_least {
            *self = Self::new(free_bytes);
        }
    }

    /// The kernel keeps some memory free, now and then some gigabytes: there reading on only turns pages over.
    fn is_left(&self) -> bool {
        self.free_bytes_least > FREE_BYTES_MIN && self.portions_since < PORTIONS_IN_VAIN_MAX
    }
}

/// Memory that nobody uses, not even as a cache.
fn free_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:")).context("MemFree is missing")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("MemFree is no number")?;
    Ok(kibibytes * 1024)
}

const HOLE_BYTES: u64 = 256 * 1024 * 1024 * 1024;
const PORTION_BYTES: u64 = 64 * 1024 * 1024;
const READ_BYTES: usize = 1024 * 1024;
/// The kernel begins to make room somewhere below this.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;
/// More than the kernel keeps free of itself.
const FREE_BYTES_MUCH: u64 = 4 * 1024 * 1024 * 1024;
/// Reading this many portions without less memory being free shows that the kernel keeps the rest free.
const PORTIONS_IN_VAIN_MAX: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_ends_where_hardly_any_memory_is_free_and_where_the_kernel_keeps_more_free() {
        let mut room = Room::new(FREE_BYTES_MIN + 2);
        assert!(room.is_left());
        room.note(FREE_BYTES_MIN);
        assert!(!room.is_left());

        let mut room = Room::new(8 * FREE_BYTES_MIN);
        for _ in 0..PORTIONS_IN_VAIN_MAX - 1 {
            room.note(8 * FREE_BYTES_MIN);
        }
        assert!(room.is_left());
        room.note(7 * FREE_BYTES_MIN);
        for _ in 0..PORTIONS_IN_VAIN_MAX {
            assert!(room.is_left());
            room.note(7 * FREE_BYTES_MIN);
        }
        assert!(!room.is_left());
    }

    #[test]
    fn the_hole_takes_no_space_and_is_read_round_and_round() {
        use std::os::unix::fs::MetadataExt;
        let work = tempfile::tempdir().expect("a directory");
        let filler = Filler::create(work.path()).expect("a hole");
        filler.position.store(HOLE_BYTES - READ_BYTES as u64, Ordering::Relaxed);
        filler.read_portion(&mut vec![1; READ_BYTES]).expect("a read across its end");
        assert_eq!(filler.hole.metadata().expect("its size").blocks(), 0);
        assert!(filler.position.load(Ordering::Relaxed) > HOLE_BYTES);
    }
}

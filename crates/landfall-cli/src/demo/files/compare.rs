//! Owns the demo's own judgement: two directories compared byte by byte, without any of Landfall's code.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;

use crate::target::PULLED_DATA;

/// Two directories that are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Equal {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Compares names, kinds, permissions, times and every byte; the first difference is the error.
pub(super) fn compare(original: &Path, copy: &Path) -> anyhow::Result<Equal> {
    let mut equal = Equal::default();
    compare_directories(original, copy, &mut equal)?;
    Ok(equal)
}

fn compare_directories(original: &Path, copy: &Path, equal: &mut Equal) -> anyhow::Result<()> {
    let names = names(original)?;
    if let Some(differing) = symmetric_difference(&names, &names_of_copy(copy)?) {
        anyhow::bail!("{} has {differing:?}, {} has not, or the other way round", original.display(), copy.display());
    }
    for name in names {
        let (original, copy) = (original.join(&name), copy.join(&name));
        let differs = |what: &str| anyhow::anyhow!("{} and {} differ in {what}", original.display(), copy.display());
        let (old, new) = (fs::symlink_metadata(&original)?, fs::symlink_metadata(&copy)?);
        if old.file_type() != new.file_type() {
            return Err(differs("kind"));
        }
        if !old.is_symlink() && metadata(&old) != metadata(&new) {
            return Err(differs("permissions or time"));
        }
        if old.is_dir() {
            compare_directories(&original, &copy, equal)?;
        } else if old.is_symlink() {
            let same = fs::read_link(&original)? == fs::read_link(&copy)?;
            same.then_some(()).ok_or_else(|| differs("target"))?;
        } else {
            let same = same_bytes(&original, &copy)?;
            same.then_some(()).ok_or_else(|| differs("content"))?;
            equal.files += 1;
            equal.bytes += old.len();
        }
    }
    Ok(())
}

fn metadata(metadata: &Metadata) -> (u32, i64, i64) {
    (metadata.permissions().mode(), metadata.mtime(), metadata.mtime_nsec())
}

fn names(directory: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn names_of_copy(directory: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let mut names = names(directory)?;
    names.retain(|name| name != PULLED_DATA);
    Ok(names)
}

fn symmetric_difference<'a, T: Ord>(one: &'a [T], other: &'a [T]) -> Option<&'a T> {
    let only = |one: &'a [T], other: &[T]| one.iter().find(|name| other.binary_search(name).is_err());
    only(one, other).or_else(|| only(other, one))
}

fn same_bytes(original: &Path, copy: &Path) -> io::Result<bool> {
    let mut same = true;
    for_each_block(original, copy, BLOCK_BYTES, |old, new| same &= old == new)?;
    Ok(same)
}

/// Bytes of the pages of 4 KiB that differ between two directories, and of files that only `new` has: what travels at
/// least if whole pages travel.
pub(super) fn changed_page_bytes(old: &Path, new: &Path) -> anyhow::Result<u64> {
    let mut changed = 0;
    for name in names_of_copy(new)? {
        let (old, new) = (old.join(&name), new.join(&name));
        let kind = fs::symlink_metadata(&new)?.file_type();
        if kind.is_dir() {
            changed += changed_page_bytes(&old, &new)?;
        } else if kind.is_file() && old.is_file() {
            for_each_block(&old, &new, PAGE_BYTES, |old, new| {
                changed += if old == new { 0 } else { new.len() as u64 };
            })?;
        } else if kind.is_file() {
            changed += fs::metadata(&new)?.len();
        }
    }
    Ok(changed)
}

/// Reads both files block by block; the shorter one ends in empty blocks.
fn for_each_block(one: &Path, other: &Path, block_bytes: usize, mut see: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    loop {
        fill(&mut one, &mut first)?;
        fill(&mut other, &mut second)?;
        if first.is_empty() && second.is_empty() {
            return Ok(());
        }
        let blocks = first.len().max(second.len()).div_ceil(block_bytes);
        for at in 0..blocks {
            see(block(&first, at, block_bytes), block(&second, at, block_bytes));
        }
    }
}

fn fill(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    file.take(BLOCK_BYTES as u64).read_to_end(buffer).map(drop)
}

fn block(bytes: &[u8], at: usize, block_bytes: usize) -> &[u8] {
    let start = (at * block_bytes).min(bytes.len());
    &bytes[start..(start + block_bytes).min(bytes.len())]
}

const BLOCK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&Path), expected: Result<Equal, &str>) {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for directory in [&old, &new] {
            fs::create_dir_all(directory.join("sub")).unwrap();
            fs::write(directory.join("sub/file"), vec![7; 10_000]).unwrap();
        }
        fs::create_dir(new.join(PULLED_DATA)).unwrap();
        change(&new);
        let time = std::time::SystemTime::UNIX_EPOCH;
        for path in [old.join("sub/file"), new.join("sub/file"), old.join("sub"), new.join("sub")] {
            if let Ok(file) = File::open(path) {
                file.set_modified(time).unwrap();
            }
        }
        match (compare(&old, &new), expected) {
            (Ok(actual), Ok(expected)) => assert_eq!(actual, expected),
            (Err(actual), Err(expected)) => assert!(actual.to_string().contains(expected), "{actual}"),
            (actual, expected) => panic!("{actual:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn equal_directories_are_equal_and_a_copys_own_data_does_not_count() {
        check(|_| (), Ok(Equal { files: 1, bytes: 10_000 }));
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        check(|new| fs::write(new.join("sub/file"), [vec![7; 9999], vec![8]].concat()).unwrap(), Err("content"));
        check(|new| fs::write(new.join("sub/file"), vec![7; 9999]).unwrap(), Err("content"));
        check(|new| fs::write(new.join("more"), "").unwrap(), Err("more"));
        check(|new| fs::remove_file(new.join("sub/file")).unwrap(), Err("file"));
        check(
            |new| fs::set_permissions(new.join("sub/file"), fs::Permissions::from_mode(0o600)).unwrap(),
            Err("permissions"),
        );
    }

    #[test]
    fn changed_pages_are_counted_whole_and_new_files_with_their_length() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        fs::create_dir_all(&old).unwrap();
        fs::create_dir_all(&new).unwrap();
        fs::write(old.join("a"), vec![0; 3 * PAGE_BYTES]).unwrap();
        let mut changed = vec![0; 3 * PAGE_BYTES];
        changed[PAGE_BYTES + 5] = 1;
        fs::write(new.join("a"), changed).unwrap();
        fs::write(new.join("b"), "fresh").unwrap();
        assert_eq!(changed_page_bytes(&old, &new).unwrap(), PAGE_BYTES as u64 + 5);
    }
}

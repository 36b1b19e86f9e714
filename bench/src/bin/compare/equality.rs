//! Owns the question whether a received tree equals its source, byte by byte. It never trusts a tool's own word, a
//! size or a time stamp.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};

/// How much of a tree a tool promises to bring over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fidelity {
    /// Names and contents only.
    Contents,
    /// Also modes, times of files and targets of links.
    Whole,
}

/// Fails with the first difference between the two trees; `ignored` in the target's root belongs to the tool.
pub(crate) fn check(
    source: &Path,
    target: &Path,
    fidelity: Fidelity,
    ignored: Option<&'static str>,
) -> anyhow::Result<()> {
    let names = entries(source)?;
    let mut found = entries(target)?;
    found.retain(|name| ignored.is_none_or(|ignored| name != ignored));
    ensure!(names == found, "{} and {} list different names", source.display(), target.display());
    for name in &names {
        let (source, target) = (source.join(name), target.join(name));
        check_entry(&source, &target, fidelity)
            .with_context(|| format!("{} differs from {}", target.display(), source.display()))?;
    }
    Ok(())
}

fn entries(directory: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let listed = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut names: Vec<_> = listed.map(|entry| Ok(entry?.file_name())).collect::<anyhow::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn check_entry(source: &Path, target: &Path, fidelity: Fidelity) -> anyhow::Result<()> {
    let (wanted, found) = (fs::symlink_metadata(source)?, fs::symlink_metadata(target)?);
    ensure!(wanted.file_type() == found.file_type(), "another type");
    if fidelity == Fidelity::Whole && !wanted.is_symlink() {
        check_attributes(&wanted, &found)?;
    }
    if wanted.is_dir() {
        check(source, target, fidelity, None)
    } else if wanted.is_symlink() {
        ensure!(fs::read_link(source)? == fs::read_link(target)?, "another link target");
        Ok(())
    } else {
        check_contents(source, target)
    }
}

fn check_attributes(wanted: &Metadata, found: &Metadata) -> anyhow::Result<()> {
    ensure!(wanted.mode() == found.mode(), "mode {:o}, not {:o}", found.mode(), wanted.mode());
    let (wanted_time, found_time) = (time(wanted), time(found));
    ensure!(wanted.is_dir() || wanted_time == found_time, "time {found_time:?}, not {wanted_time:?}");
    Ok(())
}

fn time(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn check_contents(source: &Path, target: &Path) -> anyhow::Result<()> {
    let (mut source, mut target) = (File::open(source)?, File::open(target)?);
    let (wanted, found) = (source.metadata()?.len(), target.metadata()?.len());
    ensure!(wanted == found, "{found} bytes, not {wanted}");
    let (mut wanted, mut found) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let length = source.read(&mut wanted)?;
        if length == 0 {
            return Ok(());
        }
        target.read_exact(&mut found[..length])?;
        ensure!(wanted[..length] == found[..length], "other bytes in the block at {offset}");
        offset += length;
    }
}

const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::scratch;
    use landfall_bench::files;

    #[track_caller]
    fn check_pair(name: &str, spoil: fn(&Path), fidelity: Fidelity, equal: bool) {
        let directory = scratch(name).unwrap();
        let (source, target) = (directory.join("source"), directory.join("target"));
        fs::create_dir_all(source.join("inner")).unwrap();
        fs::write(source.join("inner/file"), b"content").unwrap();
        std::os::unix::fs::symlink("inner/file", source.join("link")).unwrap();
        files::copy_tree(&source, &target).unwrap();
        spoil(&target);
        assert_eq!(check(&source, &target, fidelity, None).is_ok(), equal);
        files::remove(&directory).unwrap();
    }

    #[test]
    fn a_copy_is_equal() {
        check_pair("copy", |_| {}, Fidelity::Whole, true);
    }

    #[test]
    fn other_bytes_of_the_same_length_and_time_are_seen() {
        let spoil = |target: &Path| {
            let file = target.join("inner/file");
            let time = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, b"CONTENT").unwrap();
            File::open(&file).unwrap().set_modified(time).unwrap();
        };
        check_pair("bytes", spoil, Fidelity::Contents, false);
    }

    #[test]
    fn a_missing_link_and_an_extra_file_are_seen() {
        check_pair("missing", |target| fs::remove_file(target.join("link")).unwrap(), Fidelity::Contents, false);
        check_pair("extra", |target| fs::write(target.join("more"), b"").unwrap(), Fidelity::Contents, false);
    }

    #[test]
    fn another_time_matters_only_where_times_were_promised() {
        let spoil = |target: &Path| {
            let file = File::open(target.join("inner/file")).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        };
        check_pair("time", spoil, Fidelity::Whole, false);
        check_pair("time-ignored", spoil, Fidelity::Contents, true);
    }
}

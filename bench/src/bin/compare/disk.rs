//! Owns what the harness does to directories and file systems before and after a run: change, warm, count, and
//! a fresh file system to receive into. None of it is ever inside a measured window.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use landfall_bench::command::run;
use landfall_bench::files::remove;

use crate::datasets::Extent;

/// Writes what differs between `live` and `wanted` into `live`, in place, as a running service would have done.
pub(crate) fn change_in_place(live: &Path, wanted: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(wanted)? {
        let entry = entry?;
        let (source, target) = (entry.path(), live.join(entry.file_name()));
        let (metadata, old) = (fs::metadata(&source)?, fs::metadata(&target));
        ensure!(metadata.is_file(), "{} is no file: only flat states change here", source.display());
        match old {
            Ok(old) if old.len() == metadata.len() && old.modified()? == metadata.modified()? => {}
            _ => rewrite(&source, &target)?,
        }
    }
    let modified = fs::metadata(wanted)?.modified()?;
    Ok(File::open(live)?.set_modified(modified)?)
}

fn rewrite(source: &Path, target: &Path) -> anyhow::Result<()> {
    let new = File::open(source)?;
    let old = File::options().read(true).write(true).create(true).truncate(false).open(target)?;
    let bytes = new.metadata()?.len();
    let (mut new_page, mut old_page) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
    for offset in (0..bytes).step_by(PAGE_BYTES) {
        let new_length = read_at_most(&new, &mut new_page, offset)?;
        let old_length = read_at_most(&old, &mut old_page, offset)?;
        if new_page[..new_length] != old_page[..old_length] {
            old.write_all_at(&new_page[..new_length], offset)?;
        }
    }
    old.set_len(bytes)?;
    Ok(old.set_modified(new.metadata()?.modified()?)?)
}

fn read_at_most(file: &File, page: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < page.len() {
        match file.read_at(&mut page[length..], offset + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The bytes in those 4 KiB pages of two flat states' files that differ.
pub(crate) fn changed_bytes(first: &Path, second: &Path) -> anyhow::Result<u64> {
    let mut changed = 0;
    for_each_file(second, &mut |path, metadata| {
        let new = File::open(path)?;
        let old = File::open(first.join(path.file_name().context("a file without a name")?))?;
        let (mut new_page, mut old_page) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        for offset in (0..metadata.len()).step_by(PAGE_BYTES) {
            let new_length = read_at_most(&new, &mut new_page, offset)?;
            let old_length = read_at_most(&old, &mut old_page, offset)?;
            if new_page[..new_length] != old_page[..old_length] {
                changed += new_length as u64;
            }
        }
        Ok(())
    })?;
    Ok(changed)
}

/// Counts the bytes and the regular files below a directory.
pub(crate) fn extent(directory: &Path) -> anyhow::Result<Extent> {
    let mut extent = Extent { bytes: 0, files: 0 };
    for_each_file(directory, &mut |_, metadata| {
        extent.bytes += metadata.len();
        extent.files += 1;
        Ok(())
    })?;
    Ok(extent)
}

/// Reads every file once, so that no run pays for a cold page cache.
pub(crate) fn warm(directory: &Path) -> anyhow::Result<()> {
    let mut buffer = vec![0; WARM_BYTES];
    for_each_file(directory, &mut |path, _| {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
        Ok(())
    })
}

fn for_each_file(
    directory: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            for_each_file(&entry.path(), visit)?;
        } else if metadata.is_file() {
            visit(&entry.path(), &metadata)?;
        }
    }
    Ok(())
}

/// A new ext4 on a loop device, mounted for one run.
///
/// ext4 avoids inodes that were freed in the last minutes, so filling a tree that was just deleted is up to six
/// times slower than filling a new file system: every run of many files gets its own.
pub(crate) struct FreshFileSystem {
    mount: PathBuf,
    image: PathBuf,
}

impl FreshFileSystem {
    /// Makes and mounts one of `bytes` (sparse) below `work`.
    pub(crate) fn create(work: &Path, bytes: u64) -> anyhow::Result<Self> {
        let fresh = Self { mount: mount_point(work), image: work.join("fresh.img") };
        unmount(&fresh.mount);
        fs::create_dir_all(&fresh.mount)?;
        remove(&fresh.image)?;
        File::create(&fresh.image)?.set_len(bytes)?;
        // Tables written now are not written by a kernel thread during the run.
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(options).arg(&fresh.image))?;
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&fresh.image).arg(&fresh.mount))?;
        Ok(fresh)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for FreshFileSystem {
    fn drop(&mut self) {
        unmount(&self.mount);
        if let Err(error) = remove(&self.image) {
            eprintln!("{error:#}");
        }
    }
}

/// Where a scale's fresh file systems are mounted, so that what a killed run left can be unmounted.
pub(crate) fn mount_point(work: &Path) -> PathBuf {
    work.join("fresh")
}

/// Unmounts what may be mounted there; nothing mounted is fine.
pub(crate) fn unmount(mount: &Path) {
    let mounted = |path: &Path| {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        path.parent().is_some_and(|parent| device(path).is_some() && device(path) != device(parent))
    };
    if mounted(mount)
        && let Err(error) = run(Command::new("umount").arg(mount))
    {
        eprintln!("{error:#}");
    }
}

const PAGE_BYTES: usize = 4096;
const WARM_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::scratch;

    #[test]
    fn a_change_in_place_makes_both_trees_equal() -> anyhow::Result<()> {
        let directory = scratch("change")?;
        let (live, wanted) = (directory.join("live"), directory.join("wanted"));
        for (tree, content) in [(&live, vec![1; 20_000]), (&wanted, [vec![1; 9_000], vec![2; 3_000]].concat())] {
            fs::create_dir_all(tree)?;
            fs::write(tree.join("file"), content)?;
        }
        fs::write(wanted.join("added"), "new")?;
        change_in_place(&live, &wanted)?;
        assert_eq!(fs::read(live.join("file"))?, fs::read(wanted.join("file"))?);
        assert_eq!(fs::read(live.join("added"))?, b"new");
        remove(&directory)
    }
}

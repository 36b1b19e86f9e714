//! Owns what the harnesses do to files and file systems before and after a run. None of it is ever inside a measured
//! window.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::command::run;

/// Removes a file or a tree; nothing there is fine.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Copies a tree with everything that `cp -a` keeps; `target` must not exist.
pub fn copy_tree(source: &Path, target: &Path) -> anyhow::Result<()> {
    run(Command::new("cp").arg("-a").arg(source).arg(target))
}

/// Brings a file system to rest and says how long that took.
pub fn sync(path: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    rustix::fs::syncfs(File::open(path)?).with_context(|| format!("sync {}", path.display()))?;
    Ok(started.elapsed())
}

/// Refuses a step for which the disk has no room.
pub fn require_free(directory: &Path, bytes: u64) -> anyhow::Result<()> {
    let state = rustix::fs::statvfs(directory)?;
    let free = state.f_bavail * state.f_frsize;
    ensure!(free > bytes + FREE_MARGIN_BYTES, "{} has {free} bytes free, {bytes} are needed", directory.display());
    Ok(())
}

/// A directory that a run makes, and that goes with it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below `parent`, without what a killed run left in it.
    pub fn create(parent: &Path, name: &str) -> anyhow::Result<Self> {
        let path = parent.join(name);
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(fs::canonicalize(&path)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

const FREE_MARGIN_BYTES: u64 = 2_000_000_000;

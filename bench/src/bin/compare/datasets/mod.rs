//! Owns the data sets: what they are called, where they lie, and that each is built once, whole, from one seed. It
//! never measures anything.

mod large;
mod pages;
mod segments;
mod sources;
mod sqlite;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::disk;
use landfall_bench::files;

/// A state before or after it changed; the second version of a state names the same files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataSet {
    /// 78 000 small files, 1.3 GB.
    Sources,
    /// One SQLite file of 1.6 GB.
    Sqlite,
    /// The SQLite file after 1 % of its orders changed.
    SqliteChanged,
    /// One incompressible file of 2 GiB.
    Pages,
    /// The same after 1 % of its 4 KiB pages were rewritten.
    PagesChanged,
    /// An append-only log in 16 MiB segments, 1.07 GB.
    Segments,
    /// The log after it grew by 5 %.
    SegmentsGrown,
    /// 256 MiB, incompressible, for capped links.
    Slice,
    /// 16 GB, half compressible; built only when asked for.
    Large,
}

/// How large the data sets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scale {
    /// A thousandth: for this program's own tests.
    #[value(skip)]
    Tiny,
    /// A fiftieth: to try the harness in seconds.
    Small,
    /// The sizes of the published table.
    Full,
}

impl Scale {
    /// A count or a size of the full scale, at this scale.
    pub(crate) fn of(self, full: u64) -> u64 {
        match self {
            Self::Tiny => full.div_ceil(1000),
            Self::Small => full.div_ceil(50),
            Self::Full => full,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Full => "full",
        }
    }
}

/// What a built data set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// The directory in which the data sets of one scale lie.
pub(crate) struct Library {
    directory: PathBuf,
    scale: Scale,
}

impl Library {
    pub(crate) fn open(work: &Path, scale: Scale) -> anyhow::Result<Self> {
        let directory = work.join(scale.name()).join("data");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(Self { directory, scale })
    }

    pub(crate) fn path(&self, set: DataSet) -> PathBuf {
        self.directory.join(set.name())
    }

    /// What the set holds, or nothing if it is not built, or was built by another recipe.
    pub(crate) fn extent(&self, set: DataSet) -> Option<Extent> {
        let stamp: Stamp = serde_json::from_slice(&fs::read(self.stamp_path(set)).ok()?).ok()?;
        (stamp.recipe == RECIPE).then_some(stamp.extent)
    }

    /// Builds the set, and the one it is made from, unless they are there.
    pub(crate) fn build(&self, set: DataSet) -> anyhow::Result<Extent> {
        if let Some(extent) = self.extent(set) {
            return Ok(extent);
        }
        if let Some(first) = set.first_version() {
            self.build(first)?;
        }
        self.check_space(set)?;
        let partial = self.directory.join(format!("{}.partial", set.name()));
        files::remove(&partial)?;
        self.fill(set, &partial).with_context(|| format!("build the data set {}", set.name()))?;
        files::remove(&self.path(set))?;
        fs::rename(&partial, self.path(set))?;
        self.stamp(set)
    }

    fn fill(&self, set: DataSet, directory: &Path) -> anyhow::Result<()> {
        match set.first_version() {
            Some(first) if set.changes_a_copy() => files::copy_tree(&self.path(first), directory)?,
            _ => fs::create_dir_all(directory)?,
        }
        let scale = self.scale;
        match set {
            DataSet::Sources => sources::build(directory, scale),
            DataSet::Sqlite => sqlite::build(directory, scale),
            DataSet::SqliteChanged => sqlite::change(directory, scale),
            DataSet::Pages => pages::build(directory, scale),
            DataSet::PagesChanged => pages::change(directory, scale),
            DataSet::Segments => segments::build(directory, scale),
            DataSet::SegmentsGrown => segments::build_grown(directory, scale),
            DataSet::Slice => pages::build_slice(directory, scale),
            DataSet::Large => large::build(directory, scale),
        }?;
        // Both versions of a state carry one time on their root: only what changed may differ.
        set_modified(directory, FIRST_VERSION_SECONDS)
    }

    fn check_space(&self, set: DataSet) -> anyhow::Result<()> {
        let full = if set == DataSet::Large { large::BYTES } else { SET_BYTES_MAX };
        files::require_free(&self.directory, self.scale.of(full))
    }

    fn stamp(&self, set: DataSet) -> anyhow::Result<Extent> {
        let extent = disk::extent(&self.path(set))?;
        fs::write(self.stamp_path(set), serde_json::to_vec(&Stamp { recipe: RECIPE, extent })?)?;
        Ok(extent)
    }

    fn stamp_path(&self, set: DataSet) -> PathBuf {
        self.directory.join(format!("{}.json", set.name()))
    }
}

impl DataSet {
    /// The name of its directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Sqlite => "sqlite",
            Self::SqliteChanged => "sqlite-changed",
            Self::Pages => "pages",
            Self::PagesChanged => "pages-changed",
            Self::Segments => "segments",
            Self::SegmentsGrown => "segments-grown",
            Self::Slice => "slice",
            Self::Large => "large",
        }
    }

    /// The state before the change that this set shows.
    fn first_version(self) -> Option<Self> {
        match self {
            Self::SqliteChanged => Some(Self::Sqlite),
            Self::PagesChanged => Some(Self::Pages),
            Self::SegmentsGrown => Some(Self::Segments),
            _ => None,
        }
    }

    fn changes_a_copy(self) -> bool {
        matches!(self, Self::SqliteChanged | Self::PagesChanged)
    }
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    recipe: u32,
    extent: Extent,
}

/// Gives a file or directory a fixed modification time: tools that compare whole seconds must see a change.
fn set_modified(path: &Path, seconds: u64) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path).and_then(|file| file.set_modified(time)).with_context(|| format!("date {}", path.display()))
}

/// An empty directory for one test.
#[cfg(test)]
pub(crate) fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("landfall-compare-{}-{name}", std::process::id()));
    files::remove(&directory)?;
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Raised whenever a recipe changes, so that sets built by an older one are built again.
const RECIPE: u32 = 1;
const SET_BYTES_MAX: u64 = 3_000_000_000;
const FIRST_VERSION_SECONDS: u64 = 1_700_000_000;
const SECOND_VERSION_SECONDS: u64 = FIRST_VERSION_SECONDS + 1_000_000;

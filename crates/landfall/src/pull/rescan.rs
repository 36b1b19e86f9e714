//! Owns the way back when nobody remembers what a destination holds: everything in it is read, and becomes the tree to build on.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;

use landfall_core::Chunk;
use landfall_core::files::{FileKey, FilePath};
use landfall_core::tree::{Builder, ChunkRef, Root, Salt, Value};

use super::assembly::AssemblyError;
use super::error::PullError;
use crate::files::index::FileStat;
use crate::files::scan::{ChangingFiles, ChunkSink, EntrySink, Scan, Stopped, scan};
use crate::nodes::{NodeCache, StoringSink};

/// The tree of what stands in `directory` now. Its nodes are kept; its content stays where it is.
pub(super) fn tree_of(directory: &Path, nodes: &NodeCache) -> Result<Root, PullError> {
    let unreadable =
        |source: Box<dyn Error + Send + Sync>| PullError::Rescan { destination: directory.to_owned(), source };
    let opened = std::fs::File::open(directory).map_err(|error| unreadable(error.into()))?;
    let what = Scan {
        directory: opened.as_fd(),
        changing: ChangingFiles::Refuse,
        threads: Scan::default_threads(),
        previous: None,
    };
    let mut tree = NewTree { builder: Builder::new(Salt::PUBLIC), sink: StoringSink::new(nodes) };
    scan(what, &ContentStays, &mut tree).map_err(|stopped| match stopped {
        Stopped::Scan(error) => unreadable(Box::new(error)),
        Stopped::Sink(error) => error.into(),
    })?;
    let root = tree.builder.finish(&mut tree.sink);
    tree.sink.finish()?;
    Ok(root)
}

/// Content needs no keeping: it is in the files.
struct ContentStays;

impl ChunkSink for ContentStays {
    type Error = AssemblyError;

    fn chunk(&self, _: &FileKey, _: &Chunk, _: Option<ChunkRef>) -> Result<(), AssemblyError> {
        Ok(())
    }
}

struct NewTree<'a> {
    builder: Builder,
    sink: StoringSink<'a>,
}

impl EntrySink for NewTree<'_> {
    type Error = AssemblyError;

    fn entry(&mut self, key: &[u8], value: &Value) -> Result<(), AssemblyError> {
        Ok(self.builder.push(key, value, &mut self.sink)?)
    }

    fn stat(&mut self, _: &FilePath, _: &FileStat) -> Result<(), AssemblyError> {
        Ok(())
    }
}

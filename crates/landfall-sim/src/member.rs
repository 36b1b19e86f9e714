//! Owns one member: its disk, its clock, what it serves and what it pulls.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::snapshot::Manifest;
use landfall_core::tree::{Cursor, Nodes, Value};
use landfall_core::{Chunk, ChunkId, Domain, Time};

use crate::checks::{Violation, broken};
use crate::content::{Content, Published, rebuild};
use crate::disk::{Disk, ReadError};
use crate::pull::Pull;
use crate::source::Serving;
use crate::trouble::Trouble;

/// A member of the simulation.
pub(crate) struct Member {
    /// Its disk, and the store while it runs.
    pub(crate) disk: Disk,
    /// What it owes to joiners.
    pub(crate) serving: Serving,
    /// What it is fetching.
    pub(crate) pull: Option<Pull>,
    /// The newest snapshot that it heard of.
    pub(crate) heard: Option<usize>,
    /// The newest snapshot that it holds whole, durably.
    pub(crate) held: Option<usize>,
    /// Grows with every start, so that what was meant for an earlier life is not taken.
    pub(crate) life: u64,
    /// How far its clock is ahead.
    pub(crate) clock_ahead: Duration,
    /// It sends lies now and then.
    pub(crate) is_liar: bool,
    /// When it next tells its transfer the time, in everybody's time.
    pub(crate) wakes_at: Option<Time>,
}

impl Member {
    /// A member with an empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            disk: Disk::new(seed),
            serving: Serving::new(),
            pull: None,
            heard: None,
            held: None,
            life: 0,
            clock_ahead: Duration::ZERO,
            is_liar: false,
            wakes_at: None,
        }
    }

    /// Does it run?
    pub(crate) fn is_up(&self) -> bool {
        self.disk.store().is_some()
    }

    /// What its clock says.
    pub(crate) fn clock(&self, now: Time) -> Time {
        now + self.clock_ahead
    }

    /// Stores a snapshot whole, and holds it: what the publisher does, and what a seeded member has done.
    pub(crate) fn take_whole(&self, published: &Published) -> Result<(), Trouble> {
        self.take_part(published, |_| true)?;
        self.hold(published.id)
    }

    /// Stores the manifest, all nodes, and the chunks that are chosen: what an earlier transfer has left.
    pub(crate) fn take_part(
        &self,
        published: &Published,
        mut choose: impl FnMut(&Chunk) -> bool,
    ) -> Result<(), Trouble> {
        for chunk in published.chunks.iter().filter(|chunk| chunk.domain() != Domain::Data || choose(chunk)) {
            self.disk.put(chunk, None)?;
        }
        Ok(())
    }

    /// Promises to keep a snapshot that is here.
    pub(crate) fn hold(&self, snapshot: ChunkId) -> Result<(), Trouble> {
        let Some(store) = self.disk.store() else { return Ok(()) };
        store.sync()?;
        store.pin(&format!("held/{}", snapshot.short()), snapshot)?;
        store.set_record(HELD, snapshot.as_bytes())?;
        store.unpin("target")?;
        Ok(())
    }

    /// The snapshot that it has promised to keep last, as its disk says.
    pub(crate) fn held_record(&self) -> Result<Option<ChunkId>, Trouble> {
        let Some(store) = self.disk.store() else { return Ok(None) };
        let record = store.record(HELD)?;
        Ok(record.and_then(|record| record.try_into().ok()).map(ChunkId::from_bytes))
    }

    /// Reads a whole snapshot and compares it with what was published. True if every byte is here.
    ///
    /// # Errors
    /// What is here and is not what was published.
    pub(crate) fn prove(&self, published: &Published) -> Result<bool, Trouble> {
        let Some(manifest) = self.disk.read(published.id)? else { return Ok(false) };
        let manifest = Manifest::decode(manifest.bytes()).map_err(|error| Violation(error.to_string()))?;
        for (section, model) in manifest.sections.iter().zip(&published.sections) {
            let nodes = DiskNodes { disk: &self.disk, failure: Default::default() };
            let mut cursor = Cursor::new(section.root, Bound::Unbounded);
            let mut entries = Vec::new();
            loop {
                match cursor.next(&nodes) {
                    Ok(Some(entry)) => entries.push(entry),
                    Ok(None) => break,
                    Err(landfall_core::tree::TreeError::Missing(_)) => return nodes.missing(),
                    Err(error) => return broken(format!("a published tree: {error}"))?,
                }
            }
            if rebuild(entries.iter().cloned()) != section.root {
                return broken(format!("section {} has another root when built anew", section.name))?;
            }
            if !self.prove_entries(&entries, model)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn prove_entries(
        &self,
        entries: &[(Bytes, Value)],
        model: &std::collections::BTreeMap<Bytes, Content>,
    ) -> Result<bool, Trouble> {
        if entries.len() != model.len() {
            return broken(format!("{} entries instead of {}", entries.len(), model.len()))?;
        }
        for ((key, value), (model_key, content)) in entries.iter().zip(model) {
            let is_right = match (content, value.chunk) {
                (Content::Inline(bytes), None) => *bytes == value.inline,
                (Content::Chunk(bytes), Some(chunk)) => match self.disk.read(chunk.id)? {
                    Some(read) => read.domain() == Domain::Data && read.bytes() == bytes,
                    None => return Ok(false),
                },
                _ => false,
            };
            if key != model_key || !is_right {
                return broken(format!("{} is not what was published", key.escape_ascii()))?;
            }
        }
        Ok(true)
    }
}

/// Nodes straight from the disk.
struct DiskNodes<'a> {
    disk: &'a Disk,
    failure: std::cell::RefCell<Option<ReadError>>,
}

impl DiskNodes<'_> {
    /// A node is missing: because it is not here, or because it could not be read.
    fn missing(self) -> Result<bool, Trouble> {
        self.failure.into_inner().map_or(Ok(false), |error| Err(error.into()))
    }
}

impl Nodes for DiskNodes<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        match self.disk.read(id) {
            Ok(chunk) => chunk.map(landfall_core::Chunk::into_bytes),
            Err(error) => {
                self.failure.replace(Some(error));
                None
            }
        }
    }
}

const HELD: &str = "held";

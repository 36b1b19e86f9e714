//! Owns the answer to "where is this chunk?": the young entries in memory, the runs on disk, and the list of packs.
//!
//! It is a cache of what the footers of the packs say: losing a run costs time, never data. It never reads a pack.

mod filter;
mod merge;
mod run;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use landfall_core::ChunkId;

use crate::bitmap::{Bitmap, Inserted};
use crate::pack::{Footer, FooterEntry, PackClass, PackNumber};

pub(crate) use merge::merge;
pub(crate) use run::{Run, RunError, RunNumber, RunPack, RunWriter};

/// Where a frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: PackNumber,
    pub(crate) offset: u32,
    pub(crate) frame_bytes: u32,
    /// The place of the frame in its pack's footer.
    pub(crate) ordinal: u32,
    pub(crate) has_base: bool,
}

impl Location {
    pub(crate) fn new(pack: PackNumber, ordinal: u32, entry: &FooterEntry) -> Self {
        Self { pack, offset: entry.offset, frame_bytes: entry.frame_bytes, ordinal, has_base: entry.has_base }
    }
}

/// What is known about a pack.
#[derive(Debug)]
pub(crate) struct PackState {
    pub(crate) class: PackClass,
    pub(crate) stage: PackStage,
    pub(crate) frames: u32,
    pub(crate) bases: u32,
    pub(crate) file_bytes: u32,
    /// A run holds its entries; otherwise they are young.
    pub(crate) in_run: bool,
    /// It is being swept: the frames that are copied before it goes. All others are gone already.
    pub(crate) leaving: Option<Bitmap>,
    /// Frames that were found to be damaged: they count as absent.
    pub(crate) broken: Option<Bitmap>,
}

/// The life of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackStage {
    /// Being filled, or not durable yet.
    Open,
    /// Finished and durable since this tick of the store's clock.
    Sealed { at: u64 },
}

/// What a location is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Here,
    /// The pack is gone or going, or the frame is damaged.
    Gone,
}

impl PackState {
    pub(crate) fn open(class: PackClass) -> Self {
        Self {
            class,
            stage: PackStage::Open,
            frames: 0,
            bases: 0,
            file_bytes: 0,
            in_run: false,
            leaving: None,
            broken: None,
        }
    }

    pub(crate) fn from_run(pack: &RunPack) -> Self {
        let stage = PackStage::Sealed { at: 0 };
        let (frames, bases, file_bytes) = (pack.frames, pack.bases, pack.file_bytes);
        Self { stage, frames, bases, file_bytes, in_run: true, ..Self::open(pack.class) }
    }

    pub(crate) fn from_footer(footer: &Footer, stage: PackStage) -> Self {
        let (frames, bases) = (footer.entries.len() as u32, footer.bases.len() as u32);
        Self { stage, frames, bases, file_bytes: footer.file_bytes(), ..Self::open(footer.class) }
    }

    pub(crate) fn run_pack(&self, number: PackNumber) -> RunPack {
        let Self { class, frames, bases, file_bytes, .. } = *self;
        RunPack { number, class, frames, bases, file_bytes }
    }
}

/// The whole index. Behind one lock; nothing in here waits for a disk.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) packs: BTreeMap<PackNumber, PackState>,
    young: HashMap<ChunkId, Location>,
    /// The smallest first. Where several hold a chunk, any place that is here will do.
    runs: Arc<Vec<Arc<Run>>>,
    /// Grows whenever entries move in a way that a search without the lock may miss.
    pub(crate) generation: u64,
    /// How many frames were found unusable since the store was opened.
    pub(crate) frames_lost: u64,
}

impl Index {
    pub(crate) fn presence(&self, location: Location) -> Presence {
        let Some(pack) = self.packs.get(&location.pack) else { return Presence::Gone };
        let is_broken = pack.broken.as_ref().is_some_and(|broken| broken.contains(location.ordinal));
        let is_leaving = pack.leaving.as_ref().is_some_and(|kept| !kept.contains(location.ordinal));
        if is_broken || is_leaving { Presence::Gone } else { Presence::Here }
    }

    pub(crate) fn young(&self, id: ChunkId) -> Option<Location> {
        self.young.get(&id).copied().filter(|location| self.presence(*location) == Presence::Here)
    }

    pub(crate) fn insert(&mut self, id: ChunkId, location: Location) {
        self.young.insert(id, location);
    }

    /// Adds a finished pack with its frames; of two places of a chunk the one in the newer pack wins.
    pub(crate) fn insert_pack(&mut self, footer: &Footer, stage: PackStage) {
        self.packs.insert(footer.number, PackState::from_footer(footer, stage));
        for (ordinal, entry) in footer.entries.iter().enumerate() {
            let location = Location::new(footer.number, ordinal as u32, entry);
            let known = self.young.entry(entry.id).or_insert(location);
            if known.pack <= location.pack {
                *known = location;
            }
        }
    }

    pub(crate) fn runs(&self) -> Arc<Vec<Arc<Run>>> {
        Arc::clone(&self.runs)
    }

    pub(crate) fn set_runs(&mut self, mut runs: Vec<Arc<Run>>) {
        runs.sort_by_key(|run| (run.entries, run.number));
        self.runs = Arc::new(runs);
        self.generation += 1;
    }

    pub(crate) fn young_count(&self) -> usize {
        self.young.len()
    }

    /// Frames that may move into a run now.
    pub(crate) fn frames_for_run(&self) -> u64 {
        self.packs_for_run().map(|(_, pack)| u64::from(pack.frames)).sum()
    }

    fn packs_for_run(&self) -> impl Iterator<Item = (PackNumber, &PackState)> {
        let is_ready = |pack: &PackState| !pack.in_run && pack.stage != PackStage::Open && pack.leaving.is_none();
        self.packs.iter().filter(move |(_, pack)| is_ready(pack)).map(|(number, pack)| (*number, pack))
    }

    /// The packs and entries of the next run; the entries are sorted.
    pub(crate) fn next_run(&self) -> (Vec<RunPack>, Vec<(ChunkId, Location)>) {
        let packs: Vec<_> = self.packs_for_run().map(|(number, pack)| pack.run_pack(number)).collect();
        let numbers: BTreeSet<_> = packs.iter().map(|pack| pack.number).collect();
        let is_covered = |location: &Location| numbers.contains(&location.pack);
        let entries = self.young.iter().filter(|(_, location)| is_covered(location));
        let mut entries: Vec<_> = entries.map(|(id, location)| (*id, *location)).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        (packs, entries)
    }

    /// Takes a run that was built from [`Self::next_run`]: its entries are young no more.
    pub(crate) fn install_run(&mut self, run: Arc<Run>) {
        let covered: BTreeSet<_> = run.packs.iter().map(|pack| pack.number).collect();
        for (_, pack) in self.packs.iter_mut().filter(|(number, _)| covered.contains(number)) {
            pack.in_run = true;
        }
        self.young.retain(|_, location| !covered.contains(&location.pack));
        let mut runs = self.runs.to_vec();
        runs.push(run);
        self.set_runs(runs);
    }

    /// Puts a merged run in the place of its sources.
    pub(crate) fn replace_runs(&mut self, old: &[RunNumber], new: Vec<Arc<Run>>) {
        let mut runs: Vec<_> = self.runs.iter().filter(|run| !old.contains(&run.number)).cloned().collect();
        runs.extend(new);
        self.set_runs(runs);
    }

    pub(crate) fn remove_packs(&mut self, numbers: &BTreeSet<PackNumber>) {
        self.packs.retain(|number, _| !numbers.contains(number));
        self.young.retain(|_, location| !numbers.contains(&location.pack));
        self.generation += 1;
    }

    /// Counts a frame as absent from now on.
    pub(crate) fn set_broken(&mut self, location: Location) {
        if let Some(pack) = self.packs.get_mut(&location.pack)
            && pack.broken.get_or_insert_default().insert(location.ordinal) == Inserted::New
        {
            self.frames_lost += 1;
        }
    }

    /// Memory that grows with the number of chunks.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let runs: u64 = self.runs.iter().map(|run| run.memory_bytes()).sum();
        let bitmaps = self.packs.values().flat_map(|pack| [&pack.leaving, &pack.broken]).flatten();
        let packs = self.packs.len() * (size_of::<PackState>() + size_of::<PackNumber>());
        runs + packs as u64 + bitmaps.map(Bitmap::memory_bytes).sum::<u64>()
    }
}

//! Owns the answer to "where is this chunk?": the young entries in memory, the runs on disk, and the list of packs.
//!
//! It is a cache of what the footers of the packs say: losing a run costs time, never data. It never reads a pack.

mod filter;
mod merge;
mod run;
mod young;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::ChunkId;

use crate::bitmap::{Bitmap, Inserted};
use crate::pack::{Footer, FooterEntry, PackClass, PackNumber};

pub(crate) use merge::merge;
pub(crate) use run::{Run, RunError, RunNumber, RunPack, RunWriter};
use young::Ripening;
pub(crate) use young::Young;

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

/// What the next run is made of.
pub(crate) struct NextRun {
    packs: Vec<RunPack>,
    entries: Arc<Ripening>,
}

impl NextRun {
    /// The packs that the run covers.
    pub(crate) fn packs(&self) -> &[RunPack] {
        &self.packs
    }

    /// Its entries, sorted.
    pub(crate) fn sorted(&self) -> Vec<(ChunkId, Location)> {
        let covered = self.covered();
        let mut entries: Vec<_> = self.entries_where(|location| covered.contains(&location.pack)).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        entries
    }

    /// Entries of packs that it does not cover: they stay young.
    pub(crate) fn left_over(&self) -> Vec<(ChunkId, Location)> {
        let covered = self.covered();
        self.entries_where(|location| !covered.contains(&location.pack)).collect()
    }

    fn covered(&self) -> BTreeSet<PackNumber> {
        self.packs.iter().map(|pack| pack.number).collect()
    }

    fn entries_where(&self, is_wanted: impl Fn(&Location) -> bool) -> impl Iterator<Item = (ChunkId, Location)> {
        self.entries.iter().filter(move |(_, location)| is_wanted(location))
    }
}

/// The whole index. Behind one lock, which whoever looks up or adds an entry shares; nothing in here waits for a disk.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) packs: BTreeMap<PackNumber, PackState>,
    young: Young,
    /// Young entries that are on their way into a run. Nobody changes them, so that they can be sorted and written without the lock.
    ripening: Option<Arc<Ripening>>,
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
        let is_here = |location: &Location| self.presence(*location) == Presence::Here;
        let ripening = || self.ripening.as_ref().and_then(|ripening| ripening.get(id)).filter(is_here);
        self.young.get(id).filter(is_here).or_else(ripening)
    }

    pub(crate) fn insert(&self, id: ChunkId, location: Location) {
        self.young.insert(id, location);
    }

    /// Adds a finished pack with its frames; of two places of a chunk the one in the newer pack wins.
    pub(crate) fn insert_pack(&mut self, footer: &Footer, stage: PackStage) {
        self.packs.insert(footer.number, PackState::from_footer(footer, stage));
        for (ordinal, entry) in footer.entries.iter().enumerate() {
            let location = Location::new(footer.number, ordinal as u32, entry);
            if self.young.get(entry.id).is_none_or(|known| known.pack <= location.pack) {
                self.young.insert(entry.id, location);
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
        self.young.len() + self.ripening.as_ref().map_or(0, |ripening| ripening.len())
    }

    /// Frames that may move into a run now.
    pub(crate) fn frames_for_run(&self) -> u64 {
        self.packs_for_run().map(|(_, pack)| u64::from(pack.frames)).sum()
    }

    fn packs_for_run(&self) -> impl Iterator<Item = (PackNumber, &PackState)> {
        let is_ready = |pack: &PackState| !pack.in_run && pack.stage != PackStage::Open && pack.leaving.is_none();
        self.packs.iter().filter(move |(_, pack)| is_ready(pack)).map(|(number, pack)| (*number, pack))
    }

    /// Begins a run of what may move into one now; until [`Self::install_run`] its entries are found as before. `young` takes the place of the
    /// young entries: it is empty, and has the room that it will need, because whoever looks something up waits for this.
    pub(crate) fn begin_run(&mut self, young: Young) -> NextRun {
        let packs = self.packs_for_run().map(|(number, pack)| pack.run_pack(number)).collect();
        let entries = std::mem::replace(&mut self.young, young);
        // A run that was begun before could not be written.
        if let Some(failed) = self.ripening.take() {
            failed.iter().for_each(|(id, location)| entries.insert_if_absent(id, location));
        }
        let entries = Arc::new(entries.ripen());
        self.ripening = Some(Arc::clone(&entries));
        NextRun { packs, entries }
    }

    /// Takes the run that was written of what [`Self::begin_run`] gave: its entries are young no more, those that were left over are again.
    pub(crate) fn install_run(&mut self, run: Arc<Run>, left_over: Vec<(ChunkId, Location)>) {
        for covered in &run.packs {
            if let Some(pack) = self.packs.get_mut(&covered.number) {
                pack.in_run = true;
            }
        }
        for (id, location) in left_over {
            if self.packs.contains_key(&location.pack) {
                self.young.insert_if_absent(id, location);
            }
        }
        self.ripening = None;
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
        self.young.retain(|location| !numbers.contains(&location.pack));
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::vfs::faulty::FaultyVfs;
    use crate::vfs::{OpenMode, Vfs};

    const DONE: PackNumber = PackNumber(1);
    const OPEN: PackNumber = PackNumber(2);

    fn id(number: u8) -> ChunkId {
        ChunkId::from_bytes([number; ChunkId::BYTES])
    }

    fn place(pack: PackNumber, ordinal: u32) -> Location {
        Location { pack, offset: 100 * ordinal, frame_bytes: 100, ordinal, has_base: false }
    }

    /// One chunk in a finished pack and one in a pack that is being filled.
    fn index() -> Index {
        let mut index = Index::default();
        let stages = [(DONE, PackStage::Sealed { at: 0 }), (OPEN, PackStage::Open)];
        for (number, stage) in stages {
            index.packs.insert(number, PackState { stage, frames: 1, ..PackState::open(PackClass::Data) });
        }
        index.insert(id(1), place(DONE, 0));
        index.insert(id(2), place(OPEN, 0));
        index
    }

    fn written(vfs: &FaultyVfs, next: &NextRun) -> Arc<Run> {
        let path = Path::new("run");
        let mut writer = RunWriter::new(vfs.open(path, OpenMode::CreateNew).unwrap(), next.sorted().len() as u64);
        next.sorted().iter().try_for_each(|(id, location)| writer.push(*id, *location)).unwrap();
        writer.finish(next.packs()).unwrap();
        Arc::new(Run::open(vfs, path, RunNumber(1)).unwrap())
    }

    #[track_caller]
    fn check_young(index: &Index, expected: [Option<Location>; 3]) {
        assert_eq!([1, 2, 3].map(|number| index.young(id(number))), expected);
    }

    #[test]
    fn what_moves_into_a_run_is_found_while_the_run_is_written_and_what_stays_afterwards() {
        let mut index = index();
        let next = index.begin_run(Young::default());
        assert_eq!((next.sorted(), next.left_over()), (vec![(id(1), place(DONE, 0))], vec![(id(2), place(OPEN, 0))]));
        index.insert(id(3), place(OPEN, 1));
        check_young(&index, [Some(place(DONE, 0)), Some(place(OPEN, 0)), Some(place(OPEN, 1))]);
        assert_eq!(index.young_count(), 3);

        let generation = index.generation;
        index.install_run(written(&FaultyVfs::new(1), &next), next.left_over());
        check_young(&index, [None, Some(place(OPEN, 0)), Some(place(OPEN, 1))]);
        assert!(index.packs[&DONE].in_run && !index.packs[&OPEN].in_run);
        assert!(index.generation > generation, "a search that looked before must look again");
        assert_eq!(index.runs().len(), 1);
    }

    #[test]
    fn a_chunk_that_came_again_while_a_run_was_written_is_found_where_it_came_last() {
        let mut index = index();
        let next = index.begin_run(Young::default());
        index.insert(id(2), place(OPEN, 7));
        index.install_run(written(&FaultyVfs::new(1), &next), next.left_over());
        check_young(&index, [None, Some(place(OPEN, 7)), None]);
    }

    #[test]
    fn a_run_that_could_not_be_written_is_begun_again_with_all_that_came_since() {
        let mut index = index();
        drop(index.begin_run(Young::default()));
        index.insert(id(2), place(OPEN, 7));
        index.insert(id(3), place(DONE, 1));
        let next = index.begin_run(Young::default());
        assert_eq!(next.sorted(), [(id(1), place(DONE, 0)), (id(3), place(DONE, 1))]);
        assert_eq!(next.left_over(), [(id(2), place(OPEN, 7))]);
        check_young(&index, [Some(place(DONE, 0)), Some(place(OPEN, 7)), Some(place(DONE, 1))]);
    }

    #[test]
    fn what_a_pack_held_that_went_while_a_run_was_written_is_not_found() {
        let mut index = index();
        let next = index.begin_run(Young::default());
        index.remove_packs(&BTreeSet::from([DONE, OPEN]));
        check_young(&index, [None; 3]);
        index.install_run(written(&FaultyVfs::new(1), &next), next.left_over());
        check_young(&index, [None; 3]);
        assert_eq!(index.young_count(), 0);
    }
}

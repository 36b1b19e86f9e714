//! Owns finding and reading one chunk: young entries, runs, the pack, the checksum.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::ChunkId;

use crate::error::{DamagedFrame, StoreError};
use crate::frame::{FrameHeader, FramePlace, HEADER_BYTES_MAX, StoredFrame, read_frame};
use crate::index::{Index, Location, PackStage, Presence, Run, RunError, RunNumber};
use crate::lock::{lock, read, write};
use crate::pack::PackNumber;
use crate::store::Shared;

impl Shared {
    /// Reads a chunk and checks the checksum of its frame.
    pub(crate) fn get(&self, id: ChunkId, purpose: Purpose) -> Result<Option<StoredFrame>, StoreError> {
        while let Some(location) = self.locate(id, purpose)? {
            let Some(frame) = self.read_sound(id, location)? else { continue };
            return frame.map(Some).ok_or_else(|| self.damaged(id, location));
        }
        Ok(None)
    }

    /// Reads a frame, a second time if the first looks damaged: what a disk got wrong once on the way must not cost the frame, which
    /// the next garbage collection would sweep. `None` if its pack went away meanwhile.
    fn read_sound(&self, id: ChunkId, location: Location) -> Result<Option<Option<StoredFrame>>, StoreError> {
        for _ in 0..READS_BEFORE_DAMAGED {
            let Some(bytes) = self.read(id, location, location.frame_bytes)? else { return Ok(None) };
            if let Some((_, frame)) = read_frame(bytes, place_of(location)).filter(|(header, _)| header.id == id) {
                return Ok(Some(Some(frame)));
            }
        }
        Ok(Some(None))
    }

    /// Finds a chunk.
    pub(crate) fn locate(&self, id: ChunkId, purpose: Purpose) -> Result<Option<Location>, StoreError> {
        loop {
            let (generation, runs) = {
                let index = read(&self.index);
                if let Some(location) = index.young(id) {
                    self.ask(&index, location, purpose);
                    return Ok(Some(location));
                }
                (index.generation, index.runs())
            };
            match self.locate_in_runs(id, &runs, purpose) {
                Ok(Some(location)) => return Ok(Some(location)),
                Ok(None) if read(&self.index).generation == generation => return Ok(None),
                Ok(None) => {}
                Err((run, RunError::Damaged)) => self.rebuild_run(run)?,
                Err((_, RunError::Io(error))) => return Err(StoreError::io("read", &self.paths.index, error)),
            }
        }
    }

    fn locate_in_runs(
        &self,
        id: ChunkId,
        runs: &[Arc<Run>],
        purpose: Purpose,
    ) -> Result<Option<Location>, (RunNumber, RunError)> {
        for run in runs.iter().filter(|run| run.may_hold(id)) {
            let Some(location) = run.find(id).map_err(|error| (run.number, error))? else { continue };
            let index = read(&self.index);
            if index.presence(location) == Presence::Here {
                self.ask(&index, location, purpose);
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// Notes that a frame was asked for. The caller holds the index, so no sweep can begin in between.
    fn ask(&self, index: &Index, location: Location, purpose: Purpose) {
        // What is not sealed yet will be sealed after every session that is open now began.
        if purpose == Purpose::Keep && index.packs.get(&location.pack).is_some_and(|pack| pack.stage != PackStage::Open)
        {
            lock(&self.sessions).ask(location);
        }
    }

    /// Finds a chunk together with all bases that it needs. One that lost a base is forgotten: nobody can read it.
    pub(crate) fn keep(&self, id: ChunkId) -> Result<Option<Location>, StoreError> {
        let Some(location) = self.locate(id, Purpose::Keep)? else { return Ok(None) };
        match self.patches_below(id, location)? {
            Chain::Whole { .. } => Ok(Some(location)),
            Chain::Broken => {
                write(&self.index).set_broken(location);
                Ok(None)
            }
        }
    }

    /// Checks that `base` can serve a new patch, and protects it.
    pub(crate) fn keep_base(&self, id: ChunkId, base: ChunkId) -> Result<(), StoreError> {
        let unusable = StoreError::BaseUnusable { id, base };
        let Some(location) = self.locate(base, Purpose::Keep)? else { return Err(unusable) };
        match self.patches_below(base, location)? {
            Chain::Whole { patches } if patches + 1 < PATCHES_IN_CHAIN_MAX => Ok(()),
            _ => Err(unusable),
        }
    }

    /// Follows the bases below a frame.
    fn patches_below(&self, id: ChunkId, location: Location) -> Result<Chain, StoreError> {
        let (mut id, mut location) = (id, location);
        for patches in 0..=PATCHES_IN_CHAIN_MAX {
            if !location.has_base {
                return Ok(Chain::Whole { patches });
            }
            let Some(base) = self.base_of(id, location)? else { return Ok(Chain::Broken) };
            let Some(found) = self.locate(base, Purpose::Keep)? else { return Ok(Chain::Broken) };
            (id, location) = (base, found);
        }
        Ok(Chain::Broken)
    }

    fn base_of(&self, id: ChunkId, location: Location) -> Result<Option<ChunkId>, StoreError> {
        let header_bytes = HEADER_BYTES_MAX.min(location.frame_bytes);
        let Some(bytes) = self.read(id, location, header_bytes)? else { return Ok(None) };
        let header = FrameHeader::read(&bytes, place_of(location)).filter(|header| header.id == id);
        Ok(header.and_then(|header| header.base))
    }

    /// Reads the first `bytes` of a frame; `None` if its pack went away meanwhile.
    pub(crate) fn read(&self, id: ChunkId, location: Location, bytes: u32) -> Result<Option<Bytes>, StoreError> {
        if let Some(unwritten) = self.read_tail(location, bytes) {
            return Ok(Some(unwritten));
        }
        let path = self.paths.pack(location.pack);
        let mut buffer = vec![0; bytes as usize];
        let outcome = self
            .open_packs
            .get(self.vfs.as_ref(), &path, location.pack)
            .and_then(|file| file.read_at(u64::from(location.offset), &mut buffer));
        match outcome {
            Ok(()) => Ok(Some(Bytes::from(buffer))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has_pack(location.pack) => Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) => {
                Err(self.damaged(id, location))
            }
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// Reads what the file of a pack that is being filled does not have yet.
    fn read_tail(&self, location: Location, bytes: u32) -> Option<Bytes> {
        let class = {
            let index = read(&self.index);
            let pack = index.packs.get(&location.pack)?;
            (pack.stage == PackStage::Open).then_some(pack.class)?
        };
        self.tail(class).get(location.pack, location.offset, bytes)
    }

    fn has_pack(&self, number: PackNumber) -> bool {
        read(&self.index).packs.contains_key(&number)
    }

    /// Counts a frame as absent and says so.
    pub(crate) fn damaged(&self, id: ChunkId, location: Location) -> StoreError {
        write(&self.index).set_broken(location);
        let pack = self.paths.pack(location.pack);
        StoreError::Damaged(DamagedFrame { pack, offset: location.offset, id: Some(id) })
    }
}

/// How often a frame is read before it counts as damaged.
const READS_BEFORE_DAMAGED: u32 = 2;

/// Why somebody looks for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To use it: garbage collection leaves it alone as long as the sessions that are open now.
    Keep,
    /// To learn where it is.
    Look,
}

/// What stands below a patch.
enum Chain {
    /// Every base is here.
    Whole { patches: u32 },
    /// A base is missing or damaged, or there are too many.
    Broken,
}

pub(crate) fn place_of(location: Location) -> FramePlace {
    FramePlace { pack: location.pack.0, offset: location.offset }
}

/// A chain of patches is shorter than this: a read costs as many frames.
pub const PATCHES_IN_CHAIN_MAX: u32 = 8;

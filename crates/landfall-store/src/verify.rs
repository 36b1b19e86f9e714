//! Owns reading everything again: every frame of every pack, against its checksum and its id.

use std::path::Path;

use landfall_core::ChunkId;

use crate::error::{DamagedFrame, StoreError};
use crate::frame::{CODEC_RAW, StoredFrame, read_frame};
use crate::index::Location;
use crate::index_work::Contents;
use crate::lock::{lock, read, write};
use crate::lookup::place_of;
use crate::pack::{FooterEntry, PackNumber};
use crate::recovery::DAMAGED_LISTED_MAX;
use crate::store::{Shared, Store};

/// What a caller says about a frame whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameCheck {
    /// It decodes to bytes that match its id.
    Sound,
    /// It does not.
    Damaged,
    /// It cannot be checked, for example because its base is not here.
    Unknown,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Packs that were read.
    pub packs: u64,
    /// Frames whose bytes match their ids.
    pub frames_sound: u64,
    /// Frames whose checksum is right and whose hash could not be checked.
    pub frames_unknown: u64,
    /// Bytes of frames that were read.
    pub bytes: u64,
    /// Damaged frames; their chunks count as absent from now on.
    pub frames_damaged: u64,
    /// The first 1024 of those.
    pub damaged: Vec<DamagedFrame>,
}

impl Store {
    /// Reads every frame and checks it. Raw frames are hashed here; `check` decodes and hashes all others.
    ///
    /// Packs are read one after the other while the store works on; frames that come meanwhile may be missed.
    pub fn verify(&self, check: &dyn Fn(ChunkId, &StoredFrame) -> FrameCheck) -> Result<VerifyReport, StoreError> {
        let shared = self.shared();
        let mut verification = Verification { shared, check, report: VerifyReport::default() };
        let packs: Vec<_> = read(&shared.index).packs.keys().copied().collect();
        packs.into_iter().try_for_each(|pack| verification.pack(pack))?;
        Ok(verification.report)
    }
}

struct Verification<'a> {
    shared: &'a Shared,
    check: &'a dyn Fn(ChunkId, &StoredFrame) -> FrameCheck,
    report: VerifyReport,
}

impl Verification<'_> {
    fn pack(&mut self, number: PackNumber) -> Result<(), StoreError> {
        for (ordinal, entry) in self.entries(number)?.iter().enumerate() {
            self.frame(entry, Location::new(number, ordinal as u32, entry))?;
        }
        self.report.packs += 1;
        Ok(())
    }

    fn entries(&mut self, number: PackNumber) -> Result<Vec<FooterEntry>, StoreError> {
        let class = read(&self.shared.index).packs.get(&number).map(|pack| pack.class);
        // A pack that went meanwhile has nothing to check.
        let Some(class) = class else { return Ok(Vec::new()) };
        if let Some(pack) = lock(self.shared.writer(class)).as_ref().filter(|pack| pack.number() == number) {
            return Ok(pack.entries().to_vec());
        }
        match self.shared.contents(number) {
            Ok(contents) => {
                if let Contents::Frames { scan, .. } = &contents {
                    let path = self.shared.paths.pack(number);
                    scan.damaged.iter().for_each(|(offset, id)| self.damaged(&path, *offset, *id));
                }
                Ok(contents.footer(number).entries)
            }
            Err(_) if !read(&self.shared.index).packs.contains_key(&number) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn frame(&mut self, entry: &FooterEntry, location: Location) -> Result<(), StoreError> {
        let bytes = match self.shared.read(entry.id, location, location.frame_bytes) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(_)) => {
                self.broken(entry, location);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.report.bytes += bytes.len() as u64;
        let frame = read_frame(bytes, place_of(location)).filter(|(header, _)| header.id == entry.id);
        match frame.map_or(FrameCheck::Damaged, |(_, frame)| self.checked(entry.id, &frame)) {
            FrameCheck::Sound => self.report.frames_sound += 1,
            FrameCheck::Unknown => self.report.frames_unknown += 1,
            FrameCheck::Damaged => self.broken(entry, location),
        }
        Ok(())
    }

    fn checked(&self, id: ChunkId, frame: &StoredFrame) -> FrameCheck {
        if frame.codec != CODEC_RAW {
            return (self.check)(id, frame);
        }
        if ChunkId::of(frame.domain, &frame.bytes) == id { FrameCheck::Sound } else { FrameCheck::Damaged }
    }

    fn broken(&mut self, entry: &FooterEntry, location: Location) {
        write(&self.shared.index).set_broken(location);
        self.damaged(&self.shared.paths.pack(location.pack), location.offset, Some(entry.id));
    }

    fn damaged(&mut self, pack: &Path, offset: u32, id: Option<ChunkId>) {
        self.report.frames_damaged += 1;
        if self.report.damaged.len() < DAMAGED_LISTED_MAX {
            self.report.damaged.push(DamagedFrame { pack: pack.to_owned(), offset, id });
        }
    }
}

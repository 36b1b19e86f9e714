//! Owns emptying packs: choosing them, freezing what they hold, copying what is alive, removing them.

use std::sync::atomic::Ordering;

use landfall_core::ChunkId;

use crate::bitmap::Bitmap;
use crate::error::StoreError;
use crate::frame::read_frame;
use crate::index::{Location, PackStage, PackState};
use crate::index_work::Contents;
use crate::lock::{lock, read, write};
use crate::lookup::place_of;
use crate::pack::{FooterEntry, NewFrame, PackNumber};
use crate::recovery::Recovery;
use crate::sessions::Sessions;
use crate::store::IfYoung;

use super::mark::Marks;
use super::{CollectBudget, Collection, list};

impl Collection<'_> {
    /// Chooses the packs to empty: those with the least live bytes first, as far as the budget goes.
    pub(super) fn choose(&mut self, marks: &Marks, budget: CollectBudget) -> Vec<PackNumber> {
        let index = read(&self.shared.index);
        let sessions = lock(&self.shared.sessions);
        let candidates = index.packs.iter().filter(|(_, pack)| self.is_candidate(pack.stage));
        let small_bytes = self.shared.options.pack_bytes_target / SMALL_PACK_SHARE;
        let small_count = candidates.clone().filter(|(_, pack)| pack.file_bytes < small_bytes).count();
        let mut victims = Vec::new();
        for (number, pack) in candidates {
            let live_bytes = live_bytes(*number, pack, marks, &sessions);
            let is_small = small_count >= SMALL_PACKS_MAX && pack.file_bytes < small_bytes;
            if is_small || live_bytes * 2 < u64::from(pack.file_bytes) {
                victims.push((live_bytes, *number));
            }
        }
        drop(sessions);
        drop(index);
        victims.sort_unstable();
        let mut copied = 0_u64;
        let worth = victims.len();
        let fits = |(live_bytes, number): (u64, PackNumber)| {
            copied = copied.saturating_add(live_bytes);
            (copied <= budget.copy_bytes_max || live_bytes == 0).then_some(number)
        };
        let chosen: Vec<_> = victims.into_iter().map_while(fits).collect();
        self.report.packs_left = (worth - chosen.len()) as u64;
        chosen
    }

    /// From this instant on the victims hold only what is marked or asked for; all else is gone for everybody.
    pub(super) fn freeze(&self, victims: &[PackNumber], marks: &Marks, pins_made: u64) -> Freeze {
        let mut index = write(&self.shared.index);
        if self.shared.pins_made.load(Ordering::SeqCst) != pins_made {
            return Freeze::Overtaken;
        }
        let sessions = lock(&self.shared.sessions);
        for number in victims {
            let live = live_frames(*number, marks, &sessions);
            if let Some(pack) = index.packs.get_mut(number) {
                pack.leaving = Some(live);
            }
        }
        index.generation += 1;
        Freeze::Done
    }

    pub(super) fn sweep(&mut self, victims: &[PackNumber]) -> Result<(), StoreError> {
        let bytes_before = self.bytes_of(victims);
        let copied = victims.iter().try_for_each(|number| self.copy_live(*number)).and_then(|()| self.shared.sync());
        if let Err(error) = copied {
            self.unfreeze(victims);
            return Err(error);
        }
        self.report.packs_removed = victims.len() as u64;
        self.report.bytes_removed = bytes_before;
        if victims.is_empty() { Ok(()) } else { self.shared.remove_packs(victims) }
    }

    fn bytes_of(&self, packs: &[PackNumber]) -> u64 {
        let index = read(&self.shared.index);
        packs.iter().filter_map(|number| index.packs.get(number)).map(|pack| u64::from(pack.file_bytes)).sum()
    }

    fn unfreeze(&self, victims: &[PackNumber]) {
        let mut index = write(&self.shared.index);
        for number in victims {
            if let Some(pack) = index.packs.get_mut(number) {
                pack.leaving = None;
            }
        }
        index.generation += 1;
    }

    fn copy_live(&mut self, number: PackNumber) -> Result<(), StoreError> {
        if self.leaving_frames(number).is_empty() {
            return Ok(());
        }
        let Contents::Footer(footer) = self.shared.contents(number)? else {
            return self.copy_all(number);
        };
        for (ordinal, entry) in footer.entries.iter().enumerate() {
            let location = Location::new(number, ordinal as u32, entry);
            if self.must_copy(entry.id, location) {
                self.copy(entry, location)?;
            }
        }
        Ok(())
    }

    fn leaving_frames(&self, number: PackNumber) -> Bitmap {
        let index = read(&self.shared.index);
        index.packs.get(&number).and_then(|pack| pack.leaving.clone()).unwrap_or_default()
    }

    /// A put may have written the chunk again since the victims were frozen.
    fn must_copy(&self, id: ChunkId, location: Location) -> bool {
        let index = read(&self.shared.index);
        let Some(pack) = index.packs.get(&location.pack) else { return false };
        let is_live = pack.leaving.as_ref().is_some_and(|live| live.contains(location.ordinal));
        let is_broken = pack.broken.as_ref().is_some_and(|broken| broken.contains(location.ordinal));
        let young = index.young(id).and_then(|young| index.packs.get(&young.pack));
        let is_written_again = young.is_some_and(|pack| pack.stage == PackStage::Open);
        is_live && !is_broken && !is_written_again
    }

    fn copy(&mut self, entry: &FooterEntry, location: Location) -> Result<(), StoreError> {
        let bytes = match self.shared.read(entry.id, location, location.frame_bytes) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(frame)) => {
                list(&mut self.report.damaged, frame);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some((header, frame)) = read_frame(bytes, place_of(location)).filter(|(header, _)| header.id == entry.id)
        else {
            if let StoreError::Damaged(frame) = self.shared.damaged(entry.id, location) {
                list(&mut self.report.damaged, frame);
            }
            return Ok(());
        };
        self.shared.append(&NewFrame { header, payload: &frame.bytes }, IfYoung::Write)?;
        self.report.bytes_copied += u64::from(location.frame_bytes);
        Ok(())
    }

    /// The footer is damaged, so ordinals say nothing: everything that can still be read moves.
    fn copy_all(&mut self, number: PackNumber) -> Result<(), StoreError> {
        let mut recovery = Recovery::default();
        self.shared.copy_whole_frames(number, &mut recovery)?;
        recovery.damaged.into_iter().for_each(|frame| list(&mut self.report.damaged, frame));
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freeze {
    Done,
    /// There are new pins: mark again.
    Overtaken,
}

fn live_frames(number: PackNumber, marks: &Marks, sessions: &Sessions) -> Bitmap {
    let mut live = Bitmap::default();
    for frames in marks.of(number).chain(sessions.asked_of(number)) {
        live.add_all(&frames.ordinals);
    }
    live
}

/// Live bytes of a pack: exact for what roots need, by the mean for what only sessions asked for.
fn live_bytes(number: PackNumber, pack: &PackState, marks: &Marks, sessions: &Sessions) -> u64 {
    let mut needed = Bitmap::default();
    let mut needed_bytes = 0;
    for frames in marks.of(number) {
        needed.add_all(&frames.ordinals);
        needed_bytes += frames.bytes;
    }
    let only_asked = live_frames(number, marks, sessions).count() - needed.count();
    needed_bytes + only_asked * u64::from(pack.file_bytes) / u64::from(pack.frames.max(1))
}

/// Packs below this share of the target are merged, once there are this many.
const SMALL_PACK_SHARE: u32 = 4;
const SMALL_PACKS_MAX: usize = 8;

//! Owns merging two runs into one, page by page, without loading either.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_core::ChunkId;

use crate::pack::PackNumber;

use super::run::{Run, RunError, RunPack, RunWriter};
use super::{Index, Location, Presence};

/// Writes a run of the entries of `sources` that are still of use.
///
/// Of two places of a chunk the one in the newer pack stays. `index` is asked once per page.
pub(crate) fn merge(
    sources: [&Arc<Run>; 2],
    index: &std::sync::RwLock<Index>,
    mut writer: RunWriter,
) -> Result<(), RunError> {
    let packs = covered_packs(sources, index);
    let [mut left, mut right] = sources.map(|run| Cursor { run, page: 0, entries: Vec::new().into_iter() });
    let (mut next_left, mut next_right) = (left.next(index)?, right.next(index)?);
    loop {
        let (id, location) = match (next_left, next_right) {
            (None, None) => break,
            (Some(a), Some(b)) if a.0 == b.0 => {
                next_left = left.next(index)?;
                next_right = right.next(index)?;
                if a.1.pack > b.1.pack { a } else { b }
            }
            (Some(a), b) if b.is_none_or(|b| a.0 < b.0) => {
                next_left = left.next(index)?;
                a
            }
            (_, Some(b)) => {
                next_right = right.next(index)?;
                b
            }
            (Some(_), None) => unreachable!("covered by the guard above"),
        };
        writer.push(id, location)?;
    }
    Ok(writer.finish(&packs)?)
}

fn covered_packs(sources: [&Arc<Run>; 2], index: &std::sync::RwLock<Index>) -> Vec<RunPack> {
    let index = crate::lock::read(index);
    let mut seen = BTreeSet::<PackNumber>::new();
    let packs = sources.into_iter().flat_map(|run| &run.packs);
    packs.filter(|pack| index.packs.contains_key(&pack.number) && seen.insert(pack.number)).copied().collect()
}

/// Reads a run from its first entry to its last.
struct Cursor<'a> {
    run: &'a Run,
    page: u32,
    entries: std::vec::IntoIter<(ChunkId, Location)>,
}

impl Cursor<'_> {
    fn next(&mut self, index: &std::sync::RwLock<Index>) -> Result<Option<(ChunkId, Location)>, RunError> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            if self.page == self.run.page_count() {
                return Ok(None);
            }
            let mut entries = self.run.page(self.page)?;
            let index = crate::lock::read(index);
            entries.retain(|(_, location)| is_kept(&index, *location));
            self.entries = entries.into_iter();
            self.page += 1;
        }
    }
}

/// An entry of a pack that is being swept stays: the sweep may be given up.
fn is_kept(index: &Index, location: Location) -> bool {
    let is_leaving = index.packs.get(&location.pack).is_some_and(|pack| pack.leaving.is_some());
    is_leaving || index.presence(location) == Presence::Here
}

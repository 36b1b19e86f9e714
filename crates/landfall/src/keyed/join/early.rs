//! Owns the fetching of what a joiner needs before it serves. What that is, and in which order, the core says; it comes on the lanes that
//! do not wait.

use landfall_core::ChunkId;
use landfall_core::join::{Holdings, Need, UpperLevels, WholeTrees};
use landfall_core::transfer::TreePair;
use landfall_core::tree::TreeError;

use super::lanes::{FaultError, FaultLanes};
use crate::keyed::here::Here;

/// Fetches every node and chunk of trees.
pub(super) fn fetch_whole(lanes: &FaultLanes, here: &Here, trees: Vec<TreePair>) -> Result<(), FaultError> {
    let mut walk = WholeTrees::new(trees);
    while let Some(need) = read(here, || walk.next(here))? {
        match need {
            Need::Nodes(wants) => lanes.fetch_nodes(&wants)?,
            Need::Chunks(wants) => lanes.fetch_chunks(&wants)?,
        }
    }
    Ok(())
}

/// Fetches the inner nodes of trees, as far as the limit goes.
pub(super) fn fetch_upper_levels(lanes: &FaultLanes, here: &Here, trees: Vec<TreePair>) -> Result<(), FaultError> {
    let began = lanes.bytes();
    let mut walk = UpperLevels::new(trees);
    loop {
        let wants = read(here, || walk.next(here, lanes.bytes() - began))?;
        if wants.is_empty() {
            return Ok(());
        }
        lanes.fetch_nodes(&wants)?;
    }
}

/// Reads from here; what only looked missing because the disk failed is that failure.
fn read<T>(here: &Here, read: impl FnOnce() -> Result<T, TreeError>) -> Result<T, FaultError> {
    let read = read();
    match here.nodes.take_failure() {
        Some(failure) => Err(failure.into()),
        None => read.map_err(FaultError::Tree),
    }
}

impl Holdings for Here {
    fn has_chunk(&self, id: ChunkId) -> bool {
        self.store.contains(id).unwrap_or_else(|failure| {
            self.nodes.note_failure(failure);
            false
        })
    }
}

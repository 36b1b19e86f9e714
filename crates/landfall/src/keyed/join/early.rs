//! Owns the fetching of what a joiner needs before it serves. What that is, and in which order, the core says; it comes on the lanes that
//! do not wait.

use landfall_core::join::{Need, UpperLevels, WholeTrees};
use landfall_core::transfer::TreePair;
use landfall_core::tree::TreeError;

use super::lanes::{FaultError, FaultLanes};
use crate::keyed::here::{Here, HereReader};

/// Fetches every node and chunk of trees.
pub(super) fn fetch_whole(lanes: &FaultLanes, here: &Here, trees: Vec<TreePair>) -> Result<(), FaultError> {
    let mut walk = WholeTrees::new(trees);
    while let Some(need) = read(here, |reader| walk.next(reader))? {
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
        let wants = read(here, |reader| walk.next(reader, lanes.bytes() - began))?;
        if wants.is_empty() {
            return Ok(());
        }
        lanes.fetch_nodes(&wants)?;
    }
}

/// Reads from here; what only looked missing because the disk failed is that failure.
fn read<T>(here: &Here, read: impl FnOnce(&HereReader<'_>) -> Result<T, TreeError>) -> Result<T, FaultError> {
    let reader = here.reader();
    let read = read(&reader);
    reader.check()?;
    read.map_err(FaultError::Tree)
}

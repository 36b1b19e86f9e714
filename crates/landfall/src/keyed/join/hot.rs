//! Owns the fetching of what the sources' readers use most, before the bulk. It has connections of its own: a read that faults meanwhile
//! does not stand behind it.

use landfall_core::join::hot_units;
use landfall_core::transfer::TreePair;
use landfall_core::tree::{ChunkRef, NodeWant, TreeError, get, leaf_of};

use super::lanes::{FaultError, FaultLanes};
use crate::keyed::here::Here;

/// Leaves that are asked for at once.
const LEAVES_AT_ONCE: usize = 64;

/// A key that readers touched, in its trees.
pub(super) struct Touched<'a> {
    pub(super) trees: TreePair,
    pub(super) key: &'a [u8],
}

/// Fetches the leaves that touched keys make hot, and the long values of those keys. Gives how many leaves are hot.
pub(super) fn fetch_hot(lanes: &FaultLanes, here: &Here, touched: &[Touched<'_>]) -> Result<usize, FaultError> {
    let mut leaves = Vec::with_capacity(touched.len());
    for touched in touched {
        leaves.push(leaf_that_covers(lanes, here, touched)?);
    }
    let hot = hot_units(leaves);
    for leaves in hot.chunks(LEAVES_AT_ONCE) {
        lanes.fetch_nodes(leaves)?;
    }
    lanes.fetch_chunks(&long_values(here, touched)?)?;
    Ok(hot.len())
}

/// The leaf that covers a touched key, and the one that did in the old tree.
fn leaf_that_covers(lanes: &FaultLanes, here: &Here, touched: &Touched<'_>) -> Result<NodeWant, FaultError> {
    let reader = here.nodes.reader();
    let id = loop {
        match leaf_of(&reader, &touched.trees.target, touched.key) {
            Ok(id) => break id,
            Err(TreeError::Missing(wants)) => {
                reader.check()?;
                lanes.fetch_nodes(&wants)?;
            }
            Err(error) => return Err(FaultError::Tree(error)),
        }
    };
    let base = touched.trees.base.and_then(|base| leaf_of(&reader, &base, touched.key).ok());
    Ok(NodeWant { id, base })
}

/// The long values of touched keys whose leaves are here, that are not.
fn long_values(here: &Here, touched: &[Touched<'_>]) -> Result<Vec<ChunkRef>, FaultError> {
    let mut wants: Vec<ChunkRef> = Vec::new();
    for Touched { trees, key } in touched {
        // A leaf that is not hot need not be here; one that is malformed, or cannot be read, is reported by whoever reads it.
        let Ok(Some(value)) = get(&*here.nodes, &trees.target, key) else { continue };
        let Some(chunk) = value.chunk else { continue };
        if !here.store.contains(chunk.id)? && !wants.iter().any(|want| want.id == chunk.id) {
            wants.push(chunk);
        }
    }
    Ok(wants)
}

//! Owns what a joiner fetches before it serves: vital sections whole, and of the others the upper levels. It runs on the lanes that do not wait.

use landfall_core::transfer::TreePair;
use landfall_core::tree::{ChunkRef, Leaf, NewLeaves, NodeWant, TreeError};

use super::lanes::{FaultError, FaultLanes};
use crate::keyed::here::Here;

/// Inner nodes that are fetched before a joiner serves, in bytes over all sections; the rest comes with the bulk, or as reads need it.
const UPPER_LEVELS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Leaves that are fetched at once.
const LEAVES_MAX: usize = 256;

/// Fetches every node and chunk of a tree.
pub(super) fn fetch_whole(lanes: &FaultLanes, here: &Here, trees: &TreePair) -> Result<(), FaultError> {
    let mut walk = NewLeaves::new(trees.base, trees.target);
    loop {
        let leaves = match walk.next(&*here.nodes, LEAVES_MAX) {
            Ok(leaves) if leaves.is_empty() => return Ok(()),
            Ok(leaves) => leaves,
            Err(TreeError::Missing(wants)) => {
                lanes.fetch_nodes(&wants)?;
                continue;
            }
            Err(error) => return Err(FaultError::Tree(error)),
        };
        let wants: Vec<NodeWant> = leaves.iter().map(|leaf| NodeWant { id: leaf.id, base: leaf.base }).collect();
        lanes.fetch_nodes(&wants)?;
        for leaf in leaves.iter().filter(|leaf| leaf.chunk_refs > 0) {
            lanes.fetch_chunks(&chunks_of(here, &NodeWant { id: leaf.id, base: None })?)?;
        }
    }
}

fn chunks_of(here: &Here, leaf: &NodeWant) -> Result<Vec<ChunkRef>, FaultError> {
    let bytes = here.nodes.get(leaf.id)?.ok_or_else(|| FaultError::Tree(TreeError::Missing(vec![*leaf])))?;
    let leaf = Leaf::parse(&bytes).map_err(FaultError::Tree)?;
    Ok(leaf.entries().filter_map(|(_, _, value)| value.chunk).collect())
}

/// Fetches the inner nodes of trees, as far as the limit goes.
pub(super) fn fetch_upper_levels(lanes: &FaultLanes, here: &Here, trees: &[TreePair]) -> Result<(), FaultError> {
    let began = lanes.bytes();
    for trees in trees {
        let mut walk = NewLeaves::new(trees.base, trees.target);
        loop {
            if lanes.bytes() - began >= UPPER_LEVELS_BYTES_MAX {
                return Ok(());
            }
            match walk.next(&*here.nodes, LEAVES_MAX) {
                Ok(leaves) if leaves.is_empty() => break,
                Ok(_) => {}
                Err(TreeError::Missing(wants)) => lanes.fetch_nodes(&wants)?,
                Err(error) => return Err(FaultError::Tree(error)),
            }
        }
    }
    Ok(())
}

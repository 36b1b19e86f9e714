//! Owns the questions what of a tree is not here yet.

use bytes::Bytes;
use landfall_core::keyed::Way;
use landfall_core::snapshot::{Manifest, SectionPriority};
use landfall_core::tree::{ChunkRef, Leaf, NewLeaf, NewLeaves, NodeWant, Nodes, Root, TreeError};
use landfall_store::Store;

use super::deed::DATA;
use super::here::{Here, Trouble, WayTo};
use super::line::Need;
use super::member::violation;

/// Leaves that are listed at once.
const LEAVES_MAX: usize = 256;

/// What is missing of the sections without which nothing can be served.
pub(super) fn vital(here: &Here<'_>, store: Option<&Store>, manifest: &Manifest) -> Result<Need, Trouble> {
    first_need(manifest, SectionPriority::Vital, |root| whole_tree(here, store, root))
}

/// What is missing of the inner nodes of the other sections.
pub(super) fn upper(here: &Here<'_>, manifest: &Manifest) -> Result<Need, Trouble> {
    first_need(manifest, SectionPriority::Bulk, |root| inner_nodes(here, root))
}

fn first_need(
    manifest: &Manifest,
    priority: SectionPriority,
    mut need: impl FnMut(&Root) -> Result<Need, Trouble>,
) -> Result<Need, Trouble> {
    for section in manifest.sections.iter().filter(|section| section.priority == priority) {
        match need(&section.root)? {
            Need::Nothing => {}
            need => return Ok(need),
        }
    }
    Ok(Need::Nothing)
}

/// What is missing of a whole tree and its long values.
pub(super) fn whole_tree(here: &Here<'_>, store: Option<&Store>, root: &Root) -> Result<Need, Trouble> {
    let mut walk = NewLeaves::new(None, *root);
    let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
    loop {
        match walk.next(here, LEAVES_MAX) {
            Ok(leaves) if leaves.is_empty() => break,
            Ok(leaves) => {
                for leaf in &leaves {
                    look_at_leaf(here, store, leaf, &mut nodes, &mut chunks)?;
                }
            }
            Err(TreeError::Missing(wants)) => {
                nodes.extend(wants);
                break;
            }
            Err(error) => return Err(violation(&error).into()),
        }
    }
    Ok(if !nodes.is_empty() {
        Need::Nodes(nodes)
    } else if !chunks.is_empty() {
        Need::Chunks(chunks)
    } else {
        Need::Nothing
    })
}

fn look_at_leaf(
    here: &Here<'_>,
    store: Option<&Store>,
    leaf: &NewLeaf,
    nodes: &mut Vec<NodeWant>,
    chunks: &mut Vec<ChunkRef>,
) -> Result<(), Trouble> {
    let Some(bytes) = here.node(leaf.id) else {
        nodes.push(NodeWant { id: leaf.id, base: leaf.base });
        return Ok(());
    };
    let leaf = Leaf::parse(&bytes).map_err(|error| violation(&error))?;
    for chunk in leaf.entries().filter_map(|(_, _, value)| value.chunk) {
        if !store.map_or(Ok(true), |store| store.contains(chunk.id))? {
            chunks.push(chunk);
        }
    }
    Ok(())
}

fn inner_nodes(here: &Here<'_>, root: &Root) -> Result<Need, Trouble> {
    let mut walk = NewLeaves::new(None, *root);
    loop {
        match walk.next(here, LEAVES_MAX) {
            Ok(leaves) if leaves.is_empty() => return Ok(Need::Nothing),
            Ok(_) => {}
            Err(TreeError::Missing(wants)) => return Ok(Need::Nodes(wants)),
            Err(error) => return Err(violation(&error).into()),
        }
    }
}

/// What is missing of a few units that readers use most.
pub(super) fn hot(
    here: &Here<'_>,
    store: Option<&Store>,
    manifest: &Manifest,
    keys: &[Bytes],
) -> Result<Need, Trouble> {
    let Some(section) = manifest.sections.get(usize::from(DATA.0)) else { return Ok(Need::Nothing) };
    for key in keys {
        let way = WayTo::find(here, &section.root, key);
        let has_value = match way.value {
            Some(value) => store.map_or(Ok(true), |store| store.contains(value))?,
            None => way.held == way.nodes.len(),
        };
        if !has_value {
            return Ok(Need::Path(Way { root: section.root, key: key.clone() }));
        }
    }
    Ok(Need::Nothing)
}

//! Owns the questions what of a snapshot is not here yet, as the core's walks answer them.

use bytes::Bytes;
use landfall_core::ChunkId;
use landfall_core::join::{Course, Holdings, Need as CoreNeed, UpperLevels, WholeTrees};
use landfall_core::keyed::{Sections, Way};
use landfall_core::snapshot::Manifest;
use landfall_core::transfer::TreePair;
use landfall_core::tree::{Nodes, Root, TreeError};
use landfall_store::{Store, StoreError};

use super::deed::DATA;
use super::here::{Here, WayTo};
use super::line::Need;
use super::member::violation;
use crate::trouble::Trouble;

/// What is missing of the sections without which nothing can be served.
pub(super) fn vital(
    here: &Here<'_>,
    store: Option<&Store>,
    manifest: &Manifest,
    wanted: &Sections,
) -> Result<Need, Trouble> {
    whole_trees(here, store, course(manifest, wanted).vital)
}

/// What is missing of the inner nodes of the other sections.
pub(super) fn upper(here: &Here<'_>, manifest: &Manifest, wanted: &Sections) -> Result<Need, Trouble> {
    let wants = UpperLevels::new(course(manifest, wanted).bulk).next(here, 0);
    let wants = wants.map_err(|error| broken_tree(here, &error))?;
    Ok(if wants.is_empty() { Need::Nothing } else { Need::Nodes(wants) })
}

/// What is missing of a whole tree and its long values.
pub(super) fn whole_tree(here: &Here<'_>, store: Option<&Store>, root: &Root) -> Result<Need, Trouble> {
    whole_trees(here, store, vec![TreePair { base: None, target: *root }])
}

/// The order is the core's; the sections are walked anew for each question.
fn course(manifest: &Manifest, wanted: &Sections) -> Course {
    Course::new(manifest, wanted, |_| None)
}

fn whole_trees(here: &Here<'_>, store: Option<&Store>, trees: Vec<TreePair>) -> Result<Need, Trouble> {
    let held = Held { here, store, failure: std::cell::RefCell::new(None) };
    let need = WholeTrees::new(trees).next(&held);
    if let Some(failure) = held.failure.into_inner() {
        return Err(failure.into());
    }
    Ok(match need.map_err(|error| broken_tree(here, &error))? {
        None => Need::Nothing,
        Some(CoreNeed::Nodes(wants)) => Need::Nodes(wants),
        Some(CoreNeed::Chunks(wants)) => Need::Chunks(wants),
    })
}

/// A tree that cannot be walked: the disk failed, or a published tree is broken, which none ever is.
fn broken_tree(here: &Here<'_>, error: &TreeError) -> Trouble {
    here.failed().err().unwrap_or_else(|| violation(error).into())
}

/// What a member has, as the core asks for it.
struct Held<'a> {
    here: &'a Here<'a>,
    store: Option<&'a Store>,
    failure: std::cell::RefCell<Option<StoreError>>,
}

impl Nodes for Held<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        self.here.node(id)
    }
}

impl Holdings for Held<'_> {
    fn has_chunk(&self, id: ChunkId) -> bool {
        self.store.is_none_or(|store| {
            store.contains(id).unwrap_or_else(|failure| {
                self.failure.replace(Some(failure));
                false
            })
        })
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

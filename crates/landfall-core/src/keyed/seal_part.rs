//! Owns the parts of a seal that can be merged apart, by as many threads as there are, in any order: the changes that fall below one node of
//! level 1 each.
//!
//! It never touches the seal: who merges it takes what became of its parts, in their order.

use std::ops::Bound;
use std::sync::Arc;

use super::SectionId;
use super::overlay::Overlay;
use super::seal::{SealSink, as_tree_value};
use crate::tree::{EditedUnit, Nodes, Root, Salt, TreeError, Unit, units};

/// Changes of a seal that can be merged apart from all others.
#[derive(Debug)]
pub struct SealPart {
    overlay: Arc<Overlay>,
    section: SectionId,
    salt: Salt,
    unit: Unit,
    /// Nothing if it is the first unit that changes.
    start: Bound<bytes::Bytes>,
}

/// A part that was merged.
#[derive(Debug)]
pub struct MergedPart {
    pub(super) section: SectionId,
    pub(super) entries: u64,
    /// Nothing if it cannot be merged apart from the next.
    pub(super) unit: Option<EditedUnit>,
}

/// The parts of a section, in key order.
pub(super) fn parts(
    overlay: &Arc<Overlay>,
    section: SectionId,
    salt: Salt,
    root: &Root,
    nodes: &dyn Nodes,
) -> Result<Vec<SealPart>, TreeError> {
    let layer = overlay.layer(section);
    let mut next_edit = |from: &[u8]| Some(layer.entries(Bound::Included(from), Bound::Unbounded).next()?.0.clone());
    let mut start = Bound::Unbounded;
    let part = |unit: Unit| {
        let end = unit.end_key().cloned().map_or(Bound::Unbounded, Bound::Included);
        let start = std::mem::replace(&mut start, end);
        SealPart { overlay: Arc::clone(overlay), section, salt, unit, start }
    };
    Ok(units(nodes, root, &mut next_edit)?.into_iter().map(part).collect())
}

impl SealPart {
    /// Merges it.
    ///
    /// # Errors
    /// [`TreeError::Missing`]: call again once the nodes are here. After any other error the seal is to be abandoned.
    pub fn merge(&self, nodes: &dyn Nodes, sink: &mut impl SealSink) -> Result<MergedPart, TreeError> {
        let mut editor = self.unit.editor(nodes, self.salt)?;
        let mut entries = 0;
        let start = self.start.as_ref().map(|key| &key[..]);
        let end = self.unit.end_key().map_or(Bound::Unbounded, |end_key| Bound::Excluded(&end_key[..]));
        for (key, entry) in self.overlay.layer(self.section).entries(start, end) {
            let value = entry.value.as_ref().map(|value| as_tree_value(value, sink));
            editor.apply(nodes, key, value.as_ref(), sink)?;
            entries += 1;
        }
        Ok(MergedPart { section: self.section, entries, unit: editor.finish(nodes, sink)? })
    }
}

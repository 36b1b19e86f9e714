//! Owns the answer to a joiner's question: which snapshot, on which base, at what cost. The choice itself is the core's.

use landfall_core::ChunkId;
use landfall_core::join::{TOUCHES_MAX, Touch};
use landfall_core::keyed::Sections;
use landfall_core::offer::{BaseFacts, BaseKnown, LinkFacts, OfferFacts, plans};
use landfall_core::snapshot::{Section, SectionPriority};
use landfall_core::tree::{NewLeaves, Root, TreeError};
use landfall_core::wire::{Ask, Lease, Offer, Refusal, RefusalReason, TouchedKey};

use super::state::{Content, ServedState};
use crate::history::Held;

/// Snapshots of a joiner that are looked at.
const BASES_MAX: usize = 8;
/// Leaves that are looked at to estimate a difference; beyond, it counts as everything.
const ESTIMATE_LEAVES_MAX: usize = 100_000;

/// Answers `ask`, without the lease and the other members that hold the snapshot.
pub(crate) fn offer(state: &ServedState, ask: &Ask) -> Result<(std::sync::Arc<Held>, Offer), Refusal> {
    let held = wanted_snapshot(state, ask)?;
    let sections = sections_to_send(ask, &held);
    let bases = ask.snapshots_held.iter().take(BASES_MAX).filter_map(|id| ChunkId::from_slice(id));
    let facts = OfferFacts {
        state_bytes: sections.iter().map(|section| section.root.payload_bytes).sum(),
        tree_levels: sections.iter().map(|section| u32::from(section.root.level)).max().unwrap_or(0),
        bases: bases
            .map(|base| BaseFacts { snapshot: base, known: what_is_known(state, &held, &sections, base) })
            .collect(),
        link: LinkFacts::default(),
    };
    let plan = plans(&facts)[0];
    let offer = Offer {
        manifest: held.manifest_bytes.clone(),
        head: held.head.clone(),
        base: plan.base.map(ChunkId::to_bytes),
        strategy: plan.strategy as u32,
        expected_bytes: plan.expected_bytes,
        lease: None::<Lease>,
        members: Vec::new(),
        volatile: matches!(state.content, Content::Files(_)),
        touches: touches(state, ask),
        sections: held.sections.to_names(),
    };
    Ok((held, offer))
}

/// The sections that the joiner wants, as far as they are held here. Vital ones come with any others.
fn sections_to_send<'a>(ask: &Ask, held: &'a Held) -> Vec<&'a Section> {
    let wanted = Sections::of_names(&ask.sections);
    let is_wanted = |section: &&Section| section.priority == SectionPriority::Vital || wanted.has(&section.name);
    held.manifest.sections.iter().filter(is_wanted).filter(|section| held.sections.has(&section.name)).collect()
}

fn touches(state: &ServedState, ask: &Ask) -> Vec<TouchedKey> {
    let touches = state.touched.newest((ask.touches_max as usize).min(TOUCHES_MAX));
    touches.into_iter().map(|Touch { section, key }| TouchedKey { section, key }).collect()
}

fn wanted_snapshot(state: &ServedState, ask: &Ask) -> Result<std::sync::Arc<Held>, Refusal> {
    let name = &state.name;
    let none = |message: String| Refusal::new(RefusalReason::NoSnapshot, message);
    match &ask.snapshot_wanted {
        None => state.newest_held().ok_or_else(|| none(format!("state '{name}' has no snapshot yet: try again soon"))),
        Some(wanted) => ChunkId::from_slice(wanted)
            .and_then(|id| state.find(id))
            .ok_or_else(|| none(format!("this member does not hold the wanted snapshot of '{name}'"))),
    }
}

fn what_is_known(state: &ServedState, held: &Held, sections: &[&Section], base: ChunkId) -> BaseKnown {
    if base == held.id {
        return BaseKnown::Newest;
    }
    let Some(base) = state.find(base) else { return BaseKnown::Nothing };
    let all_bytes = sections.iter().map(|section| section.root.payload_bytes).sum();
    let changed_bytes = changed_bytes(state, &base, sections).unwrap_or(all_bytes);
    match state.content {
        Content::Packs => BaseKnown::TreeAndChunks { changed_bytes },
        Content::Files(_) => BaseKnown::Tree { changed_bytes },
    }
}

/// Bytes below the leaves in which two snapshots differ: what a patch or a comparison has to look at.
fn changed_bytes(state: &ServedState, base: &Held, sections: &[&Section]) -> Result<u64, TreeError> {
    let mut bytes = 0;
    for section in sections {
        let old = base.manifest.sections.iter().find(|old| old.name == section.name);
        bytes += changed_bytes_of_tree(state, old.map(|old| old.root), section.root)?;
    }
    Ok(bytes)
}

fn changed_bytes_of_tree(state: &ServedState, base: Option<Root>, target: Root) -> Result<u64, TreeError> {
    let mut walk = NewLeaves::new(base, target);
    let (mut bytes, mut leaves) = (0, 0);
    loop {
        let found = walk.next(&*state.nodes, 1024)?;
        if found.is_empty() {
            return Ok(bytes);
        }
        leaves += found.len();
        bytes += found.iter().map(|leaf| leaf.payload_bytes).sum::<u64>();
        if leaves > ESTIMATE_LEAVES_MAX {
            return Ok(target.payload_bytes);
        }
    }
}

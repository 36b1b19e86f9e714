//! Owns a state that is served here: its snapshots, its tree nodes, and where its chunks are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use landfall_core::ChunkId;
use landfall_core::snapshot::StateName;
use landfall_core::tree::Root;
use landfall_store::{Store, StoreError};

use super::lease::Leases;
use super::spare_cores::SpareCores;
use super::touched::Touched;
use crate::clock::{Clock, wall_seconds};
use crate::content::FilesInPlace;
use crate::history::{self, Extent, Held};
use crate::nodes::NodeCache;

/// Older snapshots that stay held, so that whoever has one gets a patch.
const HELD_MAX: usize = 8;
/// An older snapshot that no transfer needs is let go after this long.
const HELD_SECONDS_MAX: u64 = 24 * 60 * 60;

/// Where the chunks of a state are.
pub(crate) enum Content {
    /// In packs: pinned, whatever happens to the files.
    Packs,
    /// In the files: held as long as they do not change.
    Files(FilesInPlace),
}

/// Did publishing a snapshot let an older one go, whose chunks are needed no more?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetGo {
    Nothing,
    Some,
}

/// A state that other members can fetch from here.
pub(crate) struct ServedState {
    pub(crate) name: StateName,
    pub(crate) store: Arc<Store>,
    pub(crate) nodes: Arc<NodeCache>,
    pub(crate) content: Content,
    pub(crate) leases: Leases,
    pub(super) spare_cores: SpareCores,
    pub(crate) touched: Touched,
    held: RwLock<Vec<Arc<Held>>>,
    /// One change of the record of held snapshots at a time.
    saving: Mutex<()>,
}

impl ServedState {
    pub(crate) fn new(name: StateName, store: Arc<Store>, content: Content, held: Vec<Held>) -> Self {
        let nodes = NodeCache::new(store.clone());
        Self::with_nodes(name, store, Arc::new(nodes), content, held)
    }

    /// A state whose nodes others read too, through the same cache.
    pub(crate) fn with_nodes(
        name: StateName,
        store: Arc<Store>,
        nodes: Arc<NodeCache>,
        content: Content,
        held: Vec<Held>,
    ) -> Self {
        let held = RwLock::new(held.into_iter().map(Arc::new).collect());
        Self {
            name,
            store,
            nodes,
            content,
            leases: Leases::default(),
            spare_cores: SpareCores::new(),
            touched: Touched::default(),
            held,
            saving: Mutex::new(()),
        }
    }

    /// The snapshots held here, oldest first.
    pub(crate) fn held(&self) -> Vec<Arc<Held>> {
        self.held.read().expect("no panic under the lock").clone()
    }

    /// The newest snapshot of which everything is here.
    pub(crate) fn newest(&self) -> Option<Arc<Held>> {
        let held = self.held.read().expect("no panic under the lock");
        held.iter().rev().find(|held| held.extent == Extent::Whole).cloned()
    }

    /// The newest snapshot of which everything is here that this member holds at all.
    pub(crate) fn newest_held(&self) -> Option<Arc<Held>> {
        let held = self.held.read().expect("no panic under the lock");
        held.iter().rev().find(|held| held.extent != Extent::Filling).cloned()
    }

    /// The newest snapshot of which all of a section is here.
    pub(crate) fn newest_with(&self, section: &StateName) -> Option<Arc<Held>> {
        let held = self.held.read().expect("no panic under the lock");
        held.iter().rev().find(|held| held.extent != Extent::Filling && held.sections.has(section)).cloned()
    }

    pub(crate) fn find(&self, id: ChunkId) -> Option<Arc<Held>> {
        self.held.read().expect("no panic under the lock").iter().find(|held| held.id == id).cloned()
    }

    /// The root of a section of a snapshot that is held here.
    pub(crate) fn find_root(&self, id: ChunkId) -> Option<Root> {
        let held = self.held.read().expect("no panic under the lock");
        let mut sections = held.iter().rev().flat_map(|held| &held.manifest.sections);
        sections.find(|section| section.root.id == id).map(|section| section.root)
    }

    /// Makes a snapshot the newest. Its nodes and chunks, as far as they are here, must be durable. Older ones that nobody needs are let
    /// go; so is one that was being filled: its place is taken.
    pub(crate) fn publish(&self, newest: Held, clock: &Clock) -> Result<LetGo, StoreError> {
        let _one_at_a_time = self.saving.lock().expect("no panic under the lock");
        let mut held: Vec<Held> = self.held().iter().map(|held| (**held).clone()).collect();
        held.retain(|held| held.id != newest.id && held.extent != Extent::Filling);
        held.push(newest);
        let before = held.len();
        self.let_go(&mut held, clock);
        let let_go = if held.len() < before { LetGo::Some } else { LetGo::Nothing };
        history::save(&self.store, &held)?;
        *self.held.write().expect("no panic under the lock") = held.into_iter().map(Arc::new).collect();
        Ok(let_go)
    }

    /// Makes a snapshot the only one that is held, because others are wrong. All of it must be here and durable.
    pub(crate) fn publish_alone(&self, only: Held) -> Result<(), StoreError> {
        let _one_at_a_time = self.saving.lock().expect("no panic under the lock");
        history::save(&self.store, std::slice::from_ref(&only))?;
        *self.held.write().expect("no panic under the lock") = vec![Arc::new(only)];
        Ok(())
    }

    fn let_go(&self, held: &mut Vec<Held>, clock: &Clock) {
        let now = wall_seconds();
        let newest = held.len() - 1;
        let mut at = 0;
        held.retain(|snapshot| {
            let old = now.saturating_sub(snapshot.since) > HELD_SECONDS_MAX || at + HELD_MAX < newest + 1;
            let keep = at == newest || !old || self.leases.hold(snapshot.id, clock.now());
            at += 1;
            keep
        });
    }
}

/// All states that one member serves, by name.
pub(crate) type ServedStates = BTreeMap<StateName, Arc<ServedState>>;

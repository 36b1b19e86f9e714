//! Owns the putting right of what is damaged here: a node or value of a snapshot that is whole, and that cannot be read, is fetched again
//! from members that hold the state too. It decides nothing about them, and keeps no connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_core::ChunkId;
use landfall_core::keyed::Missing;
use landfall_core::tree::{NodeWant, TreeError};
use landfall_core::wire::Urgency;

use super::join::{FaultLanes, Reach};
use super::{FaultError, Keyed, KeyedError, SealError};
use crate::fetch::greet::{Question, Trust};
use crate::fetch::status::Status;
use landfall_net::Transport;

/// Whom to ask for what is damaged here.
#[derive(Clone)]
pub(super) struct Menders {
    pub(super) sources: Vec<String>,
    pub(super) reach: Reach,
}

impl Keyed {
    /// Names members that hold the state too: what turns out to be damaged here is fetched again from them. A join that ends well names its
    /// own sources. Later names take the place of earlier ones, and none outlives the process.
    ///
    /// A read of what is damaged waits for them, half a minute at most if none can be reached.
    pub fn set_sources(&self, sources: Vec<String>, transport: Arc<dyn Transport>, trust: Arc<dyn Trust>) {
        self.mend_with(Menders { sources, reach: Reach { transport, trust } });
    }

    pub(super) fn mend_with(&self, menders: Menders) {
        *self.menders.write().expect("no panic under the lock") = Some(menders);
    }

    /// Fetches again what is damaged. It is durable when this returns: whoever reads it next need not ask again.
    pub(super) fn mend(&self, missing: &Missing) -> Result<(), KeyedError> {
        let damaged = KeyedError::of_missing(missing);
        let menders = self.menders.read().expect("no panic under the lock").clone();
        let Some(Menders { sources, reach }) = menders else { return Err(damaged) };
        // Any snapshot will do: nodes and values are asked for by their ids.
        let question = Question { urgency: Urgency::Reads, ..Question::for_snapshot(self.name().clone(), None) };
        let lanes = FaultLanes::new(&reach, question, Vec::new(), self.here.clone(), Arc::<Status>::default());
        sources.iter().for_each(|source| lanes.add_source(source));
        let mended = lanes.fetch_nodes(&missing.nodes).and_then(|()| lanes.fetch_chunks(&missing.chunks));
        lanes.end();
        match mended {
            Ok(()) => {
                tracing::warn!(state = %self.name(), %damaged, "fetched again what was damaged here");
                Ok(self.here.store.sync()?)
            }
            Err(FaultError::Store(error)) => Err(error.into()),
            Err(reason) => Err(KeyedError::NotMended { damaged: Box::new(damaged), reason }),
        }
    }
}

/// Brings what a seal misses of the trees that it merges into. Whoever only writes never reads what is damaged: without this no seal would
/// succeed again.
pub(super) struct Mending<'a> {
    keyed: &'a Keyed,
    /// How often the state had been re-based when it was frozen.
    rebased_before: u64,
    /// How often each node was fetched.
    tries: BTreeMap<ChunkId, u32>,
}

impl<'a> Mending<'a> {
    pub(super) fn new(keyed: &'a Keyed, rebased_before: u64) -> Self {
        Self { keyed, rebased_before, tries: BTreeMap::new() }
    }

    /// Takes a step, which keeps its place where something is missing, until nothing is.
    pub(super) fn until_here<T>(&mut self, mut step: impl FnMut() -> Result<T, SealError>) -> Result<T, SealError> {
        loop {
            match step() {
                Err(SealError::Tree(TreeError::Missing(nodes))) => self.fetch(nodes)?,
                ended => return ended,
            }
        }
    }

    fn fetch(&mut self, nodes: Vec<NodeWant>) -> Result<(), SealError> {
        // Another snapshot has taken the place of what is merged into: that may have been let go, and nobody need have it.
        if *self.keyed.lock_base() != self.rebased_before {
            return Err(SealError::Outdated);
        }
        for node in &nodes {
            let tries = self.tries.entry(node.id).or_default();
            *tries += 1;
            if *tries > TRIES_MAX {
                return Err(TreeError::Missing(nodes).into());
            }
        }
        self.keyed.fetch_now(&Missing { nodes, ..Missing::default() }).map_err(|error| match error {
            KeyedError::Store(error) => error.into(),
            error => SealError::NotMended(Box::new(error)),
        })
    }
}

/// A seal fetches a node no more often than this: a disk that loses it each time keeps no snapshot either.
const TRIES_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use landfall_core::Domain;

    use super::super::alone::open;
    use super::*;

    #[test]
    fn a_node_that_never_stays_is_not_fetched_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = open(directory.path());
        let node = NodeWant { id: ChunkId::of(Domain::Node, b"lost again and again"), base: None };
        let mut mending = Mending { tries: BTreeMap::from([(node.id, TRIES_MAX)]), ..Mending::new(&keyed, 0) };
        let ended = mending.until_here(|| Err::<(), _>(TreeError::Missing(vec![node]).into()));
        assert!(matches!(ended, Err(SealError::Tree(TreeError::Missing(nodes))) if nodes == [node]));
    }

    #[test]
    fn nothing_is_fetched_for_a_seal_that_was_overtaken() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = open(directory.path());
        let mut mending = Mending::new(&keyed, 0);
        *keyed.lock_base() += 1;
        let ended = mending.until_here(|| Err::<(), _>(TreeError::Missing(Vec::new()).into()));
        assert!(matches!(ended, Err(SealError::Outdated)));
        assert!(mending.tries.is_empty());
    }
}

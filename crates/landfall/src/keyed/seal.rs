//! Owns the carrying out of a seal: on a thread of its own, in slices, while writers go on; then durable, then the newest snapshot.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use landfall_core::ChunkId;
use landfall_core::keyed::{Sealed, Sealing, Sections};
use landfall_core::snapshot::{Manifest, Position, StateRoot};

use super::frozen::{Frozen, Pending, Work, thread_named};
use super::mend::Mending;
use super::merging::{Kept, Merged, merge};
use super::{Extent, Keyed, SealError, SealRefused};
use crate::background::give_way;
use crate::clock::wall_seconds;
use crate::history::Held;
use crate::source::LetGo;

/// What a seal made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealReport {
    /// The snapshot.
    pub snapshot: ChunkId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The hash of its content: equal on every member that sealed at the same position.
    pub state_root: StateRoot,
    /// Changes that were merged.
    pub entries: u64,
    /// Nodes that were made.
    pub nodes: u64,
    /// Their bytes before they became patches: what was read, merged and hashed.
    pub node_bytes: u64,
    /// Time from the freeze to the durable snapshot.
    pub elapsed: Duration,
}

/// A seal under way. It goes on whether or not anybody waits.
#[derive(Debug)]
pub struct SealTicket(Pending<Result<SealReport, SealError>>);

impl SealTicket {
    /// The position at which the state was frozen.
    pub fn position(&self) -> Position {
        self.0.position
    }

    /// Waits until the snapshot is durable and served.
    pub fn wait(self) -> Result<SealReport, SealError> {
        self.0.wait()
    }
}

impl Keyed {
    /// Freezes the state at its present position and makes a snapshot of it, on a thread.
    ///
    /// # Errors
    /// [`SealRefused`] if another seal runs, the state stands on a snapshot that is not all here, or there is no thread to be had.
    pub fn seal(self: &Arc<Self>) -> Result<SealTicket, SealRefused> {
        self.seal_on(thread_named("seal"))
    }

    /// Seals on the thread that `spawn` starts.
    fn seal_on(self: &Arc<Self>, spawn: impl FnOnce(Work) -> io::Result<()>) -> Result<SealTicket, SealRefused> {
        let base = self.lock_base();
        if self.is_filling() {
            return Err(SealRefused::Filling);
        }
        Ok(SealTicket(self.freeze(base, spawn, seal_frozen)?))
    }
}

fn seal_frozen(frozen: Frozen, says: &SyncSender<Result<SealReport, SealError>>) {
    // Writers and readers go first.
    give_way();
    let Frozen { keyed, sealing, rebased_before } = frozen;
    let (ended, merged) = Run { keyed: &keyed, rebased_before, began: Instant::now() }.seal(sealing);
    // The state goes before the waiting thread does: who waited may open its directory again.
    drop(keyed);
    // Nobody may be waiting.
    drop(says.send(ended));
    // Many small pieces of memory: nobody need wait until they are given back.
    drop(merged);
}

/// One seal on its thread.
struct Run<'a> {
    keyed: &'a Arc<Keyed>,
    rebased_before: u64,
    began: Instant,
}

impl Run<'_> {
    /// Says how the seal ended, and gives back what it merged.
    fn seal(&self, mut sealing: Sealing) -> (Result<SealReport, SealError>, Option<Sealing>) {
        match self.make_snapshot(&mut sealing) {
            Ok((report, let_go)) => {
                self.keyed.make_room(let_go);
                (Ok(report), Some(sealing))
            }
            Err(error) => {
                let abandoned = self.keyed.write_state().abandon_seal(sealing);
                tracing::debug!(is_outdated = abandoned.is_err(), "a seal failed; its changes are where they belong");
                (Err(error), None)
            }
        }
    }

    fn make_snapshot(&self, sealing: &mut Sealing) -> Result<(SealReport, LetGo), SealError> {
        let here = &self.keyed.here;
        let writing = here.store.begin_session();
        let Merged { sealed, kept } =
            merge(here, &writing, sealing, &mut Mending::new(self.keyed, self.rebased_before))?;
        let held = self.make_durable(&sealed)?;
        let report = self.report(&held, sealing.entries_done(), &kept);
        let let_go = self.publish(&sealed, held)?;
        // From now on readers go by the new nodes; the memory of the old ones is there for the next seal.
        here.nodes.outlive(&kept.replaced);
        Ok((SealReport { elapsed: self.began.elapsed(), ..report }, let_go))
    }

    fn make_durable(&self, sealed: &Sealed) -> Result<Held, SealError> {
        let store = &self.keyed.here.store;
        let chunk = sealed.manifest.to_chunk();
        store.put(&chunk)?;
        store.sync()?;
        Ok(Held {
            id: chunk.id(),
            manifest: sealed.manifest.clone(),
            manifest_bytes: chunk.into_bytes(),
            head: None,
            since: wall_seconds(),
            extent: Extent::Whole,
            sections: Sections::All,
        })
    }

    fn report(&self, held: &Held, entries: u64, kept: &Kept) -> SealReport {
        let (snapshot, manifest) = (held.id, held.manifest.clone());
        let state_root = manifest.state_root();
        let Kept { nodes, node_bytes, .. } = *kept;
        SealReport { snapshot, manifest, state_root, entries, nodes, node_bytes, elapsed: Duration::ZERO }
    }

    /// Makes the snapshot the newest, and the base of the state, unless the state was re-based meanwhile.
    fn publish(&self, sealed: &Sealed, held: Held) -> Result<LetGo, SealError> {
        let base = self.keyed.lock_base();
        if *base != self.rebased_before {
            return Err(SealError::Outdated);
        }
        let let_go = self.keyed.served.publish(held, &self.keyed.clock)?;
        self.keyed.write_state().finish_seal(sealed).map_err(|_| SealError::Outdated)?;
        Ok(let_go)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use landfall_store::vfs::faulty::FaultyVfs;

    use super::super::SectionId;
    use super::super::alone::{assert_read, keys, open, open_after_power_cut, open_on, put};
    use super::*;

    const KEY: Bytes = Bytes::from_static(b"key");

    #[test]
    fn a_seal_without_a_thread_is_refused_and_its_changes_wait_for_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let state = open(directory.path());
        put(&state, 1, &[KEY], "early");
        let no_thread = |_| Err(io::Error::from(io::ErrorKind::WouldBlock));
        assert_eq!(state.seal_on(no_thread).unwrap_err(), SealRefused::NoThread);
        assert_eq!(state.get(SectionId(0), &KEY).unwrap().as_deref(), Some(&b"early"[..]));
        put(&state, 2, &[KEY], "late");
        let report = state.seal().unwrap().wait().unwrap();
        assert_eq!((report.entries, report.manifest.position.index), (1, 2));
        assert_eq!(state.get(SectionId(0), &KEY).unwrap().as_deref(), Some(&b"late"[..]));
    }

    #[test]
    fn a_seal_that_was_waited_for_outlives_a_power_cut() {
        for seed in 0..8 {
            let disk = FaultyVfs::new(seed);
            let (state, keys) = (open_on(&disk), keys(5000));
            put(&state, 1, &keys, "early");
            state.seal().unwrap().wait().unwrap();
            put(&state, 2, &keys[..2500], "late");
            let report = state.seal().unwrap().wait().unwrap();
            put(&state, 3, &keys, "never sealed");
            let state = open_after_power_cut(&disk, state);
            assert_eq!(state.lost_snapshots(), [], "seed {seed}");
            assert_eq!(state.sealed().unwrap().id, report.snapshot, "seed {seed}");
            assert_read(&state, &keys[..2500], "late");
            assert_read(&state, &keys[2500..], "early");
        }
    }
}

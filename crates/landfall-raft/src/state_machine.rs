//! Owns the state as openraft sees it: entries go to the thread that applies, a snapshot is a reference, installing one adopts what was
//! pulled before.
//!
//! Everything stalls while openraft installs a snapshot, votes too: nothing slow may happen here.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, RaftSnapshotBuilder, StorageIOError};

use crate::apply::Applier;
use crate::arrival::Arrivals;
use crate::ballot::Pending;
use crate::consensus::{Consensus, RaftEntry, RaftLogId, RaftSnapshotMeta, StorageError, StoredMembership, log_id_of};
use crate::owner::Owner;
use crate::reference::Reference;
use crate::seals::{Sealed, Seals};
use crate::service::Service;

type Snapshot = openraft::Snapshot<Consensus>;

/// A service's state under openraft.
pub(crate) struct StateMachine<S: Service> {
    applier: Arc<Owner<Applier<S>>>,
    seals: Arc<Seals>,
    arrivals: Arc<Arrivals>,
}

/// Finds the newest seal when openraft wants a snapshot. It never makes one.
pub(crate) struct SnapshotBuilder {
    seals: Arc<Seals>,
}

impl<S: Service> StateMachine<S> {
    pub(crate) fn new(applier: Arc<Owner<Applier<S>>>, seals: Arc<Seals>, arrivals: Arc<Arrivals>) -> Self {
        Self { applier, seals, arrivals }
    }
}

impl<S: Service> RaftStateMachine<Consensus> for StateMachine<S> {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), StorageError> {
        let applied = self.applier.ask(|applier| applier.applied().borrow().clone()).await.map_err(read_error)?;
        Ok((log_id_of(applied.position), applied.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let replies = vec![(); entries.len()];
        self.applier.ask(|applier| applier.apply(entries)).await.map_err(write_error)?.map_err(write_error)?;
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { seals: self.seals.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Reference>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        reference: Box<Reference>,
    ) -> Result<(), StorageError> {
        let arrivals = self.arrivals.clone();
        let pending = Pending { meta: meta.clone(), reference: (*reference).clone() };
        // openraft has purged the log that led here, and one that hears of a failure stops for good.
        let adopt = move |applier: &mut Applier<S>| {
            if applier.keyed().position() < pending.reference.position() {
                arrivals.adopt_or_newer(&pending)?;
                applier.reload().map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        };
        let adopted = self.applier.ask(adopt).await.map_err(write_error)?;
        adopted.map_err(|reason| StorageIOError::write_snapshot(Some(meta.signature()), AnyError::error(reason)))?;
        self.seals.handle_sealed(Sealed {
            snapshot: reference.snapshot(),
            position: reference.position(),
            log_hash: reference.log_hash(),
            membership: meta.last_membership.clone(),
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.seals.newest().map(|sealed| snapshot_of(&self.seals, &sealed)))
    }
}

impl RaftSnapshotBuilder<Consensus> for SnapshotBuilder {
    /// The newest durable seal, however old: members seal at marks and nowhere else, so that all of them seal the same. Where there was no mark
    /// yet, openraft waits for the first; it is asked to look after each.
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (mut found, mut changes) = (None, self.seals.changes());
        let sealed = changes.wait_for(|_| {
            found = self.seals.newest();
            found.is_some()
        });
        sealed.await.map_err(read_error)?;
        let found = found.ok_or_else(|| read_error(std::io::Error::from(std::io::ErrorKind::NotFound)))?;
        Ok(snapshot_of(&self.seals, &found))
    }
}

fn snapshot_of(seals: &Seals, sealed: &Sealed) -> Snapshot {
    Snapshot { meta: sealed.meta(), snapshot: Box::new(seals.reference(sealed)) }
}

fn read_error(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::read_state_machine(&error).into()
}

fn write_error(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::write_state_machine(&error).into()
}

#[cfg(test)]
mod tests {
    use landfall::core::ChunkId;
    use landfall::core::snapshot::{LogHash, Position};

    use super::*;

    fn sealed(index: u64) -> Sealed {
        Sealed {
            snapshot: ChunkId::from_bytes([index as u8; 32]),
            position: Position { epoch: 1, index },
            log_hash: LogHash::default(),
            membership: StoredMembership::default(),
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_openraft_asks_for_is_the_newest_seal_however_often_it_asks() {
        let seals = Arc::new(Seals::new(1));
        let built = || async { SnapshotBuilder { seals: seals.clone() }.build_snapshot().await.unwrap().meta };
        let first = tokio::join!(built(), async { seals.handle_sealed(sealed(3)) }).0;
        assert_eq!(first, sealed(3).meta(), "it waits for the first one");
        assert_eq!(built().await, first);
        seals.handle_sealed(sealed(7));
        assert_eq!(built().await, sealed(7).meta());
    }
}

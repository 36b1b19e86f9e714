//! openraft's own tests of a storage, on the real log, ballot and state. What is installed is pulled from the other store's member.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use landfall::core::keyed::{ReadError, SectionSchema, Transaction};
use landfall::core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use landfall::member::{Member, ServeConfig};
use landfall::net::PlainTransport;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::apply::{Applier, Patience};
use crate::consensus::{
    Consensus, MemberAddress, MemberId, RaftEntry, RaftLogId, RaftMembership, RaftSnapshotMeta, StorageError,
    StoredMembership, log_id_of,
};
use crate::entry::{Lease, LogTime, Payload};
use crate::gather::{Appended, Waiters};
use crate::log_store::LogStore;
use crate::node::{LOG_KEPT_BYTES_DEFAULT, NodeConfig, Timing};
use crate::open::Parts;
use crate::owner::Owner;
use crate::reference::Reference;
use crate::sealing::Sealing;
use crate::seals::Seals;
use crate::service::Service;
use crate::state_machine::{SnapshotBuilder, StateMachine};
use crate::voted::Voted;

/// A service that does nothing.
pub(crate) struct Silent;

impl Service for Silent {
    type Command = ();
    type Reply = ();

    fn sections(&self) -> Vec<SectionSchema> {
        let name = StateName::new("config").unwrap();
        vec![SectionSchema { name, priority: SectionPriority::Vital, range: KeyRange::default() }]
    }

    fn apply(&self, _: LogTime, (): &(), _: &mut Transaction<'_>) -> Result<(), ReadError> {
        Ok(())
    }
}

/// A member alone.
pub(crate) fn config(directory: &Path) -> NodeConfig {
    NodeConfig {
        member: 1,
        state: StateName::new("suite").unwrap(),
        directory: directory.to_owned(),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        clients: String::new(),
        transport: Arc::new(PlainTransport),
        cache_bytes: 1024 * 1024,
        log_kept_bytes_max: LOG_KEPT_BYTES_DEFAULT,
        timing: Timing::default(),
        back_pressure: None,
    }
}

struct Builder;

/// Members seal at marks, and the tests of openraft know none: here whoever wants a snapshot has one sealed first.
struct SealedWhenAsked {
    machine: StateMachine<Silent>,
    applier: Arc<Owner<Applier<Silent>>>,
    sealing: Sealing,
}

impl RaftStateMachine<Consensus> for SealedWhenAsked {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), StorageError> {
        self.machine.applied_state().await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.applier.ask(|applier| applier.seal()).await.unwrap();
        self.sealing.wait_until_idle().await;
        self.machine.get_snapshot_builder().await
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Reference>, StorageError> {
        self.machine.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        reference: Box<Reference>,
    ) -> Result<(), StorageError> {
        self.machine.install_snapshot(meta, reference).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<openraft::Snapshot<Consensus>>, StorageError> {
        self.machine.get_current_snapshot().await
    }
}

impl StoreBuilder<Consensus, LogStore, SealedWhenAsked, (Member, TempDir)> for Builder {
    async fn build(&self) -> Result<((Member, TempDir), LogStore, SealedWhenAsked), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let parts = Parts::open(&Silent, &config).unwrap();
        let seals = Arc::new(Seals::new(config.member));
        let serving = Member::serve(ServeConfig {
            listen: Some(config.listen),
            keyed: vec![parts.keyed.clone()],
            ..ServeConfig::new(config.transport)
        });
        let serving = serving.unwrap();
        seals.set_address(serving.address().unwrap());
        let (finished, _) = mpsc::unbounded_channel();
        let sealing = Sealing::new(config.member, parts.keyed.clone(), seals.clone(), Handle::current(), finished);
        let appended = Appended::default();
        let waiters = Arc::new(Waiters::new(config.member, appended.clone(), Voted::default()));
        let (keyed, config, silent) = (parts.keyed.clone(), parts.config(), Arc::new(Silent));
        let applier = Applier::new(silent, keyed, config, waiters, sealing.clone(), Patience::default()).unwrap();
        let applier = Arc::new(Owner::start("apply", applier).unwrap());
        let log_store = LogStore::new(parts.log, parts.disk, appended, Voted::default());
        let machine = StateMachine::new(applier.clone(), seals, parts.arrivals);
        Ok(((serving, directory), log_store, SealedWhenAsked { machine, applier, sealing }))
    }
}

#[test]
fn the_storage_passes_the_tests_of_openraft() {
    Suite::test_all(Builder).unwrap();
}

fn entry(index: u64, payload: EntryPayload<Consensus>) -> RaftEntry {
    RaftEntry { log_id: log_id_of(Position { epoch: 1, index }).unwrap(), payload }
}

fn membership(members: &[MemberId]) -> EntryPayload<Consensus> {
    let addresses: BTreeMap<_, _> = members.iter().map(|member| (*member, MemberAddress::default())).collect();
    EntryPayload::Membership(RaftMembership::new(vec![members.iter().copied().collect()], addresses))
}

fn lease(version: u64) -> EntryPayload<Consensus> {
    let lease = Lease { holder: 7, version, keep_from: 1, until: LogTime(100), time: LogTime(1) };
    EntryPayload::Normal(Payload::lease(lease))
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_a_snapshot_passed_over_change_nothing_of_what_the_cluster_knows_of_itself() {
    let (_kept, _, mut state) = Builder.build().await.unwrap();
    let newer = [entry(7, lease(2)), entry(8, membership(&[1, 2]))];
    state.apply(newer).await.unwrap();
    state.apply([entry(3, lease(5)), entry(4, membership(&[1]))]).await.unwrap();
    let applied = state.applier.ask(|applier| applier.applied().borrow().clone()).await.unwrap();
    assert_eq!(applied.membership.voter_ids().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(applied.leases.values().map(|lease| lease.version).collect::<Vec<_>>(), [2]);
}

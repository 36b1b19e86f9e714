//! Owns putting a member together: its ballot, log and state from the disk, raft on top of them, and the door for other members.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use landfall::core::keyed::{Schema, SchemaError, SectionId};
use landfall::core::snapshot::{Position, SectionPriority};
use landfall::keyed::{Keyed, KeyedConfig, KeyedOpenError};
use landfall::member::{Member, ServeConfig, ServeError};
use landfall_store::log::{Log, LogOpenError, LogOptions};
use landfall_store::vfs::RealVfs;
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::answer;
use crate::apply::{Applier, Patience};
use crate::arrival::Arrivals;
use crate::ballot::{Ballot, BallotError};
use crate::barrier::{self, READERS_WAITING_MAX};
use crate::candidacy::Candidacy;
use crate::cluster::Cluster;
use crate::consensus::{MemberAddress, MemberId, Raft};
use crate::gather::{Appended, PROPOSALS_WAITING_MAX, Waiters, gather};
use crate::head::Head;
use crate::healing::Healer;
use crate::identity::{ClusterId, Identity, IdentityError, random};
use crate::log_store::LogStore;
use crate::message::{ENTRIES_MAX, SERVICE, SealedAt};
use crate::network::Network;
use crate::node::{Node, NodeConfig, Timing, release};
use crate::owner::Owner;
use crate::pacing::Pacing;
use crate::quorum::{self, Quorum};
use crate::reserved::{CONFIG_SECTION, Reserved};
use crate::sealing::Sealing;
use crate::seals::{Sealed, Seals};
use crate::service::Service;
use crate::spacing::Spacing;
use crate::state_machine::StateMachine;
use crate::upkeep;
use crate::voted::Voted;

/// Bytes of the newest entries that are kept in memory: followers and the state read what was just appended.
const LOG_CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Why a member could not be opened, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The service must declare other sections.
    #[error("the service's sections: {0}")]
    Sections(String),
    /// The timing makes no sense.
    #[error("the timing: {0}")]
    Timing(String),
    /// The vote cannot be read.
    #[error(transparent)]
    Ballot(#[from] BallotError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] KeyedOpenError),
    /// The state lacks what must be fetched first, and nobody gave it: try again when other members are reachable.
    #[error("a snapshot that this member had begun to install cannot be completed: {0}")]
    Incomplete(String),
    /// The state is gone, or so old that the log does not lead on from it: put the directory back, or take this member out of the cluster and
    /// let it join anew.
    #[error(
        "the state in {directory} stands at {stands}, and the log up to {purged} is gone: put back what the directory held, or remove this \
         member from the cluster and let it join anew, under another id and with an empty directory"
    )]
    StateLost {
        /// Where the state should be.
        directory: PathBuf,
        /// How far it is.
        stands: Position,
        /// What is left of the log begins after this.
        purged: Position,
    },
    /// It cannot listen.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Something of this machine is short: threads, or memory.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// raft does not start on what is here.
    #[error("raft does not start: {0}")]
    Raft(String),
}

impl From<SchemaError> for OpenError {
    fn from(error: SchemaError) -> Self {
        Self::Sections(error.to_string())
    }
}

/// Why a cluster did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// This member belongs to a cluster already: just open it.
    #[error("this member belongs to a cluster already")]
    Already,
    /// The id of the cluster could not be drawn or kept.
    #[error("cannot name the cluster: {0}")]
    Io(#[from] io::Error),
    /// raft stopped.
    #[error("raft stopped: {0}")]
    Stopped(String),
}

/// What is on the disk of a member, opened.
pub(crate) struct Parts {
    pub(crate) keyed: Arc<Keyed>,
    pub(crate) log: Arc<Log>,
    pub(crate) disk: Arc<Owner<Ballot>>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) identity: Arc<Identity>,
    config: SectionId,
}

impl Parts {
    /// Opens what is on the disk. It blocks.
    pub(crate) fn open<S: Service>(service: &S, config: &NodeConfig) -> Result<Self, OpenError> {
        let schema = Schema::new(service.sections())?;
        let section = schema.id(CONFIG_SECTION).filter(|id| schema.section(*id).priority == SectionPriority::Vital);
        let section = section.ok_or_else(|| OpenError::Sections("one must be named 'config' and be vital".into()))?;
        // It comes first because one process at a time has it: whoever else has the directory may be changing its vote.
        let options = LogOptions { cache_bytes_max: LOG_CACHE_BYTES, ..LogOptions::default() };
        let log = Arc::new(Log::open(Arc::new(RealVfs), &config.directory.join("log"), options)?);
        // What the salts of a new state are drawn from. A member that joins gets the cluster's with its first snapshot.
        let mut ballot = Ballot::open(&config.directory.join("raft"), config.member, random()?)?;
        let state = config.directory.join("state");
        let keyed = Keyed::open(KeyedConfig {
            name: config.state.clone(),
            directory: state.clone(),
            schema,
            cache_bytes: config.cache_bytes,
            salt_seed: ballot.facts().salt_seed,
        })?;
        ballot.keep(is_pristine(&log, &keyed))?;
        let arrivals = Arc::new(Arrivals::new(config.member, keyed.clone(), config.transport.clone()));
        complete_install(&mut ballot, &log, &keyed, &arrivals)?;
        check_log_leads_on(&log, &keyed, &state)?;
        let cluster = ballot.facts().cluster.filter(|_| !is_pristine(&log, &keyed));
        let disk = Arc::new(Owner::start("raft-disk", ballot)?);
        let identity = Arc::new(Identity::new(cluster, disk.clone()));
        Ok(Self { keyed, log, disk, arrivals, identity, config: section })
    }

    /// The section in which the cluster keeps what it knows of itself.
    #[cfg(test)]
    pub(crate) fn config(&self) -> SectionId {
        self.config
    }

    /// Whether this directory never belonged to a cluster.
    pub(crate) fn is_pristine(&self) -> bool {
        is_pristine(&self.log, &self.keyed)
    }

    /// Gives the directory back, so that it can be opened again; what came is kept.
    pub(crate) async fn let_go(self) {
        let Self { keyed, log, arrivals, .. } = self;
        let_go(keyed, log, arrivals).await;
    }

    /// What the state says of the cluster.
    pub(crate) fn reserved(&self) -> Result<Reserved, OpenError> {
        Reserved::read(&self.keyed, self.config).map_err(|error| OpenError::Incomplete(error.to_string()))
    }
}

/// Closes a state and its log; pulls hold them, and end first.
async fn let_go(keyed: Arc<Keyed>, log: Arc<Log>, arrivals: Arc<Arrivals>) {
    // A pull that cannot be stopped is waited for below.
    let _ = tokio::task::spawn_blocking(move || arrivals.stop()).await;
    release(keyed, log).await;
}

/// Whether a directory never belonged to a cluster, or only began to join one.
pub(crate) fn is_pristine(log: &Log, keyed: &Keyed) -> bool {
    log.last_position().is_none() && keyed.sealed().is_none()
}

/// A process that died while openraft installed a snapshot may have purged the log that led to it: then the state must stand there before
/// openraft looks at it. If the log is still there, the snapshot was never seen, and the log leads on.
fn complete_install(ballot: &mut Ballot, log: &Log, keyed: &Keyed, arrivals: &Arrivals) -> Result<(), OpenError> {
    let binding = ballot.facts().binding_reference(log.purged_through()).cloned();
    if let Some(pending) = binding.filter(|pending| pending.reference.position() > keyed.position()) {
        tracing::info!(position = %pending.reference.position(), "completes the install of a snapshot");
        arrivals.adopt_or_newer(&pending).map_err(OpenError::Incomplete)?;
    }
    if ballot.facts().pending.is_some() {
        ballot.change(|facts| facts.pending = None)?;
    }
    Ok(())
}

/// A state that stands before what is left of the log never comes to where it was; openraft would wait for ever for it to be sealed.
fn check_log_leads_on(log: &Log, keyed: &Keyed, state: &Path) -> Result<(), OpenError> {
    let stands = keyed.position();
    match log.purged_through().filter(|purged| purged.index > stands.index) {
        Some(purged) => Err(OpenError::StateLost { directory: state.to_owned(), stands, purged }),
        None => Ok(()),
    }
}

impl<S: Service> Node<S> {
    /// Opens a member on what its directory holds. A new one belongs to no cluster yet: [`Node::bootstrap`] begins one,
    /// [`Node::join`] joins one.
    pub async fn open(service: S, config: NodeConfig) -> Result<Self, OpenError> {
        let service = Arc::new(service);
        let parts = open_parts(&service, &config).await?;
        resume_fetching(&parts, config.member)?;
        Self::start(service, config, parts).await
    }

    /// Begins a cluster of this member alone, with an id of its own. Others join it.
    pub async fn bootstrap(&self) -> Result<(), BootstrapError> {
        if !self.cluster.is_pristine() {
            return Err(BootstrapError::Already);
        }
        self.cluster.identity.set(ClusterId::draw()?).await.map_err(|error| match error {
            IdentityError::Other { .. } => BootstrapError::Already,
            IdentityError::Io(error) => BootstrapError::Io(error),
        })?;
        let members = BTreeMap::from([(self.cluster.member, self.address())]);
        self.cluster.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => BootstrapError::Already,
            error => BootstrapError::Stopped(error.to_string()),
        })
    }

    /// Starts a member on what was opened. One that does not start gives its directory back.
    pub(crate) async fn start(service: Arc<S>, config: NodeConfig, parts: Parts) -> Result<Self, OpenError> {
        let (keyed, log, arrivals) = (parts.keyed.clone(), parts.log.clone(), parts.arrivals.clone());
        let started = Self::assemble(service, config, parts).await;
        if started.is_err() {
            let_go(keyed, log, arrivals).await;
        }
        started
    }

    async fn assemble(service: Arc<S>, config: NodeConfig, parts: Parts) -> Result<Self, OpenError> {
        let (finished, to_report) = mpsc::unbounded_channel::<SealedAt>();
        let (member, runtime) = (config.member, Handle::current());
        let reserved = parts.reserved()?;
        let pacing = Pacing::new(member, config.back_pressure.clone())?;
        let seals = Arc::new(Seals::new(member));
        if let Some(sealed) = parts.keyed.sealed() {
            seals.handle_sealed(Sealed::of(&sealed.manifest, reserved.membership));
        }
        let sealing = Sealing::new(member, parts.keyed.clone(), seals.clone(), runtime.clone(), finished);
        let appended = Appended::default();
        let voted = Voted::default();
        let waiters = Arc::new(Waiters::new(member, appended.clone(), voted.clone()));
        let patience = Patience::default();
        let (keyed, section) = (parts.keyed.clone(), parts.config);
        let applier = Applier::new(service.clone(), keyed, section, waiters.clone(), sealing.clone(), patience.clone())
            .map_err(|error| OpenError::Incomplete(error.to_string()))?;
        let applied = applier.applied();
        let applier = Arc::new(Owner::start("raft-apply", applier)?);
        let network = Network::new(config.transport.clone(), parts.identity.clone());
        let log_store = LogStore::new(parts.log.clone(), parts.disk.clone(), appended, voted.clone());
        let healer = Healer { applier: Arc::downgrade(&applier), log: parts.log.clone() };
        let machine = StateMachine::new(applier, seals.clone(), parts.arrivals.clone());
        let raft = raft_config(config.timing)?;
        let raft = Raft::new(member, raft, network.clone(), log_store, machine).await;
        let raft = raft.map_err(|error| OpenError::Raft(error.to_string()))?;
        // Its metrics say nothing before it has looked at what is on the disk.
        raft.with_raft_state(|_| ()).await.map_err(|error| OpenError::Raft(error.to_string()))?;
        let cluster = Arc::new(Cluster {
            member,
            address: OnceLock::new(),
            raft: raft.clone(),
            voted,
            network,
            identity: parts.identity,
            keyed: parts.keyed,
            log: parts.log,
            disk: parts.disk,
            seals,
            sealing,
            arrivals: parts.arrivals,
            healer: Box::new(healer),
            applied: applied.clone(),
            head: Head::default(),
            spacing: Spacing::default(),
            patience,
            candidacy: Candidacy::new(raft.clone()),
            pacing,
            healing: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            log_kept_bytes_max: config.log_kept_bytes_max,
        });
        let serving = match listen(&cluster, &config, runtime).await {
            Ok(serving) => serving,
            Err(error) => {
                // raft's own task holds what it runs on; one that failed has nothing left to stop.
                let _ = raft.shutdown().await;
                return Err(error);
            }
        };
        let mut tasks = upkeep::start(&cluster, to_report);
        let (proposals, to_gather) = mpsc::channel(PROPOSALS_WAITING_MAX);
        let (quorum, answers) = watch::channel(Quorum::default());
        let waiting = waiters.clone();
        tasks.spawn(quorum::watch(raft.clone(), quorum::silence_max(config.timing), quorum, move || waiting.give_up()));
        tasks.spawn(gather(raft, waiters, move || applied.borrow().time, to_gather, answers));
        let (readers, to_confirm) = mpsc::channel(READERS_WAITING_MAX);
        tasks.spawn(barrier::serve(cluster.clone(), to_confirm));
        Ok(Self { service, cluster, proposals, readers, tasks, serving: Some(serving) })
    }
}

pub(crate) async fn open_parts<S: Service>(service: &Arc<S>, config: &NodeConfig) -> Result<Parts, OpenError> {
    let (service, config) = (service.clone(), config.clone());
    let opened = tokio::task::spawn_blocking(move || Parts::open(&*service, &config)).await;
    opened.map_err(|error| OpenError::Io(io::Error::other(error)))?
}

/// A member that died before all of a snapshot was here goes on fetching.
pub(crate) fn resume_fetching(parts: &Parts, member: MemberId) -> Result<(), OpenError> {
    if parts.arrivals.has_stalled() {
        let membership = parts.reserved()?.membership;
        let others = membership.nodes().filter(|(other, _)| **other != member);
        parts.arrivals.go_on(others.map(|(_, address)| address.peers.clone()).collect());
    }
    Ok(())
}

async fn listen(cluster: &Arc<Cluster>, config: &NodeConfig, runtime: Handle) -> Result<Member, OpenError> {
    let serve = ServeConfig {
        listen: Some(config.listen.clone()),
        keyed: vec![cluster.keyed.clone()],
        services: [(SERVICE.to_owned(), answer::service(cluster.clone(), runtime))].into(),
        ..ServeConfig::new(config.transport.clone())
    };
    let member = tokio::task::spawn_blocking(move || Member::serve(serve)).await;
    let member = member.map_err(|error| OpenError::Io(io::Error::other(error)))??;
    let peers = config.advertise.clone().or_else(|| member.address()).unwrap_or_default();
    cluster.seals.set_address(peers.clone());
    // It is set once, here.
    let _ = cluster.address.set(MemberAddress { peers, clients: config.clients.clone() });
    Ok(member)
}

fn raft_config(timing: Timing) -> Result<Arc<Config>, OpenError> {
    let config = Config {
        cluster_name: "landfall".into(),
        heartbeat_interval: timing.heartbeat.as_millis() as u64,
        election_timeout_min: timing.election_min.as_millis() as u64,
        election_timeout_max: timing.election_max.as_millis() as u64,
        max_payload_entries: u64::from(ENTRIES_MAX),
        // A member that lags is sent the log as long as it is there; how long that is, leases and marks decide.
        replication_lag_threshold: u64::MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Until it is known to be a voter; see upkeep.
        enable_elect: false,
        ..Config::default()
    };
    let config = config.validate().map_err(|error| OpenError::Timing(error.to_string()))?;
    Ok(Arc::new(config))
}

/// Who this member is, before it listens.
pub(crate) fn address_before_listening(config: &NodeConfig) -> MemberAddress {
    let peers = config.advertise.clone().unwrap_or_else(|| config.listen.clone());
    MemberAddress { peers, clients: config.clients.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{self, Silent};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_a_cluster_took_in_begins_none_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(Silent, suite::config(directory.path())).await.unwrap();
        let theirs = ClusterId([7; 16]);
        node.cluster.identity.set(theirs).await.unwrap();
        assert!(matches!(node.bootstrap().await, Err(BootstrapError::Already)));
        assert_eq!(node.status().cluster, Some(theirs));
        node.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_cannot_listen_gives_its_directory_back() {
        let directory = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let opened = Node::open(Silent, NodeConfig { listen, ..suite::config(directory.path()) }).await;
        assert!(matches!(opened, Err(OpenError::Serve(_))));
        let node = Node::open(Silent, suite::config(directory.path())).await.expect("the directory is free");
        node.close().await;
    }
}

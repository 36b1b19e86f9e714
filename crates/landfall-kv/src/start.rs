//! Owns the life of the server: the member is opened, begins or joins, serves clients, and is closed when a signal comes.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use landfall_raft::landfall::core::snapshot::StateName;
use landfall_raft::landfall::net::{Identity, PlainTransport, TlsTransport, Transport};
use landfall_raft::{Aim, BootstrapError, JoinConfig, Node, NodeConfig, Timing};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::arguments::{Arguments, address, host};
use crate::commit_hook;
use crate::member::ClusterMember;
use crate::server::{Desk, Running, serve};
use crate::service::KeyValues;

/// A member that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its number in the cluster.
    pub member: u64,
    /// Where clients reach it.
    pub clients: String,
    /// Where other members reach it.
    pub peers: String,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} serves clients at {} and members at {}", self.member, self.clients, self.peers)
    }
}

/// Runs a member until a signal says stop; calls `announce` once clients are served.
///
/// It is the whole of a binary but for what it prints, so its error is text for people.
pub fn run(arguments: &Arguments, announce: impl FnOnce(&Serving)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(start(arguments, announce))
}

async fn start(arguments: &Arguments, announce: impl FnOnce(&Serving)) -> Result<()> {
    arguments.check()?;
    let data = &arguments.data;
    std::fs::create_dir_all(data).with_context(|| format!("cannot make the directory {}", data.display()))?;
    let listener = TcpListener::bind(&arguments.listen).await;
    let listener = listener.with_context(|| format!("cannot listen for clients at {}", arguments.listen))?;
    let clients = reachable(arguments, listener.local_addr()?);
    let config = node_config(arguments, &clients)?;
    let node = open(arguments, config).await?;
    announce(&Serving { member: node.member(), clients: clients.clone(), peers: node.address().peers });
    serve_until_stopped(node, listener, clients).await
}

/// How clients are told to reach this member.
fn reachable(arguments: &Arguments, bound: std::net::SocketAddr) -> String {
    match &arguments.advertise {
        Some(host) => address(host, bound.port()),
        None => address(host(&arguments.listen).unwrap_or_default(), bound.port()),
    }
}

fn node_config(arguments: &Arguments, clients: &str) -> Result<NodeConfig> {
    let peer_port = arguments.peer_listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let advertise = arguments.advertise.as_ref().zip(peer_port).map(|(host, port)| address(host, port));
    Ok(NodeConfig {
        member: member_id(arguments)?,
        state: StateName::new(STATE)?,
        directory: arguments.data.clone(),
        listen: arguments.peer_listen.clone(),
        advertise,
        clients: clients.to_owned(),
        transport: transport(arguments)?,
        cache_bytes: CACHE_BYTES,
        log_kept_bytes_max: arguments.log_kept,
        timing: Timing::default(),
        back_pressure: None,
    })
}

/// The name of the replicated state.
const STATE: &str = "kv";
/// Memory for parts of the state that were read.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;
/// How long a member that joins looks for one that lets it in.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

fn transport(arguments: &Arguments) -> Result<Arc<dyn Transport>> {
    let Some(directory) = &arguments.identity.identity else { return Ok(Arc::new(PlainTransport)) };
    let identity = Identity::load(directory);
    let identity = identity.with_context(|| format!("cannot use the identity in {}", directory.display()))?;
    Ok(Arc::new(TlsTransport::new(&identity)))
}

/// The number that this directory had before; else the one that is asked for; else one that nobody has.
fn member_id(arguments: &Arguments) -> Result<u64> {
    let path = arguments.data.join(ID_FILE);
    let before = read_id(&path)?;
    match (before, arguments.id) {
        (Some(before), Some(asked)) if before != asked => {
            bail!("{} belongs to member {before}: give --id {before}, or another directory", arguments.data.display())
        }
        (Some(before), _) => Ok(before),
        (None, asked) => {
            let id = match asked {
                Some(id) => id,
                None if arguments.beginning.bootstrap => FIRST_ID,
                None => random_id()?,
            };
            write_id(&path, id).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(id)
        }
    }
}

const ID_FILE: &str = "member-id";
const FIRST_ID: u64 = 1;

fn read_id(path: &Path) -> Result<Option<u64>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim().parse();
            id.map(Some).with_context(|| format!("{} does not hold the number of a member", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The number must be there for good before anybody hears it.
fn write_id(path: &Path, id: u64) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// Fewer digits than numbers of 64 bits have, so that every JSON reader keeps them.
fn random_id() -> Result<u64> {
    use io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes[..6]))
        .context("no randomness")?;
    Ok(u64::from_le_bytes(bytes).max(FIRST_ID + 1))
}

async fn open(arguments: &Arguments, config: NodeConfig) -> Result<Node<KeyValues>> {
    if arguments.beginning.bootstrap {
        let node = Node::open(KeyValues, config).await?;
        return match node.bootstrap().await {
            Ok(()) | Err(BootstrapError::Already) => Ok(node),
            Err(error) => Err(error).context("cannot begin a cluster"),
        };
    }
    let commit_hook = arguments.commit_hook.clone().map(|command| commit_hook::of_shell(command, config.member));
    let seeds = arguments.beginning.join.clone();
    let join = JoinConfig { seeds, patience: JOIN_PATIENCE, aim: Aim::Voter, commit_hook };
    Node::join(KeyValues, config, join).await.context("cannot join")
}

async fn serve_until_stopped(node: Node<KeyValues>, listener: TcpListener, clients: String) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let member = Arc::new(ClusterMember::new(node));
    let (stop, running) = watch::channel(Running::On);
    let looking = tokio::spawn(member.clone().look_after(running.clone()));
    let serving = tokio::spawn(serve(listener, member.clone(), Arc::new(Desk::new(clients)), running));
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        reason = member.wait_for_failure() => Some(reason),
    };
    // Whoever listens has it; nobody is left if both tasks ended.
    let _ = stop.send(Running::Stopping);
    let ended = async {
        let _ = serving.await;
        let _ = looking.await;
    };
    if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
        tracing::warn!("some clients were still being answered when the server stopped");
    }
    match Arc::into_inner(member) {
        Some(member) => member.close().await,
        None => tracing::warn!("the member is still in use; it ends with the process"),
    }
    match failure {
        // Clients find another member sooner if this one does not go on answering what it cannot do.
        Some(reason) => {
            bail!("the member stopped: {reason}; nothing acknowledged is lost, start it again when this is mended")
        }
        None => Ok(()),
    }
}

/// How long clients that are being answered are waited for.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

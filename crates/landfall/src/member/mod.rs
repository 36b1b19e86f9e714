//! Owns one process that serves states: opens them, publishes their snapshots, and answers joiners.

mod error;
mod inspect;
mod publisher;
mod service;
mod sinks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use landfall_core::snapshot::StateName;
use landfall_net::{AcceptError, Accepted, Closer, Identity, Listener, Transport};

use crate::clock::Clock;
use crate::keyed::Keyed;
use crate::source::{ServedStates, ServingMember, converse};

pub use crate::files::scan::ChangingFiles;
pub use crate::source::{ConnectionService, Encoding};
pub use error::{InspectError, ServeError, TakeError};
pub(crate) use inspect::collect;
pub use inspect::{CollectReport, Damage, DiffReport, ListedFile, SnapshotSummary, VerifyReport};
pub use publisher::{Keep, SnapshotReport, StateConfig};
pub use service::open_service;

use publisher::Publisher;

/// Joiners that are served at once; each has a few connections.
const CONNECTIONS_MAX: usize = 1024;
/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A pause when the system is short of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What to serve, and where.
pub struct ServeConfig {
    /// Where joiners connect; nothing for a member that only looks at its own data.
    pub listen: Option<String>,
    /// The way in which they connect.
    pub transport: Arc<dyn Transport>,
    /// Signs heads; nothing on plain connections.
    pub signer: Option<Arc<Identity>>,
    /// The states.
    pub states: Vec<StateConfig>,
    /// Keyed states, which stay the caller's to change.
    pub keyed: Vec<Arc<Keyed>>,
    /// Services to which peers may open connections, by name.
    pub services: BTreeMap<String, ConnectionService>,
    /// How answers to joiners are encoded.
    pub encoding: Encoding,
}

impl ServeConfig {
    /// A member that serves nothing and does not listen: a base for what differs.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            listen: None,
            transport,
            signer: None,
            states: Vec::new(),
            keyed: Vec::new(),
            services: BTreeMap::new(),
            encoding: Encoding::default(),
        }
    }
}

/// A process that serves states until it is closed.
pub struct Member {
    publishers: BTreeMap<StateName, Arc<Publisher>>,
    listener: Option<Arc<dyn Listener>>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// One of the connections that a member has at once; given back however its thread ends.
struct Slot(Arc<Connections>);

impl Slot {
    fn take(connections: &Arc<Connections>) -> Self {
        connections.count.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The conversations that are under way.
#[derive(Default)]
struct Connections {
    count: AtomicUsize,
    closers: Mutex<Vec<Closer>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Member {
    /// Opens every state, publishes the first snapshot of those that have none, and starts to listen.
    pub fn serve(config: ServeConfig) -> Result<Self, ServeError> {
        let clock = Clock::start();
        let mut publishers = BTreeMap::new();
        for state in config.states {
            let name = state.name.clone();
            let publisher = Arc::new(Publisher::open(state, config.signer.clone(), clock)?);
            if publishers.insert(name.clone(), publisher).is_some() {
                return Err(ServeError::TwiceNamed(name));
            }
        }
        if config.listen.is_some() {
            for publisher in publishers.values() {
                publisher.publish_first()?;
            }
        }
        let mut states: ServedStates =
            publishers.iter().map(|(name, publisher)| (name.clone(), publisher.state.clone())).collect();
        for keyed in &config.keyed {
            if states.insert(keyed.name().clone(), keyed.served().clone()).is_some() {
                return Err(ServeError::TwiceNamed(keyed.name().clone()));
            }
        }
        let (states, services, encoding) = (RwLock::new(states), config.services, config.encoding);
        let shared = Arc::new(ServingMember { states, services, encoding, clock });
        let connections = Arc::new(Connections::default());
        let listener: Option<Arc<dyn Listener>> = match &config.listen {
            Some(address) => Some(Arc::from(config.transport.listen(address)?)),
            None => None,
        };
        let accepting = listener.clone().map(|listener| {
            let connections = connections.clone();
            let accept = move || accept_all(&*listener, &shared, &connections);
            std::thread::Builder::new().name("accept".into()).spawn(accept)
        });
        let accepting = accepting.transpose().map_err(|source| ServeError::NoThread { source })?;
        Ok(Self { publishers, listener, accepting, connections })
    }

    /// Where joiners connect.
    pub fn address(&self) -> Option<String> {
        self.listener.as_ref().map(|listener| listener.local_address())
    }

    /// The states that are served, by name.
    pub fn states(&self) -> Vec<StateName> {
        self.publishers.keys().cloned().collect()
    }

    /// The data directory of a state.
    pub fn data_directory(&self, state: &StateName) -> Result<PathBuf, InspectError> {
        Ok(self.publisher(state)?.data_directory().to_owned())
    }

    /// Takes a snapshot of a state as it is now, and serves it from then on.
    pub fn snapshot(&self, state: &StateName) -> Result<SnapshotReport, TakeError> {
        let publisher = self.publishers.get(state).ok_or_else(|| TakeError::UnknownState(state.clone()))?;
        publisher.take()
    }

    /// Stops listening, ends every conversation, and waits for both.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(listener) = &self.listener {
            listener.close();
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for closer in self.connections.closers.lock().expect("no panic under the lock").drain(..) {
            closer.close();
        }
        let threads = std::mem::take(&mut *self.connections.threads.lock().expect("no panic under the lock"));
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn publisher(&self, state: &StateName) -> Result<&Publisher, InspectError> {
        self.publishers
            .get(state)
            .map(|publisher| &**publisher)
            .ok_or_else(|| InspectError::UnknownState(state.clone()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept_all(listener: &dyn Listener, shared: &Arc<ServingMember>, connections: &Arc<Connections>) {
    loop {
        match listener.accept() {
            Ok(accepted) if connections.count.load(Ordering::Relaxed) < CONNECTIONS_MAX => {
                connections.begin(accepted, shared.clone());
            }
            Ok(refused) => tracing::warn!(address = refused.address(), "too many connections: refused"),
            Err(AcceptError::Closed) => return,
            Err(AcceptError::Exhausted(error)) => {
                tracing::warn!(%error, "cannot accept connections for now");
                std::thread::sleep(EXHAUSTED_PAUSE);
            }
        }
    }
}

impl Connections {
    fn begin(self: &Arc<Self>, accepted: Accepted, shared: Arc<ServingMember>) {
        self.forget_ended();
        let closer = accepted.closer();
        let slot = Slot::take(self);
        let conversation = move || {
            let _slot = slot;
            let address = accepted.address().to_owned();
            match accepted.handshake(HANDSHAKE_MAX) {
                Ok(connection) => converse(&shared, connection),
                Err(error) => tracing::warn!(address, %error, "refused a connection"),
            }
        };
        match std::thread::Builder::new().name("conversation".into()).spawn(conversation) {
            Ok(thread) => {
                self.closers.lock().expect("no panic under the lock").push(closer);
                self.threads.lock().expect("no panic under the lock").push(thread);
            }
            Err(error) => tracing::warn!(%error, "no thread for a connection: refused"),
        }
    }

    fn forget_ended(&self) {
        self.threads.lock().expect("no panic under the lock").retain(|thread| !thread.is_finished());
        self.closers.lock().expect("no panic under the lock").retain(|closer| !closer.is_closed());
    }
}

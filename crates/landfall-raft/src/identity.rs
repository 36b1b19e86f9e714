//! Owns which cluster a member belongs to: an id that is drawn when a cluster begins, and stands in the ballot of each of its members. All
//! that members ask of each other carries it, so that a member whose disk was emptied, and that began a cluster of its own, is not taken
//! for the one that it was.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::ballot::Ballot;
use crate::owner::Owner;

/// Names a cluster, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// One that no cluster has.
    pub(crate) fn draw() -> io::Result<Self> {
        random().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The cluster of this member, once it belongs to one.
pub(crate) struct Identity {
    own: RwLock<Option<ClusterId>>,
    disk: Arc<Owner<Ballot>>,
}

/// Somebody asks who is of another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// The cluster of the member that was asked.
    pub(crate) own: Option<ClusterId>,
}

impl Identity {
    /// What the ballot on `disk` says.
    pub(crate) fn new(own: Option<ClusterId>, disk: Arc<Owner<Ballot>>) -> Self {
        Self { own: RwLock::new(own), disk }
    }

    pub(crate) fn own(&self) -> Option<ClusterId> {
        // Nothing that runs under the lock can panic.
        *self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the member belongs to a cluster, also after a restart.
    pub(crate) async fn set(&self, cluster: ClusterId) -> io::Result<()> {
        let noted = self.disk.ask(move |ballot| ballot.change(|facts| facts.cluster = Some(cluster))).await;
        noted.map_err(io::Error::other)??;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
        Ok(())
    }
}

/// Bytes that nobody can foretell.
pub(crate) fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut drawn = [0; BYTES];
    File::open("/dev/urandom")?.read_exact(&mut drawn)?;
    Ok(drawn)
}

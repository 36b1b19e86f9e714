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
    own: Arc<RwLock<Option<ClusterId>>>,
    disk: Arc<Owner<Ballot>>,
}

/// Somebody asks who is of another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// The cluster of the member that was asked.
    pub(crate) own: Option<ClusterId>,
}

/// Why a member was not given to a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// It belongs to another one.
    #[error("this member belongs to cluster {own} already, and not to {asked}")]
    Other { own: ClusterId, asked: ClusterId },
    /// It could not be noted.
    #[error("cannot note the cluster: {0}")]
    Io(#[from] io::Error),
}

impl Identity {
    /// What the ballot on `disk` says.
    pub(crate) fn new(own: Option<ClusterId>, disk: Arc<Owner<Ballot>>) -> Self {
        Self { own: Arc::new(RwLock::new(own)), disk }
    }

    pub(crate) fn own(&self) -> Option<ClusterId> {
        // Nothing that runs under the lock can panic.
        *self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the member belongs to a cluster, also after a restart; one that belongs to another goes on doing so.
    pub(crate) async fn set(&self, cluster: ClusterId) -> Result<(), IdentityError> {
        let own = self.own.clone();
        // Compared where it is noted, on one thread: of clusters that ask at once, one gets this member.
        let noted = self.disk.ask(move |ballot| note(ballot, &own, cluster)).await;
        noted.map_err(io::Error::other)?
    }
}

/// What the ballot says does not count here: a directory that only began to join a cluster is free.
fn note(ballot: &mut Ballot, own: &RwLock<Option<ClusterId>>, asked: ClusterId) -> Result<(), IdentityError> {
    let held = *own.read().unwrap_or_else(PoisonError::into_inner);
    match held {
        Some(held) if held == asked => Ok(()),
        Some(own) => Err(IdentityError::Other { own, asked }),
        None => {
            ballot.change(|facts| facts.cluster = Some(asked))?;
            *own.write().unwrap_or_else(PoisonError::into_inner) = Some(asked);
            Ok(())
        }
    }
}

/// Bytes that nobody can foretell.
pub(crate) fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut drawn = [0; BYTES];
    File::open("/dev/urandom")?.read_exact(&mut drawn)?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClusterId = ClusterId([1; 16]);
    const OTHER: ClusterId = ClusterId([2; 16]);

    fn of_no_cluster(directory: &std::path::Path) -> Identity {
        let ballot = Ballot::open(directory, 1, [0; 32]).unwrap();
        Identity::new(None, Arc::new(Owner::start("test", ballot).unwrap()))
    }

    async fn noted(identity: &Identity) -> Option<ClusterId> {
        identity.disk.ask(|ballot| ballot.facts().cluster).await.unwrap()
    }

    #[tokio::test]
    async fn a_member_of_a_cluster_is_not_given_to_another() {
        let directory = tempfile::tempdir().unwrap();
        let identity = of_no_cluster(directory.path());
        identity.set(ONE).await.unwrap();
        identity.set(ONE).await.unwrap();
        let refused = identity.set(OTHER).await.unwrap_err();
        assert!(refused.to_string().contains(&ONE.to_string()), "it says to which it belongs: {refused}");
        assert_eq!((identity.own(), noted(&identity).await), (Some(ONE), Some(ONE)));
    }

    #[tokio::test]
    async fn of_clusters_that_ask_at_once_one_gets_the_member() {
        let directory = tempfile::tempdir().unwrap();
        let identity = of_no_cluster(directory.path());
        let (one, other) = tokio::join!(identity.set(ONE), identity.set(OTHER));
        let wins = if one.is_ok() { ONE } else { OTHER };
        assert_ne!(one.is_ok(), other.is_ok());
        assert_eq!((identity.own(), noted(&identity).await), (Some(wins), Some(wins)));
    }
}

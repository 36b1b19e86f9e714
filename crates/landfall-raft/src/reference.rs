//! Owns what raft takes for a snapshot: a few hundred bytes that say where a state stands and who holds it.
//!
//! It carries nothing of the state itself: whoever installs it pulls.

use landfall::core::ChunkId;
use landfall::core::snapshot::{LogHash, Position};
use serde::{Deserialize, Serialize};

use crate::consensus::MemberId;

/// A snapshot, by name. `Default` is the reference to nothing that openraft asks for before it receives one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    snapshot: [u8; 32],
    epoch: u64,
    index: u64,
    log_hash: [u8; 32],
    /// Members that hold it, the best sources first; the leader stands last.
    pub holders: Vec<Holder>,
}

/// A member that holds a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub member: MemberId,
    /// Where members connect.
    pub address: String,
}

impl Reference {
    /// The reference to `snapshot`, which stands at `position`.
    pub fn new(snapshot: ChunkId, position: Position, log_hash: LogHash, holders: Vec<Holder>) -> Self {
        Self {
            snapshot: *snapshot.as_bytes(),
            epoch: position.epoch,
            index: position.index,
            log_hash: log_hash.0,
            holders,
        }
    }

    /// The id of the snapshot's manifest.
    pub fn snapshot(&self) -> ChunkId {
        ChunkId::from_bytes(self.snapshot)
    }

    /// Where it stands in the order of changes.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, index: self.index }
    }

    /// The hash of the log up to there.
    pub fn log_hash(&self) -> LogHash {
        LogHash(self.log_hash)
    }

    /// The addresses to pull from, in order.
    pub fn sources(&self) -> Vec<String> {
        self.holders.iter().map(|holder| holder.address.clone()).collect()
    }
}

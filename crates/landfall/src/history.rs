//! Owns which snapshots of a state are held here, and their heads. It survives the process; it never decides what to hold.

use bytes::Bytes;
use landfall_core::keyed::Sections;
use landfall_core::snapshot::{Manifest, SnapshotError};
use landfall_core::wire::SignedHead;
use landfall_core::{ChunkId, Domain};
use landfall_store::{Changes, Store, StoreError};
use prost::Message as _;

/// A snapshot that is held here.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) id: ChunkId,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Bytes,
    pub(crate) head: Option<SignedHead>,
    /// When it came to be held here, in seconds since 1970.
    pub(crate) since: u64,
    pub(crate) extent: Extent,
    /// The sections that are here or are to be.
    pub(crate) sections: Sections,
}

/// How much of a snapshot is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every node and, where they are kept in packs, every chunk.
    Whole,
    /// The same of the sections that are held here, which are not all.
    Sections,
    /// What came so far: the state stands on it already, and the rest is being fetched.
    Filling,
}

impl Extent {
    /// When all of these sections is here.
    pub(crate) fn complete(sections: &Sections) -> Self {
        match sections {
            Sections::All => Self::Whole,
            Sections::Only(_) => Self::Sections,
        }
    }
}

/// Why the record of held snapshots cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the record of snapshots is damaged: {0}")]
    Record(#[from] prost::DecodeError),
    #[error("snapshot {id} is damaged: {source}")]
    Manifest { id: ChunkId, source: SnapshotError },
    #[error("the record of snapshots names no snapshot")]
    BadId,
}

/// What a store holds, by its record.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Its snapshots, oldest first.
    pub(crate) held: Vec<Held>,
    /// Those whose manifests the disk no longer gives, in the same order. Who opens an older one in their place tells so.
    pub(crate) lost: Vec<ChunkId>,
}

/// Reads which snapshots `store` holds.
pub(crate) fn load(store: &Store) -> Result<History, HistoryError> {
    let Some(record) = store.record(RECORD)? else { return Ok(History::default()) };
    let (mut held, mut lost) = (Vec::new(), Vec::new());
    for record in HistoryRecord::decode(&record[..])?.snapshots {
        let id = ChunkId::from_slice(&record.id).ok_or(HistoryError::BadId)?;
        let frame = match store.get_encoded(id) {
            Err(StoreError::Damaged(_)) => None,
            found => found?,
        };
        let Some(frame) = frame.filter(|frame| frame.domain == Domain::Manifest) else {
            tracing::error!(%id, "the manifest of a snapshot is lost: the disk does not give it as it was written");
            lost.push(id);
            continue;
        };
        let manifest = Manifest::decode(&frame.bytes).map_err(|source| HistoryError::Manifest { id, source })?;
        let sections = Sections::of_names(&record.sections);
        let extent = if record.filling { Extent::Filling } else { Extent::complete(&sections) };
        let (head, since) = (record.head, record.since);
        held.push(Held { id, manifest, manifest_bytes: frame.bytes, head, since, extent, sections });
    }
    Ok(History { held, lost })
}

/// Makes `held`, oldest first, the snapshots that are held, each of them pinned.
pub(crate) fn save(store: &Store, held: &[Held]) -> Result<(), StoreError> {
    let mut changes = Changes::default();
    let pin_name = |held: &Held| format!("{PIN_PREFIX}{}", held.id);
    for held in held {
        changes.pin(pin_name(held), held.id);
    }
    let wanted: Vec<String> = held.iter().map(pin_name).collect();
    for pin in store.pins()? {
        if pin.name.starts_with(PIN_PREFIX) && !wanted.contains(&pin.name) {
            changes.unpin(pin.name);
        }
    }
    let snapshots = held
        .iter()
        .map(|held| HeldRecord {
            id: held.id.to_bytes(),
            head: held.head.clone(),
            since: held.since,
            filling: held.extent == Extent::Filling,
            sections: held.sections.to_names(),
        })
        .collect();
    changes.set_record(RECORD, HistoryRecord { snapshots }.encode_to_vec());
    store.change(&changes)
}

#[derive(Clone, PartialEq, prost::Message)]
struct HistoryRecord {
    #[prost(message, repeated, tag = "1")]
    snapshots: Vec<HeldRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeldRecord {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(message, optional, tag = "2")]
    head: Option<SignedHead>,
    #[prost(uint64, tag = "3")]
    since: u64,
    #[prost(bool, tag = "4")]
    filling: bool,
    /// The sections that are held; all where none is named.
    #[prost(string, repeated, tag = "5")]
    sections: Vec<String>,
}

const RECORD: &str = "snapshots";
/// What the names of the pins of held snapshots begin with.
const PIN_PREFIX: &str = "snapshot ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_held_snapshots_is_frozen() {
        let held = |filling, sections: &[&str]| HeldRecord {
            id: Bytes::from_static(b"ID"),
            head: None,
            since: 5,
            filling,
            sections: sections.iter().map(|&name| name.to_owned()).collect(),
        };
        let record = |snapshots| HistoryRecord { snapshots }.encode_to_vec();
        assert_eq!(record(vec![held(false, &[])]), b"\x0a\x06\x0a\x02ID\x18\x05");
        assert_eq!(
            record(vec![held(true, &["config", "east"])]),
            b"\x0a\x16\x0a\x02ID\x18\x05\x20\x01\x2a\x06config\x2a\x04east"
        );
    }
}

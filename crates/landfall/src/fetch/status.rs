//! Owns the figures of a pull while it runs: what a progress line shows and what the summary adds up. It decides nothing.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use landfall_core::codec::Codec;
use landfall_core::transfer::{DropReason, PeerId, Progress};

/// Notes that are kept for the summary; more are counted only.
const NOTES_MAX: usize = 100;

/// Figures of a pull while it runs. Cheap to read at any time, from any thread.
#[derive(Default)]
pub struct Status {
    bytes_wanted: AtomicU64,
    bytes_done: AtomicU64,
    bytes_again: AtomicU64,
    all_known: AtomicBool,
    bytes_reused: AtomicU64,
    node_bytes: AtomicU64,
    entries_wanted: AtomicU64,
    entries_held: AtomicU64,
    entries_passed: AtomicU64,
    leaf_bytes_passed: AtomicU64,
    entries_inspected: AtomicU64,
    leaf_bytes_inspected: AtomicU64,
    chunk_bytes_encoded: AtomicU64,
    patch_bytes_plain: AtomicU64,
    patch_bytes_encoded: AtomicU64,
    chunks: AtomicU64,
    wire_received: AtomicU64,
    wire_sent: AtomicU64,
    sources: Mutex<BTreeMap<PeerId, SourceStatus>>,
    notes: Mutex<Notes>,
    stage: Mutex<Stage>,
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It looks at the destination.
    #[default]
    Preparing,
    /// It asks the sources.
    Asking,
    /// Chunks come.
    Fetching,
    /// Everything is here; files are put in place.
    Installing,
    /// The destination holds the new state.
    Done,
}

/// What one source gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SourceStatus {
    /// Its address.
    pub address: String,
    /// Its name, as its certificate says.
    pub name: String,
    /// Plaintext bytes of chunks that it sent.
    pub bytes: u64,
    /// Bytes of tree nodes that it sent.
    pub node_bytes: u64,
    /// Chunks that it sent damaged, or found damaged itself.
    pub damaged: u64,
    /// Whether it is connected now.
    pub connected: bool,
}

#[derive(Default)]
struct Notes {
    kept: Vec<String>,
    more: u64,
}

/// Figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct StatusFigures {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes of chunks known to be wanted so far.
    pub bytes_wanted: u64,
    /// Bytes of wanted chunks that came.
    pub bytes_done: u64,
    /// Bytes of chunks that came although they were here already.
    pub bytes_again: u64,
    /// Every wanted chunk is known.
    pub all_known: bool,
    /// Bytes that were taken from the old copy, or from an interrupted pull.
    pub bytes_reused: u64,
    /// Bytes of tree nodes that came.
    pub node_bytes: u64,
    /// Entries that the trees of a keyed state have.
    pub entries_wanted: u64,
    /// Of them, those whose leaves are known to be here, whenever they came.
    pub entries_here: u64,
    /// Of those, the ones whose leaves came or were left from an earlier join: the older tree here does not have them.
    pub entries_came: u64,
    /// Bytes of those leaves.
    pub leaf_bytes_here: u64,
    /// Chunks that came.
    pub chunks: u64,
    /// Bytes that the chunks took on the wire, after encoding.
    pub chunk_bytes_encoded: u64,
    /// Plaintext bytes of the chunks that came as patches.
    pub patch_bytes_plain: u64,
    /// Bytes that those patches took.
    pub patch_bytes_encoded: u64,
    /// Bytes received from the network, encryption and framing included.
    pub wire_received: u64,
    /// Bytes sent to the network, encryption and framing included.
    pub wire_sent: u64,
    /// What each source gave.
    pub sources: Vec<SourceStatus>,
}

impl Status {
    /// The figures now.
    pub fn figures(&self) -> StatusFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let entries_came = get(&self.entries_inspected).saturating_add(get(&self.entries_passed));
        StatusFigures {
            stage: *self.stage.lock().expect("no panic under the lock"),
            bytes_wanted: get(&self.bytes_wanted),
            bytes_done: get(&self.bytes_done),
            bytes_again: get(&self.bytes_again),
            all_known: self.all_known.load(Ordering::Relaxed),
            bytes_reused: get(&self.bytes_reused),
            node_bytes: get(&self.node_bytes),
            entries_wanted: get(&self.entries_wanted),
            entries_here: get(&self.entries_held).saturating_add(entries_came),
            entries_came,
            leaf_bytes_here: get(&self.leaf_bytes_inspected) + get(&self.leaf_bytes_passed),
            chunks: get(&self.chunks),
            chunk_bytes_encoded: get(&self.chunk_bytes_encoded),
            patch_bytes_plain: get(&self.patch_bytes_plain),
            patch_bytes_encoded: get(&self.patch_bytes_encoded),
            wire_received: get(&self.wire_received),
            wire_sent: get(&self.wire_sent),
            sources: self.sources.lock().expect("no panic under the lock").values().cloned().collect(),
        }
    }

    /// What people should know, in order: sources lost, chunks found damaged.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().expect("no panic under the lock");
        let more = (notes.more > 0).then(|| format!("… and {} more notes", notes.more));
        notes.kept.iter().cloned().chain(more).collect()
    }

    pub(crate) fn enter(&self, stage: Stage) {
        *self.stage.lock().expect("no panic under the lock") = stage;
    }

    pub(crate) fn note(&self, note: String) {
        tracing::info!("{note}");
        let mut notes = self.notes.lock().expect("no panic under the lock");
        if notes.kept.len() < NOTES_MAX {
            notes.kept.push(note);
        } else {
            notes.more += 1;
        }
    }

    pub(crate) fn note_progress(&self, progress: Progress) {
        self.bytes_wanted.store(progress.bytes_wanted, Ordering::Relaxed);
        self.bytes_done.store(progress.bytes_done, Ordering::Relaxed);
        self.bytes_again.store(progress.bytes_again, Ordering::Relaxed);
        self.all_known.store(progress.all_known, Ordering::Relaxed);
        self.entries_held.store(progress.entries_held, Ordering::Relaxed);
        self.entries_passed.store(progress.entries_passed, Ordering::Relaxed);
        self.leaf_bytes_passed.store(progress.leaf_bytes_passed, Ordering::Relaxed);
    }

    pub(crate) fn note_reused(&self, bytes: u64) {
        self.bytes_reused.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_node(&self, peer: PeerId, bytes: usize) {
        self.node_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.source(peer, |source| source.node_bytes += bytes as u64);
    }

    pub(crate) fn note_entries_wanted(&self, entries: u64) {
        self.entries_wanted.store(entries, Ordering::Relaxed);
    }

    pub(crate) fn note_inspected(&self, entries: usize, bytes: usize) {
        self.entries_inspected.fetch_add(entries as u64, Ordering::Relaxed);
        self.leaf_bytes_inspected.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_chunk(&self, peer: PeerId, codec: Codec, plain_bytes: usize, encoded_bytes: usize) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.chunk_bytes_encoded.fetch_add(encoded_bytes as u64, Ordering::Relaxed);
        if codec == Codec::ZstdPatch {
            self.patch_bytes_plain.fetch_add(plain_bytes as u64, Ordering::Relaxed);
            self.patch_bytes_encoded.fetch_add(encoded_bytes as u64, Ordering::Relaxed);
        }
        self.source(peer, |source| source.bytes += plain_bytes as u64);
    }

    pub(crate) fn note_wire(&self, received: u64, sent: u64) {
        self.wire_received.fetch_add(received, Ordering::Relaxed);
        self.wire_sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub(crate) fn note_connected(&self, peer: PeerId, address: &str, name: &str) {
        self.source(peer, |source| {
            source.address = address.to_owned();
            source.name = name.to_owned();
            source.connected = true;
        });
    }

    pub(crate) fn note_disconnected(&self, peer: PeerId) {
        self.source(peer, |source| source.connected = false);
    }

    pub(crate) fn note_damaged(&self, peer: PeerId, place: &dyn Display) {
        let address = self.blame(peer);
        self.note(format!("{address} found its own copy of {place} damaged; it is asked of another source"));
    }

    pub(crate) fn note_corrupt(&self, peer: PeerId, place: &dyn Display) {
        let address = self.blame(peer);
        self.note(format!(
            "{address} sent bytes for {place} that do not match their hash; refused, and asked of another source"
        ));
    }

    pub(crate) fn note_dropped(&self, peer: PeerId, reason: DropReason) {
        let address = self.address(peer);
        self.note(format!("{address} is no longer asked: {reason}"));
    }

    fn blame(&self, peer: PeerId) -> String {
        self.source(peer, |source| source.damaged += 1);
        self.address(peer)
    }

    fn address(&self, peer: PeerId) -> String {
        let sources = self.sources.lock().expect("no panic under the lock");
        sources.get(&peer).map_or_else(|| peer.to_string(), |source| source.address.clone())
    }

    fn source(&self, peer: PeerId, change: impl FnOnce(&mut SourceStatus)) {
        change(self.sources.lock().expect("no panic under the lock").entry(peer).or_default());
    }
}

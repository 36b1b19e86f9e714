//! Owns one state that is served: its directory, its data directory, and the taking of snapshots.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_core::files::FilePath;
use landfall_core::keyed::Sections;
use landfall_core::snapshot::{
    Head, KeyRange, LogHash, Manifest, Position, Section, SectionKind, SectionPriority, StateName,
};
use landfall_core::tree::{Root, Salt};
use landfall_core::wire::SignedHead;
use landfall_core::{ChunkId, Domain};
use landfall_net::Identity;
use landfall_store::vfs::RealVfs;
use landfall_store::{Changes, CollectBudget, Store, StoreOptions};

use super::error::{ServeError, TakeError};
use super::inspect::collect;
use super::sinks::{Kept, NewChunks, NewEntries};
use crate::clock::{Clock, wall_seconds};
use crate::content::FilesInPlace;
use crate::files::index::{IndexHeader, IndexReader, IndexWriter, wall_clock};
use crate::files::place::CONTROL;
use crate::files::scan::{self, ChangingFiles, Previous, Scan, Stopped};
use crate::history::{self, Extent, Held};
use crate::source::{Content, LetGo, ServedState};

/// A state to serve.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// Its name.
    pub name: StateName,
    /// The directory that is its content.
    pub directory: PathBuf,
    /// Where Landfall keeps what it needs; not inside `directory`. A pulled directory brings its own.
    pub data: PathBuf,
    /// How a snapshot stays what it is while files go on changing.
    pub keep: Keep,
    /// What happens if a file changes while it is read.
    pub changing: ChangingFiles,
    /// Run by the shell before a snapshot: to quiesce what writes.
    pub before_snapshot: Option<String>,
    /// Run by the shell after the files were read, also if that failed.
    pub after_snapshot: Option<String>,
}

/// How a snapshot stays what it is while files go on changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Content is copied into packs, only what is new.
    Store,
    /// The user promises that files do not change; they are served in place and hashed again on every read.
    Frozen,
}

/// What taking a snapshot did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SnapshotReport {
    /// The snapshot that is served now, in hexadecimal.
    pub snapshot: String,
    /// Its position.
    pub position: String,
    /// The hash of its content, in hexadecimal.
    pub state_root: String,
    /// Whether anything differs from the snapshot before.
    pub changed: bool,
    /// Bytes of the whole state.
    pub state_bytes: u64,
    /// Entries of its tree.
    pub entries: u64,
    /// Bytes that were read from files.
    pub bytes_read: u64,
    /// Files that were not read again because nothing about them changed.
    pub files_unchanged: u64,
    /// Paths that a snapshot cannot keep, with the reason.
    pub skipped: Vec<String>,
    /// Files that changed while they were read: their content is from no single moment.
    pub torn: Vec<String>,
    /// Paths with extended attributes of namespaces that are not kept.
    pub unkept_xattrs: Vec<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A state and how its snapshots are made.
pub(super) struct Publisher {
    config: StateConfig,
    pub(super) state: Arc<ServedState>,
    pub(super) clock: Clock,
    role: Role,
    signer: Option<Arc<Identity>>,
    taking: Mutex<Seen>,
}

/// What the last snapshot knew.
#[derive(Default)]
struct Seen {
    /// How much the store had lost by then. Where it lost more, files that did not change are read all the same.
    frames_lost: u64,
}

/// Does this member make the state's snapshots?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Publisher,
    /// The directory was pulled: its snapshot is served on from its own files.
    Relay,
}

impl Publisher {
    pub(super) fn open(config: StateConfig, signer: Option<Arc<Identity>>, clock: Clock) -> Result<Self, ServeError> {
        let pulled = config.directory.join(CONTROL);
        if pulled.join(INDEX).exists() {
            return Self::open_relay(config, clock, &pulled);
        }
        let failed = |source| ServeError::Directory { directory: config.directory.clone(), source };
        let directory = config.directory.canonicalize().map_err(failed)?;
        if !directory.is_dir() {
            return Err(failed(std::io::ErrorKind::NotADirectory.into()));
        }
        std::fs::create_dir_all(&config.data).map_err(failed)?;
        let data = config.data.canonicalize().map_err(failed)?;
        if data.starts_with(&directory) {
            return Err(ServeError::DataInside { data, directory });
        }
        let store = Arc::new(open_store(&data)?);
        let content = match config.keep {
            Keep::Store => Content::Packs,
            Keep::Frozen => Content::Files(FilesInPlace::open(&directory).map_err(failed)?),
        };
        let held = history::load(&store)?.held;
        if let Some(other) = held.iter().find(|held| held.manifest.state != config.name) {
            let (pulled, named) = (other.manifest.state.clone(), config.name);
            return Err(ServeError::OtherState { directory: data, pulled, named });
        }
        let state = Arc::new(ServedState::new(config.name.clone(), store, content, held));
        let config = StateConfig { directory, data, ..config };
        Ok(Self { config, state, clock, role: Role::Publisher, signer, taking: Mutex::default() })
    }

    fn open_relay(config: StateConfig, clock: Clock, pulled: &Path) -> Result<Self, ServeError> {
        let incomplete = || ServeError::Incomplete { directory: config.directory.clone() };
        let failed = |source| ServeError::Directory { directory: config.directory.clone(), source };
        let control = std::fs::File::open(pulled).map_err(failed)?;
        let index = IndexReader::open(&control, Path::new(INDEX)).map_err(|_| incomplete())?;
        let store = Arc::new(open_store(pulled)?);
        let held = history::load(&store)?.held.into_iter().find(|held| held.id == index.header().manifest);
        let held = held.ok_or_else(incomplete)?;
        if held.manifest.state != config.name {
            let (pulled, named) = (held.manifest.state, config.name);
            return Err(ServeError::OtherState { directory: config.directory, pulled, named });
        }
        let content = Content::Files(FilesInPlace::open(&config.directory).map_err(failed)?);
        let state = Arc::new(ServedState::new(config.name.clone(), store, content, vec![held]));
        let config = StateConfig { data: pulled.to_owned(), ..config };
        Ok(Self { config, state, clock, role: Role::Relay, signer: None, taking: Mutex::default() })
    }

    /// The directory that the data of the state is in.
    pub(super) fn data_directory(&self) -> &Path {
        &self.config.data
    }

    /// The directory, if it is a copy that must be what its snapshot says.
    pub(super) fn copy_directory(&self) -> Option<PathBuf> {
        let frozen = self.role == Role::Relay || self.config.keep == Keep::Frozen;
        frozen.then(|| self.config.directory.clone())
    }

    /// Publishes what the directory holds now, if this member makes its snapshots.
    pub(super) fn publish_first(&self) -> Result<(), TakeError> {
        match self.role {
            Role::Relay => Ok(()),
            Role::Publisher => self.take().map(drop),
        }
    }

    /// Takes a snapshot and serves it.
    pub(super) fn take(&self) -> Result<SnapshotReport, TakeError> {
        if self.role == Role::Relay {
            return Err(TakeError::Relay(self.config.name.clone()));
        }
        let mut seen = self.taking.lock().expect("no panic under the lock");
        let began = Instant::now();
        let store = &self.state.store;
        let writing = store.begin_session();
        let previous = self.state.newest();
        let frames_lost = store.stats().frames_lost;
        let known = previous.as_deref().filter(|_| frames_lost == seen.frames_lost);
        let Scanned { root, report: scanned, index, index_token } = self.scan_quiesced(known)?;
        let taken = store.record(POSITION_RECORD)?.map(|record| position_of_record(&record)).transpose()?;
        let is_unchanged = |previous: &&Arc<Held>| {
            let is_newest = taken.is_none_or(|taken| taken <= previous.manifest.position);
            is_newest && previous.manifest.sections[0].root == root && self.is_signed_as_now(previous)
        };
        let unchanged = previous.as_ref().filter(is_unchanged);
        let held = match unchanged {
            Some(previous) => (**previous).clone(),
            None => {
                let next = self.next_snapshot(previous.as_deref(), taken, root)?;
                // Before anybody can see it: a position that is used up for nothing leaves a gap, which is legal.
                let mut record = Changes::default();
                record.set_record(POSITION_RECORD, position_record(next.manifest.position));
                store.change(&record)?;
                next
            }
        };
        let let_go = match unchanged {
            Some(_) => LetGo::Nothing,
            None => self.state.publish(held.clone(), &self.clock)?,
        };
        drop(writing);
        // If the process dies between these two, neither fits the other, and everything is read again.
        let mut records = Changes::default();
        records.set_record(KEEP_RECORD, [self.config.keep as u8]);
        records.set_record(INDEX_RECORD, index_record(index_token, held.id));
        store.change(&records)?;
        index.commit().map_err(TakeError::Index)?;
        seen.frames_lost = frames_lost;
        if let_go == LetGo::Some {
            collect(store, CollectBudget { copy_bytes_max: COLLECT_COPY_BYTES_MAX })?;
        }
        Ok(report(&held, unchanged.is_none(), &scanned, began.elapsed()))
    }

    /// `known` is a snapshot whose unchanged files need not be read, for all that they hold is here.
    fn scan_quiesced(&self, known: Option<&Held>) -> Result<Scanned, TakeError> {
        if let Some(command) = &self.config.before_snapshot {
            run(command)?;
        }
        let scanned = self.scan(known);
        let resumed = self.config.after_snapshot.as_deref().map_or(Ok(()), run);
        let scanned = scanned?;
        resumed?;
        Ok(scanned)
    }

    fn scan(&self, previous: Option<&Held>) -> Result<Scanned, TakeError> {
        let data = std::fs::File::open(&self.config.data).map_err(TakeError::Index)?;
        let taken = wall_clock();
        // The snapshot has no id yet; the record in the store says which one the token stands for.
        let index_token = ChunkId::of(Domain::Data, format!("{taken:?}").as_bytes());
        let header = IndexHeader { manifest: index_token, taken };
        let index = IndexWriter::create(&data, Path::new(INDEX), &header).map_err(TakeError::Index)?;
        let known = match previous {
            Some(held) => self.known_files(&data, held)?,
            None => None,
        };
        let directory = std::fs::File::open(&self.config.directory).map_err(|source| self.unreadable(source))?;
        let what = Scan {
            directory: directory.as_fd(),
            changing: self.config.changing,
            threads: Scan::default_threads(),
            previous: known,
        };
        let kept = match self.config.keep {
            Keep::Store => Kept::Everything,
            Keep::Frozen => Kept::WhatNoFileHolds,
        };
        let chunks = NewChunks::new(&self.state.store, kept);
        let mut entries = NewEntries::new(&self.state.nodes, index);
        let report = scan::scan(what, &chunks, &mut entries).map_err(|stopped| match stopped {
            Stopped::Scan(error) => TakeError::Scan(error),
            Stopped::Sink(error) => error,
        })?;
        let (root, index) = entries.finish()?;
        Ok(Scanned { root, report, index, index_token })
    }

    /// The files as the snapshot before saw them. Without the index that was written with it every file is read; and if its content
    /// was kept in another way, nothing of it counts as kept.
    fn known_files(&self, data: &std::fs::File, held: &Held) -> Result<Option<Previous<'_>>, TakeError> {
        if self.state.store.record(KEEP_RECORD)?.as_deref() != Some(&[self.config.keep as u8][..]) {
            return Ok(None);
        }
        let record = self.state.store.record(INDEX_RECORD)?;
        let fits = |index: &IndexReader| {
            record.as_ref().is_some_and(|record| *record == index_record(index.header().manifest, held.id))
        };
        let index = IndexReader::open(data, Path::new(INDEX)).ok().filter(fits);
        Ok(Some(Previous { root: held.manifest.sections[0].root, nodes: &*self.state.nodes, index }))
    }

    fn unreadable(&self, source: std::io::Error) -> TakeError {
        TakeError::Scan(scan::ScanError::Unreadable { path: FilePath::root(), source })
    }

    /// The snapshot after `previous`, which may not be the last that was taken: that one stood at `taken`. One that is lost is no link of the
    /// chain any more, and leaves a gap.
    fn next_snapshot(&self, previous: Option<&Held>, taken: Option<Position>, root: Root) -> Result<Held, TakeError> {
        let before = previous.map(|held| (held.manifest.position, held.manifest.log_hash));
        let (position, log_hash) = before.unwrap_or((Position { epoch: 1, index: 0 }, LogHash::default()));
        // Whoever holds one that is lost here would take another at its position for older news.
        let position = taken.map_or(position, |taken| taken.max(position));
        let position = Position { epoch: position.epoch, index: position.index + 1 };
        let mut manifest = Manifest {
            state: self.config.name.clone(),
            position,
            log_hash,
            sections: vec![Section {
                name: StateName::new("data").expect("a legal name"),
                kind: SectionKind::Files,
                priority: SectionPriority::Bulk,
                range: KeyRange::default(),
                salt: Salt::PUBLIC,
                root,
            }],
        };
        // A directory has no log of its own: each snapshot is one record, chained to the one before.
        manifest.log_hash = log_hash.after(position, manifest.state_root().as_bytes());
        let chunk = manifest.to_chunk();
        self.state.store.put(&chunk)?;
        self.state.store.sync()?;
        let head = self.sign(&Head {
            state: self.config.name.clone(),
            snapshot: chunk.id(),
            position,
            previous: previous.map(|held| held.id),
        });
        Ok(Held {
            id: chunk.id(),
            manifest,
            manifest_bytes: chunk.into_bytes(),
            head,
            since: wall_seconds(),
            extent: Extent::Whole,
            sections: Sections::All,
        })
    }

    fn sign(&self, head: &Head) -> Option<SignedHead> {
        let signer = self.signer.as_ref()?;
        let head = Bytes::from(head.encode());
        let signature = signer.sign_head(&head).into();
        Some(SignedHead { head, certificates: certificates(signer), signature })
    }

    /// Whether a snapshot would be signed with the certificate that it was signed with. With a renewed one the same content is published
    /// again: the old signature is believed no longer than the old certificate.
    fn is_signed_as_now(&self, held: &Held) -> bool {
        let Some(signer) = &self.signer else { return true };
        held.head.as_ref().is_some_and(|head| head.certificates == certificates(signer))
    }
}

/// What a scan gave, before it is published.
struct Scanned {
    root: Root,
    report: scan::Report,
    index: IndexWriter,
    index_token: ChunkId,
}

/// Says that an index goes with a snapshot.
fn index_record(token: ChunkId, snapshot: ChunkId) -> Vec<u8> {
    [&token.as_bytes()[..], snapshot.as_bytes()].concat()
}

fn position_record(Position { epoch, index }: Position) -> Vec<u8> {
    [epoch.to_le_bytes(), index.to_le_bytes()].concat()
}

fn position_of_record(record: &[u8]) -> Result<Position, TakeError> {
    match *record.as_chunks().0 {
        [epoch, index] if record.len() == 16 => {
            Ok(Position { epoch: u64::from_le_bytes(epoch), index: u64::from_le_bytes(index) })
        }
        _ => Err(TakeError::BadPosition),
    }
}

fn open_store(data: &Path) -> Result<Store, ServeError> {
    Ok(Store::open(Arc::new(RealVfs), &data.join("store"), StoreOptions::default())?)
}

fn certificates(signer: &Identity) -> Vec<Bytes> {
    signer.own().certificate_chain.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}

fn run(command: &str) -> Result<(), TakeError> {
    let failed = |failure: String| TakeError::Command { command: command.to_owned(), failure };
    let status = Command::new("/bin/sh").arg("-c").arg(command).status();
    let status = status.map_err(|error| failed(format!("cannot be run: {error}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("failed with {status}"))) }
}

fn report(held: &Held, changed: bool, scanned: &scan::Report, took: Duration) -> SnapshotReport {
    SnapshotReport {
        snapshot: held.id.to_string(),
        position: held.manifest.position.to_string(),
        state_root: held.manifest.state_root().to_string(),
        changed,
        state_bytes: held.manifest.payload_bytes(),
        entries: held.manifest.sections.iter().map(|section| section.root.entries).sum(),
        bytes_read: scanned.bytes_read,
        files_unchanged: scanned.files.saturating_sub(scanned.files_read),
        skipped: listed(&scanned.skipped, |skipped| format!("{}: {}", skipped.path.escape_ascii(), skipped.reason)),
        torn: listed(&scanned.changing, ToString::to_string),
        unkept_xattrs: listed(&scanned.unkept_xattrs, ToString::to_string),
        seconds: took.as_secs_f64(),
    }
}

/// What a report lists, and how many more there are.
fn listed<T>(counted: &scan::Counted<T>, describe: impl Fn(&T) -> String) -> Vec<String> {
    let more = counted.count - counted.first.len() as u64;
    let more = (more > 0).then(|| format!("… and {more} more"));
    counted.first.iter().map(describe).chain(more).collect()
}

/// What a snapshot that lets an older one go may spend on making room: a part of the next ones' turn, never a long pause.
const COLLECT_COPY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The stat index in a data directory.
const INDEX: &str = "index";
/// The record that says which snapshot the index goes with.
const INDEX_RECORD: &str = "index";
/// The record that says how content was kept when the index was written.
const KEEP_RECORD: &str = "keep";
/// The record of where the last snapshot stood: no other ever stands there, though that one be lost.
const POSITION_RECORD: &str = "position";

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(at: &Path) -> Publisher {
        let config = StateConfig {
            name: StateName::new("state").unwrap(),
            directory: at.join("state"),
            data: at.join("data"),
            keep: Keep::Store,
            changing: ChangingFiles::Refuse,
            before_snapshot: None,
            after_snapshot: None,
        };
        Publisher::open(config, None, Clock::start()).unwrap()
    }

    /// Flips a bit of what a pack holds.
    fn damage(packs: &Path, what: &[u8]) {
        for pack in std::fs::read_dir(packs).unwrap() {
            let pack = pack.unwrap().path();
            let mut bytes = std::fs::read(&pack).unwrap();
            if let Some(at) = bytes.windows(what.len()).position(|found| found == what) {
                bytes[at + what.len() / 2] ^= 1;
                return std::fs::write(&pack, bytes).unwrap();
            }
        }
        panic!("no pack holds it");
    }

    #[test]
    fn a_position_is_taken_once_though_its_snapshot_be_lost() {
        let at = tempfile::tempdir().unwrap();
        std::fs::create_dir(at.path().join("state")).unwrap();
        // All of one time, so that equal texts are equal snapshots.
        let write = |text: &str| {
            let file = at.path().join("state/file");
            std::fs::write(&file, text).unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        let opened = publisher(at.path());
        write("one");
        assert_eq!(opened.take().unwrap().position, "1.1");
        write("another");
        assert_eq!(opened.take().unwrap().position, "1.2");
        let manifest = opened.state.newest().unwrap().manifest_bytes.clone();
        drop(opened);
        damage(&at.path().join("data/store/packs"), &manifest);

        let opened = publisher(at.path());
        let first = opened.state.newest().unwrap();
        assert_eq!(first.manifest.position.to_string(), "1.1");
        // The very content of the older one: who holds the lost one has to hear of it all the same.
        write("one");
        let report = opened.take().unwrap();
        assert_eq!((report.position.as_str(), report.changed), ("1.3", true));
        let next = opened.state.newest().unwrap().manifest.clone();
        assert_eq!(next.log_hash, first.manifest.log_hash.after(next.position, next.state_root().as_bytes()));
        assert!(!opened.take().unwrap().changed);
    }

    #[test]
    fn a_record_of_no_position_is_not_taken_for_none() {
        let position = Position { epoch: 3, index: 4 };
        let record = position_record(position);
        assert_eq!(position_of_record(&record).unwrap(), position);
        for wrong in [&record[..15], &[&record[..], &[0]].concat(), &[]] {
            assert!(matches!(position_of_record(wrong), Err(TakeError::BadPosition)));
        }
    }
}

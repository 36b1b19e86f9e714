//! Owns the way back: a copy becomes again what it was before its last pull, from what that pull kept. It asks nobody and
//! fetches nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::ChunkId;
use landfall_core::snapshot::{Manifest, Position, StateRoot};
use landfall_store::vfs::RealVfs;
use landfall_store::{OpenError, Store, StoreError, StoreOptions};

use crate::files::place::{CONTROL, ChangesError, FinishReport, Holders, LocalChanges, PlaceError, Placement, WayBack};
use crate::history::{self, Held, HistoryError};
use crate::pull::{OnLocalChanges, OnOpenFiles};

/// What to restore, and what may be overwritten.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// A directory that was pulled.
    pub destination: PathBuf,
    /// What happens to changes that were made in it since.
    pub local_changes: OnLocalChanges,
    /// What happens if another process holds a file open that is to be replaced.
    pub open_files: OnOpenFiles,
}

/// What a restore did.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// The snapshot that the destination holds now. Nothing if it held none exactly before the last pull.
    pub snapshot: Option<ChunkId>,
    /// Its position, if it is still known here.
    pub position: Option<Position>,
    /// The hash of its content, if it is still known here.
    pub state_root: Option<StateRoot>,
    /// Paths that the last pull had replaced or removed.
    pub put_back: u64,
    /// Paths of which it had changed only owner, mode, time or attributes.
    pub altered: u64,
    /// Paths that it had brought.
    pub removed: u64,
    /// Whether a restore that was cut short was only carried to its end, and not counted.
    pub recovered: bool,
    /// Time that it took.
    pub elapsed: Duration,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Why nothing was restored. Nothing was touched, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory was not made by a pull.
    #[error("{} is not a pulled copy: name the directory that `landfall pull` made", .0.display())]
    NotACopy(PathBuf),
    /// There is no way back, or the destination refuses.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The destination cannot be compared with what was pulled.
    #[error("cannot look for local changes: {0}")]
    Changes(#[from] ChangesError),
    /// The data directory below the destination cannot be opened.
    #[error("cannot open the data directory of the copy: {0}")]
    Open(#[from] OpenError),
    /// The data directory below the destination refused something.
    #[error("the data directory of the copy: {0}")]
    Store(#[from] StoreError),
    /// Files were changed since the last pull.
    #[error("{} was changed since the last pull:\n{changes}nothing was touched; restore again with --discard-local-changes to overwrite what is in the way", destination.display())]
    LocalChanges {
        /// The destination.
        destination: PathBuf,
        /// What was changed.
        changes: LocalChanges,
    },
    /// Other processes have files open that are to be replaced.
    #[error("files in {} that are to be replaced are open:\n{holders}nothing was replaced; stop these processes, or restore again with --while-running", destination.display())]
    OpenFiles {
        /// The destination.
        destination: PathBuf,
        /// Who holds what.
        holders: Holders,
    },
}

/// Makes a copy again what it was before its last pull, if that pull kept the way back.
pub fn restore(options: &RestoreOptions) -> Result<RestoreReport, RestoreError> {
    let began = Instant::now();
    let destination = &options.destination;
    if !destination.join(CONTROL).is_dir() {
        return Err(RestoreError::NotACopy(destination.clone()));
    }
    let placement = Placement::open(destination)?;
    // Whoever serves the copy holds its store, and must not see its files change.
    let store = Store::open(Arc::new(RealVfs), &placement.control_directory().join(STORE), StoreOptions::default())?;
    let held = held(&store)?;
    let way_back = match placement.record_way_back() {
        Err(nothing @ PlaceError::NothingPrevious(_)) => {
            return finished_before(&placement, &held, began).ok_or(nothing.into());
        }
        result => result?,
    };
    let changes = placement.local_changes()?;
    if changes.count() > 0 && options.local_changes == OnLocalChanges::Refuse {
        return Err(RestoreError::LocalChanges { destination: destination.clone(), changes });
    }
    refuse_open_files(options, &placement)?;
    let finished = placement.go_back(&way_back)?;
    let mut report = report(&way_back, &held, began);
    report.notes = notes(&way_back, &finished, changes.count());
    Ok(report)
}

fn report(way_back: &WayBack, held: &[Held], began: Instant) -> RestoreReport {
    let manifest = held.iter().find(|held| Some(held.id) == way_back.manifest).map(|held| &held.manifest);
    RestoreReport {
        snapshot: way_back.manifest,
        position: manifest.map(|manifest| manifest.position),
        state_root: manifest.map(Manifest::state_root),
        put_back: way_back.put_back,
        altered: way_back.altered,
        removed: way_back.removed,
        recovered: false,
        elapsed: began.elapsed(),
        notes: Vec::new(),
    }
}

fn notes(way_back: &WayBack, finished: &FinishReport, local_changes: u64) -> Vec<String> {
    let mut notes: Vec<String> = finished.left.iter().map(ToString::to_string).collect();
    if way_back.manifest.is_none() {
        notes.push("local changes that the last pull had discarded are back; the next pull finds them".to_owned());
    }
    if local_changes > 0 {
        notes.push(format!(
            "{local_changes} paths had been changed since the last pull: where that pull had not changed them too, they stay \
             as they are"
        ));
    }
    if way_back.passed_over > 0 {
        notes.push(format!(
            "{} of them keep also the owner, mode, time and attributes that the last pull gave them",
            way_back.passed_over
        ));
    }
    notes
}

/// Opening a destination carries to its end what a restore left undone. A pull that was cut short led to the newest snapshot;
/// a restore did not.
fn finished_before(placement: &Placement, held: &[Held], began: Instant) -> Option<RestoreReport> {
    let recovered = placement.recovered()?;
    let was_pull = held.last().is_some_and(|newest| newest.id == recovered.manifest);
    let report = RestoreReport { recovered: true, ..report(&WayBack::to(recovered.manifest), held, began) };
    (!was_pull).then_some(report)
}

fn held(store: &Store) -> Result<Vec<Held>, RestoreError> {
    match history::load(store) {
        Err(HistoryError::Store(error)) => Err(error.into()),
        // It only says more about what the way back leads to.
        result => Ok(result.unwrap_or_default().held),
    }
}

fn refuse_open_files(options: &RestoreOptions, placement: &Placement) -> Result<(), RestoreError> {
    if options.open_files == OnOpenFiles::Allow {
        return Ok(());
    }
    let holders = placement.open_elsewhere()?;
    if holders.is_empty() {
        return Ok(());
    }
    Err(RestoreError::OpenFiles { destination: options.destination.clone(), holders })
}

/// The store below `.landfall`.
const STORE: &str = "store";

//! Owns a pull from its first look at the destination to the new state in place.
//!
//! Look at the destination, ask the sources, fetch what is not here, put everything in place at once. Each step leaves what it did
//! for the next pull, should this one be cut short.

pub(crate) mod assembly;
mod contents;
mod discard;
mod error;
mod install;
mod rescan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::ChunkId;
use landfall_core::keyed::Sections;
use landfall_core::offer::Strategy;
use landfall_core::snapshot::{Manifest, Position, SectionKind, StateName, StateRoot};
use landfall_core::transfer::TreePair;
use landfall_core::tree::Root;
use landfall_net::Transport;
use landfall_store::vfs::RealVfs;
use landfall_store::{Store, StoreOptions};

use crate::clock::wall_seconds;
use crate::fetch::ask::{Answers, Asked, Ways};
use crate::fetch::greet::{Greeted, Question};
use crate::fetch::session::{Session, SessionEnd};
use crate::files::place::{Kind, Placement, Previous};
use crate::history::{self, Extent, Held};
use crate::nodes::NodeCache;

pub use crate::fetch::greet::{SourceError, Trust, TrustAll};
pub use crate::fetch::status::{SourceStatus, Stage, Status, StatusFigures};
pub use assembly::AssemblyError;
pub use error::PullError;
pub use install::ChangedPaths;

use assembly::Assembly;

/// What to pull, from where, and what may be overwritten.
pub struct PullOptions {
    /// The state.
    pub state: StateName,
    /// The directory that becomes a copy of it.
    pub destination: PathBuf,
    /// Addresses of members that serve it; each may hold all of it or a part.
    pub sources: Vec<String>,
    /// The way to reach them.
    pub transport: Arc<dyn Transport>,
    /// Who may speak for the state.
    pub trust: Arc<dyn Trust>,
    /// What happens to changes that were made in the destination.
    pub local_changes: OnLocalChanges,
    /// What happens if another process holds a file open that is to be replaced.
    pub open_files: OnOpenFiles,
    /// What happens to what is replaced.
    pub previous: Previous,
}

/// What happens to changes that were made in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLocalChanges {
    /// They are listed and the pull stops.
    Refuse,
    /// They are overwritten.
    Discard,
}

/// What happens if another process holds a file open that is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOpenFiles {
    /// They are listed and the pull stops before it replaces anything.
    Refuse,
    /// They are replaced; the other process keeps the old file until it opens it again.
    Allow,
}

/// What a pull did.
#[derive(Debug, Clone)]
pub struct PullReport {
    /// The snapshot that the destination holds now.
    pub snapshot: ChunkId,
    /// Its position.
    pub position: Position,
    /// The hash of the state's content.
    pub state_root: StateRoot,
    /// How the transfer went.
    pub strategy: Strategy,
    /// Bytes of the whole state.
    pub state_bytes: u64,
    /// Time from the first look at the destination to the new state in place, the final sync included.
    pub elapsed: Duration,
    /// Time of the final sync.
    pub sync: Duration,
    /// Paths that changed.
    pub changed: ChangedPaths,
    /// What a previous process that was cut short left, and this one carried forward.
    pub recovered: bool,
    /// Figures of the transfer.
    pub figures: StatusFigures,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Makes the destination a copy of the newest snapshot that the sources hold.
pub fn pull(options: &PullOptions, status: &Arc<Status>) -> Result<PullReport, PullError> {
    let began = Instant::now();
    status.enter(Stage::Preparing);
    let destination = Destination::open(options)?;
    status.enter(Stage::Asking);
    let (plan, asked) = ask_all(options, status, destination.base.as_ref().map(|base| base.id))?;
    destination.refuse_older(&plan)?;
    if destination.holds(plan.snapshot) {
        note_asking(&asked, status);
        return Ok(destination.unchanged(&plan, began, status));
    }
    destination.fetch_and_install(options, &plan, asked, began, status)
}

/// The snapshot that is to be fetched.
struct Planned {
    snapshot: ChunkId,
    manifest: Manifest,
    manifest_chunk: landfall_core::Chunk,
    head: Option<landfall_core::wire::SignedHead>,
    strategy: Strategy,
}

/// A destination before anything was fetched.
struct Destination {
    placement: Placement,
    store: Arc<Store>,
    nodes: Arc<NodeCache>,
    /// The snapshot that the destination holds.
    base: Option<Held>,
    /// Its tree, less what was changed in the destination and is to be discarded.
    base_root: Option<Root>,
    discards: bool,
    recovered: bool,
}

impl Destination {
    fn open(options: &PullOptions) -> Result<Self, PullError> {
        let placement = Placement::open(&options.destination)?;
        let recovered = placement.recovered().is_some();
        let directory = placement.control_directory().join("store");
        let store = Arc::new(Store::open(Arc::new(RealVfs), &directory, StoreOptions::default())?);
        let nodes = Arc::new(NodeCache::new(store.clone()));
        let (base, base_root, discards) = match what_is_held(&placement, &store)? {
            Holding::Nothing => (None, None, false),
            Holding::Snapshot(base) => {
                let changes = placement.local_changes()?;
                let discards = changes.count() > 0;
                if discards && options.local_changes == OnLocalChanges::Refuse {
                    return Err(PullError::LocalChanges { destination: options.destination.clone(), changes });
                }
                let root = files_root(&base.manifest)?;
                let root = if discards { discard::without_changes(&nodes, root, &placement)? } else { root };
                (Some(base), Some(root), discards)
            }
            Holding::Unknown(newest) => {
                let found = rescan::tree_of(&options.destination, &nodes)?;
                let expected = newest.as_ref().map(|newest| files_root(&newest.manifest)).transpose()?;
                let discards = expected != Some(found);
                if discards && options.local_changes == OnLocalChanges::Refuse {
                    return Err(PullError::IndexLost { destination: options.destination.clone() });
                }
                (newest, Some(found), discards)
            }
        };
        Ok(Self { placement, store, nodes, base, base_root, discards, recovered })
    }

    fn holds(&self, snapshot: ChunkId) -> bool {
        self.base.as_ref().is_some_and(|base| base.id == snapshot) && !self.discards
    }

    /// Heads never go back, and one position has one snapshot.
    fn refuse_older(&self, plan: &Planned) -> Result<(), PullError> {
        let Some(base) = self.base.as_ref().filter(|base| base.id != plan.snapshot) else { return Ok(()) };
        if plan.manifest.position > base.manifest.position {
            return Ok(());
        }
        Err(PullError::Older { held: base.manifest.position, offered: plan.manifest.position })
    }

    fn unchanged(self, plan: &Planned, began: Instant, status: &Status) -> PullReport {
        status.enter(Stage::Done);
        report(plan, began, Duration::ZERO, ChangedPaths::default(), self.recovered, status)
    }

    fn fetch_and_install(
        self,
        options: &PullOptions,
        plan: &Planned,
        asked: Vec<Asked>,
        began: Instant,
        status: &Arc<Status>,
    ) -> Result<PullReport, PullError> {
        let Self { placement, store, nodes, base, base_root, recovered, .. } = self;
        let target = files_root(&plan.manifest)?;
        if placement.kind() == Kind::First {
            placement.expect_bytes(target.payload_bytes)?;
        }
        // Who allows open files has a service that reads the old ones until the end.
        if options.open_files != OnOpenFiles::Allow {
            placement.release_old_pages();
        }
        let writing = store.begin_session();
        let assembly =
            Arc::new(Assembly::new(placement, store.clone(), nodes.clone(), status.clone(), base_root, target));
        status.enter(Stage::Fetching);
        fetch(options, plan, asked, &assembly, status)?;
        status.enter(Stage::Installing);
        let reader = nodes.reader();
        let recorded = install::record_changes(&assembly, &reader);
        assembly.close_files();
        // What only looked missing because the disk failed is that failure.
        reader.check()?;
        let changed = recorded?;
        store.put(&plan.manifest_chunk)?;
        store.sync()?;
        history::save(&store, &held_after(plan, base))?;
        drop(writing);
        drop(nodes);
        let assembly = Arc::into_inner(assembly).expect("every thread of the transfer has ended");
        let placement = assembly.into_placement();
        drop(Arc::into_inner(store).expect("nobody else holds the store"));
        check_open_files(options, &placement)?;
        let finished = placement.finish(plan.snapshot, options.previous)?;
        status.enter(Stage::Done);
        for shortfall in &finished.left {
            status.note(shortfall.to_string());
        }
        Ok(report(plan, began, finished.sync, changed, recovered, status))
    }
}

fn report(
    plan: &Planned,
    began: Instant,
    sync: Duration,
    changed: ChangedPaths,
    recovered: bool,
    status: &Status,
) -> PullReport {
    PullReport {
        snapshot: plan.snapshot,
        position: plan.manifest.position,
        state_root: plan.manifest.state_root(),
        strategy: plan.strategy,
        state_bytes: plan.manifest.payload_bytes(),
        elapsed: began.elapsed(),
        sync,
        changed,
        recovered,
        figures: status.figures(),
        notes: status.notes(),
    }
}

/// Asks every source.
fn ask_all(options: &PullOptions, status: &Status, held: Option<ChunkId>) -> Result<(Planned, Vec<Asked>), PullError> {
    let question = Question { held: held.into_iter().collect(), ..question(options, None) };
    let answers = ways(options).ask_all(&question);
    let newest = answers.newest().map(Planned::from);
    let Answers { asked, failures } = answers;
    let Some(newest) = newest else { return Err(PullError::NoSource { state: options.state.clone(), failures }) };
    for (address, error) in failures {
        status.note(format!("{address}: {error}"));
    }
    Ok((newest, asked))
}

fn question(options: &PullOptions, wanted: Option<ChunkId>) -> Question {
    Question::for_snapshot(options.state.clone(), wanted)
}

fn ways(options: &PullOptions) -> Ways<'_> {
    Ways { sources: &options.sources, transport: &options.transport, trust: &*options.trust }
}

/// Counts what asking cost, where nothing else is fetched on these connections.
fn note_asking(asked: &[Asked], status: &Status) {
    for connection in asked.iter().filter_map(|asked| asked.greeted.as_ref()).map(|greeted| &greeted.connection) {
        status.note_wire(connection.receiver.bytes_received(), connection.sender.pressure().bytes_sent);
    }
}

impl From<&Greeted> for Planned {
    fn from(greeted: &Greeted) -> Self {
        Self {
            snapshot: greeted.snapshot,
            manifest: greeted.manifest.clone(),
            manifest_chunk: greeted.manifest_chunk.clone(),
            head: greeted.head.clone(),
            strategy: greeted.strategy,
        }
    }
}

/// Fetches everything that is not here.
fn fetch(
    options: &PullOptions,
    plan: &Planned,
    asked: Vec<Asked>,
    assembly: &Arc<Assembly>,
    status: &Arc<Status>,
) -> Result<(), PullError> {
    let trees = vec![TreePair { base: assembly.base, target: assembly.target }];
    let session = Session::new(trees, assembly.clone(), status.clone());
    let question = question(options, Some(plan.snapshot));
    let end = ways(options).fetch(&session, plan.snapshot, &question, asked);
    match end {
        SessionEnd::Complete => session.late_failure().map_or(Ok(()), |failure| Err(failure.into())),
        SessionEnd::Stuck(stuck) => Err(PullError::Stuck { stuck, notes: status.notes() }),
        SessionEnd::Failed(failure) => Err(failure.into()),
    }
}

/// What a destination holds, as far as anybody remembers.
enum Holding {
    /// It is new.
    Nothing,
    /// Its index names a snapshot whose tree is here.
    Snapshot(Held),
    /// Its index is lost or names a snapshot that is not here; the newest that is, if any, may be the one.
    Unknown(Option<Held>),
}

fn what_is_held(placement: &Placement, store: &Store) -> Result<Holding, PullError> {
    if placement.kind() != Kind::Update {
        return Ok(Holding::Nothing);
    }
    let mut held = history::load(store)?.held;
    let indexed = placement.index().ok().map(|index| index.header().manifest);
    match held.iter().position(|held| Some(held.id) == indexed) {
        Some(at) => Ok(Holding::Snapshot(held.swap_remove(at))),
        None => Ok(Holding::Unknown(held.pop())),
    }
}

/// Both snapshots stay until the next pull: which of them the destination holds is decided by its index.
fn held_after(plan: &Planned, base: Option<Held>) -> Vec<Held> {
    let new = Held {
        id: plan.snapshot,
        manifest: plan.manifest.clone(),
        manifest_bytes: plan.manifest_chunk.bytes().clone(),
        head: plan.head.clone(),
        since: wall_seconds(),
        extent: Extent::Whole,
        sections: Sections::All,
    };
    base.into_iter().filter(|base| base.id != plan.snapshot).chain([new]).collect()
}

/// The tree of a state that is a directory.
fn files_root(manifest: &Manifest) -> Result<Root, PullError> {
    match &manifest.sections[..] {
        [section] if section.kind == SectionKind::Files => Ok(section.root),
        _ => Err(PullError::NotADirectory { state: manifest.state.clone() }),
    }
}

fn check_open_files(options: &PullOptions, placement: &Placement) -> Result<(), PullError> {
    if options.open_files == OnOpenFiles::Allow {
        return Ok(());
    }
    let holders = placement.open_elsewhere()?;
    if holders.is_empty() {
        return Ok(());
    }
    Err(PullError::OpenFiles { destination: options.destination.clone(), holders })
}

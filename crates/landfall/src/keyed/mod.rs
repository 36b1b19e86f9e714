//! Owns a keyed state on this machine: what the log brings goes into it, reads come out of it, seals make snapshots of it, and a join fills
//! it from other members while it serves.
//!
//! It never decides what a change means, and never asks a peer unless a join is under way or something here is damaged. Its calls block.

#[cfg(test)]
mod alone;
mod carry;
mod differ;
mod error;
mod frozen;
mod here;
mod join;
mod mend;
mod merging;
mod near;
mod records;
mod room;
mod seal;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use landfall_core::keyed::{Applied, KeyedState, Look, Missing, ReadError, RebaseRefused, read_below};
use landfall_core::snapshot::{LogHash, Manifest, Position, StateName};
use landfall_core::tree::Salt;
use landfall_core::{Chunk, ChunkId};
use landfall_store::vfs::{RealVfs, Vfs};
use landfall_store::{Session, Store, StoreOptions};

pub use landfall_core::keyed::{Batch, Op, Schema, SectionId, SectionSchema, Sections, SectionsRefused, Transaction};

pub use crate::history::Extent;
pub use carry::CarryTicket;
pub use differ::{Difference, DifferenceKind};
pub use error::{CarryRefused, KeyedError, KeyedOpenError, RollBackError, SealError, SealRefused};
pub use join::{
    AdoptError, FaultError, JoinError, JoinFailure, JoinHandle, JoinOptions, JoinStatus, LAG_MAX, LandingError,
    Milestone, ReachedAfter,
};
pub use records::{CarriedOut, CarryOutError};
pub use seal::{SealReport, SealTicket};

use crate::clock::{Clock, wall_seconds};
use crate::history::{self, Held, History};
use crate::nodes::NodeCache;
use crate::source::{Content, ServedState};
use here::Here;
use join::FaultLanes;
use mend::Menders;
use near::Near;
use room::Room;

/// Entries of a scan whose nodes are asked for at once when the first of them is not here: a few leaves.
const ENTRIES_FETCHED_AHEAD: usize = 2000;

/// What a keyed state is, and where it is kept.
#[derive(Debug, Clone)]
pub struct KeyedConfig {
    /// Its name.
    pub name: StateName,
    /// Where it is kept; one process has it at a time.
    pub directory: PathBuf,
    /// Its sections.
    pub schema: Schema,
    /// Memory for tree nodes that were read lately.
    pub cache_bytes: u64,
    /// What the salts of a state that is born are drawn from: secret, and the same on every member that is there from the beginning.
    /// One that joins gets the salts with the snapshot.
    pub salt_seed: [u8; 32],
}

/// A snapshot on which the state stands or stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSnapshot {
    /// Its id.
    pub id: ChunkId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// How much of it is here.
    pub extent: Extent,
    /// The sections that are here, or are to be.
    pub sections: Sections,
}

impl From<&Held> for SealedSnapshot {
    fn from(held: &Held) -> Self {
        Self { id: held.id, manifest: held.manifest.clone(), extent: held.extent, sections: held.sections.clone() }
    }
}

/// A keyed state.
pub struct Keyed {
    here: Here,
    served: Arc<ServedState>,
    clock: Clock,
    room: Room,
    /// Snapshots that were held and whose manifests are lost.
    lost: Vec<ChunkId>,
    /// Held for moments: nothing is read from a disk or a peer under the writing lock.
    state: RwLock<KeyedState>,
    /// One change at a time.
    applying: Mutex<()>,
    /// Held while the snapshot below the state changes; counts how often that was not by a seal.
    base: Mutex<u64>,
    /// Where to ask for what is not here, while a join is under way.
    lanes: RwLock<Option<Arc<FaultLanes>>>,
    /// Whom to ask for what is damaged here.
    menders: RwLock<Option<Menders>>,
    /// Protects what was carried over, until all of a snapshot is here.
    carried: Mutex<Option<Session>>,
}

impl Keyed {
    /// Opens a state at its newest durable snapshot, or at one that a join began to fill; a new directory gives an empty state. A snapshot
    /// whose manifest is lost is passed over: [`Self::lost_snapshots`].
    pub fn open(config: KeyedConfig) -> Result<Arc<Self>, KeyedOpenError> {
        Self::open_on(config, Arc::new(RealVfs))
    }

    /// Opens a state that is kept on the disk which `vfs` reaches.
    fn open_on(config: KeyedConfig, vfs: Arc<dyn Vfs>) -> Result<Arc<Self>, KeyedOpenError> {
        let store = Store::open(vfs, &config.directory.join("store"), StoreOptions::default())?;
        let store = Arc::new(store);
        let History { held, lost } = history::load(&store)?;
        if let Some(other) = held.iter().find(|held| held.manifest.state != config.name) {
            return Err(KeyedOpenError::OtherState { held: other.manifest.state.clone(), named: config.name });
        }
        let schema = Arc::new(config.schema);
        let state = match held.last() {
            Some(held) => {
                let mut state = KeyedState::at(schema, &held.manifest)?;
                state.hold(held.sections.clone());
                state
            }
            None => {
                let salts = salts(&config.name, &schema, &config.salt_seed);
                KeyedState::empty(config.name.clone(), schema, &salts)
            }
        };
        let nodes = Arc::new(NodeCache::with_cache_bytes(store.clone(), config.cache_bytes));
        let served = ServedState::with_nodes(config.name, store.clone(), nodes.clone(), Content::Packs, held);
        Ok(Arc::new(Self {
            here: Here { store, nodes },
            served: Arc::new(served),
            clock: Clock::start(),
            room: Room::default(),
            lost,
            state: RwLock::new(state),
            applying: Mutex::new(()),
            base: Mutex::new(0),
            lanes: RwLock::new(None),
            menders: RwLock::new(None),
            carried: Mutex::new(None),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &StateName {
        &self.served.name
    }

    /// Its sections.
    pub fn schema(&self) -> Arc<Schema> {
        self.read_state().schema().clone()
    }

    /// Those of them that this member holds: all, unless it joined some only.
    pub fn sections(&self) -> Sections {
        self.read_state().sections().clone()
    }

    /// The position of the last change.
    pub fn position(&self) -> Position {
        self.read_state().position()
    }

    /// The hash chain of the log at [`Self::position`].
    pub fn log_hash(&self) -> LogHash {
        self.read_state().log_hash()
    }

    /// Bytes of memory that changes take which no seal has merged yet, nearly.
    pub fn overlay_bytes(&self) -> u64 {
        self.read_state().overlay_bytes()
    }

    /// The snapshot on which the state stands: its newest durable seal, or the one that a join adopted.
    pub fn sealed(&self) -> Option<Arc<SealedSnapshot>> {
        self.served.held().last().map(|held| Arc::new(SealedSnapshot::from(&**held)))
    }

    /// The snapshots that are held here, oldest first: what a joiner's delta, or a rollback, can build on.
    pub fn snapshots(&self) -> Vec<SealedSnapshot> {
        self.served.held().iter().map(|held| SealedSnapshot::from(&**held)).collect()
    }

    /// Snapshots whose manifests could not be read when the state was opened, oldest first. If the newest was among them, the state stands at
    /// an older one: apply the log again from [`Self::position`] on, or join.
    pub fn lost_snapshots(&self) -> &[ChunkId] {
        &self.lost
    }

    /// The value of a key. What is not here is fetched, if a join is under way; what is damaged here, if sources are known.
    pub fn get(&self, section: SectionId, key: &[u8]) -> Result<Option<Bytes>, KeyedError> {
        self.served.touched.note(section.0, key);
        loop {
            let (look, base) = {
                let state = self.read_state();
                (state.look(section, key), state.base_position())
            };
            let root = match look {
                Look::Found(value) => return Ok(value),
                Look::Below(root) => root,
                Look::NotHeld(section) => return Err(KeyedError::NotHeld { section }),
            };
            // What is below is read without the lock. Its snapshot may be let go meanwhile: then a newer one has taken its place.
            let reader = self.here.reader();
            match read_below(&reader, &root, key) {
                Ok(value) => return Ok(value),
                Err(ReadError::Missing(missing)) => {
                    reader.check()?;
                    self.fetch(&missing, base)?;
                }
                Err(error) => return Err(KeyedError::of_read(error)),
            }
        }
    }

    /// Up to `entries_max` entries of a section in order of their keys, from `from` on. Fewer mean that the section ends there.
    ///
    /// All of them are of one position. Neither a disk nor a peer is waited for while writers wait.
    pub fn scan(&self, section: SectionId, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, KeyedError> {
        self.served.touched.note(section.0, from);
        let near = Near::new(&self.here);
        let try_once = |entries_max| {
            let state = self.read_state();
            (state.scan(&near, section, from, entries_max), state.base_position())
        };
        loop {
            let (scanned, base) = try_once(entries_max);
            let missing = match scanned {
                Ok(entries) => return Ok(entries),
                Err(ReadError::Missing(missing)) => missing,
                Err(error) => return Err(KeyedError::of_read(error)),
            };
            let mut absent = near.bring(missing)?;
            if absent.is_empty() {
                continue;
            }
            // The next scan most likely goes on where this one ends: what follows is fetched with it, and saves it a round trip.
            if let (Err(ReadError::Missing(more)), _) = try_once(entries_max.max(ENTRIES_FETCHED_AHEAD)) {
                absent.nodes = near.bring(Missing { nodes: more.nodes, ..Missing::default() })?.nodes;
            }
            self.fetch(&absent, base)?;
        }
    }

    /// Makes the changes that `run` decides on take effect at `position`, all at once; `record` is what the log holds there.
    ///
    /// Nothing if the state stands at or behind the position already. `run` is called again after what it wanted to read was fetched: it
    /// must have no effect but on the transaction. One change runs at a time.
    pub fn transact<R>(
        &self,
        position: Position,
        record: &[u8],
        mut run: impl FnMut(&mut Transaction<'_>) -> Result<R, ReadError>,
    ) -> Result<Option<R>, KeyedError> {
        let _one_at_a_time = self.lock_applying();
        loop {
            let reader = self.here.reader();
            let (tried, base) = {
                let state = self.read_state();
                if position <= state.position() {
                    return Ok(None);
                }
                let mut transaction = state.begin(&reader);
                let tried = run(&mut transaction).and_then(|result| Ok((result, transaction.finish()?)));
                (tried, state.base_position())
            };
            match tried {
                Ok((result, changes)) => {
                    let applied = self.write_state().commit(position, record, &changes);
                    return Ok((applied == Applied::Now).then_some(result));
                }
                Err(ReadError::Missing(missing)) => {
                    reader.check()?;
                    self.fetch(&missing, base)?;
                }
                Err(error) => return Err(KeyedError::of_read(error)),
            }
        }
    }

    /// Makes the content of a snapshot that is held here the state's content at `position`, where the log says so with `record`.
    pub fn roll_back(&self, snapshot: ChunkId, position: Position, record: &[u8]) -> Result<ChunkId, RollBackError> {
        let _one_at_a_time = self.lock_applying();
        // Before it is looked for: a seal that ends now could let the snapshot go, and the collector take what only it needs.
        let mut base = self.lock_base();
        let _writing = self.here.store.begin_session();
        let sections = self.sections();
        let is_here = |held: &Arc<Held>| held.extent != Extent::Filling && held.sections.cover(&sections);
        let held = self.served.find(snapshot).filter(is_here).ok_or(RollBackError::UnknownSnapshot(snapshot))?;
        let log_hash = {
            let state = self.read_state();
            if position <= state.position() {
                return Err(RollBackError::Already);
            }
            state.log_hash().after(position, record)
        };
        let manifest = Manifest { position, log_hash, ..held.manifest.clone() };
        let chunk = manifest.to_chunk();
        self.here.store.put(&chunk)?;
        self.here.store.sync()?;
        let standing = Standing { chunk, manifest, extent: Extent::complete(&sections), sections };
        self.stand_on(standing, &mut base)
    }

    /// What is served of this state to other members.
    pub(crate) fn served(&self) -> &Arc<ServedState> {
        &self.served
    }

    /// Puts a snapshot below the state; its manifest, and what is here of it, must be durable.
    fn stand_on(&self, standing: Standing, rebased: &mut MutexGuard<'_, u64>) -> Result<ChunkId, RollBackError> {
        let held = standing.into_held();
        let Held { id, manifest, sections, .. } = held.clone();
        // Refused before anything is recorded: a record that the state does not stand on would be opened next time.
        KeyedState::at(self.schema(), &manifest).map_err(RebaseRefused::from)?;
        let base = self.read_state().base_position();
        if manifest.position < base {
            return Err(RebaseRefused::Older { position: manifest.position, base }.into());
        }
        let is_here = held.extent != Extent::Filling;
        self.served.publish(held, &self.clock)?;
        let mut state = self.write_state();
        state.rebase(&manifest)?;
        state.hold(sections);
        drop(state);
        **rebased += 1;
        if is_here {
            self.forget_carried();
        }
        Ok(id)
    }

    /// Makes a snapshot, all of which is here and durable, the state itself, wherever that stood. No other is held any longer: which of those
    /// that were sealed here are right, nobody knows.
    fn stand_only_on(&self, standing: Standing, rebased: &mut MutexGuard<'_, u64>) -> Result<(), RollBackError> {
        let held = standing.into_held();
        let Held { manifest, sections, .. } = held.clone();
        KeyedState::at(self.schema(), &manifest).map_err(RebaseRefused::from)?;
        self.served.publish_alone(held)?;
        let mut state = self.write_state();
        state.replace(&manifest)?;
        state.hold(sections);
        drop(state);
        **rebased += 1;
        self.forget_carried();
        Ok(())
    }

    /// Fetches what a read missed that saw the snapshot of position `base`. If that is no longer the one below the state, nothing need have
    /// come: the next try reads another.
    fn fetch(&self, missing: &Missing, base: Position) -> Result<(), KeyedError> {
        let fetched = self.fetch_now(missing);
        if self.read_state().base_position() == base { fetched } else { Ok(()) }
    }

    fn fetch_now(&self, missing: &Missing) -> Result<(), KeyedError> {
        let lanes = self.lanes.read().expect("no panic under the lock").clone();
        let Some(lanes) = lanes else {
            return if self.is_filling() { Err(KeyedError::of_missing(missing)) } else { self.mend(missing) };
        };
        match lanes.fetch_missing(missing) {
            // What did not come before the join ended is here if it ended well, and nobody's to give if it did not.
            Err(FaultError::Ended) => {
                self.ask_no_more(&lanes);
                Ok(())
            }
            fetched => Ok(fetched?),
        }
    }

    /// Does the state stand on a snapshot that is still being fetched?
    pub fn is_filling(&self) -> bool {
        self.served.held().last().is_some_and(|held| held.extent == Extent::Filling)
    }

    /// What is not here is asked for on these lanes from now on.
    fn ask_on(&self, lanes: Arc<FaultLanes>) {
        *self.lanes.write().expect("no panic under the lock") = Some(lanes);
    }

    /// Nothing is asked for on these lanes any more.
    fn ask_no_more(&self, lanes: &Arc<FaultLanes>) {
        self.lanes.write().expect("no panic under the lock").take_if(|asked| Arc::ptr_eq(asked, lanes));
    }

    fn lock_applying(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().expect("no panic under the lock")
    }

    fn lock_base(&self) -> MutexGuard<'_, u64> {
        self.base.lock().expect("no panic under the lock")
    }

    fn read_state(&self) -> RwLockReadGuard<'_, KeyedState> {
        self.state.read().expect("no panic under the lock")
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, KeyedState> {
        self.state.write().expect("no panic under the lock")
    }
}

/// A snapshot that is to be put below the state.
struct Standing {
    chunk: Chunk,
    manifest: Manifest,
    extent: Extent,
    sections: Sections,
}

impl Standing {
    fn into_held(self) -> Held {
        let Self { chunk, manifest, extent, sections } = self;
        let (id, manifest_bytes, since) = (chunk.id(), chunk.into_bytes(), wall_seconds());
        Held { id, manifest, manifest_bytes, head: None, since, extent, sections }
    }
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyed({} at {})", self.name(), self.position())
    }
}

/// The salts with which a state is born.
fn salts(state: &StateName, schema: &Schema, seed: &[u8; 32]) -> Vec<Salt> {
    let salt = |section: &SectionSchema| {
        let mut hasher = blake3::Hasher::new_derive_key("landfall 2026 salts of a keyed state");
        hasher.update(seed);
        for name in [state, &section.name] {
            hasher.update(&(name.as_str().len() as u64).to_le_bytes()).update(name.as_str().as_bytes());
        }
        let mut salt = Salt([0; 16]);
        hasher.finalize_xof().fill(&mut salt.0);
        salt
    };
    schema.sections().iter().map(salt).collect()
}

#[cfg(test)]
mod tests {
    use landfall_core::snapshot::{KeyRange, SectionPriority};

    use super::*;

    #[test]
    fn the_salts_of_a_seed_are_frozen() {
        let section = |name: &str| SectionSchema {
            name: StateName::new(name).unwrap(),
            priority: SectionPriority::Bulk,
            range: KeyRange::default(),
        };
        let schema = Schema::new(vec![section("data"), section("config")]).unwrap();
        let salts = salts(&StateName::new("orders").unwrap(), &schema, &[7; 32]);
        let hex = |salt: &Salt| salt.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            salts.iter().map(hex).collect::<Vec<_>>(),
            ["f9ff3ab613f4f8f44a5c3e91f4e33c82", "f39c90450036397af0a31eeab20a654b"]
        );
    }
}

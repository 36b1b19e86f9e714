//! Owns one member: its disk with store and log, its state, and what it does with records. Who gives it records, and when, is not its
//! business.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::keyed::{Applied, Batch, KeyedState, Missing, Op, ReadError, Record, Schema, Sections};
use landfall_core::snapshot::{Manifest, Position};
use landfall_core::tree::Salt;
use landfall_core::{Chunk, ChunkId, Time};
use landfall_store::log::{Log, LogOptions, LogRecord};

use super::deed::{DATA, Deed, state_name};
use super::fetched::{AskedBy, Fetched};
use super::here::{Here, NodeCache};
use super::joining::Joining;
use super::order::Placed;
use super::sealing::SealRun;
use crate::checks::{Violation, broken, check};
use crate::disk::Disk;
use crate::source::Serving;
use crate::trouble::Trouble;

/// How much of the snapshot below a state is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// All of the sections that the member holds, and these are not all.
    Sections,
    Filling,
}

impl Extent {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Whole,
            2 => Self::Sections,
            _ => Self::Filling,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Filling => 0,
            Self::Whole => 1,
            Self::Sections => 2,
        }
    }
}

/// The snapshot on which a member promised to stand.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) id: ChunkId,
    pub(super) manifest: Manifest,
    pub(super) extent: Extent,
}

/// A member of the simulation.
pub(super) struct Member {
    pub(super) disk: Disk,
    pub(super) log: Option<Log>,
    pub(super) state: Option<KeyedState>,
    /// Nothing while it stands on what it was born with, or was never filled.
    pub(super) base: Option<Base>,
    pub(super) nodes: NodeCache,
    pub(super) serving: Serving,
    /// It was there from the beginning: an empty disk means an empty state, not a missing one.
    pub(super) is_founder: bool,
    /// What it holds of the state, or is to.
    pub(super) sections: Sections,
    /// It sends lies now and then.
    pub(super) is_liar: bool,
    /// Nothing of another history stands in its log.
    pub(super) is_reconciled: bool,
    /// Snapshots that it holds whole and promised to keep, by their index.
    pub(super) seals: Roots,
    /// The seal under way.
    pub(super) seal: Option<SealRun>,
    /// The join under way.
    pub(super) joining: Option<Joining>,
    /// What it fetched, over all its lives.
    pub(super) fetched: Fetched,
    /// The next record that it applies gets something wrong.
    pub(super) diverges: bool,
    /// Since which index its state has something wrong, if it has.
    pub(super) diverged: Option<u64>,
    /// An audit showed that what it sealed is wrong.
    pub(super) distrusts_base: bool,
    /// Its state once had something wrong.
    pub(super) ever_diverged: bool,
    /// Grows with every start, so that what was meant for an earlier life is not taken.
    pub(super) life: u64,
    pub(super) clock_ahead: Duration,
    /// It stands still until then.
    pub(super) paused_until: Time,
    /// Between two looks at its log.
    pub(super) pace: Duration,
    /// Grows with every re-base: a seal that began before is outdated.
    pub(super) rebases: u64,
}

/// What a try to apply a record gave.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing is there to be applied.
    Idle,
    /// One more is applied.
    Applied(Deed),
    /// It needs what is not here.
    Needs(Missing),
}

impl Member {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            disk: Disk::new(seed),
            log: None,
            state: None,
            base: None,
            nodes: NodeCache::default(),
            serving: Serving::new(),
            is_founder: false,
            sections: Sections::All,
            is_liar: false,
            is_reconciled: false,
            seals: Roots::new(),
            seal: None,
            joining: None,
            fetched: Fetched::default(),
            diverges: false,
            diverged: None,
            distrusts_base: false,
            ever_diverged: false,
            life: 0,
            clock_ahead: Duration::ZERO,
            paused_until: Time::ZERO,
            pace: Duration::from_millis(10),
            rebases: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.disk.store().is_some() && self.log.is_some()
    }

    pub(super) fn clock(&self, now: Time) -> Time {
        now + self.clock_ahead
    }

    pub(super) fn is_whole(&self) -> bool {
        self.state.is_some() && self.base.as_ref().is_none_or(|base| base.extent == Extent::Whole)
    }

    /// Is everything here that it is to hold?
    pub(super) fn has_its_sections(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.extent != Extent::Filling)
    }

    /// How much is here once all is that it is to hold.
    pub(super) fn extent_at_best(&self) -> Extent {
        if self.sections == Sections::All { Extent::Whole } else { Extent::Sections }
    }

    pub(super) fn position(&self) -> Position {
        self.state.as_ref().map_or(Position::default(), KeyedState::position)
    }

    pub(super) fn here(&self) -> Here<'_> {
        Here::new(&self.disk, &self.nodes)
    }

    /// Opens store and log, and the state at what was promised last.
    pub(super) fn open(&mut self, schema: &Arc<Schema>, salts: &[Salt]) -> Result<(), Trouble> {
        self.disk.open()?;
        self.log = Some(Log::open(Arc::new(self.disk.vfs().clone()), Path::new("/log"), LOG_OPTIONS)?);
        self.base = self.recorded_base()?;
        self.is_reconciled = false;
        self.nodes.borrow_mut().clear();
        self.serving = Serving::new();
        self.state = match &self.base {
            Some(base) => Some(KeyedState::at(schema.clone(), &base.manifest).map_err(|error| violation(&error))?),
            None if self.is_founder => Some(KeyedState::empty(state_name(), schema.clone(), salts)),
            None => None,
        };
        if let Some(state) = &mut self.state {
            state.hold(self.sections.clone());
        }
        if let Some(base) = self.base.clone() {
            self.serving.hold(&base.manifest);
            // Between the promise and the purge the power may have gone.
            self.begin_log_at(base.manifest.position)?;
            if base.extent == Extent::Whole {
                self.seals = self.pinned_seals()?;
            }
        }
        Ok(())
    }

    /// Ends without a word, as a program that is killed.
    pub(super) fn end(&mut self) {
        self.log = None;
        self.state = None;
        self.base = None;
        self.seal = None;
        self.joining = None;
        self.seals.clear();
        self.nodes.borrow_mut().clear();
        self.fetched.crashed();
        self.life += 1;
        if self.disk.vfs().is_off() {
            self.disk.crash();
        } else {
            self.disk.vfs().clear_fault();
            self.disk.close();
        }
    }

    fn recorded_base(&self) -> Result<Option<Base>, Trouble> {
        let store = self.disk.store().expect("just opened");
        let Some(record) = store.record(BASE)? else { return Ok(None) };
        let Some((&extent, id)) = record.split_last() else { return broken("an empty record".into())? };
        let Some(id) = ChunkId::from_slice(id) else { return broken("a record without an id".into())? };
        let Some(chunk) = self.disk.read(id)? else { return broken(format!("the manifest of base {id} is gone"))? };
        let manifest = Manifest::decode(chunk.bytes()).map_err(|error| violation(&error))?;
        Ok(Some(Base { id, manifest, extent: Extent::from_byte(extent) }))
    }

    /// Promises to stand on a snapshot. Everything of it that is here is durable when this returns.
    pub(super) fn record_base(&mut self, manifest: &Chunk, extent: Extent) -> Result<(), Trouble> {
        self.keep(manifest)?;
        let Some(store) = self.disk.store() else { return Ok(()) };
        let mut record = manifest.id().as_bytes().to_vec();
        record.push(extent.to_byte());
        store.set_record(BASE, &record)?;
        let id = manifest.id();
        let manifest = Manifest::decode(manifest.bytes()).map_err(|error| violation(&error))?;
        self.serving.hold(&manifest);
        self.base = Some(Base { id, manifest, extent });
        Ok(())
    }

    /// Makes everything that is here durable.
    pub(super) fn sync(&mut self) -> Result<(), Trouble> {
        if let Some(store) = self.disk.store() {
            store.sync()?;
            self.fetched.synced();
        }
        Ok(())
    }

    /// A chunk was fetched and stored.
    pub(super) fn came(&mut self, id: ChunkId, bytes: u64, asked: AskedBy) -> Result<(), Trouble> {
        self.fetched.came(id, bytes, asked)?;
        if self.fetched.unsynced() >= UNSYNCED_MAX { self.sync() } else { Ok(()) }
    }

    /// Keeps what is here of a snapshot, also when garbage is collected.
    pub(super) fn keep(&mut self, manifest: &Chunk) -> Result<(), Trouble> {
        self.disk.put(manifest, None)?;
        self.sync()?;
        let Some(store) = self.disk.store() else { return Ok(()) };
        Ok(store.pin(&pin_name(manifest.id()), manifest.id())?)
    }

    /// Snapshots that are promised to be kept, as the disk says.
    pub(super) fn pinned(&self) -> Result<Vec<ChunkId>, Trouble> {
        let Some(store) = self.disk.store() else { return Ok(Vec::new()) };
        let pins = store.pins()?.into_iter().filter(|pin| pin.name.starts_with(PIN_PREFIX));
        Ok(pins.map(|pin| pin.manifest).collect())
    }

    fn pinned_seals(&self) -> Result<Roots, Trouble> {
        let mut seals = Roots::new();
        for id in self.pinned()? {
            let Some(chunk) = self.disk.read(id)? else { return broken(format!("the manifest of {id} is gone"))? };
            let manifest = Manifest::decode(chunk.bytes()).map_err(|error| violation(&error))?;
            seals.insert(manifest.position.index, id);
        }
        Ok(seals)
    }

    /// Lets a snapshot go.
    pub(super) fn unpin(&mut self, id: ChunkId) -> Result<(), Trouble> {
        let Some(store) = self.disk.store() else { return Ok(()) };
        store.unpin(&pin_name(id))?;
        Ok(())
    }

    /// The log goes on after a position that the state stands at or beyond: what is before it is needed no more.
    fn begin_log_at(&mut self, position: Position) -> Result<(), Trouble> {
        if let Some(log) = &self.log
            && log.last_index().unwrap_or_default() < position.index
        {
            log.purge_through(position)?;
        }
        Ok(())
    }

    /// Puts a snapshot below the state, durably first. The state is there from now on, if it was not.
    pub(super) fn stand_on(&mut self, manifest: &Chunk, schema: &Arc<Schema>) -> Result<(), Trouble> {
        let decoded = Manifest::decode(manifest.bytes()).map_err(|error| violation(&error))?;
        if self.base.as_ref().is_none_or(|base| base.id != manifest.id()) {
            self.record_base(manifest, Extent::Filling)?;
        }
        match &mut self.state {
            Some(state) => state.rebase(&decoded).map_err(|error| violation(&error))?,
            None => {
                let mut state = KeyedState::at(schema.clone(), &decoded).map_err(|error| violation(&error))?;
                state.hold(self.sections.clone());
                self.state = Some(state);
            }
        }
        self.rebases += 1;
        self.begin_log_at(decoded.position)
    }

    /// The last index up to which the log here holds the same records as the order, without a gap, after `index`.
    pub(super) fn run_after(&self, index: u64, position: impl Fn(u64) -> Position) -> Result<u64, Trouble> {
        let Some(log) = &self.log else { return Ok(index) };
        let mut last = index;
        if index + 1 < log.first_index() {
            return Ok(last);
        }
        for record in log.read(index + 1, u64::MAX)? {
            if record.position.index != last + 1 || record.position != position(last + 1) {
                break;
            }
            last += 1;
        }
        Ok(last)
    }

    /// Cuts away what another history, or a gap, left behind `index`.
    pub(super) fn cut_after(&mut self, index: u64) -> Result<(), Trouble> {
        let Some(log) = &self.log else { return Ok(()) };
        if log.last_index().is_some_and(|last| last > index) && index + 1 >= log.first_index() {
            log.truncate_from(index + 1)?;
        }
        Ok(())
    }

    /// Makes records durable behind the last one.
    pub(super) fn append(&mut self, placed: &[Placed]) -> Result<(), Trouble> {
        let Some(log) = &self.log else { return Ok(()) };
        let record =
            |placed: &Placed| LogRecord { position: placed.position, kind: placed.kind, payload: placed.bytes.clone() };
        log.append(&placed.iter().map(record).collect::<Vec<_>>())?;
        log.sync()?;
        Ok(())
    }

    /// Tries to apply the next record of the log, if it is decided.
    pub(super) fn apply_next(&mut self, decided: u64) -> Result<Progress, Trouble> {
        let Self { log: Some(log), state: Some(state), disk, nodes, .. } = self else { return Ok(Progress::Idle) };
        let next = state.position().index + 1;
        if next > decided || next < log.first_index() {
            return Ok(Progress::Idle);
        }
        let Some(found) = log.get(next)? else { return Ok(Progress::Idle) };
        let record = Record::decode(&found.payload).map_err(|error| violation(&error))?;
        check(record.position == found.position, || format!("{} says it is {}", found.position, record.position))?;
        let deed = Deed::of(&record, state.schema());
        let deed = deed.ok_or_else(|| Violation(format!("record {} says nothing", record.position)))?;
        let here = Here::new(disk, nodes);
        let mut transaction = state.begin(&here);
        let tried = deed.carry_out(&mut transaction).and_then(|()| transaction.finish());
        here.failed()?;
        let mut batch = match tried {
            Ok(batch) => batch,
            Err(ReadError::Missing(missing)) => return Ok(Progress::Needs(missing)),
            Err(error) => return broken(format!("record {}: {error}", record.position))?,
        };
        if self.diverges {
            (self.diverges, self.diverged, self.ever_diverged) = (false, Some(next), true);
            go_wrong(&mut batch, state.schema());
        }
        let applied = state.commit(record.position, &found.payload, &batch);
        check(applied == Applied::Now, || format!("record {} was applied before", record.position))?;
        Ok(Progress::Applied(deed))
    }
}

/// What a machine does that cannot be trusted.
fn go_wrong(batch: &mut Batch, schema: &Schema) {
    let wrong = Op::Put { key: Bytes::from_static(b"key/wrong"), value: Bytes::from_static(b"nobody wrote this") };
    batch.push(schema, DATA, wrong).expect("within every limit");
}

/// An error where no fault can be its cause.
pub(super) fn violation(error: &dyn std::error::Error) -> Violation {
    Violation(crate::trouble::chain(error))
}

fn pin_name(id: ChunkId) -> String {
    format!("{PIN_PREFIX}{id}")
}

/// Snapshots by their index.
pub(super) type Roots = BTreeMap<u64, ChunkId>;

/// Chunks that a power cut may cost.
const UNSYNCED_MAX: usize = 16;
const PIN_PREFIX: &str = "snapshot ";
const BASE: &str = "base";
/// Short segments, so that purging removes some.
const LOG_OPTIONS: LogOptions = LogOptions { segment_bytes_target: 16 * 1024, cache_bytes_max: 8 * 1024 };

//! Owns a keyed state: its layers, its position, and how they change places.
//!
//! It never reads a tree when it changes; everything that it does under a lock takes time for the changes at hand, never for the state.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::overlay::Overlay;
use super::read::View;
use super::{
    Batch, Chunks, Look, ReadError, Schema, SchemaMismatch, Sealed, Sealing, SectionId, Sections, Transaction,
};
use crate::snapshot::{LogHash, Manifest, Position, StateName};
use crate::tree::{Root, Salt};

/// Base trees, a frozen overlay while a seal runs, an active overlay, and the position of it all.
#[derive(Debug)]
pub struct KeyedState {
    schema: Arc<Schema>,
    base: Manifest,
    frozen: Option<Frozen>,
    active: Overlay,
    position: Position,
    log_hash: LogHash,
    seals: u64,
    sections: Sections,
    /// The sections that are not among them.
    not_held: BTreeSet<SectionId>,
}

/// Changes that a seal is merging.
#[derive(Debug)]
struct Frozen {
    number: u64,
    overlay: Arc<Overlay>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It took effect.
    Now,
    /// The state stood at or behind its position already: nothing changed.
    Already,
}

impl KeyedState {
    /// A state that is born: every section is empty and has its own salt, in the order of the schema's sections.
    ///
    /// # Panics
    /// If there are more or fewer salts than sections.
    pub fn empty(state: StateName, schema: Arc<Schema>, salts: &[Salt]) -> Self {
        let sections = schema.born(salts);
        let base = Manifest { state, position: Position::default(), log_hash: LogHash::default(), sections };
        Self::of_base(schema, base)
    }

    /// The state of a snapshot.
    ///
    /// # Errors
    /// [`SchemaMismatch`] names the section that the snapshot or the schema lacks.
    pub fn at(schema: Arc<Schema>, manifest: &Manifest) -> Result<Self, SchemaMismatch> {
        schema.check(manifest)?;
        Ok(Self::of_base(schema, manifest.clone()))
    }

    fn of_base(schema: Arc<Schema>, base: Manifest) -> Self {
        let active = Overlay::empty(schema.sections().len());
        let (position, log_hash) = (base.position, base.log_hash);
        let (sections, not_held) = (Sections::All, BTreeSet::new());
        Self { schema, base, frozen: None, active, position, log_hash, seals: 0, sections, not_held }
    }

    /// Its sections.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The position of the last change, or of the base if that is later.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The hash chain of the log at [`Self::position`].
    pub fn log_hash(&self) -> LogHash {
        self.log_hash
    }

    /// The snapshot below the overlays.
    pub fn base(&self) -> &Manifest {
        &self.base
    }

    /// The position of the base.
    pub fn base_position(&self) -> Position {
        self.base.position
    }

    /// The tree of a section in the base.
    pub fn base_root(&self, section: SectionId) -> Root {
        self.base.sections[section.index()].root
    }

    /// The sections that this member holds.
    pub fn sections(&self) -> &Sections {
        &self.sections
    }

    /// Holds these sections from now on. Reads of others say so. Changes of others are kept until a re-base like all changes: whoever
    /// takes a section in later needs those that its snapshot does not have.
    pub fn hold(&mut self, sections: Sections) {
        let names = self.schema.sections().iter().map(|section| &section.name);
        let ids = self.schema.ids().zip(names);
        self.not_held = ids.filter(|(_, name)| !sections.has(name)).map(|(id, _)| id).collect();
        self.sections = sections;
    }

    /// Bytes of memory that the overlays take, nearly.
    pub fn overlay_bytes(&self) -> u64 {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.overlay.bytes())
    }

    /// What the overlays know of a key. It reads no tree, so it never misses.
    pub fn look(&self, section: SectionId, key: &[u8]) -> Look {
        self.view(section).look(key)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ReadError::Missing`]: fetch, and call again.
    pub fn get(&self, source: &dyn Chunks, section: SectionId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.view(section).get(source, key)
    }

    /// Up to `entries_max` entries in order of their keys, from `from` on. Fewer mean that the section ends there.
    ///
    /// # Errors
    /// [`ReadError::Missing`]: fetch, and call again.
    pub fn scan(
        &self,
        source: &dyn Chunks,
        section: SectionId,
        from: &[u8],
        entries_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.view(section).scan(source, from, entries_max)
    }

    /// Starts a try to change the state.
    pub fn begin<'a>(&'a self, source: &'a dyn Chunks) -> Transaction<'a> {
        Transaction::new(self, source)
    }

    /// Makes changes take effect, all at once. `record` is what the log holds at `position`: the chain grows by it.
    ///
    /// The changes of one record are made once, however often it comes: at or below [`Self::position`] nothing happens.
    ///
    /// # Panics
    /// If the changes were checked against another schema.
    pub fn commit(&mut self, position: Position, record: &[u8], changes: &Batch) -> Applied {
        if position <= self.position {
            return Applied::Already;
        }
        self.active.apply(position, changes);
        self.log_hash = self.log_hash.after(position, record);
        self.position = position;
        Applied::Now
    }

    /// Freezes what changed since the last seal, to be merged while writers go on.
    ///
    /// # Errors
    /// [`SealRefused`]: this mark is skipped.
    pub fn freeze(&mut self) -> Result<Sealing, SealRefused> {
        if self.frozen.is_some() {
            return Err(SealRefused::Underway);
        }
        if !self.not_held.is_empty() {
            return Err(SealRefused::SomeSections);
        }
        self.seals += 1;
        let overlay = Arc::new(self.active.take());
        self.frozen = Some(Frozen { number: self.seals, overlay: Arc::clone(&overlay) });
        let manifest = Manifest { position: self.position, log_hash: self.log_hash, ..self.base.clone() };
        Ok(Sealing::new(self.seals, overlay, manifest))
    }

    /// Makes what a seal made the base. Its chunks must be durable.
    ///
    /// # Errors
    /// [`SealOutdated`] if the state was re-based or the seal abandoned meanwhile: nothing changes, the snapshot is still right.
    pub fn finish_seal(&mut self, sealed: &Sealed) -> Result<(), SealOutdated> {
        self.take_frozen(sealed.number)?;
        self.base = sealed.manifest.clone();
        Ok(())
    }

    /// Gives up a seal that failed: its changes wait for the next one.
    ///
    /// # Errors
    /// [`SealOutdated`] if the state was re-based meanwhile: its changes are where they belong.
    pub fn abandon_seal(&mut self, sealing: Sealing) -> Result<(), SealOutdated> {
        let frozen = self.take_frozen(sealing.number())?;
        // Often the last other owner: then nothing is copied.
        drop(sealing);
        self.thaw(frozen);
        Ok(())
    }

    /// Puts a snapshot below what changed after it: the one answer to a log or overlay that grew too long, to stale state, to marks
    /// at a half-filled member and to a failed audit. A seal under way is outdated by it.
    ///
    /// # Errors
    /// [`RebaseRefused`]; nothing changed.
    pub fn rebase(&mut self, manifest: &Manifest) -> Result<(), RebaseRefused> {
        self.check_same_state(manifest)?;
        if manifest.position < self.base.position {
            return Err(RebaseRefused::Older { position: manifest.position, base: self.base.position });
        }
        if let Some(frozen) = self.frozen.take() {
            self.thaw(frozen);
        }
        self.active.forget(manifest.position);
        if manifest.position >= self.position {
            self.position = manifest.position;
            self.log_hash = manifest.log_hash;
        }
        self.base = manifest.clone();
        Ok(())
    }

    /// Makes the state exactly what a snapshot holds, wherever it stood: what a state that went wrong is healed with. Every change that no tree
    /// has is forgotten, and the position goes back, or ahead, to the snapshot's: the log after it is to be applied again. A seal under
    /// way is outdated by it.
    ///
    /// # Errors
    /// [`RebaseRefused`], but never [`RebaseRefused::Older`]; nothing changed.
    pub fn replace(&mut self, manifest: &Manifest) -> Result<(), RebaseRefused> {
        self.check_same_state(manifest)?;
        self.frozen = None;
        self.active = Overlay::empty(self.schema.sections().len());
        self.base = manifest.clone();
        (self.position, self.log_hash) = (manifest.position, manifest.log_hash);
        Ok(())
    }

    fn check_same_state(&self, manifest: &Manifest) -> Result<(), RebaseRefused> {
        self.schema.check(manifest)?;
        match manifest.state == self.base.state {
            true => Ok(()),
            false => Err(RebaseRefused::OtherState { state: manifest.state.clone() }),
        }
    }

    pub(super) fn view(&self, section: SectionId) -> View<'_> {
        let frozen = self.frozen.as_ref().map(|frozen| frozen.overlay.layer(section));
        let not_held = self.not_held.contains(&section).then(|| &self.schema.section(section).name);
        View { layers: [Some(self.active.layer(section)), frozen, None], root: self.base_root(section), not_held }
    }

    fn take_frozen(&mut self, number: u64) -> Result<Frozen, SealOutdated> {
        self.frozen.take_if(|frozen| frozen.number == number).ok_or(SealOutdated)
    }

    /// Puts frozen changes back below the active ones.
    fn thaw(&mut self, frozen: Frozen) {
        let newer = self.active.take();
        self.active = Arc::unwrap_or_clone(frozen.overlay);
        self.active.put_on_top(newer);
    }
}

/// Why nothing was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealRefused {
    /// A seal is under way; the next mark seals what changes until then.
    #[error("a seal is under way")]
    Underway,
    /// This member holds some sections only, so it has not the roots of all: re-base onto what others sealed.
    #[error("a member that holds some sections only does not seal")]
    SomeSections,
}

/// The state has moved on since the seal began: a re-base took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state has moved on since the seal began")]
pub struct SealOutdated;

/// Why a snapshot cannot be put below a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebaseRefused {
    /// Changes between the two are nowhere but in the present base: take a newer snapshot.
    #[error("the snapshot is of position {position}, the base of {base} already")]
    Older {
        /// Where the snapshot stands.
        position: Position,
        /// Where the present base stands.
        base: Position,
    },
    /// It is a snapshot of something else.
    #[error("the snapshot is one of state '{state}'")]
    OtherState {
        /// Whose it is.
        state: StateName,
    },
    /// It has other sections.
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
}

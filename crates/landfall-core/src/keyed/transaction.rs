//! Owns one try to change a keyed state: what it read and what it would change. It never takes effect by itself.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::overlay::Layer;
use super::read::View;
use super::schema::check_value;
use super::{Batch, Chunks, KeyedState, Missing, ReadError, Refused, Schema, SectionId};
use crate::snapshot::Position;

/// Reads that see the transaction's own writes, and writes that nobody else sees before [`KeyedState::commit`].
#[derive(Clone)]
pub struct Transaction<'a> {
    state: &'a KeyedState,
    source: &'a dyn Chunks,
    changes: BTreeMap<SectionId, Layer>,
    /// The first read that failed: what was decided without it must never take effect.
    failed: Option<ReadError>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(state: &'a KeyedState, source: &'a dyn Chunks) -> Self {
        Self { state, source, changes: BTreeMap::new(), failed: None }
    }

    /// The sections of the state.
    pub fn schema(&self) -> &'a Schema {
        self.state.schema()
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`ReadError::Missing`]: give up this transaction, fetch, and try again with a new one. [`Self::finish`] returns the
    /// same error, so it cannot be passed over.
    pub fn get(&mut self, section: SectionId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let result = self.view(section).get(self.source, key);
        self.remember(result)
    }

    /// The values of many keys, in their order. What is missing for any of them is named at once.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_many<K: AsRef<[u8]>>(
        &mut self,
        section: SectionId,
        keys: &[K],
    ) -> Result<Vec<Option<Bytes>>, ReadError> {
        let view = self.view(section);
        let mut values = Vec::with_capacity(keys.len());
        let mut missing = Missing::default();
        for key in keys {
            match view.get(self.source, key.as_ref()) {
                Ok(value) => values.push(value),
                Err(ReadError::Missing(more)) => missing.absorb(more),
                Err(error) => return self.remember(Err(error)),
            }
        }
        self.remember(if missing.is_empty() { Ok(values) } else { Err(ReadError::Missing(missing)) })
    }

    /// Up to `entries_max` entries in order of their keys, from `from` on.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn scan(
        &mut self,
        section: SectionId,
        from: &[u8],
        entries_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let result = self.view(section).scan(self.source, from, entries_max);
        self.remember(result)
    }

    /// Gives `key` a value.
    ///
    /// # Errors
    /// [`Refused`] if the section does not take it, on any member; the transaction is as it was.
    pub fn put(&mut self, section: SectionId, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Refused> {
        let value = value.into();
        check_value(&value)?;
        self.set(section, &key.into(), Some(value))
    }

    /// Takes the value of `key` away, if it has one.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn delete(&mut self, section: SectionId, key: impl Into<Bytes>) -> Result<(), Refused> {
        self.set(section, &key.into(), None)
    }

    /// Takes the values of all keys of a section away, without looking at them.
    pub fn clear(&mut self, section: SectionId) {
        self.changes.entry(section).or_default().clear(Position::default());
    }

    /// The changes, for [`KeyedState::commit`].
    ///
    /// # Errors
    /// Of the first read that failed.
    pub fn finish(self) -> Result<Batch, ReadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let ops = self.changes.into_iter().flat_map(|(section, layer)| layer.into_ops().map(move |op| (section, op)));
        Ok(Batch::of_checked(ops.collect()))
    }

    fn set(&mut self, section: SectionId, key: &Bytes, value: Option<Bytes>) -> Result<(), Refused> {
        self.schema().check_key(section, key)?;
        // The position is that of the commit, which nobody knows yet.
        self.changes.entry(section).or_default().set(key, value, Position::default(), Bytes::clone);
        Ok(())
    }

    fn view(&self, section: SectionId) -> View<'_> {
        let below = self.state.view(section);
        View { layers: [self.changes.get(&section), below.layers[0], below.layers[1]], ..below }
    }

    fn remember<T>(&mut self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        if let (Err(error), None) = (&result, &self.failed) {
            self.failed = Some(error.clone());
        }
        result
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("changes", &self.changes).field("failed", &self.failed).finish()
    }
}

//! Owns changes that are seen by whoever made them and by nobody else, until it is known whether they are to be made. It never changes the
//! state below.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Change, Lookup, Section};

/// A state with changes on top.
#[derive(Debug)]
pub(super) struct Tentative<'a, S> {
    below: &'a S,
    changes: Changes,
}

/// What is to become of a state.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Sections that lose all that the state has in them.
    cleared: BTreeSet<Section>,
    /// Values of keys, nothing for those that are removed.
    values: BTreeMap<(Section, Bytes), Option<Bytes>>,
}

impl<'a, S: Lookup> Tentative<'a, S> {
    /// Looks at `below` where nothing was changed.
    pub(super) fn on(below: &'a S) -> Self {
        Self { below, changes: Changes::default() }
    }

    /// What was changed.
    pub(super) fn changes(self) -> Changes {
        self.changes
    }
}

impl Changes {
    /// Changes a state, which must be the one that was looked at.
    pub(super) fn make<S: Change>(self, state: &mut S) -> Result<(), S::Error> {
        for section in self.cleared {
            state.clear(section)?;
        }
        for ((section, key), value) in self.values {
            match value {
                Some(value) => state.put(section, key, value)?,
                None => state.delete(section, key)?,
            }
        }
        Ok(())
    }
}

impl<S: Lookup> Lookup for Tentative<'_, S> {
    type Error = S::Error;

    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, S::Error> {
        match self.changes.values.get(&(section, Bytes::copy_from_slice(key))) {
            Some(value) => Ok(value.clone()),
            None if self.changes.cleared.contains(&section) => Ok(None),
            None => self.below.get(section, key),
        }
    }

    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, S::Error> {
        let changed = self.changes.values.range((section, Bytes::copy_from_slice(from))..);
        let changed: Vec<_> = changed.take_while(|((of, _), _)| *of == section).collect();
        let mut found = BTreeMap::new();
        if !self.changes.cleared.contains(&section) {
            // Each change hides one entry at most.
            found.extend(self.below.scan(section, from, entries_max.saturating_add(changed.len()))?);
        }
        for ((_, key), value) in changed {
            match value {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        Ok(found.into_iter().take(entries_max).collect())
    }
}

impl<S: Lookup> Change for Tentative<'_, S> {
    fn put(&mut self, section: Section, key: Bytes, value: Bytes) -> Result<(), S::Error> {
        self.changes.values.insert((section, key), Some(value));
        Ok(())
    }

    fn delete(&mut self, section: Section, key: Bytes) -> Result<(), S::Error> {
        self.changes.values.insert((section, key), None);
        Ok(())
    }

    fn clear(&mut self, section: Section) -> Result<(), S::Error> {
        self.changes.values.retain(|(of, _), _| *of != section);
        self.changes.cleared.insert(section);
        Ok(())
    }
}

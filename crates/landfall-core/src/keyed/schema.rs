//! Owns what the sections of a keyed state are. It never holds their content.

use std::ops::Range;

use super::Refused;
use crate::limits::{CHUNK_BYTES_MAX, KEY_BYTES_MAX};
use crate::snapshot::{KeyRange, Manifest, SECTIONS_MAX, Section, SectionKind, SectionPriority, StateName};
use crate::tree::{Root, Salt};

/// A section of a schema: its place among the sections, ordered by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionId(pub u16);

impl SectionId {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a section is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionSchema {
    /// Its name, unique in the state.
    pub name: StateName,
    /// How early a joiner needs it.
    pub priority: SectionPriority,
    /// The keys it may hold: all, or those of one shard.
    pub range: KeyRange,
}

/// The sections of a keyed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Ordered by name.
    sections: Vec<SectionSchema>,
}

impl Schema {
    /// Takes the sections, in any order.
    ///
    /// # Errors
    /// [`SchemaError`] if no state can have them.
    pub fn new(mut sections: Vec<SectionSchema>) -> Result<Self, SchemaError> {
        if sections.is_empty() || sections.len() > SECTIONS_MAX {
            return Err(SchemaError::Count { sections: sections.len() });
        }
        sections.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = sections.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(SchemaError::Twice { section: twice[0].name.clone() });
        }
        let is_bad = |range: &KeyRange| {
            let longest = range.start.len().max(range.end.as_ref().map_or(0, |end| end.len()));
            longest > KEY_BYTES_MAX as usize || range.end.as_ref().is_some_and(|end| *end <= range.start)
        };
        match sections.iter().find(|section| is_bad(&section.range)) {
            Some(section) => Err(SchemaError::BadRange { section: section.name.clone() }),
            None => Ok(Self { sections }),
        }
    }

    /// The section of that name.
    pub fn id(&self, name: &str) -> Option<SectionId> {
        let place = self.sections.binary_search_by(|section| section.name.as_str().cmp(name)).ok()?;
        Some(SectionId(place as u16))
    }

    /// What a section is.
    ///
    /// # Panics
    /// If the id is not one of this schema.
    pub fn section(&self, id: SectionId) -> &SectionSchema {
        &self.sections[id.index()]
    }

    /// All sections, ordered by name: the place of each is its id.
    pub fn sections(&self) -> &[SectionSchema] {
        &self.sections
    }

    /// The ids of all sections.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = SectionId> + use<> {
        (Range { start: 0, end: self.sections.len() as u16 }).map(SectionId)
    }

    /// The sections of a state that is born, as a manifest keeps them.
    pub(super) fn born(&self, salts: &[Salt]) -> Vec<Section> {
        assert_eq!(self.sections.len(), salts.len(), "every section has a salt");
        let sections = self.sections.iter().zip(salts);
        sections
            .map(|(section, &salt)| Section {
                name: section.name.clone(),
                kind: SectionKind::Keyed,
                priority: section.priority,
                range: section.range.clone(),
                salt,
                root: Root::empty(),
            })
            .collect()
    }

    /// Refuses a manifest of another schema.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), SchemaMismatch> {
        for section in &manifest.sections {
            let known = self.id(section.name.as_str()).map(|id| self.section(id));
            let known = known.ok_or_else(|| SchemaMismatch::Unknown { section: section.name.clone() })?;
            let is_same = section.kind == SectionKind::Keyed
                && section.priority == known.priority
                && section.range == known.range;
            if !is_same {
                return Err(SchemaMismatch::Other { section: section.name.clone() });
            }
        }
        let is_there = |name: &StateName| manifest.sections.iter().any(|section| section.name == *name);
        match self.sections.iter().find(|section| !is_there(&section.name)) {
            Some(section) => Err(SchemaMismatch::Absent { section: section.name.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses a key that a section does not take.
    pub(super) fn check_key(&self, id: SectionId, key: &[u8]) -> Result<(), Refused> {
        if key.len() > KEY_BYTES_MAX as usize {
            return Err(Refused::KeyTooLong { bytes: key.len() });
        }
        let section = self.section(id);
        if !section.range.contains(key) {
            return Err(Refused::OutsideRange { section: section.name.clone() });
        }
        Ok(())
    }
}

/// Refuses a value that no section takes.
pub(super) fn check_value(value: &[u8]) -> Result<(), Refused> {
    if value.len() > CHUNK_BYTES_MAX as usize {
        return Err(Refused::ValueTooLong { bytes: value.len() });
    }
    Ok(())
}

/// Why sections are not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// There are none, or too many.
    #[error("{sections} sections; a state has 1 to {SECTIONS_MAX}")]
    Count {
        /// How many there are.
        sections: usize,
    },
    /// Two have the same name.
    #[error("section '{section}' stands twice")]
    Twice {
        /// The name.
        section: StateName,
    },
    /// A range that holds no key, or whose ends are no keys.
    #[error("the key range of section '{section}' holds no key")]
    BadRange {
        /// The section.
        section: StateName,
    },
}

/// Why a snapshot is not one of this schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaMismatch {
    /// A newer version made it: update this member.
    #[error("section '{section}' is not known here: update this member")]
    Unknown {
        /// The section.
        section: StateName,
    },
    /// An older version made it.
    #[error("the snapshot has no section '{section}': an older version made it")]
    Absent {
        /// The section.
        section: StateName,
    },
    /// The section has another kind, priority or range there.
    #[error("section '{section}' has another kind, priority or key range in the snapshot")]
    Other {
        /// The section.
        section: StateName,
    },
}

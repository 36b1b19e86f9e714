//! Owns the choice of the snapshot that a joiner fetches, out of what its sources offer. It asks nobody.

use super::Snapshot;
use crate::keyed::{Schema, Sections};
use crate::snapshot::StateName;

/// What one source offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its snapshot.
    pub snapshot: Snapshot,
    /// The sections of it that the source holds.
    pub sections: Sections,
}

/// Why none of the offers will do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOffered {
    /// There are none.
    #[error("no source offers a snapshot")]
    Nothing,
    /// Of the newest snapshot that is offered, nobody who offers it holds this section: name a source that does.
    #[error("no source that answered holds section '{section}' of the newest snapshot")]
    Section {
        /// The section.
        section: StateName,
    },
}

/// Which of the offers to accept: the newest snapshot that those who offer it hold all of, as far as it is wanted.
///
/// # Errors
/// [`NotOffered`] if there is none.
pub fn choose(offers: &[Offered], wanted: &Sections, schema: &Schema) -> Result<usize, NotOffered> {
    let lacking = |snapshot: &Snapshot| {
        let holders: Vec<&Sections> =
            offers.iter().filter(|offer| offer.snapshot == *snapshot).map(|offer| &offer.sections).collect();
        let mut names = schema.sections().iter().map(|section| &section.name).filter(|name| wanted.has(name));
        names.find(|name| !holders.iter().any(|held| held.has(name)))
    };
    let mut places: Vec<usize> = (0..offers.len()).collect();
    // Of equals the first: the caller's order is its preference.
    places.sort_by_key(|&place| std::cmp::Reverse(offers[place].snapshot.position));
    let newest = *places.first().ok_or(NotOffered::Nothing)?;
    let complete = places.into_iter().find(|&place| lacking(&offers[place].snapshot).is_none());
    complete.ok_or_else(|| match lacking(&offers[newest].snapshot) {
        Some(section) => NotOffered::Section { section: section.clone() },
        None => NotOffered::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::SectionSchema;
    use crate::snapshot::{KeyRange, Position, SectionPriority};
    use crate::{ChunkId, Domain};

    fn name(name: &str) -> StateName {
        StateName::new(name).unwrap()
    }

    fn schema() -> Schema {
        let section = |(text, priority)| SectionSchema { name: name(text), priority, range: KeyRange::default() };
        let sections =
            [("config", SectionPriority::Vital), ("east", SectionPriority::Bulk), ("west", SectionPriority::Bulk)];
        Schema::new(sections.map(section).into()).unwrap()
    }

    fn some(names: &str) -> Sections {
        let names = names.split_whitespace().map(name);
        Sections::only(names).within(&schema()).unwrap()
    }

    fn offered(index: u64, sections: Sections) -> Offered {
        let id = ChunkId::of(Domain::Manifest, &index.to_le_bytes());
        Offered { snapshot: Snapshot { id, position: Position { epoch: 1, index } }, sections }
    }

    #[track_caller]
    fn check(offers: &[Offered], wanted: &Sections, expected: Result<usize, NotOffered>) {
        assert_eq!(choose(offers, wanted, &schema()), expected);
    }

    #[test]
    fn the_newest_of_which_all_that_is_wanted_is_there_is_chosen() {
        let offers = [offered(1, Sections::All), offered(3, some("east")), offered(2, Sections::All)];
        check(&offers, &Sections::All, Ok(2));
        check(&offers, &some("west"), Ok(2));
        check(&offers, &some("east"), Ok(1));
        check(&offers, &some(""), Ok(1));
    }

    #[test]
    fn sources_that_hold_different_sections_make_a_whole() {
        let offers = [offered(3, some("east")), offered(3, some("west")), offered(1, Sections::All)];
        check(&offers, &Sections::All, Ok(0));
    }

    #[test]
    fn what_nobody_holds_is_named() {
        check(&[], &Sections::All, Err(NotOffered::Nothing));
        let lacking = NotOffered::Section { section: name("west") };
        check(&[offered(3, some("east"))], &Sections::All, Err(lacking.clone()));
        check(&[offered(3, some("east")), offered(2, some("west"))], &Sections::All, Err(lacking));
    }
}

//! Owns which sections of a state a member holds, or wants. It never holds their content.

use std::collections::BTreeSet;

use super::Schema;
use crate::snapshot::{SectionPriority, StateName};

/// Some of the sections of a state, or all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sections {
    /// Every section.
    #[default]
    All,
    /// Those of these names.
    Only(BTreeSet<StateName>),
}

impl Sections {
    /// The sections of these names.
    pub fn only(names: impl IntoIterator<Item = StateName>) -> Self {
        Self::Only(names.into_iter().collect())
    }

    /// As a message or a record names them: nothing where it is all of them.
    pub fn to_names(&self) -> Vec<String> {
        match self {
            Self::All => Vec::new(),
            Self::Only(names) => names.iter().map(|name| name.as_str().to_owned()).collect(),
        }
    }

    /// The sections that a message or a record names. A name that none can have is passed over: no section is left out for it.
    pub fn of_names(names: &[String]) -> Self {
        if names.is_empty() {
            return Self::All;
        }
        Self::only(names.iter().filter_map(|name| StateName::new(name).ok()))
    }

    /// What whoever wants these gets of a state: the vital sections come with any others, and all that there are is all.
    ///
    /// # Errors
    /// [`SectionsRefused`] if the state has no such sections.
    pub fn within(&self, schema: &Schema) -> Result<Self, SectionsRefused> {
        let Self::Only(names) = self else { return Ok(Self::All) };
        if let Some(unknown) = names.iter().find(|name| schema.id(name.as_str()).is_none()) {
            return Err(SectionsRefused::Unknown { section: unknown.clone() });
        }
        let vital = schema.sections().iter().filter(|section| section.priority == SectionPriority::Vital);
        let names: BTreeSet<StateName> =
            names.iter().cloned().chain(vital.map(|section| section.name.clone())).collect();
        match names.len() {
            0 => Err(SectionsRefused::None),
            count if count == schema.sections().len() => Ok(Self::All),
            _ => Ok(Self::Only(names)),
        }
    }

    /// Whether a section is among them.
    pub fn has(&self, section: &StateName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(section),
        }
    }

    /// Whether all of `others` are among them.
    pub fn cover(&self, others: &Self) -> bool {
        match (self, others) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(names), Self::Only(others)) => others.is_subset(names),
        }
    }
}

impl std::fmt::Display for Sections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all sections"),
            Self::Only(names) => {
                let names: Vec<&str> = names.iter().map(StateName::as_str).collect();
                write!(f, "the sections {}", names.join(", "))
            }
        }
    }
}

/// Why a state cannot be held in these sections.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SectionsRefused {
    /// The state has no such section.
    #[error("the state has no section '{section}'")]
    Unknown {
        /// Its name.
        section: StateName,
    },
    /// No section is named, and none is vital.
    #[error("no section is named, and the state has no vital one")]
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::SectionSchema;
    use crate::snapshot::KeyRange;

    fn name(name: &str) -> StateName {
        StateName::new(name).unwrap()
    }

    fn only(names: &[&str]) -> Sections {
        Sections::only(names.iter().copied().map(name))
    }

    fn schema(sections: &[(&str, SectionPriority)]) -> Schema {
        let section =
            |&(text, priority): &(&str, _)| SectionSchema { name: name(text), priority, range: KeyRange::default() };
        Schema::new(sections.iter().map(section).collect()).unwrap()
    }

    #[test]
    fn vital_sections_come_with_any_others_and_all_that_there_are_is_all() {
        use SectionPriority::{Bulk, Vital};
        let schema = schema(&[("config", Vital), ("east", Bulk), ("west", Bulk)]);
        assert_eq!(only(&["east"]).within(&schema), Ok(only(&["config", "east"])));
        assert_eq!(only(&[]).within(&schema), Ok(only(&["config"])));
        assert_eq!(only(&["west", "east"]).within(&schema), Ok(Sections::All));
        assert_eq!(Sections::All.within(&schema), Ok(Sections::All));
        let unknown = only(&["east", "north"]).within(&schema);
        assert_eq!(unknown, Err(SectionsRefused::Unknown { section: name("north") }));
    }

    #[test]
    fn who_wants_nothing_of_a_state_without_vital_sections_is_refused() {
        let schema = schema(&[("east", SectionPriority::Bulk), ("west", SectionPriority::Bulk)]);
        assert_eq!(only(&[]).within(&schema), Err(SectionsRefused::None));
    }

    #[test]
    fn some_never_cover_all() {
        let some = only(&["east", "west"]);
        assert!(Sections::All.cover(&some) && some.cover(&some) && some.cover(&only(&["west"])));
        assert!(!some.cover(&Sections::All) && !only(&["west"]).cover(&some));
    }

    #[test]
    fn names_stand_for_sections_and_no_names_for_all() {
        for sections in [Sections::All, only(&["east", "west"])] {
            assert_eq!(Sections::of_names(&sections.to_names()), sections);
        }
        // What only pretends to be a name must not turn some into all.
        assert_eq!(Sections::of_names(&["not a name".to_owned()]), only(&[]));
    }
}

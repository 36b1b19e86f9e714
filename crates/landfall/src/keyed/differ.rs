//! Owns saying by keys how two snapshots differ: what an audit that failed has to report. It changes nothing.

use bytes::Bytes;
use landfall_core::keyed::{Missing, Sections};
use landfall_core::snapshot::{Manifest, StateName};
use landfall_core::tree::{Change, Diff, NodeWant, Root, TreeError};

use super::here::Here;
use super::{FaultError, JoinHandle, Keyed, KeyedError};

/// A key that has not the same value in two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The section.
    pub section: StateName,
    /// The key.
    pub key: Bytes,
    /// What became of it from the first to the second.
    pub kind: DifferenceKind,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceKind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, with different values.
    Changed,
}

impl Keyed {
    /// The keys, at most `keys_max`, that differ between two snapshots that are held here, in order of sections and keys.
    pub fn differences(
        &self,
        first: &Manifest,
        second: &Manifest,
        keys_max: usize,
    ) -> Result<Vec<Difference>, KeyedError> {
        let fetch = |nodes: Vec<NodeWant>| self.fetch_now(&Missing { nodes, ..Missing::default() });
        differences([first, second], &self.sections(), &self.here, keys_max, fetch)
    }
}

impl JoinHandle {
    /// The keys, at most `keys_max`, that differ between a snapshot that is held here and the one that is being fetched: from
    /// [`super::Milestone::Planned`] on, what is not here for it is fetched first.
    pub fn differences(&self, held: &Manifest, keys_max: usize) -> Result<Vec<Difference>, KeyedError> {
        let Some(plan) = self.progress.plan() else { return Err(FaultError::Ended.into()) };
        let here = &self.keyed.here;
        let fetch = |nodes: Vec<NodeWant>| or_here(plan.lanes.fetch_nodes(&nodes), here, &nodes);
        differences([held, &plan.manifest], &plan.sections, &self.keyed.here, keys_max, fetch)
    }
}

/// Lanes end with their join, maybe just before they were asked. What they were asked for came with the rest, if the join ended well.
fn or_here(fetched: Result<(), FaultError>, here: &Here, nodes: &[NodeWant]) -> Result<(), KeyedError> {
    let Err(FaultError::Ended) = fetched else { return Ok(fetched?) };
    for want in nodes {
        here.nodes.get(want.id)?.ok_or(FaultError::Ended)?;
    }
    Ok(())
}

/// The differences in sections that are held here: of the others there is nothing to compare.
fn differences(
    [first, second]: [&Manifest; 2],
    sections: &Sections,
    here: &Here,
    keys_max: usize,
    fetch: impl Fn(Vec<NodeWant>) -> Result<(), KeyedError>,
) -> Result<Vec<Difference>, KeyedError> {
    let mut found = Vec::new();
    for section in first.sections.iter().filter(|section| sections.has(&section.name)) {
        let other = second.sections.iter().find(|other| other.name == section.name);
        let mut diff = Diff::new(section.root, other.map_or_else(Root::empty, |other| other.root));
        let reader = here.nodes.reader();
        while found.len() < keys_max {
            match diff.next(&reader) {
                Ok(None) => break,
                Ok(Some(change)) => found.push(Difference::of(&section.name, change)),
                Err(TreeError::Missing(nodes)) => {
                    reader.check()?;
                    fetch(nodes)?;
                }
                Err(error) => return Err(KeyedError::Broken(error)),
            }
        }
    }
    Ok(found)
}

impl Difference {
    fn of(section: &StateName, change: Change) -> Self {
        let kind = match (&change.old, &change.new) {
            (None, _) => DifferenceKind::Added,
            (_, None) => DifferenceKind::Removed,
            (Some(_), Some(_)) => DifferenceKind::Changed,
        };
        Self { section: section.clone(), key: change.key, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::{open, put};
    use super::*;

    #[test]
    fn what_came_before_the_lanes_ended_is_not_missed() {
        let directory = tempfile::tempdir().unwrap();
        let keyed = open(directory.path());
        put(&keyed, 1, &[Bytes::from_static(b"key")], "value");
        let root = keyed.seal().unwrap().wait().unwrap().manifest.sections[0].root;
        let here = NodeWant { id: root.id, base: None };
        let elsewhere = NodeWant { id: landfall_core::ChunkId::of(landfall_core::Domain::Node, b"other"), ..here };

        or_here(Err(FaultError::Ended), &keyed.here, &[here]).unwrap();
        assert!(or_here(Err(FaultError::Ended), &keyed.here, &[here, elsewhere]).is_err());
        let nobody = Err(FaultError::Nobody("all of them were asked".into()));
        assert!(or_here(nobody, &keyed.here, &[here]).is_err(), "only lanes that ended are looked past");
    }
}

//! Owns what must hold of members that hold some sections only: they get what they want, and nothing else.

use landfall_core::ChunkId;
use landfall_core::join::Milestone;
use landfall_core::snapshot::Manifest;
use landfall_core::tree::{Children, Nodes, children};

use super::deed::some_sections;
use super::member::violation;
use super::world::LiveWorld;
use crate::checks::{Violation, broken, check};
use crate::network::MemberId;
use crate::trouble::Trouble;

impl LiveWorld {
    /// Remembers the nodes of what was sealed that members with some sections have no use for.
    pub(super) fn note_unwanted(&mut self, member: MemberId, manifest: &Manifest) -> Result<(), Trouble> {
        if self.scenario.section_joiners == 0 {
            return Ok(());
        }
        let (held, here) = (some_sections(), self.members[member].here());
        // An empty tree looks the same in every section.
        let others = manifest.sections.iter().filter(|section| !held.has(&section.name) && section.root.entries > 0);
        let mut nodes: Vec<ChunkId> = others.map(|section| section.root.id).collect();
        let mut found = Vec::new();
        while let Some(id) = nodes.pop() {
            let bytes = here.node(id);
            here.failed()?;
            let Some(bytes) = bytes else { return broken(format!("member {member} sealed {id} and lacks it"))? };
            if let Children::Nodes(children) = children(&bytes).map_err(|error| violation(&error))? {
                nodes.extend(children.iter().map(|child| child.id));
            }
            found.push(id);
        }
        self.unwanted.extend(found);
        Ok(())
    }

    /// What came to a member is not of a section that it does not hold.
    pub(super) fn check_wanted(&self, member: MemberId, came: ChunkId) -> Result<(), Violation> {
        let sections = &self.members[member].sections;
        let is_wanted = *sections != some_sections() || !self.unwanted.contains(&came);
        check(is_wanted, || format!("member {member} holds {sections}, and fetched {came} of another"))
    }

    /// Did a joiner get as far as one with some sections does?
    pub(super) fn has_caught_up(&self, member: MemberId) -> bool {
        let joining = self.members[member].joining.as_ref();
        joining.is_some_and(|joining| joining.is_adopted && joining.join.reached(Milestone::CaughtUp).is_some())
    }
}

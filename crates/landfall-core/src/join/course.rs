//! Owns what a joiner gets first: the order of a snapshot's trees, and what of them is to be fetched next before anything is served.
//!
//! It fetches nothing. Whoever obeys gets what it names and asks again; what did not come is named again.

use std::collections::VecDeque;

use crate::ChunkId;
use crate::keyed::Sections;
use crate::snapshot::{Manifest, Section, SectionPriority, StateName};
use crate::transfer::TreePair;
use crate::tree::{ChunkRef, Leaf, NewLeaves, NodeWant, Nodes, Root, TreeError};

/// Inner nodes that are fetched before a joiner serves, in bytes over all sections; the rest comes with the bulk, or as reads need it.
pub const UPPER_LEVELS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Leaves that are looked at together.
const LEAVES_MAX: usize = 256;

/// The trees of a snapshot, as far as they are wanted, in the order in which a joiner gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// Without all of these nothing can be served.
    pub vital: Vec<TreePair>,
    /// The others, the most urgent first.
    pub bulk: Vec<TreePair>,
}

impl Course {
    /// The course through a snapshot. `base` gives the tree of a section that is here, to build on.
    pub fn new(manifest: &Manifest, wanted: &Sections, base: impl Fn(&StateName) -> Option<Root>) -> Self {
        let pair = |section: &&Section| TreePair { base: base(&section.name), target: section.root };
        let mut sections: Vec<&Section> =
            manifest.sections.iter().filter(|section| wanted.has(&section.name)).collect();
        sections.sort_by_key(|section| section.priority);
        let vital = sections.partition_point(|section| section.priority == SectionPriority::Vital);
        let (vital, bulk) = sections.split_at(vital);
        Self { vital: vital.iter().map(pair).collect(), bulk: bulk.iter().map(pair).collect() }
    }
}

/// What is here, for one who asks what is not.
pub trait Holdings: Nodes {
    /// Whether a long value is here.
    fn has_chunk(&self, id: ChunkId) -> bool;
}

/// What is to be fetched next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// These nodes.
    Nodes(Vec<NodeWant>),
    /// These long values.
    Chunks(Vec<ChunkRef>),
}

/// Asks for every node and every long value of some trees, tree after tree.
#[derive(Debug)]
pub struct WholeTrees {
    trees: Walks,
    /// Leaves that were named and are not known to be here with all their values.
    leaves: Vec<NodeWant>,
}

impl WholeTrees {
    /// Begins with the first tree.
    pub fn new(trees: Vec<TreePair>) -> Self {
        Self { trees: Walks::new(trees), leaves: Vec::new() }
    }

    /// What to get next; nothing once everything is here.
    ///
    /// # Errors
    /// [`TreeError`] if a tree is broken at its source.
    pub fn next(&mut self, here: &dyn Holdings) -> Result<Option<Need>, TreeError> {
        loop {
            if let Some(need) = self.need_of_leaves(here)? {
                return Ok(Some(need));
            }
            match self.trees.next(here) {
                Ok(leaves) if leaves.is_empty() => return Ok(None),
                Ok(leaves) => self.leaves = leaves,
                Err(TreeError::Missing(nodes)) => return Ok(Some(Need::Nodes(nodes))),
                Err(error) => return Err(error),
            }
        }
    }

    fn need_of_leaves(&mut self, here: &dyn Holdings) -> Result<Option<Need>, TreeError> {
        let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
        for want in &self.leaves {
            let Some(bytes) = here.node(want.id) else {
                nodes.push(*want);
                continue;
            };
            let leaf = Leaf::read(want.id, bytes)?;
            let values = leaf.chunks().map(|(_, _, chunk)| chunk);
            chunks.extend(values.filter(|chunk| !here.has_chunk(chunk.id)));
        }
        let need = match (nodes.is_empty(), chunks.is_empty()) {
            (false, _) => Need::Nodes(nodes),
            (true, false) => Need::Chunks(chunks),
            (true, true) => {
                self.leaves.clear();
                return Ok(None);
            }
        };
        Ok(Some(need))
    }
}

/// Asks for the inner nodes of some trees, as far as the limit goes.
#[derive(Debug)]
pub struct UpperLevels {
    trees: Walks,
}

impl UpperLevels {
    /// Begins with the first tree.
    pub fn new(trees: Vec<TreePair>) -> Self {
        Self { trees: Walks::new(trees) }
    }

    /// The nodes to get next, of which `bytes` came so far; none once all are here, or enough.
    ///
    /// # Errors
    /// [`TreeError`] if a tree is broken at its source.
    pub fn next(&mut self, here: &dyn Nodes, bytes: u64) -> Result<Vec<NodeWant>, TreeError> {
        if bytes >= UPPER_LEVELS_BYTES_MAX {
            return Ok(Vec::new());
        }
        loop {
            match self.trees.next(here) {
                Ok(leaves) if leaves.is_empty() => return Ok(Vec::new()),
                Ok(_) => {}
                Err(TreeError::Missing(nodes)) => return Ok(nodes),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Walks over the leaves of trees that their bases do not have, one tree after the other.
#[derive(Debug)]
struct Walks {
    walk: Option<NewLeaves>,
    next: VecDeque<TreePair>,
}

impl Walks {
    fn new(trees: Vec<TreePair>) -> Self {
        Self { walk: None, next: trees.into() }
    }

    /// The next leaves; none at the end of all trees.
    fn next(&mut self, nodes: &dyn Nodes) -> Result<Vec<NodeWant>, TreeError> {
        loop {
            if self.walk.is_none() {
                let Some(trees) = self.next.pop_front() else { return Ok(Vec::new()) };
                self.walk = Some(NewLeaves::new(trees.base, trees.target));
            }
            let Some(walk) = &mut self.walk else { continue };
            let leaves = walk.next(nodes, LEAVES_MAX)?;
            if !leaves.is_empty() {
                return Ok(leaves.iter().map(|leaf| NodeWant { id: leaf.id, base: leaf.base }).collect());
            }
            self.walk = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::keyed::{Chunks, MemoryChunks, SealSink};
    use crate::snapshot::{KeyRange, LogHash, Position, SectionKind};
    use crate::tree::{Builder, NodeSink, Salt, Value};
    use crate::{Chunk, Domain};

    fn name(name: &str) -> StateName {
        StateName::new(name).unwrap()
    }

    fn section(text: &str, priority: SectionPriority, root: Root) -> Section {
        Section {
            name: name(text),
            kind: SectionKind::Keyed,
            priority,
            range: KeyRange::default(),
            salt: Salt([1; 16]),
            root,
        }
    }

    fn manifest(sections: Vec<Section>) -> Manifest {
        let state = name("orders");
        Manifest { state, position: Position::default(), log_hash: LogHash::default(), sections }
    }

    /// A tree of `count` entries; every hundredth value is a chunk.
    fn tree(count: u32, seed: u8, everything: &mut MemoryChunks) -> Root {
        let mut builder = Builder::new(Salt([1; 16]));
        for number in 0..count {
            let value = if number % 100 == 0 {
                let chunk = Chunk::new(Domain::Data, Bytes::from(vec![seed; 3000 + number as usize]));
                let value = Value::chunk(chunk.id(), chunk.bytes().len() as u32);
                everything.put_value(chunk);
                value
            } else {
                Value::inline(Bytes::from(vec![seed; 100]))
            };
            builder.push(&number.to_be_bytes(), &value, everything).unwrap();
        }
        builder.finish(everything)
    }

    /// A joiner that gets what is named out of what a source has.
    #[derive(Default)]
    struct Joiner {
        here: MemoryChunks,
        nodes: BTreeSet<ChunkId>,
        values: BTreeSet<ChunkId>,
    }

    impl Joiner {
        fn get(&mut self, need: &Need, source: &MemoryChunks) {
            match need {
                Need::Nodes(wants) => {
                    for want in wants {
                        assert!(self.nodes.insert(want.id), "a node is asked for twice");
                        self.here.put(Chunk::new(Domain::Node, source.node(want.id).unwrap()));
                    }
                }
                Need::Chunks(wants) => {
                    for want in wants {
                        assert!(self.values.insert(want.id), "a value is asked for twice");
                        self.here.put_value(Chunk::new(Domain::Data, source.chunk(want.id).unwrap()));
                    }
                }
            }
        }
    }

    impl Nodes for Joiner {
        fn node(&self, id: ChunkId) -> Option<Bytes> {
            self.here.node(id)
        }
    }

    impl Holdings for Joiner {
        fn has_chunk(&self, id: ChunkId) -> bool {
            self.values.contains(&id)
        }
    }

    fn pair(target: Root) -> TreePair {
        TreePair { base: None, target }
    }

    #[test]
    fn what_is_vital_comes_first_and_what_can_be_rebuilt_last() {
        let mut all = MemoryChunks::default();
        let roots: Vec<Root> = (0..4).map(|seed| tree(3 + u32::from(seed), seed, &mut all)).collect();
        let manifest = manifest(vec![
            section("a", SectionPriority::Cache, roots[0]),
            section("b", SectionPriority::Bulk, roots[1]),
            section("c", SectionPriority::Vital, roots[2]),
            section("d", SectionPriority::Bulk, roots[3]),
        ]);
        let base = |section: &StateName| (section.as_str() == "d").then_some(roots[1]);
        let course = Course::new(&manifest, &Sections::All, base);
        assert_eq!(course.vital, [pair(roots[2])]);
        let based = TreePair { base: Some(roots[1]), target: roots[3] };
        assert_eq!(course.bulk, [pair(roots[1]), based, pair(roots[0])]);
        let some = Course::new(&manifest, &Sections::only(["a", "c"].map(name)), |_| None);
        assert_eq!((some.vital, some.bulk), (vec![pair(roots[2])], vec![pair(roots[0])]));
    }

    #[test]
    fn whole_trees_are_asked_for_once_and_nothing_of_them_is_left_out() {
        let mut source = MemoryChunks::default();
        let roots = [tree(5000, 1, &mut source), tree(0, 2, &mut source), tree(700, 3, &mut source)];
        let mut joiner = Joiner::default();
        let mut walk = WholeTrees::new(roots.map(pair).into());
        let mut needs = 0;
        while let Some(need) = walk.next(&joiner).unwrap() {
            joiner.get(&need, &source);
            needs += 1;
        }
        assert_eq!((joiner.nodes.len(), joiner.values.len()), (source.node_count(), source.value_count()));
        assert!(needs < 30, "{needs} requests for three small trees");
        // Nothing is left to ask for, also not by one who begins anew.
        assert_eq!(WholeTrees::new(roots.map(pair).into()).next(&joiner), Ok(None));
    }

    #[test]
    fn what_did_not_come_is_named_again() {
        let mut source = MemoryChunks::default();
        let root = tree(300, 1, &mut source);
        let mut walk = WholeTrees::new(vec![pair(root)]);
        let nobody = Joiner::default();
        let need = walk.next(&nobody).unwrap().unwrap();
        assert_eq!(walk.next(&nobody).unwrap().unwrap(), need);
    }

    #[test]
    fn of_the_upper_levels_no_more_is_asked_for_than_the_limit_lets() {
        let mut source = MemoryChunks::default();
        let root = tree(5000, 1, &mut source);
        let mut joiner = Joiner::default();
        let mut walk = UpperLevels::new(vec![pair(root)]);
        loop {
            let nodes = walk.next(&joiner, 0).unwrap();
            if nodes.is_empty() {
                break;
            }
            joiner.get(&Need::Nodes(nodes), &source);
        }
        assert!(!joiner.nodes.is_empty() && joiner.nodes.len() * 20 < source.node_count(), "{}", joiner.nodes.len());
        let nobody = Joiner::default();
        assert!(UpperLevels::new(vec![pair(root)]).next(&nobody, UPPER_LEVELS_BYTES_MAX).unwrap().is_empty());
    }
}

//! Owns the choice of how a transfer goes: the cheapest of what source and joiner can do together.
//!
//! One cost function over round trips and bytes decides. Facts come in as plain data and the choice goes out as plain data, so an
//! offer can be printed, compared and tested. Nothing here reads a tree or a disk.

use std::fmt;
use std::time::Duration;

use crate::chunk::ChunkId;

/// How a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Strategy {
    /// The joiner holds the newest snapshot: nothing but the answer travels.
    UpToDate = 1,
    /// Both hold an older root: changed chunks travel as patches against it.
    Patch = 2,
    /// The joiner has a copy that the source does not know: trees are compared, changed chunks travel whole.
    TreeCompare = 3,
    /// The joiner has nothing.
    Full = 4,
}

impl Strategy {
    /// Reads the number that offers carry.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::UpToDate),
            2 => Some(Self::Patch),
            3 => Some(Self::TreeCompare),
            4 => Some(Self::Full),
            _ => None,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "up to date",
            Self::Patch => "patch",
            Self::TreeCompare => "tree compare",
            Self::Full => "full",
        })
    }
}

/// A snapshot of the joiner that the source could build on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFacts {
    /// The snapshot.
    pub snapshot: ChunkId,
    /// What the source knows of it.
    pub known: BaseKnown,
}

/// What a source knows of a joiner's snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseKnown {
    /// It is the offered snapshot itself.
    Newest,
    /// The source has its tree, and the chunks that changed since: it can make patches.
    TreeAndChunks {
        /// Bytes of tree nodes and chunks that differ, undiminished by any codec.
        changed_bytes: u64,
    },
    /// The source has its tree but no longer its chunks.
    Tree {
        /// Bytes of tree nodes and chunks that differ.
        changed_bytes: u64,
    },
    /// The source has never seen it, or has forgotten it.
    Nothing,
}

/// What the choice is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferFacts {
    /// Bytes of the whole offered state.
    pub state_bytes: u64,
    /// Levels of its highest tree: about one round trip each.
    pub tree_levels: u32,
    /// The joiner's snapshots, newest first.
    pub bases: Vec<BaseFacts>,
    /// The link to the joiner.
    pub link: LinkFacts,
}

/// What a source knows of the link to a joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFacts {
    /// One round trip.
    pub round_trip: Duration,
    /// What it carries, in bytes per second.
    pub bytes_per_second: u64,
}

impl Default for LinkFacts {
    /// A local network of 1 Gbit/s: what to assume of a link that was never measured.
    fn default() -> Self {
        Self { round_trip: Duration::from_micros(500), bytes_per_second: 125_000_000 }
    }
}

/// How a transfer will go, and what it is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The way.
    pub strategy: Strategy,
    /// The joiner's snapshot that it builds on.
    pub base: Option<ChunkId>,
    /// Bytes that the source expects to send.
    pub expected_bytes: u64,
    /// Round trips before the last byte is asked for.
    pub round_trips: u32,
}

impl Plan {
    /// The time that the plan takes on a link: the one figure by which plans are compared.
    pub fn cost(&self, link: LinkFacts) -> Duration {
        let rate = u128::from(link.bytes_per_second.max(1));
        let nanos = u128::from(self.expected_bytes) * 1_000_000_000 / rate;
        link.round_trip * self.round_trips + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} B in {} round trips", self.strategy, self.expected_bytes, self.round_trips)?;
        match self.base {
            Some(base) => write!(f, ", base {}", base.short()),
            None => Ok(()),
        }
    }
}

/// Every plan that the facts allow, the cheapest first. There is always one: the full copy.
pub fn plans(facts: &OfferFacts) -> Vec<Plan> {
    let mut plans: Vec<Plan> = facts.bases.iter().map(|base| plan_on(base, facts)).collect();
    plans.push(Plan {
        strategy: Strategy::Full,
        base: None,
        expected_bytes: facts.state_bytes,
        round_trips: ROUND_TRIPS_ASK + facts.tree_levels + ROUND_TRIPS_CHUNKS,
    });
    // Equal costs: the earlier base is the newer one.
    plans.sort_by_key(|plan| plan.cost(facts.link));
    plans
}

fn plan_on(base: &BaseFacts, facts: &OfferFacts) -> Plan {
    let round_trips = ROUND_TRIPS_ASK + facts.tree_levels + ROUND_TRIPS_CHUNKS;
    let plan = |strategy, expected_bytes, round_trips| Plan {
        strategy,
        base: Some(base.snapshot),
        expected_bytes,
        round_trips,
    };
    match base.known {
        BaseKnown::Newest => plan(Strategy::UpToDate, 0, ROUND_TRIPS_ASK),
        BaseKnown::TreeAndChunks { changed_bytes } => {
            plan(Strategy::Patch, changed_bytes / PATCH_SAVES_TIMES, round_trips)
        }
        BaseKnown::Tree { changed_bytes } => plan(Strategy::TreeCompare, changed_bytes, round_trips),
        // A stale copy is rarely worse than half right, and comparing costs no more than copying.
        BaseKnown::Nothing => plan(Strategy::TreeCompare, facts.state_bytes / 2, round_trips),
    }
}

/// Asking and being answered.
const ROUND_TRIPS_ASK: u32 = 1;
/// From knowing the chunks to having the last of them.
const ROUND_TRIPS_CHUNKS: u32 = 1;
/// How much smaller a changed chunk is as a patch, about. Measured: 24 on a database after scattered updates, 15 on rewritten
/// pages; chosen low, since it only ranks plans.
const PATCH_SAVES_TIMES: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Domain;

    fn snapshot(name: &str) -> ChunkId {
        ChunkId::of(Domain::Manifest, name.as_bytes())
    }

    fn facts(bases: &[(&str, BaseKnown)]) -> OfferFacts {
        OfferFacts {
            state_bytes: 1_600_000_000,
            tree_levels: 2,
            bases: bases.iter().map(|&(name, known)| BaseFacts { snapshot: snapshot(name), known }).collect(),
            link: LinkFacts::default(),
        }
    }

    #[track_caller]
    fn check(bases: &[(&str, BaseKnown)], expected: Strategy, base: Option<&str>) {
        let plan = plans(&facts(bases))[0];
        assert_eq!((plan.strategy, plan.base), (expected, base.map(snapshot)));
    }

    #[test]
    fn the_cheapest_plan_comes_first() {
        let changed = |changed_bytes| BaseKnown::TreeAndChunks { changed_bytes };
        check(&[], Strategy::Full, None);
        check(&[("a", BaseKnown::Newest)], Strategy::UpToDate, Some("a"));
        check(&[("a", changed(557_000_000))], Strategy::Patch, Some("a"));
        check(&[("a", BaseKnown::Tree { changed_bytes: 557_000_000 })], Strategy::TreeCompare, Some("a"));
        check(&[("a", BaseKnown::Nothing)], Strategy::TreeCompare, Some("a"));
        check(&[("new", BaseKnown::Nothing), ("old", changed(900_000_000))], Strategy::Patch, Some("old"));
        check(&[("new", changed(10_000_000)), ("old", changed(20_000_000))], Strategy::Patch, Some("new"));
    }

    #[test]
    fn a_copy_that_shares_nothing_is_no_reason_to_build_on_it() {
        check(&[("a", BaseKnown::Tree { changed_bytes: 2_000_000_000 })], Strategy::Full, None);
    }

    #[test]
    fn the_cost_is_round_trips_and_bytes() {
        let plan = Plan { strategy: Strategy::Full, base: None, expected_bytes: 250_000_000, round_trips: 4 };
        assert_eq!(plan.cost(LinkFacts::default()), Duration::from_millis(2002));
        let no_link = LinkFacts { round_trip: Duration::ZERO, bytes_per_second: 0 };
        assert!(plan.cost(no_link) > Duration::from_secs(1_000_000));
    }
}

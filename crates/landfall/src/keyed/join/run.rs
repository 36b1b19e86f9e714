//! Owns the course of a join on its thread: ask, plan, fetch what serving needs, fetch the rest, make it durable.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use landfall_core::ChunkId;
use landfall_core::join::{
    Course, LeaseVersion, NotOffered, Offered, Part, Snapshot, TOUCHES_MAX, UpperLevels, choose,
};
use landfall_core::keyed::{KeyedState, Sections, SectionsRefused};
use landfall_core::snapshot::{Manifest, Section, SectionPriority, StateName};
use landfall_core::transfer::TreePair;
use landfall_core::tree::Root;
use landfall_core::wire::{TouchedKey, Urgency};

use super::early::{fetch_upper_levels, fetch_whole};
use super::hot::{Touched, fetch_hot};
use super::landing::{KeyedLanding, LandingError};
use super::lanes::{FaultError, FaultLanes, Reach};
use super::progress::{Fetch, Plan, Progress};
use super::{Extent, JoinFailure, Keyed};
use crate::background::give_way;
use crate::fetch::ask::{Answers, Asked, Ways};
use crate::fetch::greet::{Greeted, Question};
use crate::fetch::session::{Session, SessionEnd};
use crate::history::Held;
use crate::keyed::mend::Menders;
use crate::source::LetGo;

/// A join, as its thread carries it out.
pub(super) struct Run {
    pub(super) keyed: Arc<Keyed>,
    pub(super) reach: Reach,
    /// The snapshot, if it is decided already.
    pub(super) wanted: Option<ChunkId>,
    /// The sections that are wanted, if the state has them.
    pub(super) sections: Result<Sections, SectionsRefused>,
    /// Whether the snapshot may be older than the one on which the state stands.
    pub(super) past: Past,
    pub(super) bases: Bases,
    pub(super) progress: Arc<Progress>,
}

/// The trees that are here to build on, by section, as they were when the join first looked.
pub(super) type Bases = OnceLock<BTreeMap<StateName, Root>>;

/// What becomes of a snapshot that is older than the one on which the state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It is of no use.
    Refused,
    /// It is fetched: the state is to go back to it.
    Welcome,
}

impl Run {
    pub(super) fn carry_out(self) {
        let ended = self.run();
        let ended = ended.map_err(|failure| if self.progress.was_stopped() { JoinFailure::Stopped } else { failure });
        if let Err(failure) = &ended {
            self.unprotect_what_is_pinned();
            tracing::info!(state = %self.keyed.name(), %failure, "a join ended early");
        }
        let Self { keyed, progress, .. } = self;
        drop(keyed);
        progress.end(ended);
    }

    /// A join that failed may yet be adopted if what serving needs had come. So what no snapshot pins is kept until the handle goes.
    fn unprotect_what_is_pinned(&self) {
        if self.progress.plan().is_some_and(|plan| self.keyed.served.find(plan.snapshot).is_some()) {
            self.progress.unprotect();
        }
    }

    fn run(&self) -> Result<(), JoinFailure> {
        // What comes is protected until its snapshot is pinned; whoever never adopts it lets it go with the handle.
        self.progress.protect(self.keyed.here.store.begin_session());
        let (plan, asked) = self.plan()?;
        let fetched = self.fetch(&plan, asked);
        if fetched.is_ok() {
            // Before the lanes go: whoever reads what is damaged finds one or the other.
            let sources = self.progress.sources();
            self.keyed.mend_with(Menders { sources, reach: self.reach.clone() });
        }
        self.keyed.ask_no_more(&plan.lanes);
        plan.lanes.end();
        let let_go = fetched?;
        self.keyed.make_room(let_go);
        Ok(())
    }

    fn ways<'a>(&'a self, sources: &'a [String]) -> Ways<'a> {
        Ways { sources, transport: &self.reach.transport, trust: &*self.reach.trust }
    }

    fn question(&self, wanted: Option<ChunkId>) -> Question {
        let sections = self.sections.clone().unwrap_or_default();
        Question { sections, ..Question::for_snapshot(self.keyed.name().clone(), wanted) }
    }

    /// Asks every source and chooses the snapshot.
    fn plan(&self) -> Result<(Arc<Plan>, Vec<Asked>), JoinFailure> {
        let keyed = &self.keyed;
        let sections = self.sections.clone()?;
        let held = keyed.served.held();
        let whole = held.iter().rev().filter(|held| held.extent != Extent::Filling).map(|held| held.id);
        let touches_max = TOUCHES_MAX as u32;
        let question = Question { held: whole.collect(), touches_max, ..self.question(self.wanted) };
        let sources = self.progress.sources();
        let answers = self.ways(&sources).ask_all(&question);
        for (address, error) in &answers.failures {
            self.progress.status.note(format!("{address}: {error}"));
        }
        let newest = self.accept(&answers, &sections)?;
        KeyedState::at(keyed.schema(), &newest.manifest)?;
        let (held, offered) = (keyed.read_state().base_position(), newest.manifest.position);
        if offered < held && self.past == Past::Refused {
            return Err(JoinFailure::Older { held, offered });
        }
        keyed.here.store.put(&newest.manifest_chunk)?;
        let offered = answers.asked.iter().filter_map(|asked| asked.greeted.as_ref());
        // A source says nothing about sections of another snapshot.
        let alike = offered.filter(|greeted| greeted.snapshot == newest.snapshot);
        let touches = alike.flat_map(|greeted| greeted.touches.iter().take(TOUCHES_MAX).cloned());
        let plan = Arc::new(Plan {
            snapshot: newest.snapshot,
            manifest: newest.manifest.clone(),
            manifest_chunk: newest.manifest_chunk.clone(),
            sections,
            lanes: Arc::new(self.lanes(newest.snapshot, &newest.manifest)),
            touches: touches.collect(),
        });
        // The state stands on it since an earlier join: reads need not wait for anything.
        if keyed.sealed().is_some_and(|sealed| sealed.id == plan.snapshot && sealed.extent == Extent::Filling) {
            keyed.ask_on(plan.lanes.clone());
        }
        if let Err(stopped) = self.progress.set_plan(plan.clone(), LeaseVersion(newest.lease.version)) {
            keyed.ask_no_more(&plan.lanes);
            return Err(stopped);
        }
        Ok((plan, answers.asked))
    }

    /// The offer to accept.
    fn accept<'a>(&self, answers: &'a Answers, sections: &Sections) -> Result<&'a Greeted, JoinFailure> {
        let greeted: Vec<&Greeted> = answers.asked.iter().filter_map(|asked| asked.greeted.as_ref()).collect();
        let offered = |greeted: &&Greeted| Offered {
            snapshot: Snapshot { id: greeted.snapshot, position: greeted.manifest.position },
            sections: greeted.sections.clone(),
        };
        let offers: Vec<Offered> = greeted.iter().map(offered).collect();
        choose(&offers, sections, &self.keyed.schema()).map(|chosen| greeted[chosen]).map_err(|not_offered| {
            let failures = answers.failures.iter().map(|(address, error)| format!("{address}: {error}"));
            let reasons: Vec<String> = match not_offered {
                NotOffered::Nothing => failures.collect(),
                not_offered => std::iter::once(not_offered.to_string()).chain(failures).collect(),
            };
            JoinFailure::NoSource { state: self.keyed.name().clone(), reasons: reasons.join("; ") }
        })
    }

    /// Ways to the sources, which are added as they are known, that do not stand behind anything else.
    fn lanes(&self, snapshot: ChunkId, manifest: &Manifest) -> FaultLanes {
        let question = Question { urgency: Urgency::Reads, ..self.question(Some(snapshot)) };
        let pair = |section: &Section| TreePair { base: self.base_root(&section.name), target: section.root };
        let trees = manifest.sections.iter().map(pair).collect();
        FaultLanes::new(&self.reach, question, trees, self.keyed.here.clone(), self.progress.status.clone())
    }

    /// Does what the join asks for, until all of the snapshot is here.
    fn fetch(&self, plan: &Plan, asked: Vec<Asked>) -> Result<LetGo, JoinFailure> {
        let here = &self.keyed.here;
        let Course { vital, bulk } = Course::new(&plan.manifest, &plan.sections, |section| self.base_root(section));
        let mut asked = Some(asked);
        let mut let_go = LetGo::Nothing;
        while let Some(Fetch { part, of }) = self.progress.next_fetch() {
            match part {
                Part::Vital => fetch_whole(&plan.lanes, here, vital.clone())?,
                Part::Upper => fetch_upper_levels(&plan.lanes, here, bulk.clone())?,
                Part::Hot => match self.fetch_hot(plan) {
                    Err(JoinFailure::Fault(FaultError::Nobody(why))) => {
                        tracing::info!(%why, "what is used most comes with the rest");
                        self.progress.tell(|join, _| join.handle_hot_late(of));
                        continue;
                    }
                    fetched => fetched?,
                },
                Part::Rest => {
                    self.fetch_bulk(plan, bulk.clone(), asked.take().unwrap_or_default())?;
                    here.store.sync()?;
                    let_go = self.complete(plan)?;
                    continue;
                }
            }
            self.progress.tell(|join, now| join.handle_here(part, of, now));
        }
        Ok(let_go)
    }

    /// The newest tree of a section that is here whole, to build on.
    fn base_root(&self, section: &StateName) -> Option<Root> {
        self.bases.get_or_init(|| self.find_bases()).get(section).copied()
    }

    fn find_bases(&self) -> BTreeMap<StateName, Root> {
        let newest = |name: &StateName| {
            let base = self.keyed.served.newest_with(name)?;
            base.manifest.sections.iter().find(|old| old.name == *name).map(|old| old.root)
        };
        let schema = self.keyed.schema();
        let bases = schema.sections().iter().filter_map(|section| Some((section.name.clone(), newest(&section.name)?)));
        bases.filter(|(_, root)| self.can_be_walked(*root)).collect()
    }

    /// Are the inner nodes of a tree here? One that was damaged would be wanted of sources that may have let it go, and without it the walk
    /// would not go on. Those that are here are read now instead of a little later.
    fn can_be_walked(&self, root: Root) -> bool {
        let missing = UpperLevels::new(vec![TreePair { base: None, target: root }]).next(&self.keyed.here.reader(), 0);
        missing.is_ok_and(|missing| missing.is_empty())
    }

    fn fetch_hot(&self, plan: &Plan) -> Result<(), JoinFailure> {
        let touched: Vec<Touched<'_>> = plan.touches.iter().filter_map(|touch| self.touched(plan, touch)).collect();
        if touched.is_empty() {
            return Ok(());
        }
        let lanes = Arc::new(self.lanes(plan.snapshot, &plan.manifest));
        self.progress.set_hot_lanes(lanes.clone())?;
        let fetched = fetch_hot(&lanes, &self.keyed.here, &touched);
        lanes.end();
        tracing::debug!(touched = touched.len(), ?fetched, "fetched what the sources' readers use most");
        fetched.map(drop).map_err(JoinFailure::from)
    }

    /// Where a touched key lies, if it is in a section that is not here whole already.
    fn touched<'a>(&self, plan: &Plan, touch: &'a TouchedKey) -> Option<Touched<'a>> {
        let section = plan.manifest.sections.get(touch.section as usize)?;
        let is_bulk = section.priority != SectionPriority::Vital && plan.sections.has(&section.name);
        let is_bulk = is_bulk && section.root.entries > 0;
        let trees = || TreePair { base: self.base_root(&section.name), target: section.root };
        is_bulk.then(|| Touched { trees: trees(), key: &touch.key })
    }

    fn fetch_bulk(&self, plan: &Plan, trees: Vec<TreePair>, asked: Vec<Asked>) -> Result<(), JoinFailure> {
        give_way();
        let status = self.progress.status.clone();
        let landing = Arc::new(KeyedLanding::new(self.keyed.here.clone(), trees.clone(), status.clone()));
        let session = Arc::new(Session::new(trees, landing, status));
        let sources: Vec<String> = asked.iter().map(|asked| asked.address.clone()).collect();
        self.progress.set_session(session.clone(), &sources)?;
        let question = self.question(Some(plan.snapshot));
        let end = self.ways(&sources).fetch(&session, plan.snapshot, &question, asked);
        match end {
            SessionEnd::Complete => session.late_failure().map_or(Ok(()), |failure| Err(failure.into())),
            SessionEnd::Stuck(stuck) => Err(JoinFailure::Stuck(stuck)),
            SessionEnd::Failed(LandingError::Stopped) => Err(JoinFailure::Stopped),
            SessionEnd::Failed(failure) => Err(failure.into()),
        }
    }

    /// Everything is here and durable: if the state stands on it, the record says so from now on.
    fn complete(&self, plan: &Plan) -> Result<LetGo, JoinFailure> {
        let keyed = &self.keyed;
        let base = keyed.lock_base();
        let mut let_go = LetGo::Nothing;
        let held = keyed.served.find(plan.snapshot);
        let is_filling = |held: &&Arc<Held>| held.extent == Extent::Filling && plan.sections.cover(&held.sections);
        if let Some(held) = held.as_ref().filter(is_filling) {
            let whole = Held { extent: Extent::complete(&held.sections), ..(**held).clone() };
            let_go = keyed.served.publish(whole, &keyed.clock)?;
        }
        if held.is_some() {
            self.progress.unprotect();
            keyed.forget_carried();
        }
        self.progress.tell(|join, now| {
            // What is hot as well, if it could not be had before.
            [Part::Rest, Part::Hot].into_iter().for_each(|part| join.handle_here(part, plan.snapshot, now));
        });
        drop(base);
        Ok(let_go)
    }
}

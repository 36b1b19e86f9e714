//! Owns the seals of a run: members seal at marks, each at its own speed, and every root is compared with the model's.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_core::codec::Encoder;
use landfall_core::join::{RebaseCause, Snapshot};
use landfall_core::keyed::{Sealed, Sealing, Step};
use landfall_core::snapshot::{LogHash, Manifest, Position, StateRoot};
use landfall_core::tree::TreeError;
use landfall_core::{Chunk, ChunkId};
use landfall_store::Session;

use super::here::{Here, Sink};
use super::member::{Extent, violation};
use super::world::{Event, LiveWorld};
use crate::checks::{Violation, broken, check};
use crate::network::MemberId;
use crate::trouble::Trouble;

/// A seal under way at a member.
pub(super) struct SealRun {
    sealing: Sealing,
    /// Re-bases before it began.
    rebases: u64,
    patches: Option<Encoder>,
    _session: Session,
}

impl SealRun {
    /// Did the state get another snapshot below it since the seal began?
    pub(super) fn is_outdated(&self, rebases: u64) -> bool {
        self.rebases != rebases
    }
}

/// What a member sealed at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealedAt {
    pub(super) root: StateRoot,
    pub(super) log_hash: LogHash,
    pub(super) id: ChunkId,
}

/// Everything that was ever sealed, by index and member.
pub(super) type Seals = BTreeMap<u64, BTreeMap<MemberId, SealedAt>>;

impl LiveWorld {
    /// A member has applied a mark.
    pub(super) fn mark(&mut self, member: MemberId) -> Result<(), Trouble> {
        let slices_after = self.ground.random.millis(1, 60);
        let patches = self.ground.random.chance(500).then(Encoder::new);
        let at = &mut self.members[member];
        if !at.is_whole() {
            self.figures.marks_skipped += 1;
            return Ok(());
        }
        let (Some(state), Some(store)) = (&mut at.state, at.disk.store()) else { return Ok(()) };
        match state.freeze() {
            Ok(sealing) => {
                let (rebases, session) = (at.rebases, store.begin_session());
                at.seal = Some(SealRun { sealing, rebases, patches, _session: session });
                let life = at.life;
                self.ground.schedule(slices_after, Event::SealStep { member, life });
            }
            Err(_) => self.figures.marks_skipped += 1,
        }
        Ok(())
    }

    /// A member merges another slice.
    pub(super) fn seal_step(&mut self, member: MemberId) -> Result<(), Trouble> {
        let entries = self.ground.random.between(1, 200) as usize;
        let pause_max = self.scenario.seal_pause_max.as_millis() as u64;
        let again_after = self.ground.random.millis(1, pause_max);
        let at = &mut self.members[member];
        let Some(run) = &mut at.seal else { return Ok(()) };
        let here = Here::new(&at.disk, &at.nodes);
        let mut sink = Sink { disk: &at.disk, patches: run.patches.as_mut(), failure: None };
        let step = run.sealing.step(&here, entries, &mut sink);
        sink.failure.take().map_or(Ok(()), Err)?;
        here.failed()?;
        match step {
            Ok(Step::More) => {
                let life = at.life;
                self.ground.schedule(again_after, Event::SealStep { member, life });
                Ok(())
            }
            Ok(Step::Done(sealed)) => self.finish_seal(member, &sealed),
            Err(_) if run.is_outdated(at.rebases) => self.abandon_seal(member),
            Err(TreeError::Missing(wants)) => {
                broken(format!("member {member} seals and lacks {} nodes of its own base", wants.len()))?
            }
            Err(error) => broken(format!("member {member} seals: {error}"))?,
        }
    }

    fn abandon_seal(&mut self, member: MemberId) -> Result<(), Trouble> {
        self.ground.log.note(self.ground.now, format_args!("{member} gives up a seal that a re-base outdated"));
        let at = &mut self.members[member];
        let (Some(run), Some(state)) = (at.seal.take(), &mut at.state) else { return Ok(()) };
        let outdated = state.abandon_seal(run.sealing);
        Ok(check(outdated.is_err(), || format!("member {member} was re-based, and its seal is not outdated"))?)
    }

    /// A member gives up its seal, as it does when its disk refuses something.
    pub(super) fn give_up_seal(&mut self, member: MemberId) -> Result<(), Violation> {
        let at = &mut self.members[member];
        let is_outdated = at.seal.as_ref().is_some_and(|run| run.is_outdated(at.rebases));
        let (Some(run), Some(state)) = (at.seal.take(), &mut at.state) else { return Ok(()) };
        self.ground.log.note(self.ground.now, format_args!("{member} gives up its seal"));
        self.figures.seals_given_up += 1;
        let given_up = state.abandon_seal(run.sealing);
        check(given_up.is_err() == is_outdated, || format!("member {member} gives up its seal: {given_up:?}"))
    }

    fn finish_seal(&mut self, member: MemberId, sealed: &Sealed) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        if at.seal.as_ref().is_some_and(|run| run.is_outdated(at.rebases)) {
            return self.abandon_seal(member);
        }
        check(at.is_whole(), || format!("member {member} sealed while half filled"))?;
        let chunk = sealed.manifest.to_chunk();
        at.record_base(&chunk, Extent::Whole)?;
        at.seal = None;
        let state = at.state.as_mut().expect("it sealed");
        state.finish_seal(sealed).map_err(|error| violation(&error))?;
        let position = sealed.manifest.position;
        at.seals.insert(position.index, chunk.id());
        self.figures.seals += 1;
        self.ground.log.note(self.ground.now, format_args!("{member} sealed {} at {position}", chunk.id().short()));
        self.compare_seal(member, &chunk, &sealed.manifest)?;
        self.note_unwanted(member, &sealed.manifest)?;
        let kept = self.scenario.snapshots_kept.max(self.snapshots_leased(member));
        self.let_snapshots_go(member, kept)?;
        self.cut_log(member, LogCut::Polite)?;
        self.tell_joiners(RebaseCause::Mark);
        self.look_for_wrong_voters(position.index);
        self.look_at_audits()
    }

    /// Roots are equal at equal positions, and are the model's.
    fn compare_seal(&mut self, member: MemberId, chunk: &Chunk, manifest: &Manifest) -> Result<(), Violation> {
        let index = manifest.position.index;
        let sealed = SealedAt { root: manifest.state_root(), log_hash: manifest.log_hash, id: chunk.id() };
        let is_right = self.is_right(manifest);
        let at = &mut self.members[member];
        check(is_right || at.diverged.is_some(), || {
            format!("member {member} sealed something else than the model at {}", manifest.position)
        })?;
        // What went wrong may have been overwritten since.
        at.diverged = at.diverged.filter(|&since| !is_right || since > index);
        let others = self.seals.entry(index).or_default();
        if is_right {
            let differs = others.iter().find(|(_, other)| **other != sealed);
            let excused = differs.is_some_and(|(&other, _)| self.members[other].ever_diverged);
            check(differs.is_none() || excused, || {
                format!("members {member} and {differs:?} sealed different roots at {index}")
            })?;
        }
        others.insert(member, sealed);
        Ok(())
    }

    /// Is a snapshot what the model was at its position?
    pub(super) fn is_right(&self, manifest: &Manifest) -> bool {
        let index = manifest.position.index;
        manifest.position == self.order.position(index)
            && manifest.log_hash == self.order.log_hash(index)
            && self.schema.ids().zip(&manifest.sections).all(|(id, section)| {
                section.salt == self.salts[usize::from(id.0)]
                    && section.root == self.model.root(id, section.salt, index)
            })
    }

    /// A member keeps its newest snapshots only.
    pub(super) fn let_snapshots_go(&mut self, member: MemberId, kept: usize) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        while at.seals.len() > kept {
            let Some((_, id)) = at.seals.pop_first() else { break };
            at.unpin(id)?;
        }
        Ok(())
    }

    /// How many of its newest snapshots a member must keep so that joiners get what they began with, as long as their leases last.
    fn snapshots_leased(&self, member: MemberId) -> usize {
        let seals = &self.members[member].seals;
        let is_wanted = |(_, id): &(&u64, &ChunkId)| {
            self.leases.iter().any(|(joiner, lease)| {
                let joining = self.members[*joiner].joining.as_ref();
                lease.ends_at > self.ground.now && joining.is_some_and(|joining| joining.wants(**id))
            })
        };
        let before = seals.iter().take_while(|seal| !is_wanted(seal)).count();
        seals.len() - before
    }

    /// A member cuts its log up to its newest snapshot.
    pub(super) fn cut_log(&mut self, member: MemberId, how: LogCut) -> Result<(), Trouble> {
        let at = &self.members[member];
        let (Some(base), Some(log)) = (&at.base, &at.log) else { return Ok(()) };
        let mut through = base.manifest.position;
        let kept = self.leases.values().filter(|lease| lease.ends_at > self.ground.now).map(|lease| lease.after).min();
        let kept = kept.unwrap_or(u64::MAX);
        let is_over_cap = through.index.saturating_sub(kept) > self.scenario.log_records_max;
        if how == LogCut::Polite && kept < through.index && !is_over_cap {
            through = self.order.position(kept);
        }
        if through > Position::default() {
            log.purge_through(through)?;
        }
        let nears_cap = base.manifest.position.index.saturating_sub(kept) > self.scenario.log_records_max / 2;
        if kept < u64::MAX && nears_cap {
            self.tell_joiners(RebaseCause::LogCap);
        }
        Ok(())
    }

    /// Joiners hear that there is a newer snapshot.
    pub(super) fn tell_joiners(&mut self, cause: RebaseCause) {
        for member in 0..self.members.len() {
            if let Some(joining) = &self.members[member].joining {
                let number = joining.number;
                let after = self.scenario.latency + Duration::from_millis(1);
                self.ground.schedule(after, Event::Newer { member, join: number, cause });
            }
        }
    }

    /// The newest snapshot that a member which votes can give, and for which enough members vouch.
    pub(super) fn reference(&self) -> Option<Snapshot> {
        let holders = |member: &MemberId| {
            let at = &self.members[*member];
            at.is_up() && at.is_whole() && self.order.votes(*member)
        };
        let held = (0..self.members.len()).filter(holders).flat_map(|member| &self.members[member].seals);
        let vouched = held.filter(|&(&index, &id)| self.is_vouched_for(index, id));
        vouched.max().map(|(&index, &id)| Snapshot { id, position: self.order.position(index) })
    }

    /// Did two members that vote seal it, where one of them may be wrong?
    fn is_vouched_for(&self, index: u64, id: ChunkId) -> bool {
        let sealed = self
            .seals
            .get(&index)
            .into_iter()
            .flatten()
            .filter(|(by, sealed)| sealed.id == id && self.order.votes(**by))
            .count();
        sealed >= self.vouchers_min()
    }

    /// How many members must say the same to be believed.
    pub(super) fn vouchers_min(&self) -> usize {
        if self.faults_at_voters() && self.order.voters().len() > 1 { 2 } else { 1 }
    }

    /// May a member that votes be wrong? Only where two others can tell.
    pub(super) fn faults_at_voters(&self) -> bool {
        self.scenario.founders >= 3 && self.scenario.faults.diverge_voter > 0
    }

    /// A member that votes finds that two others sealed the same, and it something else: it stops to vote, and joins anew.
    pub(super) fn look_for_wrong_voters(&mut self, index: u64) {
        let Some(by) = self.seals.get(&index) else { return };
        let voters = self.order.voters();
        let sealed = |member: &MemberId| by.get(member).map(|sealed| sealed.id);
        let ids: Vec<ChunkId> = voters.iter().filter_map(sealed).collect();
        let most = ids.iter().copied().find(|id| ids.iter().filter(|other| *other == id).count() >= 2);
        let is_wrong = |member: &MemberId| sealed(member).zip(most).is_some_and(|(own, most)| own != most);
        let wrong: Vec<MemberId> = voters.iter().copied().filter(is_wrong).collect();
        for member in wrong {
            self.ground.log.note(self.ground.now, format_args!("{member} sealed something else than most at {index}"));
            self.figures.differences += 1;
            self.members[member].distrusts_base = true;
            self.demote(member);
        }
    }
}

/// How a log is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogCut {
    /// What joiners still need is kept, up to the cap.
    Polite,
    /// Whoever needs it.
    Ruthless,
}

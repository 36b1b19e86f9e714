//! Owns one join, from the first question to a full member: which milestone is reached, what to do next, and when to give up.
//!
//! It holds no socket, file, clock or state. Facts come in through `handle_*`, with the time; work goes out through `poll_command`. The
//! same facts in the same order give the same commands. Which chunk to ask of whom is the transfer's business, not this one's.
//!
//! A driver owes it: every command carried out in order; facts told after they are durable, where durability is part of the fact; and a call
//! of `handle_timeout` no later than `poll_timeout` says. A later command of a kind takes the place of an earlier one; a fact about a snapshot
//! that is no longer wanted is passed over, so a driver need not recall what is under way. Pacing one command's own tries is the driver's.

mod asking;
mod choice;
mod command;
mod course;
mod hot;
mod milestone;
mod stage;

use std::collections::VecDeque;
use std::time::Duration;

use crate::snapshot::Position;
use crate::{ChunkId, Pauses, Time};

pub use asking::{Asking, GiveUp, Next, PATIENCE_MAX, PAUSE_FIRST, PAUSE_LONGEST, Shortfall, SourceId, Sources};
pub use choice::{NotOffered, Offered, choose};
pub use command::{Command, Failure, HookOutcome, LeaseVersion, Part, RebaseCause, RollBackReason, Snapshot, Tally};
pub use course::{Course, Holdings, Need, UPPER_LEVELS_BYTES_MAX, UpperLevels, WholeTrees};
pub use hot::{HOT_UNITS_MAX, TOUCH_KEY_BYTES_MAX, TOUCHES_MAX, Touch, Touches, hot_units};
pub use milestone::{Milestone, Reached};

use milestone::Milestones;
use stage::{Filling, Hook, Rebase, Stage, Verifying, Wait};

/// An audit that showed nothing is asked for again after this long, then after twice as long each time: every audit has all members seal.
pub const AUDIT_AGAIN_FIRST: Duration = Duration::from_secs(1);
/// The longest of these pauses.
pub const AUDIT_AGAIN_LONGEST: Duration = Duration::from_secs(30);
/// A commit hook that failed is tried again after this long.
pub const HOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Tries of the commit hook before the joiner gives up.
pub const HOOK_TRIES_MAX: u32 = 10;
/// A re-base at a mark is not urgent: it waits until the units had this many times as long as the last re-base took.
const UNITS_SHARE: u32 = 10;
/// Differences that audits may find before the joiner gives up: the first is answered by a re-base.
const MISMATCHES_MAX: u32 = 2;

/// How much of a state is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it: what is joined seals by itself, is audited, and becomes a full member.
    Whole,
    /// Some sections. Without the roots of the others no root of the state can be computed here: so nothing is sealed or audited, marks are
    /// answered by re-bases for ever, and [`Milestone::CaughtUp`] is the last milestone.
    Sections,
}

/// Decides what a joiner does until it is a full member, or gives up.
#[derive(Debug)]
pub struct Join {
    scope: Scope,
    lag_max: u64,
    stage: Stage,
    milestones: Milestones,
    commands: VecDeque<Command>,
    lease: LeaseVersion,
    bytes_received: u64,
    /// How far the log is applied here, and where it ends at the source.
    applied: Position,
    head: Option<Position>,
    mismatches: u32,
    /// Snapshots that only a mark brought are passed over before this.
    marks_from: Time,
}

impl Join {
    /// A join that begins: sources are being asked. It has caught up when at most `lag_max` records are not applied.
    pub fn new(lag_max: u64, now: Time) -> Self {
        Self::with_scope(Scope::Whole, lag_max, now)
    }

    /// The same, of all or of some sections.
    pub fn with_scope(scope: Scope, lag_max: u64, now: Time) -> Self {
        let mut join = Self {
            scope,
            lag_max,
            stage: Stage::Asked,
            milestones: Milestones::default(),
            commands: VecDeque::new(),
            lease: LeaseVersion(0),
            bytes_received: 0,
            applied: Position::default(),
            head: None,
            mismatches: 0,
            marks_from: now,
        };
        join.reach(Milestone::Asked, now);
        join
    }

    /// When a milestone was reached, if it is.
    pub fn reached(&self, milestone: Milestone) -> Option<Reached> {
        self.milestones.get(milestone)
    }

    /// Whether a milestone is one that this join can reach.
    pub fn may_reach(&self, milestone: Milestone) -> bool {
        self.scope == Scope::Whole || milestone < Milestone::Verified
    }

    /// Why the join was given up, if it was.
    pub fn rolled_back(&self) -> Option<RollBackReason> {
        match &self.stage {
            Stage::RolledBack(reason) => Some(*reason),
            _ => None,
        }
    }

    /// The snapshot below the state, or to be; nothing before an offer and after the end.
    pub fn snapshot(&self) -> Option<Snapshot> {
        match &self.stage {
            Stage::Planned(filling) | Stage::Viable(filling) => Some(filling.snapshot),
            Stage::Verifying(verifying) => Some(verifying.snapshot),
            _ => None,
        }
    }

    /// Bytes that were received so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    /// Bytes came, of whatever. Told before the facts that they complete.
    pub fn handle_received(&mut self, bytes: u64) {
        self.bytes_received += bytes;
    }

    /// An offer was accepted and its manifest verified.
    pub fn handle_offer(&mut self, snapshot: Snapshot, lease: LeaseVersion, now: Time) {
        if self.stage != Stage::Asked {
            return;
        }
        self.lease = lease;
        self.applied = self.applied.max(snapshot.position);
        self.set_stage(Stage::Planned(Filling::all_of(snapshot)));
        self.reach(Milestone::Planned, now);
        self.commands.push_back(Command::AttachLog { after: snapshot.position });
        self.fetch_first(snapshot.id);
    }

    /// The lease on the log was renewed, or granted anew with another version.
    pub fn handle_lease(&mut self, lease: LeaseVersion) {
        self.lease = self.lease.max(lease);
        if let Stage::Verified(hook) = &self.stage
            && hook.lease < self.lease
        {
            self.run_hook(0);
        }
    }

    /// A part of a snapshot is here whole.
    pub fn handle_here(&mut self, part: Part, of: ChunkId, now: Time) {
        let Some(filling) = self.filling().filter(|filling| filling.snapshot.id == of) else { return };
        if filling.waits_for.remove(&Wait::Part(part)) {
            self.part_came(part, now);
            self.settle(now);
        }
    }

    /// What the sources' readers use most cannot be had by itself: it comes with the rest, which is fetched now.
    pub fn handle_hot_late(&mut self, of: ChunkId) {
        let Stage::Viable(filling) = &self.stage else { return };
        let waits = [Part::Hot, Part::Rest].iter().all(|&part| filling.waits_for(Wait::Part(part)));
        if filling.snapshot.id == of && waits && filling.rebase.is_none() {
            self.commands.push_back(Command::FetchRest { of });
        }
    }

    /// The log streams from here on: `after` is the position before its first record.
    pub fn handle_log_attached(&mut self, after: Position, now: Time) {
        let applied = self.applied;
        let Some(filling) = self.filling().filter(|filling| filling.waits_for(Wait::Log)) else { return };
        if after <= applied {
            filling.waits_for.remove(&Wait::Log);
            self.settle(now);
        } else {
            // Records between are gone: no state that stands at `applied` can go on from here.
            self.commands.push_back(Command::AskNewer { than: applied });
        }
    }

    /// The log's stream ended: the source left, or does not keep the records any longer.
    pub fn handle_log_lost(&mut self) {
        if let Stage::Verifying(verifying) = &self.stage {
            // What is here stays right, but no audit can be answered.
            let filling = Filling { waits_for: [Wait::Lag].into(), ..Filling::all_of(verifying.snapshot) };
            self.set_stage(Stage::Viable(filling));
        }
        let after = self.applied;
        let Some(filling) = self.filling() else { return };
        filling.waits_for.insert(Wait::Lag);
        // If it is being attached already, or will be where a re-base ends, nothing is to be done.
        if filling.waits_for.insert(Wait::Log) && filling.rebase.is_none() {
            self.commands.push_back(Command::AttachLog { after });
        }
    }

    /// Records up to `applied` are applied here; the log ends at `head`.
    pub fn handle_applied(&mut self, applied: Position, head: Position, now: Time) {
        self.applied = self.applied.max(applied);
        self.head = Some(head);
        self.check_lag();
        self.settle(now);
    }

    /// A newer snapshot is to be put below the state. A member that is whole seals by itself, so it passes this over, unless it joined
    /// some sections only or the log does not continue where it stands. What only a mark brought is passed over while the last re-base was not long ago: marks that
    /// come as fast as re-bases end would leave no time for the rest.
    pub fn handle_newer_snapshot(&mut self, newer: Snapshot, cause: RebaseCause, now: Time) {
        let is_early = cause == RebaseCause::Mark && now < self.marks_from;
        match &mut self.stage {
            Stage::Planned(filling) if filling.snapshot.position < newer.position => self.plan_again(newer),
            Stage::Viable(filling) => {
                let newest = filling.rebase.map_or(filling.snapshot, |rebase| rebase.newest());
                let is_needed = self.scope == Scope::Sections
                    || filling.waits_for(Wait::Part(Part::Rest))
                    || filling.waits_for(Wait::Log);
                if newest.position < newer.position && (is_needed || filling.rebase.is_some()) && !is_early {
                    self.rebase(newer, cause, now);
                }
            }
            _ => {}
        }
    }

    /// A snapshot was put below the state.
    pub fn handle_rebased(&mut self, onto: ChunkId, now: Time) {
        let Stage::Viable(filling) = &mut self.stage else { return };
        let Some(rebase) = filling.rebase.take_if(|rebase| rebase.onto.id == onto) else { return };
        filling.snapshot = rebase.onto;
        filling.waits_for.insert(Wait::Part(Part::Rest));
        let (waits_for_log, waits_for_hot) = (filling.waits_for(Wait::Log), filling.waits_for(Wait::Part(Part::Hot)));
        self.milestones.lose(Milestone::Complete);
        self.applied = self.applied.max(rebase.onto.position);
        self.marks_from = now + now.since(rebase.began) * UNITS_SHARE;
        let is_early = |cause| cause == RebaseCause::Mark && now < self.marks_from;
        if let Some((next, cause)) = rebase.next.filter(|&(_, cause)| !is_early(cause)) {
            return self.rebase(next, cause, now);
        }
        if waits_for_log {
            self.commands.push_back(Command::AttachLog { after: self.applied });
        }
        self.commands.push_back(if waits_for_hot {
            Command::FetchHot { of: onto }
        } else {
            Command::FetchRest { of: onto }
        });
        self.check_lag();
        self.settle(now);
    }

    /// A snapshot cannot be put below the state: nobody has it any longer, or the state sealed a later one by itself meanwhile.
    pub fn handle_rebase_failed(&mut self, onto: ChunkId, now: Time) {
        let Stage::Viable(filling) = &mut self.stage else { return };
        let Some(rebase) = filling.rebase.take_if(|rebase| rebase.onto.id == onto) else { return };
        if let Some((next, cause)) = rebase.next {
            return self.rebase(next, cause, now);
        }
        if filling.waits_for(Wait::Part(Part::Rest)) || filling.waits_for(Wait::Log) {
            // What it waits for was to come with that snapshot, so it comes with a newer one.
            self.commands.push_back(Command::AskNewer { than: rebase.onto.position });
        }
        self.settle(now);
    }

    /// An audit ended. A position before the one that was asked for says nothing.
    pub fn handle_audit(&mut self, tally: Tally, now: Time) {
        let Stage::Verifying(verifying) = &mut self.stage else { return };
        if tally.position < verifying.position {
            return;
        }
        let Some(most) = tally.most.filter(|_| tally.equal + tally.different > 0) else {
            verifying.again_at = Some(now + verifying.pauses.lengthen());
            return;
        };
        // With as many against it as for it nothing is proven.
        if tally.equal > tally.different {
            let lease = self.lease;
            self.set_stage(Stage::Verified(Hook { lease, tries: 0, again_at: None }));
            self.reach(Milestone::Verified, now);
            self.run_hook(0);
        } else {
            self.mismatch(most, tally, now);
        }
    }

    /// The commit hook ended.
    pub fn handle_hook(&mut self, lease: LeaseVersion, outcome: HookOutcome, now: Time) {
        let Stage::Verified(hook) = &mut self.stage else { return };
        // Run with a version that is fenced off by now, or it has already been answered.
        if hook.lease != lease || hook.again_at.is_some() {
            return;
        }
        match outcome {
            HookOutcome::Done => {
                self.set_stage(Stage::Promoted);
                self.reach(Milestone::Promoted, now);
            }
            HookOutcome::Failed if hook.tries < HOOK_TRIES_MAX => hook.again_at = Some(now + HOOK_AGAIN_AFTER),
            HookOutcome::Failed => {
                let tries = hook.tries;
                self.roll_back(RollBackReason::HookFailed { tries });
            }
        }
    }

    /// Something that the join cannot mend.
    pub fn handle_failed(&mut self, failure: Failure) {
        if !matches!(self.stage, Stage::Promoted | Stage::RolledBack(_)) {
            self.roll_back(RollBackReason::Failed(failure));
        }
    }

    /// Time passed: what nobody answered, or what failed, is tried again.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.stage {
            Stage::Verifying(verifying) => {
                verifying.again_at = None;
                // The same position: one that moved with the log would never be reached by seals that take longer than an answer.
                self.commands.push_back(Command::Audit { position: verifying.position });
            }
            Stage::Verified(hook) => {
                let tries = hook.tries;
                self.run_hook(tries);
            }
            _ => {}
        }
    }

    /// The next thing to do, or nothing until more is known.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When `handle_timeout` must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.stage {
            Stage::Verifying(verifying) => verifying.again_at,
            Stage::Verified(hook) => hook.again_at,
            _ => None,
        }
    }

    fn filling(&mut self) -> Option<&mut Filling> {
        match &mut self.stage {
            Stage::Planned(filling) | Stage::Viable(filling) => Some(filling),
            _ => None,
        }
    }

    fn fetch_first(&mut self, of: ChunkId) {
        self.commands.extend([Command::FetchVital { of }, Command::FetchUpper { of }]);
    }

    /// Before anything is served, a newer snapshot just takes the place of the old one. What is here of that one stays here.
    fn plan_again(&mut self, newer: Snapshot) {
        self.applied = self.applied.max(newer.position);
        let after = self.applied;
        let Some(filling) = self.filling() else { return };
        let is_attached = !filling.waits_for(Wait::Log);
        *filling = Filling::all_of(newer);
        if is_attached {
            filling.waits_for.remove(&Wait::Log);
        } else {
            self.commands.push_back(Command::AttachLog { after });
        }
        self.fetch_first(newer.id);
    }

    fn part_came(&mut self, part: Part, now: Time) {
        let Stage::Viable(filling) = &self.stage else { return };
        let of = filling.snapshot.id;
        match part {
            Part::Hot => {
                let fetches_rest = filling.waits_for(Wait::Part(Part::Rest)) && filling.rebase.is_none();
                self.reach(Milestone::Warm, now);
                if fetches_rest {
                    self.commands.push_back(Command::FetchRest { of });
                }
            }
            Part::Rest => self.reach(Milestone::Complete, now),
            Part::Vital | Part::Upper => {}
        }
    }

    /// Only what serves can have caught up. Whether it falls behind again is for the audit to find.
    fn check_lag(&mut self) {
        let Some(head) = self.head else { return };
        let is_near = head.index.saturating_sub(self.applied.index) <= self.lag_max;
        if let Stage::Viable(filling) = &mut self.stage
            && is_near
            && !filling.waits_for(Wait::Log)
        {
            filling.waits_for.remove(&Wait::Lag);
        }
    }

    /// Moves on if nothing is waited for.
    fn settle(&mut self, now: Time) {
        if let Stage::Planned(filling) = &self.stage
            && filling.is_viable()
        {
            let filling = filling.clone();
            self.become_viable(filling, now);
        }
        let Stage::Viable(filling) = &self.stage else { return };
        let (snapshot, is_whole) = (filling.snapshot, filling.is_whole());
        if !filling.waits_for(Wait::Lag) {
            self.reach(Milestone::CaughtUp, now);
        }
        if is_whole && self.scope == Scope::Whole {
            let position = self.applied;
            self.set_stage(Stage::Verifying(Verifying {
                snapshot,
                position,
                again_at: None,
                pauses: Pauses::new(AUDIT_AGAIN_FIRST, AUDIT_AGAIN_LONGEST),
            }));
            self.commands.push_back(Command::Audit { position });
        }
    }

    fn become_viable(&mut self, filling: Filling, now: Time) {
        let of = filling.snapshot.id;
        let came: Vec<Part> =
            [Part::Rest, Part::Hot].into_iter().filter(|&part| !filling.waits_for(Wait::Part(part))).collect();
        self.set_stage(Stage::Viable(filling));
        self.reach(Milestone::Viable, now);
        if !came.contains(&Part::Hot) {
            self.commands.push_back(Command::FetchHot { of });
        }
        for part in came {
            self.part_came(part, now);
        }
        self.check_lag();
    }

    fn rebase(&mut self, onto: Snapshot, cause: RebaseCause, now: Time) {
        let Stage::Viable(filling) = &mut self.stage else { return };
        match &mut filling.rebase {
            // The one under way ends first: else a stream of newer ones would never let any end.
            Some(rebase) => {
                let urgent = rebase.next.map(|(_, cause)| cause).filter(|_| cause == RebaseCause::Mark);
                rebase.next = Some((onto, urgent.unwrap_or(cause)));
            }
            None => {
                filling.rebase = Some(Rebase { onto, began: now, next: None });
                self.commands.push_back(Command::Rebase { onto, cause });
            }
        }
    }

    fn mismatch(&mut self, most: Snapshot, tally: Tally, now: Time) {
        let Stage::Verifying(Verifying { snapshot, .. }) = self.stage else { return };
        self.mismatches += 1;
        self.commands.push_back(Command::ReportDifference { theirs: most });
        if self.mismatches >= MISMATCHES_MAX {
            let reason = RollBackReason::Diverged { position: tally.position, members: tally.different };
            return self.roll_back(reason);
        }
        let waits_for = [Wait::Part(Part::Rest)].into();
        self.set_stage(Stage::Viable(Filling { snapshot, waits_for, rebase: None }));
        self.rebase(most, RebaseCause::Mismatch, now);
    }

    fn run_hook(&mut self, tries: u32) {
        let lease = self.lease;
        if let Stage::Verified(hook) = &mut self.stage {
            *hook = Hook { lease, tries: tries + 1, again_at: None };
            self.commands.push_back(Command::RunCommitHook { lease });
        }
    }

    fn roll_back(&mut self, reason: RollBackReason) {
        self.set_stage(Stage::RolledBack(reason));
        self.commands.retain(|command| matches!(command, Command::ReportDifference { .. }));
        self.commands.push_back(Command::RollBack { reason });
    }

    fn reach(&mut self, milestone: Milestone, at: Time) {
        self.milestones.reach(milestone, Reached { at, bytes: self.bytes_received });
    }

    fn set_stage(&mut self, next: Stage) {
        assert!(self.stage.may_become(&next), "{:?} does not become {next:?}", self.stage);
        self.stage = next;
    }
}

#[cfg(test)]
mod tests;

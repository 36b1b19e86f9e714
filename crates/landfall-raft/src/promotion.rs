//! Owns what follows once a joiner serves: the join is told how far the log is applied and what audits find, and what it asks for is done,
//! until it is promoted or rolled back.
//!
//! It decides nothing: that is the join's business. It never asks for a vote either.

use std::sync::Arc;
use std::time::Duration;

use landfall::core::join::{
    Command, HookOutcome, Join, LeaseVersion, Part, RebaseCause, RollBackReason, Snapshot, Tally,
};
use landfall::core::snapshot::Position;
use landfall::core::{ChunkId, Pauses, Time};
use landfall::keyed::{JoinHandle, Milestone};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::hook::CommitHook;
use crate::message::SealedAt;
use crate::remedy::{self, NotHealed};
use crate::seals::sealed_by_most;

/// A commit hook that runs longer counts as failed, and is run again.
const HOOK_PATIENCE: Duration = Duration::from_secs(600);
/// The first pause before another snapshot is looked for with which the state can be healed; it doubles up to the longest, for each look has
/// every member seal.
const NEWER_PAUSE_FIRST: Duration = Duration::from_secs(1);
const NEWER_PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// A joiner on its way from serving to a full member.
pub(crate) struct Promotion<'a> {
    pub(crate) cluster: &'a Arc<Cluster>,
    /// Members to ask while this one knows nobody.
    pub(crate) seeds: &'a [String],
    pub(crate) hook: Option<&'a CommitHook>,
    /// The version of this member's lease on the log, if it has one.
    pub(crate) lease: Option<u64>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Promoted,
    RolledBack(RollBackReason),
}

impl Promotion<'_> {
    /// Follows the join on whose snapshot the state stands, the newest if there are several, until one ends.
    pub(crate) async fn follow(&self) -> Outcome {
        let (mut arrived, mut applied) = (self.cluster.arrivals.changes(), self.cluster.applied.clone());
        let mut head = self.cluster.head.changes();
        let mut newer = Pauses::new(NEWER_PAUSE_FIRST, NEWER_PAUSE_LONGEST);
        loop {
            arrived.mark_unchanged();
            applied.mark_unchanged();
            head.mark_unchanged();
            let join = self.cluster.arrivals.adopted();
            if let Some(join) = &join
                && let Some(outcome) = self.advance(join, &mut newer).await
            {
                return outcome;
            }
            let pause = join.and_then(|join| join.next_timeout());
            tokio::select! {
                () = next(&mut arrived) => {}
                () = next(&mut applied) => {}
                () = next(&mut head) => {}
                () = pass(pause) => {}
            }
        }
    }

    /// Tells a join what is new, and does what it asks for, until it asks for nothing.
    async fn advance(&self, join: &Arc<JoinHandle>, newer: &mut Pauses) -> Option<Outcome> {
        self.tell_progress(join);
        while let Some(command) = join.poll_command() {
            tracing::debug!(%command, "the join asks");
            if let Some(reason) = self.carry_out(join, command, newer).await {
                return Some(Outcome::RolledBack(reason));
            }
            self.tell_progress(join);
        }
        let mut is_promoted = false;
        join.tell(|join, _| is_promoted = join.reached(Milestone::Promoted).is_some());
        if !is_promoted {
            return None;
        }
        self.cluster.candidacy.handle_agrees();
        Some(Outcome::Promoted)
    }

    /// Does what a join asks for; says why it is over, if it is.
    async fn carry_out(&self, join: &Arc<JoinHandle>, command: Command, newer: &mut Pauses) -> Option<RollBackReason> {
        match command {
            Command::Audit { position } => self.audit(join, position).await,
            Command::RunCommitHook { lease } => self.run_hook(join, lease).await,
            Command::ReportDifference { theirs } => remedy::report_difference(self.cluster, theirs).await,
            Command::Rebase { onto, .. } => self.heal(join, onto, newer).await,
            Command::AskNewer { than } => self.ask_newer(join, than, newer).await,
            // What could not be fetched is asked for again, and that is another join.
            Command::RollBack { reason: RollBackReason::Failed(failure) } => {
                tracing::info!(%failure, "a join cannot go on; another one will");
            }
            Command::RollBack { reason } => {
                if let RollBackReason::Diverged { position, members } = reason {
                    self.cluster.candidacy.step_out(position, members);
                }
                remedy::end(self.cluster).await;
                return Some(reason);
            }
            // A state that was healed is all here, and stands where the log goes on.
            Command::FetchVital { of } => self.tell_here(join, Part::Vital, of),
            Command::FetchUpper { of } => self.tell_here(join, Part::Upper, of),
            Command::FetchHot { of } => self.tell_here(join, Part::Hot, of),
            Command::FetchRest { of } => self.tell_here(join, Part::Rest, of),
            Command::AttachLog { after } => self.tell(join, |join, now| join.handle_log_attached(after, now)),
        }
        None
    }

    fn tell_progress(&self, join: &JoinHandle) {
        let applied = self.cluster.applied.borrow().position;
        let head = self.cluster.head();
        self.tell(join, |join, now| {
            if let Some(head) = head {
                join.handle_applied(applied, head, now);
            }
            join.handle_timeout(now);
        });
    }

    /// Tells a join a fact; whoever waits for the status looks again if that led on.
    fn tell(&self, join: &JoinHandle, fact: impl FnOnce(&mut Join, Time)) {
        let mut led_on = false;
        join.tell(|join, now| {
            let before = standing(join);
            fact(join, now);
            led_on = standing(join) != before;
        });
        if led_on {
            self.cluster.arrivals.note_change();
        }
    }

    /// Has everybody seal at a common position, and tells what that shows.
    async fn audit(&self, join: &JoinHandle, position: Position) {
        let sealed = remedy::sealed_together(self.cluster, self.seeds).await;
        let found = sealed.and_then(|sealed| tally(self.cluster.member, &sealed));
        // The core passes over what is earlier than it asked for, and asks again for what nobody answered.
        let found = found.filter(|found| found.position >= position);
        let found = found.unwrap_or(Tally { position, equal: 0, different: 0, most: None });
        tracing::info!(position = %found.position, equal = found.equal, different = found.different, "was audited");
        self.tell(join, |join, now| join.handle_audit(found, now));
    }

    /// Makes the state what others sealed, and applies the log after it again.
    async fn heal(&self, join: &JoinHandle, onto: Snapshot, newer: &mut Pauses) {
        match remedy::heal(self.cluster, onto).await {
            Ok(()) => {
                newer.reset();
                self.tell(join, |join, now| {
                    join.handle_rebased(onto.id, now);
                    join.handle_here(Part::Rest, onto.id, now);
                });
            }
            Err(NotHealed) => self.tell(join, |join, now| join.handle_rebase_failed(onto.id, now)),
        }
    }

    /// Names a snapshot that others sealed later, as long as this is the join that asks for it.
    async fn ask_newer(&self, join: &Arc<JoinHandle>, than: Position, pauses: &mut Pauses) {
        let is_followed = || self.cluster.arrivals.adopted().is_some_and(|adopted| Arc::ptr_eq(&adopted, join));
        while is_followed() {
            tokio::time::sleep(pauses.lengthen()).await;
            let sealed = remedy::sealed_together(self.cluster, self.seeds).await;
            let most = sealed.and_then(|sealed| tally(self.cluster.member, &sealed)?.most);
            if let Some(newer) = most.filter(|newer| newer.position > than) {
                return self.tell(join, |join, now| join.handle_newer_snapshot(newer, RebaseCause::Mismatch, now));
            }
        }
    }

    fn tell_here(&self, join: &JoinHandle, part: Part, of: ChunkId) {
        self.tell(join, |join, now| join.handle_here(part, of, now));
    }

    async fn run_hook(&self, join: &JoinHandle, lease: LeaseVersion) {
        let ran = match self.hook {
            Some(hook) => timeout(HOOK_PATIENCE, hook.run(self.lease_version())).await,
            None => Ok(Ok(())),
        };
        let outcome = match ran {
            Ok(Ok(())) => HookOutcome::Done,
            Ok(Err(reason)) => {
                tracing::warn!(%reason, "the commit hook failed");
                HookOutcome::Failed
            }
            Err(_) => {
                tracing::warn!(patience = ?HOOK_PATIENCE, "the commit hook takes too long");
                HookOutcome::Failed
            }
        };
        self.tell(join, |join, now| join.handle_hook(lease, outcome, now));
    }

    /// The version of this member's lease on the log, which fences older holders of it. The one that a join knows is its source's.
    fn lease_version(&self) -> u64 {
        let held = self.cluster.applied.borrow().leases.get(&self.cluster.member).map(|lease| lease.version);
        self.lease.or(held).unwrap_or_default()
    }
}

/// What people see of how far a join is.
fn standing(join: &Join) -> (usize, Option<RollBackReason>) {
    let reached = Milestone::ALL.into_iter().filter(|milestone| join.reached(*milestone).is_some());
    (reached.count(), join.rolled_back())
}

/// What members sealed at one mark, as it compares with what `own` sealed there; nothing if that one did not. Where no snapshot was sealed by
/// more members than any other, or only by as many as stand against it, nothing is proven: a sound joiner must not be healed onto what is wrong.
fn tally(own: MemberId, sealed: &[SealedAt]) -> Option<Tally> {
    let mine = sealed.iter().find(|report| report.member == own)?;
    let others = || sealed.iter().filter(|report| report.member != own && report.position() == mine.position());
    let is_equal = |other: &&SealedAt| (other.state_root, other.log_hash) == (mine.state_root, mine.log_hash);
    let equal = others().filter(is_equal).count();
    let (position, different) = (mine.position(), others().count() - equal);
    let is_clear = |most: &&SealedAt| most.snapshot != mine.snapshot || equal > different;
    let Some(most) = sealed_by_most(others()).filter(is_clear) else {
        return Some(Tally { position, equal: 0, different: 0, most: None });
    };
    let most = Some(Snapshot { id: ChunkId::from_bytes(most.snapshot), position });
    Some(Tally { position, equal: equal as u32, different: different as u32, most })
}

/// Returns when something changed; never once nothing can any more.
async fn next<T>(changes: &mut watch::Receiver<T>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns after a pause; never without one.
async fn pass(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 1, index: 5 };

    fn sealed(member: MemberId, content: u8) -> SealedAt {
        let hash = [content; 32];
        SealedAt { member, epoch: AT.epoch, index: AT.index, snapshot: hash, state_root: hash, log_hash: [0; 32] }
    }

    #[track_caller]
    fn check_tally(others: &[(MemberId, u8)], equal: u32, different: u32, most: Option<u8>) {
        let reports: Vec<_> =
            [(1, 7)].iter().chain(others).map(|(member, content)| sealed(*member, *content)).collect();
        let most = most.map(|content| Snapshot { id: ChunkId::from_bytes([content; 32]), position: AT });
        assert_eq!(tally(1, &reports), Some(Tally { position: AT, equal, different, most }));
    }

    #[test]
    fn who_sealed_the_same_counts_for_a_joiner_and_who_sealed_something_else_against_it() {
        check_tally(&[], 0, 0, None);
        check_tally(&[(2, 7)], 1, 0, Some(7));
        check_tally(&[(2, 7), (3, 7), (4, 8)], 2, 1, Some(7));
        check_tally(&[(2, 9), (3, 7), (4, 9)], 1, 2, Some(9));
    }

    #[test]
    fn as_many_against_a_joiner_as_for_it_prove_nothing() {
        check_tally(&[(2, 7), (3, 9)], 0, 0, None);
        check_tally(&[(2, 8), (3, 9)], 0, 0, None);
        check_tally(&[(2, 7), (3, 7), (4, 8), (5, 9)], 0, 0, None);
    }

    #[test]
    fn what_a_joiner_did_not_seal_itself_compares_with_nothing() {
        assert_eq!(tally(9, &[sealed(1, 7)]), None);
        let elsewhere = SealedAt { index: 4, ..sealed(2, 8) };
        let alone = Tally { position: AT, equal: 0, different: 0, most: None };
        assert_eq!(tally(1, &[sealed(1, 7), elsewhere]), Some(alone));
    }
}

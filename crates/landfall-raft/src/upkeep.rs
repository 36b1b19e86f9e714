//! Owns what a member does by itself: marks when they are due (the leader), purges of the log, reports of what it holds, changes of the
//! membership that were left half done, and standing for election only as a voter.
//!
//! Each is a task that waits for something to change; a clock is looked at only where something that failed is tried again, or somebody falls
//! silent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use landfall::core::Pauses;
use landfall::core::snapshot::Position;
use landfall::keyed::Extent;

use crate::aftercare;
use crate::cadence;
use crate::cluster::{self, Cluster};
use crate::consensus::{RaftLogId, log_id_of};
use crate::message::{Control, Request, SealedAt};
use crate::pacing;
use crate::roster::{self, RosterError};
use crate::service::ProposeError;
use crate::status::Vote;

/// The first pause before a pull that failed is begun again; it doubles up to the longest.
const PULL_PAUSE_FIRST: Duration = Duration::from_millis(500);
const PULL_PAUSE_LONGEST: Duration = Duration::from_secs(10);

/// Starts the tasks; they end when the set is dropped.
pub(crate) fn start(cluster: &Arc<Cluster>, finished: mpsc::UnboundedReceiver<SealedAt>) -> JoinSet<()> {
    // Before the member is handed out: whoever reads it at once may meet what is damaged.
    name_others(cluster, &mut Vec::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(report_seals(cluster.clone(), finished));
    tasks.spawn(mark_when_due(cluster.clone()));
    tasks.spawn(purge_what_is_sealed(cluster.clone()));
    tasks.spawn(stand_only_as_voter(cluster.clone()));
    tasks.spawn(report_what_was_taken(cluster.clone()));
    tasks.spawn(finish_changes(cluster.clone()));
    tasks.spawn(rebase_when_needed(cluster.clone()));
    tasks.spawn(go_on_pulling(cluster.clone()));
    tasks.spawn(name_sources(cluster.clone()));
    tasks.spawn(aftercare::watch(cluster.clone()));
    tasks.spawn(pacing::forget(cluster.clone()));
    tasks
}

/// Tells all others what was sealed here. A report that is lost costs one comparison; the next mark brings another.
async fn report_seals(cluster: Arc<Cluster>, mut finished: mpsc::UnboundedReceiver<SealedAt>) {
    while let Some(report) = finished.recv().await {
        if !cluster.sealing.stands_by(&report).await {
            continue;
        }
        for (member, address) in cluster.others() {
            let (link, report) = (cluster.network.link(&address.peers), report.clone());
            tokio::spawn(async move {
                if let Err(error) = link.ask(&Request::Control(Control::Sealed(report))).await {
                    tracing::debug!(member, %error, "a report of a seal was lost");
                }
            });
        }
    }
}

/// A snapshot that was taken from others, or held before a restart, is told like one that was sealed here: once all of it is here, others may
/// fetch it, and whoever holds the same at a common position agrees.
async fn report_what_was_taken(cluster: Arc<Cluster>) {
    let mut arrived = cluster.arrivals.changes();
    let mut sealed = cluster.seals.changes();
    let mut told = Position::default();
    loop {
        told = cluster.sealing.report_held(told).await;
        let still = tokio::select! {
            changed = arrived.changed() => changed.is_ok(),
            changed = sealed.changed() => changed.is_ok(),
        };
        if !still {
            return;
        }
    }
}

/// A leader that fell in the middle of a change of the membership leaves the cluster with two of them, and both must agree to everything: the
/// next leader finishes what was begun.
async fn finish_changes(cluster: Arc<Cluster>) {
    let mut metrics = cluster.raft.metrics();
    loop {
        metrics.mark_unchanged();
        if cluster.leads() && cluster.changes_membership() {
            match roster::finish_change(&cluster).await {
                Ok(()) => {}
                Err(RosterError::Stopped) => return,
                Err(reason) => tracing::info!(%reason, "could not finish a change of the membership"),
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// The leader asks everybody to seal when enough has changed.
async fn mark_when_due(cluster: Arc<Cluster>) {
    let mut applied = cluster.applied.clone();
    let mut log_bytes_at_mark = cluster.log.size_bytes();
    while applied.changed().await.is_ok() {
        let log_bytes = cluster.log.size_bytes();
        // A purge makes it shorter.
        log_bytes_at_mark = log_bytes_at_mark.min(log_bytes);
        if !cluster.leads() || !cluster.sealing.is_due(log_bytes - log_bytes_at_mark) {
            continue;
        }
        match cluster.mark().await {
            Ok(position) => {
                log_bytes_at_mark = log_bytes;
                tracing::debug!(%position, "asked everybody to seal");
            }
            Err(ProposeError::NotLeader(_) | ProposeError::Unknown) => {}
            Err(_) => return,
        }
    }
}

/// Gives back the log that a seal here holds, no mark keeps, and no lease needs.
async fn purge_what_is_sealed(cluster: Arc<Cluster>) {
    let mut applied = cluster.applied.clone();
    let mut sealed = cluster.seals.changes();
    // openraft learns of a snapshot, and that it may purge, a while after it was asked to look.
    let mut learned = cluster.raft.data_metrics();
    let mut told = 0;
    loop {
        let still = tokio::select! {
            changed = applied.changed() => changed.is_ok(),
            changed = sealed.changed() => changed.is_ok(),
            changed = learned.changed() => changed.is_ok(),
        };
        if !still {
            return;
        }
        let Some(newest) = cluster.seals.newest() else { continue };
        if newest.position.index > told {
            // openraft purges nothing that it does not know to be in a snapshot.
            if cluster.raft.trigger().snapshot().await.is_err() {
                return;
            }
            told = newest.position.index;
        }
        // A state that goes back needs the log after it, also if the process dies before the next seal: what is asked of raft here is done before
        // a heal that waits looks at the log, and what is allowed after one is allowed by the snapshot that healed.
        let _nobody_heals = cluster.healing.lock().await;
        if let Some(through) = LogNeeds::of(&cluster).purge_through()
            && cluster.raft.trigger().purge_log(through).await.is_err()
        {
            return;
        }
    }
}

/// What says how much of the log may go.
#[derive(Debug, Clone)]
struct LogNeeds {
    /// The newest durable snapshot here.
    sealed: Option<Position>,
    /// The snapshot that openraft knows of: it purges nothing beyond.
    known: Option<RaftLogId>,
    /// The first index that the newest mark keeps. Without a mark in this life, nobody has said what others still need.
    marked_from: Option<u64>,
    /// The first index that leases need.
    leased_from: Option<u64>,
    purged: Option<Position>,
    log_bytes: u64,
    log_kept_bytes_max: u64,
}

impl LogNeeds {
    fn of(cluster: &Cluster) -> Self {
        let known = cluster.raft.metrics().borrow().snapshot;
        let applied = cluster.applied.borrow();
        Self {
            sealed: cluster.seals.newest().map(|sealed| sealed.position),
            known,
            marked_from: applied.mark.map(|(_, keep_from)| keep_from),
            leased_from: applied.leased_from,
            purged: cluster.log.purged_through(),
            log_bytes: cluster.log.size_bytes(),
            log_kept_bytes_max: cluster.log_kept_bytes_max,
        }
    }

    /// openraft's index of the last entry that may go. A joiner for which the log would grow too long pulls a newer snapshot instead.
    fn purge_through(&self) -> Option<u64> {
        let leased_from = self.leased_from.filter(|_| !cluster::is_too_long(self.log_bytes, self.log_kept_bytes_max));
        let needed = self.marked_from?.min(leased_from.unwrap_or(u64::MAX));
        let through = log_id_of(self.sealed?)?.index.min(self.known?.index).min(needed.checked_sub(2)?);
        (through + 1 > self.purged.map_or(0, |purged| purged.index)).then_some(through)
    }
}

/// A member that does not hold all of its snapshot moves on to a newer one that others sealed: when nobody gives what its log reads, or when
/// the changes that it cannot seal take too much memory. What it holds already is kept: for want of memory it moves on to where its leaves were
/// carried over, and elsewhere only when its log is so far behind that memory would not last.
async fn rebase_when_needed(cluster: Arc<Cluster>) {
    let mut starved = cluster.patience.starved();
    let mut sealed = cluster.seals.changes();
    let mut sealing = cluster.sealing.changes();
    let mut starved_at = None;
    loop {
        tokio::select! {
            changed = starved.changed() => match changed {
                Ok(()) => starved_at = Some(cluster.applied.borrow().position),
                Err(_) => return,
            },
            changed = sealed.changed() => if changed.is_err() { return },
            changed = sealing.changed() => if changed.is_err() { return },
        }
        let Some(standing) = cluster.keyed.sealed().filter(|standing| standing.extent == Extent::Filling) else {
            starved_at = None;
            continue;
        };
        let Some(newer) = cluster.seals.newest_elsewhere(standing.manifest.position, &cluster.others()) else {
            continue;
        };
        let has_carried = sealing.borrow().has_carried_to(newer.position());
        let (stands, overlay_bytes) = (cluster.applied.borrow().position, cluster.keyed.overlay_bytes());
        let Some(cause) = cadence::rebase_cause(starved_at, stands, overlay_bytes, has_carried) else { continue };
        tracing::info!(position = %newer.position(), ?cause, "re-bases onto a newer snapshot");
        let arrivals = cluster.arrivals.clone();
        match tokio::task::spawn_blocking(move || arrivals.adopt(&newer)).await {
            Ok(Ok(())) => starved_at = None,
            Ok(Err(reason)) => tracing::warn!(reason, "could not re-base; the next mark brings another chance"),
            Err(_) => return,
        }
    }
}

/// What is not here of the snapshot on which the state stands is pulled until it is here: when all sources failed, again and again. By
/// then they may have let it go, so every second time a newer one is taken instead, if there is one.
async fn go_on_pulling(cluster: Arc<Cluster>) {
    let mut changes = cluster.arrivals.changes();
    let (mut pauses, mut attempt) = (Pauses::new(PULL_PAUSE_FIRST, PULL_PAUSE_LONGEST), 0_u32);
    loop {
        changes.mark_unchanged();
        let standing = cluster.keyed.sealed().filter(|standing| standing.extent == Extent::Filling);
        if standing.is_none() {
            pauses.reset();
            attempt = 0;
        }
        let Some(standing) = standing.filter(|_| cluster.arrivals.has_stalled()) else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::time::sleep(pauses.lengthen()).await;
        attempt += 1;
        let others = cluster.others();
        let newer = cluster.seals.newest_elsewhere(standing.manifest.position, &others);
        let newer = newer.filter(|_| attempt.is_multiple_of(2));
        tracing::info!(attempt, is_newer = newer.is_some(), "goes on pulling what is not here");
        let (arrivals, sources) = (cluster.arrivals.clone(), others.into_values().map(|address| address.peers));
        let sources = sources.collect();
        let pulled = tokio::task::spawn_blocking(move || match newer {
            Some(newer) => arrivals.adopt(&newer),
            None => {
                arrivals.go_on(sources);
                Ok(())
            }
        });
        match pulled.await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::warn!(reason, "could not move on to a newer snapshot"),
            Err(_) => return,
        }
    }
}

/// What turns out to be damaged here is asked of whoever else belongs to the cluster now; links to those who left it are let go.
async fn name_sources(cluster: Arc<Cluster>) {
    let mut metrics = cluster.raft.server_metrics();
    let mut named = Vec::new();
    loop {
        metrics.mark_unchanged();
        name_others(&cluster, &mut named);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn name_others(cluster: &Cluster, named: &mut Vec<String>) {
    let others: Vec<String> = cluster.others().into_values().map(|address| address.peers).collect();
    if *named == others {
        return;
    }
    cluster.network.keep_only(&others);
    // Who is alone now may still find those who left.
    if !others.is_empty() {
        cluster.arrivals.name_sources(others.clone());
    }
    *named = others;
}

/// A learner never stands for election, whatever openraft's timers say; nor does a member whose state is wrong.
async fn stand_only_as_voter(cluster: Arc<Cluster>) {
    let mut metrics = cluster.raft.server_metrics();
    loop {
        let membership = metrics.borrow_and_update().membership_config.clone();
        let votes = membership.voter_ids().any(|voter| voter == cluster.member);
        cluster.candidacy.handle_membership(if votes { Vote::Counts } else { Vote::DoesNotCount });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Option<Position> {
        Some(Position { epoch: 1, index })
    }

    fn known(index: u64) -> Option<RaftLogId> {
        at(index).and_then(log_id_of)
    }

    const LOG_KEPT_BYTES_MAX: u64 = 1000;

    /// A log of which everything up to a seal may go, and whose length is at its limit.
    fn all_sealed() -> LogNeeds {
        LogNeeds {
            sealed: at(100),
            known: known(100),
            marked_from: Some(u64::MAX),
            leased_from: None,
            purged: at(10),
            log_bytes: LOG_KEPT_BYTES_MAX,
            log_kept_bytes_max: LOG_KEPT_BYTES_MAX,
        }
    }

    /// Checks the index of the last position that may go: openraft counts from 0, positions count from 1.
    #[track_caller]
    fn check(needs: LogNeeds, expected: impl Into<Option<u64>>) {
        assert_eq!(needs.purge_through().map(|through| through + 1), expected.into(), "{needs:?}");
    }

    #[test]
    fn the_log_is_kept_for_the_newest_mark_and_for_a_joiner_that_holds_a_lease() {
        check(all_sealed(), 100);
        check(LogNeeds { marked_from: Some(41), ..all_sealed() }, 40);
        check(LogNeeds { leased_from: Some(31), ..all_sealed() }, 30);
        check(LogNeeds { leased_from: Some(31), marked_from: Some(41), ..all_sealed() }, 30);
        check(LogNeeds { leased_from: Some(51), marked_from: Some(41), ..all_sealed() }, 40);
        for needed in [0, 1, 11] {
            check(LogNeeds { leased_from: Some(needed), ..all_sealed() }, None);
            check(LogNeeds { marked_from: Some(needed), ..all_sealed() }, None);
        }
    }

    #[test]
    fn a_log_that_grows_too_long_is_not_kept_for_joiners_any_more() {
        let too_long = LogNeeds { log_bytes: LOG_KEPT_BYTES_MAX + 1, leased_from: Some(31), ..all_sealed() };
        check(too_long.clone(), 100);
        // What a mark keeps was decided when it was written.
        check(LogNeeds { marked_from: Some(41), ..too_long }, 40);
    }

    #[test]
    fn nothing_goes_that_is_not_sealed_here_however_long_the_log() {
        for log_bytes in [0, u64::MAX] {
            let all_sealed = LogNeeds { log_bytes, ..all_sealed() };
            check(LogNeeds { sealed: at(50), ..all_sealed.clone() }, 50);
            check(LogNeeds { known: known(50), ..all_sealed.clone() }, 50);
            check(LogNeeds { sealed: None, ..all_sealed.clone() }, None);
            check(LogNeeds { sealed: at(0), ..all_sealed.clone() }, None);
            check(LogNeeds { known: None, ..all_sealed.clone() }, None);
            check(LogNeeds { marked_from: None, ..all_sealed }, None);
        }
    }

    #[test]
    fn what_is_gone_is_not_purged_again() {
        check(LogNeeds { purged: None, ..all_sealed() }, 100);
        check(LogNeeds { purged: at(99), ..all_sealed() }, 100);
        check(LogNeeds { purged: at(100), ..all_sealed() }, None);
    }
}

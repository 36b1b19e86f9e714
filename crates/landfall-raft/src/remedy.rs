//! Owns what it takes to heal this member: an audit, what others sealed, the keys that differ, and a state that nobody relies on meanwhile.
//!
//! It never decides that the member is to be healed.

use std::sync::Arc;

use landfall::core::join::Snapshot;
use landfall::keyed::JoinHandle;

use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::healing::{DifferentKeys, KEYS_TOLD_MAX, own_seal};
use crate::joining::{Asked, ask_cluster};
use crate::message::{Control, Reply, SealedAt};

/// The state is what it was, or stands between the snapshot and where it was: what others seal later may heal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHealed;

/// What members sealed at one new mark; `seeds` are asked while this member knows nobody.
pub(crate) async fn sealed_together(cluster: &Cluster, seeds: &[String]) -> Option<Vec<SealedAt>> {
    let member = cluster.member;
    match ask_cluster(cluster, seeds, || Control::Audit(member)).await {
        Some(Asked::Answered(Reply::Audited(sealed))) => {
            // Each told everybody; that may have been lost, or be on its way.
            sealed.iter().for_each(|report| cluster.seals.handle_report(report.clone()));
            Some(sealed)
        }
        Some(Asked::Answered(other)) => {
            tracing::warn!(?other, "an unexpected answer to an audit");
            None
        }
        Some(Asked::Refused(reason) | Asked::NotNow(reason) | Asked::Stranger(reason)) => {
            tracing::info!(reason, "no audit yet");
            None
        }
        None => None,
    }
}

/// Finds the keys on which this member does not agree with what others sealed, and says so wherever somebody may look.
pub(crate) async fn report_difference(cluster: &Cluster, theirs: Snapshot) {
    let _one_at_a_time = cluster.healing.lock().await;
    let Some(own) = own_seal(&cluster.keyed, theirs.position) else { return };
    let Some(pulled) = pull(cluster, theirs).await else { return };
    let compared = tokio::task::spawn_blocking(move || pulled.differences(&own, KEYS_TOLD_MAX)).await;
    let Ok(Ok(keys)) = compared else {
        tracing::error!(?compared, "could not compare with what the others sealed");
        return;
    };
    let found = DifferentKeys { position: theirs.position, members: members_with(cluster, theirs), keys };
    let shown: Vec<_> = found.keys.iter().map(|key| format!("{}/{}", key.section, key.key.escape_ascii())).collect();
    tracing::error!(position = %found.position, members = ?found.members, keys = ?shown, "this member has other values");
    cluster.seals.handle_different_keys(found);
}

/// Makes the state what others sealed, and applies the log after it again. Until it is healed this member neither leads nor stands for election.
pub(crate) async fn heal(cluster: &Cluster, onto: Snapshot) -> Result<(), NotHealed> {
    let _one_at_a_time = cluster.healing.lock().await;
    cluster.candidacy.begin_healing();
    let pulled = pull(cluster, onto).await.ok_or(NotHealed)?;
    cluster.wait_until_it_follows().await.map_err(|_| NotHealed)?;
    if let Err(reason) = cluster.healer.heal(pulled).await {
        tracing::warn!(%reason, "not healed");
        return Err(NotHealed);
    }
    tracing::warn!(%onto, "the state was healed");
    end(cluster).await;
    cluster.candidacy.handle_healed();
    Ok(())
}

/// Nothing is to be healed any more.
pub(crate) async fn end(cluster: &Cluster) {
    let arrivals = cluster.arrivals.clone();
    // What cannot be ended ends with the process.
    let _ = tokio::task::spawn_blocking(move || arrivals.end_healing()).await;
}

/// Pulls what others sealed, from those that did.
async fn pull(cluster: &Cluster, sealed: Snapshot) -> Option<Arc<JoinHandle>> {
    let members = cluster.others();
    let mut sources = members_with(cluster, sealed);
    // Reports may be lost; whoever does not have it says so.
    sources.extend(members.keys().filter(|member| !sources.contains(member)).copied().collect::<Vec<_>>());
    let sources = sources.iter().filter_map(|member| Some(members.get(member)?.peers.clone())).collect();
    let arrivals = cluster.arrivals.clone();
    let pulled = tokio::task::spawn_blocking(move || arrivals.pull_to_heal(sealed.id, sources)).await;
    match pulled.ok()? {
        Ok(join) => Some(join),
        Err(reason) => {
            tracing::warn!(%reason, snapshot = %sealed, "could not pull what the others sealed");
            None
        }
    }
}

/// Other members that said they sealed this.
fn members_with(cluster: &Cluster, sealed: Snapshot) -> Vec<MemberId> {
    let reports = cluster.seals.reports_at(sealed.position).into_values();
    let same = reports.filter(|report| report.snapshot == *sealed.id.as_bytes());
    same.map(|report| report.member).filter(|member| *member != cluster.member).collect()
}

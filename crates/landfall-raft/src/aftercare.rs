//! Owns what becomes of a member that was promoted, or votes, once most of the voters seal something else than it does: it is healed once, as a
//! joiner is; if it differs again it steps out.
//!
//! It never judges by less than a majority of the voters.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall::core::Pauses;
use landfall::keyed::Milestone;
use tokio::sync::watch;

use crate::candidacy::Healings;
use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::remedy;
use crate::seals::Comparison;
use crate::voting::has_majorities;

/// The first pause before another snapshot is looked for with which the state can be healed; it doubles up to the longest, for each look has
/// every member seal.
const AGAIN_PAUSE_FIRST: Duration = Duration::from_secs(1);
const AGAIN_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// Watches what is sealed here and elsewhere, until this member steps out or closes.
pub(crate) async fn watch(cluster: Arc<Cluster>) {
    let (mut sealed, mut arrived) = (cluster.seals.changes(), cluster.arrivals.changes());
    let mut pauses = Pauses::new(AGAIN_PAUSE_FIRST, AGAIN_PAUSE_LONGEST);
    loop {
        sealed.mark_unchanged();
        arrived.mark_unchanged();
        match compare(&cluster) {
            Some(Comparison::Differs { theirs, members }) if cluster.candidacy.healings() == Healings::Once => {
                tracing::error!(position = %theirs.position, members, "differs again: it follows, and never leads");
                cluster.candidacy.step_out(theirs.position, members);
                remedy::report_difference(&cluster, theirs).await;
                return remedy::end(&cluster).await;
            }
            Some(Comparison::Differs { theirs, members }) => {
                tracing::error!(position = %theirs.position, members, "differs: it is to be healed");
                cluster.candidacy.begin_healing();
                remedy::report_difference(&cluster, theirs).await;
                match remedy::heal(&cluster, theirs).await {
                    Ok(()) => pauses.reset(),
                    Err(remedy::NotHealed) => look_again(&cluster, &mut pauses).await,
                }
                continue;
            }
            Some(Comparison::Agrees) => {
                pauses.reset();
                cluster.candidacy.handle_agrees();
            }
            None => {}
        }
        tokio::select! {
            () = next(&mut sealed) => {}
            () = next(&mut arrived) => {}
        }
    }
}

/// How this member compares with most of the voters; nothing while it has a join to see through, which finds out by itself.
fn compare(cluster: &Cluster) -> Option<Comparison> {
    let is_promoted = |join: &landfall::keyed::JoinStatus| {
        join.reached.iter().any(|(milestone, _)| *milestone == Milestone::Promoted)
    };
    let joins = || cluster.arrivals.adopted().is_some_and(|join| !is_promoted(&join.status()));
    if !cluster.is_voter() && joins() {
        return None;
    }
    let membership = cluster.membership();
    let configurations = membership.membership().get_joint_config();
    let is_majority = |members: &BTreeSet<MemberId>| has_majorities(configurations, members);
    cluster.seals.compare_with_most(is_majority)
}

/// What others sealed there cannot be had, or does not help: after a pause, everybody is to seal once more.
async fn look_again(cluster: &Cluster, pauses: &mut Pauses) {
    tokio::time::sleep(pauses.lengthen()).await;
    remedy::sealed_together(cluster, &[]).await;
}

/// Returns when something changed; never once nothing can any more.
async fn next<T>(changes: &mut watch::Receiver<T>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

//! Owns the audit: a mark at which every member seals, and their roots side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall::core::snapshot::Position;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::message::{Reply, SealedAt};
use crate::roster::{self, RosterError};

/// How long reports are waited for before it is asked whether they will come.
const ROUND: Duration = Duration::from_secs(1);

/// What every member sealed at one mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The mark.
    pub position: Position,
    /// Every member of the cluster; nothing for one that did not report in time, such as one that is not whole yet.
    pub members: BTreeMap<MemberId, Option<AuditedMember>>,
    /// What the reports amount to.
    pub verdict: Verdict,
}

/// What one member sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditedMember {
    /// The root of its whole state.
    pub state_root: [u8; 32],
    /// The hash of the log that led to it.
    pub log_hash: [u8; 32],
}

/// What an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every member sealed the same.
    Equal,
    /// Those that reported sealed the same; some did not report.
    EqualSoFar,
    /// At least two members differ.
    Diverged,
}

/// Has everybody seal, and waits for the reports until `patience` ends.
pub(crate) async fn audit(cluster: &Cluster, patience: Duration) -> Result<AuditReport, RosterError> {
    let deadline = Instant::now() + patience;
    loop {
        let before = cluster.seals.newest_by_member();
        let sealing = timeout_at(deadline, roster::seal_here(cluster));
        let position = sealing.await.map_err(|_| RosterError::NotYet("a seal takes long".into()))??;
        let members: Vec<_> = cluster.membership().nodes().map(|(member, _)| *member).collect();
        let reported = wait_for_reports(cluster, position, &members, &before, deadline).await;
        // Late ones are told apart in the report.
        if reported == Reported::All || Instant::now() >= deadline {
            return Ok(report(position, &members, &cluster.seals.reports_at(position)));
        }
    }
}

/// Answers a joiner that is to be compared: what it, this member, and whoever else reports soon sealed at one mark.
pub(crate) async fn compare(cluster: &Cluster, joiner: MemberId) -> Reply {
    match try_compare(cluster, joiner).await {
        Ok(sealed) => Reply::Audited(sealed),
        Err(error) => error.into(),
    }
}

async fn try_compare(cluster: &Cluster, joiner: MemberId) -> Result<Vec<SealedAt>, RosterError> {
    roster::check_leads(cluster)?;
    roster::check_known(cluster, joiner)?;
    let (own, _) = roster::common_seal(cluster, joiner).await?;
    let members: Vec<_> = cluster.membership().nodes().map(|(member, _)| *member).collect();
    let reports = || cluster.seals.reports_at(own.position());
    // One that is away, or not whole itself, is not waited for.
    let settled = |_: &u64| is_settled(joiner, &members, &reports());
    let _ = timeout(ROUND, cluster.seals.changes().wait_for(settled)).await;
    let reported = reports().into_values();
    Ok(reported.filter(|report| members.contains(&report.member)).collect())
}

/// Whether those that have not reported can no longer change on which side most of the others are.
fn is_settled(joiner: MemberId, members: &[MemberId], reports: &BTreeMap<MemberId, SealedAt>) -> bool {
    let Some(own) = reports.get(&joiner) else { return false };
    let others = members.iter().filter(|member| **member != joiner);
    let (mut equal, mut different, mut silent) = (0, 0, 0);
    for other in others {
        match reports.get(other) {
            Some(other) if (other.state_root, other.log_hash) == (own.state_root, own.log_hash) => equal += 1,
            Some(_) => different += 1,
            None => silent += 1,
        }
    }
    equal > different + silent || different >= equal + silent
}

/// Whether waiting for reports was worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    All,
    /// Some did not, and may never: they need another mark.
    Some,
}

/// Waits until all members have reported at a mark, as long as that may happen.
async fn wait_for_reports(
    cluster: &Cluster,
    mark: Position,
    members: &[MemberId],
    before: &BTreeMap<MemberId, Position>,
    deadline: Instant,
) -> Reported {
    let mut changes = cluster.seals.changes();
    let all_reported = || {
        let reports = cluster.seals.reports_at(mark);
        members.iter().all(|member| reports.contains_key(member))
    };
    loop {
        let round = deadline.min(Instant::now() + ROUND);
        if timeout_at(round, changes.wait_for(|_| all_reported())).await.is_ok() {
            return Reported::All;
        }
        if Instant::now() >= deadline || is_passed_over(mark, members, before, &cluster.seals.newest_by_member()) {
            return Reported::Some;
        }
    }
}

/// Whether a member may have passed over the mark: it was still sealing at an earlier one, and says so only now.
fn is_passed_over(
    mark: Position,
    members: &[MemberId],
    before: &BTreeMap<MemberId, Position>,
    now: &BTreeMap<MemberId, Position>,
) -> bool {
    members.iter().any(|member| now.get(member).is_some_and(|now| *now < mark && Some(now) > before.get(member)))
}

fn report(position: Position, members: &[MemberId], reports: &BTreeMap<MemberId, SealedAt>) -> AuditReport {
    let audited = |at: &SealedAt| AuditedMember { state_root: at.state_root, log_hash: at.log_hash };
    let members: BTreeMap<_, _> = members.iter().map(|member| (*member, reports.get(member).map(audited))).collect();
    let mut reported = members.values().flatten();
    let first = reported.next();
    let verdict = match () {
        () if !reported.all(|other| Some(other) == first) => Verdict::Diverged,
        () if members.values().any(Option::is_none) => Verdict::EqualSoFar,
        () => Verdict::Equal,
    };
    AuditReport { position, members, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 1, index: 2 };

    fn reports(roots: &[(MemberId, u8)]) -> BTreeMap<MemberId, SealedAt> {
        let sealed = |state_root: u8, member| SealedAt {
            member,
            epoch: AT.epoch,
            index: AT.index,
            snapshot: [0; 32],
            state_root: [state_root; 32],
            log_hash: [0; 32],
        };
        roots.iter().map(|(member, root)| (*member, sealed(*root, *member))).collect()
    }

    #[track_caller]
    fn check_verdict(roots: &[(MemberId, u8)], expected: Verdict) {
        assert_eq!(report(AT, &[1, 2, 3], &reports(roots)).verdict, expected);
    }

    #[test]
    fn a_joiner_is_not_kept_waiting_for_members_that_cannot_change_what_most_of_them_say() {
        let check = |roots: &[_], expected| assert_eq!(is_settled(4, &[1, 2, 3, 4], &reports(roots)), expected);
        check(&[(1, 7), (2, 7)], false);
        check(&[(4, 7), (1, 7)], false);
        check(&[(4, 7), (1, 7), (2, 7)], true);
        check(&[(4, 7), (1, 7), (2, 8)], false);
        check(&[(4, 7), (1, 8), (2, 8)], true);
        check(&[(4, 7), (1, 8), (2, 7), (3, 7)], true);
        // A leader alone decides it.
        assert!(is_settled(4, &[1, 4], &reports(&[(1, 7), (4, 7)])));
    }

    #[test]
    fn members_are_equal_only_when_all_of_them_say_so() {
        check_verdict(&[(1, 7), (2, 7), (3, 7)], Verdict::Equal);
        check_verdict(&[(1, 7), (3, 7)], Verdict::EqualSoFar);
        check_verdict(&[], Verdict::EqualSoFar);
        check_verdict(&[(1, 7), (2, 8)], Verdict::Diverged);
    }

    #[test]
    fn who_reports_an_earlier_mark_after_this_one_may_have_passed_over_it() {
        let at = |index| Position { epoch: 1, index };
        let reported =
            |indices: &[(MemberId, u64)]| indices.iter().map(|(member, index)| (*member, at(*index))).collect();
        let before = reported(&[(1, 5), (2, 5)]);
        let check = |now, expected| assert_eq!(is_passed_over(at(9), &[1, 2, 3], &before, &reported(now)), expected);
        check(&[(1, 5), (2, 5)], false);
        check(&[(1, 9), (2, 5)], false);
        check(&[(1, 9), (2, 7)], true);
        check(&[(1, 9), (2, 9), (3, 4)], true);
        // Who does not belong to the cluster any more is not waited for.
        check(&[(1, 9), (2, 9), (4, 7)], false);
    }
}

//! Owns the audit: a mark at which every member seals, and their roots side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall::core::snapshot::Position;

use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::message::SealedAt;
use crate::roster::{self, RosterError};

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
    let deadline = tokio::time::Instant::now() + patience;
    let mut changes = cluster.seals.changes();
    let sealing = tokio::time::timeout_at(deadline, roster::seal_here(cluster));
    let position = sealing.await.map_err(|_| RosterError::NotYet("a seal takes long".into()))??;
    let members: Vec<_> = cluster.membership().nodes().map(|(member, _)| *member).collect();
    let all_reported = || {
        let reports = cluster.seals.reports_at(position);
        members.iter().all(|member| reports.contains_key(member))
    };
    // Late ones are told apart in the report.
    let _ = tokio::time::timeout_at(deadline, changes.wait_for(|_| all_reported())).await;
    Ok(report(position, &members, &cluster.seals.reports_at(position)))
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

    #[track_caller]
    fn check_verdict(roots: &[(MemberId, u8)], expected: Verdict) {
        let sealed = |state_root: u8, member| SealedAt {
            member,
            epoch: AT.epoch,
            index: AT.index,
            snapshot: [0; 32],
            state_root: [state_root; 32],
            log_hash: [0; 32],
        };
        let reports = roots.iter().map(|(member, root)| (*member, sealed(*root, *member))).collect();
        assert_eq!(report(AT, &[1, 2, 3], &reports).verdict, expected);
    }

    #[test]
    fn members_are_equal_only_when_all_of_them_say_so() {
        check_verdict(&[(1, 7), (2, 7), (3, 7)], Verdict::Equal);
        check_verdict(&[(1, 7), (3, 7)], Verdict::EqualSoFar);
        check_verdict(&[], Verdict::EqualSoFar);
        check_verdict(&[(1, 7), (2, 8)], Verdict::Diverged);
    }
}

//! Owns whether a member that leads is answered by a majority. openraft lets a leader lead on when nobody answers it, and keeps what was
//! proposed for as long as it takes; whoever waits for it must hear something sooner.
//!
//! It never decides who leads.

use std::time::Duration;

use openraft::RaftMetrics;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::consensus::{MemberAddress, MemberId, Raft};
use crate::node::Timing;

/// A leader that no majority answers for so long says so, unless elections take longer still.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// ... in which case it is this many times as long as the longest that a member waits before it stands for election.
const ELECTIONS_MAX: u32 = 3;

/// Whether a member that leads is answered by a majority. One that does not lead has nothing to complain of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Quorum {
    #[default]
    Answers,
    Silent,
}

/// How long a leader may hear nothing from a majority before it says so.
pub(crate) fn silence_max(timing: Timing) -> Duration {
    SILENCE_MAX.max(timing.election_max * ELECTIONS_MAX)
}

/// Watches until raft stops. While too few answer, `give_up` is called again and again: somebody may have begun to wait at the last moment.
pub(crate) async fn watch(raft: Raft, silence_max: Duration, quorum: watch::Sender<Quorum>, give_up: impl Fn()) {
    let mut metrics = raft.metrics();
    let mut leads_since = None;
    loop {
        let silence = silence(&metrics.borrow_and_update(), &mut leads_since);
        let now = if silence > silence_max { Quorum::Silent } else { Quorum::Answers };
        if quorum.send_if_modified(|before| std::mem::replace(before, now) != now) {
            tracing::warn!(?now, ?silence, "a majority of the members");
        }
        if now == Quorum::Silent {
            give_up();
        }
        // They change with every tick of openraft's clock.
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// How long no majority has answered this leader. One that was never answered counts from when it began to lead.
fn silence(metrics: &RaftMetrics<MemberId, MemberAddress>, leads_since: &mut Option<Instant>) -> Duration {
    if metrics.current_leader != Some(metrics.id) {
        *leads_since = None;
        return Duration::ZERO;
    }
    let since = *leads_since.get_or_insert_with(Instant::now);
    metrics.millis_since_quorum_ack.map_or_else(|| since.elapsed(), Duration::from_millis)
}

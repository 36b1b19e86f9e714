//! Owns how a member's status and an audit look as JSON: what `LANDFALL STATUS` and `LANDFALL AUDIT` answer.

use landfall_raft::landfall::core::snapshot::Position;
use landfall_raft::landfall::keyed::{Extent, JoinStatus, Milestone, ReachedAfter, SealedSnapshot};
use landfall_raft::{
    AuditReport, DifferentKeys, Health, MemberAddress, NodeStatus, Pace, Role, Soundness, Verdict, Vote,
};
use serde_json::{Value, json};

/// What a member says of itself.
pub(crate) fn status(node: &NodeStatus, address: &MemberAddress, sealed: Option<&SealedSnapshot>) -> Value {
    let stopped = match &node.health {
        Health::Running => Value::Null,
        Health::Stopped(reason) => json!(reason),
    };
    json!({
        "id": node.member,
        "cluster": node.cluster.map(|cluster| cluster.to_string()),
        "peers": address.peers,
        "clients": address.clients,
        "role": role(node.role),
        "stopped": stopped,
        "leader": node.leader.as_ref().map(|leader| json!({ "id": leader.member, "clients": leader.address.clients })),
        "term": node.term,
        "members": node.members.iter().map(member).collect::<Vec<_>>(),
        "position": position(node.applied),
        "log_hash": hexadecimal(&node.log_hash.0),
        "log_time_ms": node.time.0,
        "log": { "first": node.log_first, "last": node.log_last, "bytes": node.log_bytes },
        "unsealed_bytes": node.unsealed_bytes,
        "sealed": sealed.map(|sealed| json!({
            "snapshot": sealed.id.to_string(),
            "position": position(sealed.manifest.position),
            "root": sealed.manifest.state_root().to_string(),
            "whole": sealed.extent == Extent::Whole,
        })),
        "milestone": milestone(node.joined.as_ref()),
        "join": node.joined.as_ref().map(|joined| join(joined, node.pace.as_ref())),
        "slow_joiners": node.slow_joiners.iter().map(slow_joiner).collect::<Vec<_>>(),
        "soundness": soundness(node.soundness),
        "vote_refused": node.vote_refused.as_ref().map(|refused| json!({
            "reason": refused.reason,
            "times": refused.times,
        })),
        "divergences": node.divergences.iter().map(|divergence| json!({
            "position": position(divergence.position),
            "member": divergence.member,
            "what": format!("{:?}", divergence.what).to_lowercase(),
        })).collect::<Vec<_>>(),
        "divergences_forgotten": node.divergences_forgotten,
        "different_keys": node.different_keys.iter().map(different_keys).collect::<Vec<_>>(),
    })
}

/// Keys as they are, where they are text; other bytes escaped.
fn different_keys(found: &DifferentKeys) -> Value {
    let keys = found.keys.iter().map(|key| {
        json!({
            "section": key.section.as_str(),
            "key": key.key.escape_ascii().to_string(),
            "what": format!("{:?}", key.kind).to_lowercase(),
        })
    });
    json!({ "position": position(found.position), "members": found.members, "keys": keys.collect::<Vec<_>>() })
}

fn soundness(soundness: Soundness) -> Value {
    match soundness {
        Soundness::Sound => json!("sound"),
        Soundness::Healing => json!("healing"),
        Soundness::SteppedOut { position: at, members } => {
            json!({ "stepped_out": { "position": position(at), "members": members } })
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "follower",
        Role::Learner => "learner",
    }
}

fn member((id, address, vote): &(u64, MemberAddress, Vote)) -> Value {
    json!({ "id": id, "peers": address.peers, "clients": address.clients, "votes": *vote == Vote::Counts })
}

fn position(position: Position) -> Value {
    json!({ "epoch": position.epoch, "index": position.index })
}

/// The last milestone of a member that took a snapshot from others; one that began with the cluster has none behind it.
fn milestone(join: Option<&JoinStatus>) -> Value {
    match join {
        Some(join) if join.rolled_back.is_some() => json!("rolled_back"),
        Some(join) => join.reached.last().map_or(Value::Null, |(milestone, _)| json!(word(*milestone))),
        None => Value::Null,
    }
}

fn word(milestone: Milestone) -> String {
    milestone.name().replace(' ', "_")
}

fn after_ms(reached: &ReachedAfter) -> u64 {
    u64::try_from(reached.after.as_millis()).unwrap_or(u64::MAX)
}

fn join(join: &JoinStatus, pace: Option<&Pace>) -> Value {
    let reached = join.reached.iter().map(|(milestone, reached)| {
        json!({
            "milestone": word(*milestone),
            "after_ms": after_ms(reached),
            "bytes": reached.bytes,
        })
    });
    let sources = join.figures.sources.iter().map(|source| {
        json!({
            "address": source.address,
            "name": source.name,
            "bytes": source.bytes + source.node_bytes,
            "damaged": source.damaged,
        })
    });
    json!({
        "snapshot": join.snapshot.map(|(snapshot, _)| snapshot.to_string()),
        "position": join.snapshot.map(|(_, at)| position(at)),
        "reached": reached.collect::<Vec<_>>(),
        "fault_bytes": join.fault_bytes,
        "bytes_wanted": join.figures.bytes_wanted,
        "bytes_done": join.figures.bytes_done,
        "entries_wanted": join.figures.entries_wanted,
        "entries_here": join.figures.entries_here,
        "leaf_bytes_here": join.figures.leaf_bytes_here,
        "node_bytes": join.figures.node_bytes,
        "seconds_left": join.left.map(|left| left.as_secs_f64()),
        "received_per_second": pace.map(|pace| pace.received_per_second),
        "log_per_second": pace.map(|pace| pace.log_per_second),
        "needed_per_second": pace.map(|pace| pace.needed_per_second),
        "bytes_again": join.figures.bytes_again,
        "wire_received": join.figures.wire_received,
        "sources": sources.collect::<Vec<_>>(),
        "failure": join.failure.as_ref().map(ToString::to_string),
        "rolled_back": join.rolled_back.as_ref().map(|(reason, reached)| json!({
            "reason": reason.to_string(),
            "after_ms": after_ms(reached),
        })),
    })
}

fn slow_joiner(pace: &Pace) -> Value {
    json!({
        "id": pace.joiner,
        "received_per_second": pace.received_per_second,
        "log_per_second": pace.log_per_second,
        "needed_per_second": pace.needed_per_second,
    })
}

/// All members' roots side by side.
pub(crate) fn audit(report: &AuditReport) -> Value {
    let verdict = match report.verdict {
        Verdict::Equal => "equal",
        Verdict::EqualSoFar => "equal so far",
        Verdict::Diverged => "diverged",
    };
    let members = report.members.iter().map(|(member, audited)| {
        json!({
            "id": member,
            "root": audited.map(|audited| hexadecimal(&audited.state_root)),
            "log_hash": audited.map(|audited| hexadecimal(&audited.log_hash)),
        })
    });
    json!({
        "position": position(report.position),
        "verdict": verdict,
        "members": members.collect::<Vec<_>>(),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use landfall_raft::landfall::pull::StatusFigures;

    use super::*;

    #[test]
    fn the_pace_of_a_joiner_stands_with_its_join_and_in_the_leaders_list() {
        let joined = JoinStatus {
            snapshot: None,
            reached: Vec::new(),
            fault_bytes: 0,
            figures: StatusFigures::default(),
            left: None,
            failure: None,
            rolled_back: None,
        };
        let pace = Pace { joiner: 7, received_per_second: 100, log_per_second: 200, needed_per_second: 400 };
        let figures = |value: &Value| {
            ["received_per_second", "log_per_second", "needed_per_second"].map(|name| value.get(name).cloned())
        };
        let shown = [100, 200, 400].map(|figure| Some(json!(figure)));
        assert_eq!(figures(&join(&joined, Some(&pace))), shown);
        assert_eq!(figures(&join(&joined, None)), [const { Some(Value::Null) }; 3], "it is not known yet");
        assert_eq!(figures(&slow_joiner(&pace)), shown);
        assert_eq!(slow_joiner(&pace)["id"], json!(7));
    }
}

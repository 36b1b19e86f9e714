//! Real processes: three members, killed and started again, under clients that remember what was acknowledged.

mod chaos;
mod client;
mod history;
mod server;

use std::collections::BTreeMap;
use std::thread;

use client::Client;
use server::{Cluster, until};

#[test]
fn one_member_answers_and_remembers_over_a_kill() {
    let mut cluster = Cluster::begin();
    let mut client = cluster.client(0);
    assert_eq!(client.ask("SET greeting hello"), "+OK");
    assert_eq!(client.ask("INCR counter"), ":1");
    assert_eq!(client.ask("SET short v PX 100"), "+OK");
    until("the sweep removes what expired", || client.ask("DBSIZE") == ":2");
    drop(client);
    cluster.kill(0);
    cluster.start(0);
    let mut client = cluster.leader();
    assert_eq!(client.ask("GET greeting"), "$hello");
    assert_eq!(client.ask("INCR counter"), ":2");
    cluster.stop(0);
}

#[test]
fn a_member_that_does_not_lead_says_who_does_and_serves_stale_reads() {
    let cluster = Cluster::of_three();
    let mut leader = cluster.client(0);
    assert_eq!(leader.ask("SET k v"), "+OK");
    let mut follower = cluster.client(1);
    let moved = format!("-MOVED 7629 {}", cluster.clients(0));
    assert_eq!(follower.ask("SET k other"), moved);
    assert_eq!(follower.ask("GET k"), moved);
    assert_eq!(follower.ask("READONLY"), "+OK");
    until("the follower applies what the leader did", || follower.ask("GET k") == "$v");
}

#[test]
fn no_acknowledged_write_is_lost_when_any_one_member_is_killed() {
    let mut cluster = Cluster::of_three();
    let mut acknowledged = BTreeMap::new();
    for (round, killed) in [1, 0, 2].into_iter().enumerate() {
        let writing = write_while(&cluster, round, || cluster.kill_quietly(killed));
        acknowledged.extend(writing);
        cluster.reap(killed);
        check(&mut cluster.leader(), &acknowledged);
        cluster.start(killed);
    }
    until("all members vote and agree", || {
        let audit = cluster.leader().ask("LANDFALL AUDIT");
        audit.contains(r#""verdict":"equal""#) && audit.matches(r#""root":""#).count() == 3
    });
    check(&mut cluster.leader(), &acknowledged);
}

/// Writes until something has happened and a while longer; returns what was acknowledged.
fn write_while(cluster: &Cluster, round: usize, happens: impl FnOnce()) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let mut happens = Some(happens);
    let mut client = cluster.leader();
    for number in 0..WRITES {
        if number == WRITES / 2 {
            happens.take().expect("it happens once")();
        }
        let (key, value) = (format!("key:{round}:{number}"), format!("value:{round}:{number}"));
        match client.try_ask(&format!("SET {key} {value}")).as_deref() {
            Some("+OK") => {
                acknowledged.insert(key, value);
            }
            // Refused, or of unknown fate: either way nobody was promised anything.
            _ => client = cluster.leader(),
        }
    }
    assert!(acknowledged.len() > WRITES / 2, "writes go on while a majority lives");
    acknowledged
}

const WRITES: usize = 400;

#[track_caller]
fn check(client: &mut Client, acknowledged: &BTreeMap<String, String>) {
    for (key, value) in acknowledged {
        assert_eq!(client.ask(&format!("GET {key}")), format!("${value}"), "{key} was acknowledged");
    }
}

#[test]
fn a_process_that_joins_runs_its_hook_is_promoted_and_votes() {
    let mut cluster = Cluster::begin();
    assert_eq!(cluster.client(0).ask("SET greeting hello"), "+OK");
    let log = cluster.directory().join("hook");
    let joiner = cluster.add_with_hook(&format!("echo $LANDFALL_MEMBER $LANDFALL_LEASE >> {}", log.display()));
    let mut client = cluster.client(joiner);
    until("it votes", || client.ask("LANDFALL STATUS").contains(r#""role":"follower""#));
    let status = client.ask("LANDFALL STATUS");
    assert!(status.contains(r#""milestone":"promoted""#), "{status}");
    for milestone in ["asked", "planned", "viable", "warm", "complete", "caught_up", "verified", "promoted"] {
        assert!(status.contains(&format!(r#""milestone":"{milestone}""#)), "{milestone}: {status}");
    }
    assert!(status.contains(r#""rolled_back":null"#) && status.contains(r#""different_keys":[]"#), "{status}");
    let member: serde_json::Value = serde_json::from_str(&status[1..]).expect("it is JSON");
    let ran = std::fs::read_to_string(&log).expect("the hook ran");
    let lease = ran.strip_prefix(&format!("{} ", member["id"])).expect("once, for this member");
    assert!(lease.trim_end().parse::<u64>().expect("a version") > 0, "{ran}");
}

#[test]
fn a_member_that_died_for_good_is_removed_and_another_takes_its_vote() {
    let mut cluster = Cluster::of_three();
    let died = cluster.id(2);
    cluster.kill(2);
    let remove = format!("LANDFALL REMOVE {died}");
    assert!(cluster.client(1).ask(&remove).starts_with("-MOVED"));
    let mut leader = cluster.client(0);
    let leads = format!("-ERR member {} leads: ", cluster.id(0));
    assert!(leader.ask(&format!("LANDFALL REMOVE {}", cluster.id(0))).starts_with(&leads));
    assert_eq!(leader.ask(&remove), "+OK");
    assert_eq!(leader.ask(&remove), format!("-ERR member {died} is none of this cluster"));
    // Of four voters two would be too few; of three they are enough.
    let joiner = cluster.add_joiner();
    until("the new one votes", || leader.ask("LANDFALL STATUS").matches(r#""votes":true"#).count() == 3);
    cluster.kill(1);
    assert_eq!(cluster.leader().ask("SET greeting hello"), "+OK");
    let mut joined = cluster.client(joiner);
    assert_eq!(joined.ask("READONLY"), "+OK");
    until("it applies what was written", || joined.ask("GET greeting") == "$hello");
}

#[test]
fn clients_of_many_connections_count_without_losing_a_step() {
    let cluster = Cluster::of_three();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = cluster.client(0);
                (0..50).for_each(|_| assert!(client.ask("INCR counter").starts_with(':')));
            });
        }
    });
    assert_eq!(cluster.client(0).ask("GET counter"), "$400");
}

#[test]
fn a_leader_without_a_majority_says_what_became_of_writes_and_takes_more_when_it_is_back() {
    let mut cluster = Cluster::of_three();
    let mut leader = cluster.client(0);
    assert_eq!(leader.ask("SET k before"), "+OK");
    cluster.kill(1);
    cluster.kill(2);
    // Nobody can tell yet whether it will take effect.
    let unknown = leader.ask("SET k during");
    assert!(unknown.starts_with("-UNKNOWN no majority confirmed the write in time"), "{unknown}");
    let refused = leader.ask("SET k never");
    assert!(refused.starts_with("-CLUSTERDOWN"), "{refused}");
    assert!(leader.ask("GET k").starts_with("-CLUSTERDOWN"));
    assert!(leader.ask("LANDFALL REMOVE 7").starts_with("-CLUSTERDOWN"));
    cluster.start(1);
    cluster.start(2);
    let value = cluster.leader().ask("GET k");
    assert!(["$before", "$during"].contains(&value.as_str()), "{value}");
    until("writes are taken again", || cluster.leader().ask("SET k after") == "+OK");
    assert_eq!(cluster.leader().ask("GET k"), "$after");
}

#[test]
fn a_member_whose_disk_is_full_ends_with_the_reason_and_what_it_acknowledged_is_there_afterwards() {
    let mut cluster = Cluster::begin();
    let mut client = cluster.client(0);
    assert_eq!(client.ask("SET first v"), "+OK");
    drop(client);
    cluster.stop(0);
    cluster.start_with_files_of(0, 8 * 1024 * 1024);
    let mut client = cluster.leader();
    let value = "x".repeat(50_000);
    let mut acknowledged = Vec::new();
    for number in 0..1000 {
        match client.try_ask(&format!("SET {number} {value}")).as_deref() {
            Some("+OK") => acknowledged.push(number),
            _ => break,
        }
    }
    assert!(acknowledged.len() > 50 && acknowledged.len() < 180, "{} writes fit", acknowledged.len());
    let (code, said) = cluster.wait_for_end(0);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the member stopped") && said.contains("File too large"), "{said}");
    cluster.start(0);
    let mut client = cluster.leader();
    assert_eq!(client.ask("GET first"), "$v");
    for number in acknowledged {
        assert_eq!(client.ask(&format!("STRLEN {number}")), ":50000", "{number} was acknowledged");
    }
    assert_eq!(client.ask("SET last v"), "+OK");
}

//! What goes wrong every day, and what is said about it: the exit code, what, why, and what to do next.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::support::{Stage, noise, signal};
use rustix::process::Signal;
use serde_json::Value;

fn stage_with_orders() -> Stage {
    let stage = Stage::with_certificates();
    stage.write("orders/big", noise(1, 3_000_000));
    stage.write("orders/sub/small", "one");
    stage
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let stage = Stage::new();
    let check = |arguments: &[&str], words: &[&str]| {
        stage.landfall(arguments).failed(2, words);
    };
    check(&["pull", "orders", "copy", "--from", "a:1"], &["--identity", "--insecure"]);
    check(&["pull", "orders", "copy", "--insecure"], &["--from"]);
    check(&["pull", "no/name", "copy", "--from", "a:1", "--insecure"], &["is not a state name"]);
    check(&["serve", "--state", "orders", "--listen", "127.0.0.1:0", "--insecure"], &["NAME=PATH"]);
    check(&["nonsense"], &["nonsense"]);
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    let stage = Stage::new();
    let help = stage.landfall(["--help"]).good().stdout;
    for word in ["landfall demo files", "landfall serve --state", "Exit codes", "landfall cert create-ca"] {
        assert!(help.contains(word), "'{word}' is missing in:\n{help}");
    }
    for verb in ["serve", "pull", "restore", "snapshot", "log", "ls", "diff", "verify", "gc", "kv", "demo"] {
        let help = stage.landfall([verb, "--help"]).good().stdout;
        assert!(help.contains("Example"), "{verb} has no examples:\n{help}");
    }
}

#[test]
fn an_unknown_state_and_a_dead_address_are_told_apart() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    let address = server.address.clone();
    stage
        .landfall(["pull", "others", "copy", "--from", &address, "--identity", "beta"])
        .failed(1, &["no source can serve 'others'", &address]);
    server.kill();
    stage.pull("copy", &address, &[]).failed(1, &["no source can serve 'orders'", "cannot reach"]);
    assert!(!stage.at("copy").exists(), "nothing is left of a pull that never began");
}

#[test]
fn what_is_no_directory_is_not_served() {
    let stage = stage_with_orders();
    stage
        .landfall(["serve", "--state", "orders=orders/big", "--listen", "127.0.0.1:0", "--identity", "alpha"])
        .failed(1, &["cannot serve orders/big", "not a directory"]);
}

#[test]
fn advice_is_given_only_where_it_helps() {
    let stage = stage_with_orders();
    let told =
        stage.landfall(["pull", "orders", "copy", "--from", "127.0.0.1:1", "--insecure"]).failed(1, &["cannot reach"]);
    assert!(!told.stderr.contains("--identity"), "nobody answered: {}", told.stderr);
    let server = stage.serve("orders=orders", &["--insecure"]);
    let told = stage
        .landfall(["pull", "others", "copy", "--from", &server.address, "--insecure"])
        .failed(1, &["no state 'others' here; this member serves: orders"]);
    assert!(!told.stderr.contains("--identity"), "it answered: {}", told.stderr);
    stage.landfall(["pull", "orders", "copy", "--from", &server.address, "--insecure"]).good();
    stage
        .landfall(["snapshot", "copy"])
        .failed(1, &["only its publisher takes snapshots", "where the state is published"]);
    stage.landfall(["diff", "copy"]).failed(1, &["only 1 snapshot", "a pulled copy holds only the newest"]);
}

#[test]
fn a_failure_is_json_too_where_json_is_asked_for() {
    let stage = Stage::with_certificates();
    let told = stage.pull("copy", "127.0.0.1:1", &[]).failed(1, &["error:"]);
    assert!(told.last()["error"]["what"].as_str().is_some_and(|what| what.contains("no source")), "{told:?}");
}

#[test]
fn members_of_another_authority_are_turned_away() {
    let stage = stage_with_orders();
    stage.landfall(["cert", "create-ca", "other-ca"]).good();
    stage.landfall(["cert", "create-member", "eve", "--ca", "other-ca", "--out", "eve"]).good();
    let server = stage.serve("orders=orders", &[]);
    stage
        .landfall(["pull", "orders", "copy", "--from", &server.address, "--identity", "eve"])
        .failed(1, &["does not come from the authority that this member trusts"]);
}

#[test]
fn a_member_that_is_no_writer_cannot_publish() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--identity", "beta"]);
    stage.pull("copy", &server.address, &[]).failed(1, &["is no writer of 'orders'", "--writer orders"]);
    server.kill();
    // The same content, and whoever serves it now may write it.
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn certificates_are_never_overwritten() {
    let stage = Stage::with_certificates();
    stage.landfall(["cert", "create-ca", "ca"]).failed(1, &["exists already"]);
    stage
        .landfall(["cert", "create-member", "again", "--ca", "ca", "--out", "alpha"])
        .failed(1, &["exists already", "not overwritten"]);
    stage
        .landfall(["pull", "orders", "copy", "--from", "127.0.0.1:1", "--identity", "nowhere"])
        .failed(1, &["cannot use the identity in nowhere", "cert create-member"]);
}

#[test]
fn without_certificates_nothing_leaves_the_machine() {
    let stage = stage_with_orders();
    stage
        .landfall(["serve", "--state", "orders=orders", "--listen", "0.0.0.0:0", "--insecure"])
        .failed(1, &["not a loopback address"]);
    stage
        .landfall(["pull", "orders", "copy", "--from", "192.0.2.1:7400", "--insecure"])
        .failed(1, &["not a loopback address"]);
    let server = stage.serve("orders=orders", &[]);
    stage
        .landfall(["pull", "orders", "copy", "--from", &server.address, "--insecure"])
        .failed(1, &["others need --identity"]);
    assert_eq!(server.stop(), Some(0));
    let server = stage.serve("orders=orders", &["--insecure"]);
    stage.landfall(["pull", "orders", "copy", "--from", &server.address, "--insecure"]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn a_destination_with_other_files_is_not_touched() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    stage.write("copy/precious", "mine");
    stage.pull("copy", &server.address, &[]).failed(1, &["copy"]);
    assert_eq!(fs::read(stage.at("copy/precious")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(stage.at("copy")).unwrap().count(), 1);
}

#[test]
fn local_changes_are_listed_and_overwritten_only_if_told_so() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    stage.write("copy/sub/small", "my own");
    stage.write("copy/extra", "mine");
    stage.write("orders/sub/small", "news");
    stage.landfall(["snapshot", "orders"]).good();
    stage.pull("copy", &server.address, &[]).failed(1, &["sub/small", "extra", "--discard-local-changes"]);
    assert_eq!(fs::read(stage.at("copy/sub/small")).unwrap(), b"my own");
    stage.pull("copy", &server.address, &["--discard-local-changes"]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn one_process_owns_a_data_directory() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--data", "data"]);
    stage
        .landfall([
            "serve",
            "--state",
            "orders=orders",
            "--listen",
            "127.0.0.1:0",
            "--identity",
            "alpha",
            "--data",
            "data",
        ])
        .failed(1, &["another `landfall serve` has data open", "stop it"]);
    stage.landfall(["log", "orders", "--data", "data"]).good();
    assert_eq!(server.stop(), Some(0));
    stage.landfall(["snapshot", "orders", "--data", "data"]).failed(1, &["no server has", "landfall serve"]);
    stage.landfall(["log", "nothing"]).failed(1, &["there is no state 'nothing'", "--data"]);
}

#[test]
fn a_copy_that_is_being_served_is_not_pulled_into() {
    let stage = stage_with_orders();
    let alpha = stage.serve("orders=orders", &[]);
    stage.pull("copy", &alpha.address, &[]).good();
    let beta = stage.serve("orders=copy", &["--identity", "beta"]);
    stage.pull("copy", &alpha.address, &[]).failed(1, &["it is being served", "stop that `landfall serve`"]);
    beta.kill();
    stage.pull("copy", &alpha.address, &[]).good();
}

#[test]
fn verify_names_a_damaged_file_and_a_pull_mends_it() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    stage.landfall(["verify", "copy"]).good();
    let mut content = noise(1, 3_000_000);
    content[2_000_000] ^= 1;
    stage.write("copy/big", content);
    let told = stage.landfall(["verify", "copy", "--json"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert_eq!(told.json()[0]["path"], "big");
    stage.pull("copy", &server.address, &["--discard-local-changes"]).good();
    stage.landfall(["verify", "copy"]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn what_a_publisher_s_store_lost_the_next_snapshot_puts_there_again() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--data", "data"]);
    stage.pull("copy", &server.address, &[]).good();
    let packs = std::fs::read_dir(stage.at("data/store/packs")).unwrap().map(|pack| pack.unwrap().path());
    let pack = packs.max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let verify = || stage.landfall(["verify", "orders", "--data", "data", "--json"]);
    assert_eq!(verify().code, Some(1));
    stage.pull("early", &server.address, &[]).failed(1, &["no source holds"]);
    stage.landfall(["snapshot", "orders", "--data", "data"]).good();
    verify().good();
    stage.pull("late", &server.address, &[]).good();
    stage.check_equal("orders", "late");
}

#[test]
fn a_joiner_that_is_killed_goes_on_and_fetches_little_twice() {
    let stage = Stage::with_certificates();
    stage.write("orders/big", noise(1, 60_000_000));
    let server = stage.serve("orders=orders", &[]);
    let came = pull_until(&stage, &server.address, 10_000_000, |pid| signal(pid, Signal::KILL));
    let summary = stage.pull("copy", &server.address, &[]).good().last();
    stage.check_equal("orders", "copy");
    let number = |key: &str| summary[key].as_u64().expect("a number");
    assert_eq!(number("received_bytes") + number("reused_bytes"), 60_000_000, "{summary}");
    // What was on the way, and what was not yet on disk, comes again; all the rest is kept.
    assert!(number("reused_bytes") + 8_000_000 > came, "{came} came, then {summary}");
}

#[test]
fn a_joiner_that_is_interrupted_says_that_nothing_is_lost() {
    let stage = Stage::with_certificates();
    stage.write("orders/big", noise(1, 60_000_000));
    let server = stage.serve("orders=orders", &[]);
    pull_until(&stage, &server.address, 1, |pid| signal(pid, Signal::INT));
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn a_source_that_is_killed_leaves_the_rest_to_the_other() {
    let stage = Stage::with_certificates();
    stage.write("orders/big", noise(1, 60_000_000));
    let alpha = stage.serve("orders=orders", &[]);
    stage.pull("copy", &alpha.address, &[]).good();
    let beta = stage.serve("orders=copy", &["--identity", "beta"]);
    let both = format!("{},{}", alpha.address, beta.address);
    let beta_pid = beta.pid();
    let mut killed = false;
    let summary = pull_watched(&stage, "second", &both, |done| {
        if done > 1_000_000 && !killed {
            signal(beta_pid, Signal::KILL);
            killed = true;
        }
    });
    assert!(killed);
    assert_eq!(summary["state_bytes"].as_u64().map(|bytes| bytes >= 60_000_000), Some(true), "{summary}");
    stage.check_equal("orders", "second");
}

#[test]
fn a_full_disk_is_told_and_nothing_is_half_done() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    let small = Path::new("/dev/full");
    assert!(small.exists());
    let told = stage.command(["pull", "orders", "copy", "--from", &server.address, "--identity", "beta"]);
    let mut limited = std::process::Command::new("/bin/sh");
    // A limit on the size of files is the full disk that needs no privilege.
    limited.arg("-c").arg("ulimit -f 1000; trap '' XFSZ; exec \"$0\" \"$@\"").arg(told.get_program());
    limited.args(told.get_args()).current_dir(stage.at(""));
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!stage.at("copy").exists(), "nothing appears before it is whole");
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
}

/// Pulls into `copy`, and does `act` to the process once `bytes` have come. Returns how many had.
fn pull_until(stage: &Stage, from: &str, bytes: u64, act: impl FnOnce(u32)) -> u64 {
    let mut command = stage.command(["pull", "orders", "copy", "--from", from, "--identity", "beta"]);
    let mut child = command.args(["--progress", "json"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut act = Some(act);
    let mut came = 0;
    let mut last = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if let Ok(figures) = serde_json::from_str::<Value>(&line) {
            came = figures["bytes_done"].as_u64().unwrap();
            if let Some(act) = (came >= bytes).then(|| act.take()).flatten() {
                act(child.id());
            }
        }
        last = line;
    }
    let status = child.wait().unwrap();
    assert!(act.is_none(), "it never got that far");
    match status.code() {
        Some(130) => assert!(last.contains("run the same command again"), "{last}"),
        code => assert_eq!(code, None, "it was done before it was killed: {last}"),
    }
    came
}

/// Pulls into `copy` to the end, and tells `watch` how many bytes have come.
fn pull_watched(stage: &Stage, copy: &str, from: &str, mut watch: impl FnMut(u64)) -> Value {
    let mut command = stage.command(["pull", "orders", copy, "--from", from, "--identity", "beta", "--json"]);
    let mut child = command.args(["--progress", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if let Ok(figures) = serde_json::from_str::<Value>(&line) {
            watch(figures["bytes_done"].as_u64().unwrap_or(0));
        }
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

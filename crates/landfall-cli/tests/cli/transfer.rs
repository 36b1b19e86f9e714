//! What people do every day: serve, pull, change, pull again, serve on.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::{Stage, noise, signal};
use rustix::process::Signal;

fn stage_with_orders() -> Stage {
    let stage = Stage::with_certificates();
    stage.write("orders/big", noise(1, 3_000_000));
    stage.write("orders/sub/small", "one");
    stage
}

#[test]
fn a_pull_brings_everything_and_a_second_one_only_what_changed() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    let full = stage.pull("copy", &server.address, &[]).good().last();
    stage.check_equal("orders", "copy");
    assert_eq!(full["strategy"], "full");
    let mut content = noise(1, 3_000_000);
    content[1_500_000] ^= 1;
    stage.write("orders/big", content);
    let taken = stage.landfall(["snapshot", "orders", "--json"]).good().last();
    let delta = stage.pull("copy", &server.address, &[]).good().last();
    stage.check_equal("orders", "copy");
    assert_eq!(delta["strategy"], "patch");
    assert_eq!(delta["root"], taken["root"]);
    assert_eq!(delta["position"], "1.2");
    assert!(delta["wire_bytes_received"].as_u64() < Some(100_000), "{delta}");
    assert!(delta["reused_bytes"].as_u64() > Some(2_500_000), "{delta}");
    let again = stage.pull("copy", &server.address, &[]).good().last();
    assert_eq!(again["strategy"], "up-to-date");
}

#[test]
fn the_summary_names_everything_that_scripts_need() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    let summary = stage.pull("copy", &server.address, &[]).good().last();
    for number in ["state_bytes", "wire_bytes_received", "wire_bytes_sent", "reused_bytes", "seconds", "sync_seconds"] {
        assert!(summary[number].is_number(), "{number} in {summary}");
    }
    for text in ["root", "snapshot", "position", "strategy"] {
        assert!(summary[text].is_string(), "{text} in {summary}");
    }
    assert_eq!(summary["sources"][0]["name"], "alpha");
    assert_eq!(summary["notes"], serde_json::json!([]));
}

#[test]
fn text_output_says_where_what_and_the_root() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &[]);
    let told = stage.landfall(["pull", "orders", "copy", "--from", &server.address, "--identity", "beta"]).good();
    for word in ["orders at 1.1 is here: 3.00 MB in copy (full)", "reused", "root"] {
        assert!(told.stdout.contains(word), "'{word}' is missing in:\n{}", told.stdout);
    }
    assert_eq!(told.stderr, "", "nothing is drawn where nobody looks");
}

#[test]
fn a_pulled_copy_is_served_on_and_both_sources_are_used() {
    let stage = stage_with_orders();
    let alpha = stage.serve("orders=orders", &[]);
    let first = stage.pull("copy", &alpha.address, &[]).good().last();
    let beta = stage.serve("orders=copy", &["--identity", "beta"]);
    let alone = stage.pull("from-relay", &beta.address, &[]).good().last();
    assert_eq!(alone["root"], first["root"]);
    let both = format!("{},{}", alpha.address, beta.address);
    let shared = stage.pull("from-both", &both, &[]).good().last();
    assert_eq!(shared["sources"].as_array().map(Vec::len), Some(2));
    stage.check_equal("orders", "from-relay");
    stage.check_equal("orders", "from-both");
    stage.landfall(["snapshot", "copy"]).failed(1, &["only its publisher takes snapshots"]);
}

#[test]
fn names_that_are_not_text_arrive_and_are_shown() {
    let stage = stage_with_orders();
    stage.write(Path::new("orders").join(std::ffi::OsStr::from_bytes(b"bad\xff\nname")), "odd");
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
    let listed = stage.landfall(["ls", "copy", "--json"]).good().json();
    let odd = listed.iter().find(|entry| entry["path"] == "bad\\xff\\x0aname").expect("the odd name");
    assert_eq!(odd["path_hex"], "626164ff0a6e616d65");
}

#[test]
fn a_snapshot_is_taken_on_a_signal_and_by_the_clock() {
    let stage = stage_with_orders();
    let mut server = stage.serve("orders=orders", &[]);
    stage.write("orders/sub/small", "two and more");
    signal(server.pid(), Signal::HUP);
    assert_eq!(server.wait_for("snapshot")["taken"]["position"], "1.2");
    assert_eq!(server.stop(), Some(0));
    let mut server = stage.serve("orders=orders", &["--every", "50ms"]);
    stage.write("orders/sub/small", "three and more still");
    assert_eq!(server.wait_for("snapshot")["taken"]["position"], "1.3");
}

#[test]
fn snapshots_are_listed_compared_and_collected_with_and_without_a_server() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--data", "data"]);
    stage.write("orders/new", "fresh");
    stage.landfall(["snapshot", "orders", "--data", "data"]).good();
    let check = || {
        let log = stage.landfall(["log", "orders", "--data", "data", "--json"]).good().json();
        assert_eq!(log.len(), 2);
        assert_eq!(log[1]["pins"][0], "newest");
        let diff = stage.landfall(["diff", "orders", "--data", "data", "--json"]).good().json();
        assert!(diff.contains(&serde_json::json!({ "path": "new", "change": "created" })), "{diff:?}");
        let old = log[0]["snapshot"].as_str().expect("an id");
        let listed = stage.landfall(["ls", "orders", "--data", "data", "--snapshot", &old[..10], "--json"]).good();
        assert!(!listed.stdout.contains("\"new\""), "the older snapshot lacks it");
        stage.landfall(["gc", "orders", "--data", "data", "--json"]).good();
        stage.landfall(["verify", "orders", "--data", "data", "--json"]).good();
    };
    check();
    assert_eq!(server.stop(), Some(0));
    check();
}

#[test]
fn commands_around_a_snapshot_run_and_their_failure_is_told() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--before-snapshot", "echo quiet > orders/quiet && test ! -e stop"]);
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
    stage.write("stop", "");
    stage
        .landfall(["snapshot", "orders"])
        .failed(1, &["no snapshot of 'orders' was taken", "test ! -e stop", "exit status: 1"]);
}

#[test]
fn a_frozen_directory_is_served_without_a_second_copy() {
    let stage = stage_with_orders();
    let server = stage.serve("orders=orders", &["--mode", "frozen", "--data", "data"]);
    stage.pull("copy", &server.address, &[]).good();
    stage.check_equal("orders", "copy");
    assert!(bytes_below(&stage.at("data")) < 1_500_000, "content was stored again");
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| match entry.file_type().expect("a type") {
            kind if kind.is_dir() => bytes_below(&entry.path()),
            _ => std::os::unix::fs::MetadataExt::blocks(&entry.metadata().expect("metadata")) * 512,
        })
        .sum()
}

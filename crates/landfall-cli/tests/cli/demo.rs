//! The demos, small: each tells its whole story, and leaves nothing behind, however it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Stage, finish, noise};

#[test]
fn the_demo_succeeds_on_a_small_directory_touches_it_not_and_leaves_nothing_behind() {
    let stage = Stage::new();
    stage.write("mine/large", noise(1, 2_000_000));
    stage.write("mine/sub/small", "one");
    fs::create_dir(stage.at("tmp")).unwrap();
    let mut command = stage.command(["demo", "files", "mine", "--json"]);
    command.env("TMPDIR", stage.at("tmp"));
    let told = finish(command);
    assert!(told.status.success(), "{told:?}");
    let last = String::from_utf8(told.stdout).unwrap().lines().last().unwrap().to_owned();
    let measured = &serde_json::from_str::<serde_json::Value>(&last).unwrap()["measured"];
    for key in ["state_bytes", "publish_seconds", "full_pull_wire_bytes", "delta_wire_bytes", "root", "demo_seconds"] {
        assert!(!measured[key].is_null(), "{key} in {measured}");
    }
    assert_eq!(fs::read(stage.at("mine/large")).unwrap(), noise(1, 2_000_000));
    assert_eq!(fs::read_dir(stage.at("tmp")).unwrap().count(), 0);
}

#[test]
fn the_demo_refuses_what_is_no_directory() {
    let stage = Stage::new();
    stage.write("file", "");
    stage.landfall(["demo", "files", "file"]).failed(1, &["file is not a directory"]);
}

#[test]
fn the_live_demo_tells_its_whole_story_and_leaves_nothing_behind() {
    let stage = Stage::new();
    fs::create_dir(stage.at("tmp")).unwrap();
    let mut command = stage.command(["demo", "live", "--keys", "20000", "--json"]);
    command.env("TMPDIR", stage.at("tmp"));
    let told = finish(command);
    assert!(told.status.success(), "{told:?}");
    let last = String::from_utf8(told.stdout).unwrap().lines().last().unwrap().to_owned();
    let measured = &serde_json::from_str::<serde_json::Value>(&last).unwrap()["measured"];
    for key in ["first_read_ms", "received_twice_bytes", "join_ms", "failover_ms", "root", "acknowledged_writes"] {
        assert!(!measured[key].is_null(), "{key} in {measured}");
    }
    assert_eq!(measured["lost_writes"], 0);
    check_nothing_is_left(&stage);
}

#[test]
fn an_interrupted_demo_ends_its_processes_and_leaves_nothing_behind() {
    let stage = Stage::new();
    fs::create_dir(stage.at("tmp")).unwrap();
    let mut command = stage.command(["demo", "live", "--keys", "20000"]);
    command.env("TMPDIR", stage.at("tmp")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = command.spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("all three vote")), "the members come together");
    let told = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(told.success());
    lines.for_each(drop);
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    check_nothing_is_left(&stage);
}

/// No file, and no process that was told of the place.
#[track_caller]
fn check_nothing_is_left(stage: &Stage) {
    let place = stage.at("tmp").display().to_string();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    for process in fs::read_dir("/proc").unwrap() {
        let line = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(&place), "still running: {line}");
    }
}

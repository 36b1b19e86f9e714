//! The demo of files on a small directory: the whole story, and nothing left behind.

use std::fs;

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

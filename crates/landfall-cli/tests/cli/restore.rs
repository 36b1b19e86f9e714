//! The way back from a pull: what it brings, when it is refused, and the way forward again.

use std::fs;

use crate::support::{Server, Stage, noise};

/// A copy of `orders`, pulled twice, the second time so that there is a way back. `orders-1` is what `orders` was at first.
fn stage_with_two_pulls() -> (Stage, Server) {
    let stage = Stage::with_certificates();
    for directory in ["orders", "orders-1"] {
        stage.write(format!("{directory}/big"), noise(1, 3_000_000));
        stage.write(format!("{directory}/sub/small"), "one");
        stage.write(format!("{directory}/gone"), "old");
        stage.write(format!("{directory}/stays"), "the same");
    }
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    let mut content = noise(1, 3_000_000);
    content[1_500_000] ^= 1;
    stage.write("orders/big", content);
    stage.write("orders/sub/new", "fresh");
    fs::remove_file(stage.at("orders/gone")).unwrap();
    stage.landfall(["snapshot", "orders"]).good();
    stage.pull("copy", &server.address, &["--keep-previous"]).good();
    stage.check_equal("orders", "copy");
    (stage, server)
}

#[test]
fn a_copy_goes_back_one_pull_and_forward_again() {
    let (stage, server) = stage_with_two_pulls();
    let back = stage.landfall(["restore", "copy", "--json"]).good().last();
    stage.check_equal("orders-1", "copy");
    assert_eq!((&back["state"], &back["position"]), (&"orders".into(), &"1.1".into()), "{back}");
    assert_eq!((&back["put_back"], &back["removed"]), (&2.into(), &1.into()), "{back}");
    assert_eq!(back["notes"], serde_json::json!([]));
    let verified = stage.landfall(["verify", "copy", "--json"]).good().last();
    assert_eq!(verified["root"], back["root"]);
    stage.landfall(["restore", "copy"]).failed(1, &["keeps nothing to go back to", "--keep-previous"]);
    let forward = stage.pull("copy", &server.address, &[]).good().last();
    stage.check_equal("orders", "copy");
    assert_eq!(forward["position"], "1.2");
}

#[test]
fn text_says_where_the_copy_is_again() {
    let (stage, _server) = stage_with_two_pulls();
    let told = stage.landfall(["restore", "copy"]).good();
    for word in ["orders at 1.1 is back in copy", "2 put back", "1 removed", "root"] {
        assert!(told.stdout.contains(word), "'{word}' is missing in:\n{}", told.stdout);
    }
}

#[test]
fn nothing_is_restored_where_nothing_was_kept() {
    let (stage, server) = stage_with_two_pulls();
    stage.pull("second", &server.address, &["--keep-previous"]).good();
    stage.landfall(["restore", "second"]).failed(1, &["keeps nothing to go back to"]);
    stage.check_equal("orders", "second");
    stage.landfall(["restore", "orders"]).failed(1, &["orders is not a pulled copy"]);
    stage.landfall(["restore", "nowhere"]).failed(1, &["nowhere is not a pulled copy"]);
    assert!(!stage.at("nowhere").exists());
    assert!(!stage.at("nowhere.landfall-incoming").exists());
}

#[test]
fn what_was_written_since_the_pull_stops_a_restore_unless_it_may_be_overwritten() {
    let (stage, server) = stage_with_two_pulls();
    stage.write("copy/big", "written by a service");
    stage.write("copy/stays", "and this");
    stage.landfall(["restore", "copy"]).failed(1, &["big: another length", "stays", "--discard-local-changes"]);
    assert_eq!(fs::read(stage.at("copy/big")).unwrap(), b"written by a service");
    let back = stage.landfall(["restore", "copy", "--discard-local-changes", "--json"]).good().last();
    assert_eq!(fs::read(stage.at("copy/big")).unwrap(), noise(1, 3_000_000));
    assert_eq!(fs::read(stage.at("copy/stays")).unwrap(), b"and this", "no pull had changed it");
    assert!(back["notes"].to_string().contains("2 paths had been changed"), "{back}");
    stage.pull("copy", &server.address, &[]).failed(1, &["stays: written to"]);
}

#[test]
fn local_changes_that_a_pull_discarded_come_back_and_are_local_changes_again() {
    let (stage, server) = stage_with_two_pulls();
    stage.write("copy/stays", "my own!!");
    stage.write("orders/sub/new", "fresher");
    stage.landfall(["snapshot", "orders"]).good();
    stage.pull("copy", &server.address, &["--keep-previous", "--discard-local-changes"]).good();
    stage.check_equal("orders", "copy");
    let back = stage.landfall(["restore", "copy", "--json"]).good().last();
    assert_eq!(fs::read(stage.at("copy/stays")).unwrap(), b"my own!!");
    assert!(back["snapshot"].is_null(), "it is no snapshot: {back}");
    assert!(back["notes"].to_string().contains("had discarded are back"), "{back}");
    stage.pull("copy", &server.address, &[]).failed(1, &["--discard-local-changes"]);
    assert_eq!(fs::read(stage.at("copy/stays")).unwrap(), b"my own!!");
    stage.pull("copy", &server.address, &["--discard-local-changes"]).good();
    stage.check_equal("orders", "copy");
}

#[test]
fn metadata_is_not_given_back_to_a_file_that_was_written_to() {
    let stage = Stage::with_certificates();
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000));
    stage.write("orders/file", "0123");
    fs::File::options().write(true).open(stage.at("orders/file")).unwrap().set_times(old).unwrap();
    let server = stage.serve("orders=orders", &[]);
    stage.pull("copy", &server.address, &[]).good();
    fs::File::options()
        .write(true)
        .open(stage.at("orders/file"))
        .unwrap()
        .set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))
        .unwrap();
    stage.landfall(["snapshot", "orders"]).good();
    stage.pull("copy", &server.address, &["--keep-previous"]).good();
    stage.write("copy/file", "mine");
    stage.landfall(["restore", "copy", "--discard-local-changes"]).good();
    // With its old time it would look like what the snapshot says.
    stage.pull("copy", &server.address, &[]).failed(1, &["file: "]);
    assert_eq!(fs::read(stage.at("copy/file")).unwrap(), b"mine");
}

#[test]
fn a_copy_that_is_served_or_in_use_is_not_restored() {
    let (stage, _server) = stage_with_two_pulls();
    let relay = stage.serve("orders=copy", &["--identity", "beta"]);
    stage.landfall(["restore", "copy"]).failed(1, &["it is being served", "stop that `landfall serve`"]);
    relay.kill();
    let open = fs::File::open(stage.at("copy/big")).unwrap();
    let holder = std::process::id().to_string();
    stage.landfall(["restore", "copy"]).failed(1, &["big: process", &holder, "--while-running"]);
    stage.check_equal("orders", "copy");
    stage.landfall(["restore", "copy", "--while-running"]).good();
    stage.check_equal("orders-1", "copy");
    drop(open);
}

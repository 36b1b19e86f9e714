//! A joiner is killed, again and again, at different moments; what it fetched is not fetched again.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use landfall::keyed::{Extent, JoinOptions, Milestone, Sections};
use landfall::net::Transport;
use landfall::pull::TrustAll;

use crate::gate::Gate;
use crate::ground::{CONFIG, DATA, assert_equal, fill, key, open, seal, serve, value};

/// How the process that is killed is told what to do: directory, address, frames of bulk.
const TASK: &str = "LANDFALL_TEST_JOINER";

/// Not a test: the process that is killed. Without its task it does nothing.
#[test]
fn joiner() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [directory, address, frames] = task.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let keyed = open(Path::new(directory));
    println!("opened");
    let gate = Gate::new(frames.parse().unwrap());
    let handle = keyed.join(only(address, gate.transport()));
    handle.wait(Milestone::Viable).unwrap();
    println!("viable");
    handle.adopt().unwrap();
    println!("adopted");
    gate.wait_until_exhausted();
    println!("{} bytes fetched", gate.bulk_bytes_passed());
    // Until it is killed.
    std::io::stdin().read_exact(&mut [0]).unwrap();
}

fn only(address: &str, transport: Arc<dyn Transport>) -> JoinOptions {
    let (sources, trust) = (vec![address.to_owned()], Arc::new(TrustAll));
    JoinOptions { sources, transport, trust, wanted: None, sections: Sections::All }
}

fn spawn(directory: &Path, address: &str, frames: u64) -> Child {
    let task = format!("{}\n{address}\n{frames}", directory.display());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::joiner", "--nocapture"])
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a joiner until it says `moment`, and kills it. Gives what it said.
fn kill_at(directory: &Path, address: &str, frames: u64, moment: &str) -> String {
    let mut child = spawn(directory, address, frames);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.find(|line| line.ends_with(moment));
    child.kill().unwrap();
    child.wait().unwrap();
    said.unwrap_or_else(|| panic!("it never was {moment}"))
}

/// What a kill may cost: what two classes of packs had not written, and what lanes had just taken from the network.
const BYTES_AGAIN_MAX: u64 = 2 * 64 * 1024 + 4 * 16 * 1024;

fn bytes_of_an_undisturbed_join(address: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    let gate = Gate::new(u64::MAX);
    keyed.join(only(address, gate.transport())).wait(Milestone::Complete).unwrap();
    gate.bulk_bytes_passed()
}

#[test]
fn a_joiner_that_is_killed_keeps_what_it_fetched() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = open(directories[0].path());
    fill(&source, 60_000);
    let sealed = seal(&source);
    let member = serve(&source);
    let address = member.address().unwrap();
    let directory = directories[1].path();

    for moment in ["opened", "viable", "adopted"] {
        kill_at(directory, &address, 0, moment);
    }
    let mut came = 0;
    for frames in [40, 80, 120] {
        let said = kill_at(directory, &address, frames, "fetched");
        came += said.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    }

    let keyed = open(directory);
    let half = keyed.sealed().unwrap();
    assert_eq!((half.id, half.extent), (sealed.snapshot, Extent::Filling));
    assert_eq!(keyed.get(CONFIG, b"members").unwrap().unwrap(), &b"a, b, c"[..]);
    let gate = Gate::new(u64::MAX);
    let handle = keyed.join(only(&address, gate.transport()));
    handle.wait(Milestone::Complete).unwrap();
    assert_eq!(keyed.get(DATA, &key(59_999)).unwrap().unwrap(), value(59_999, 0));
    drop(handle);
    came += gate.bulk_bytes_passed();
    let undisturbed = bytes_of_an_undisturbed_join(&address);
    assert!(came <= undisturbed + 3 * BYTES_AGAIN_MAX, "{came} bytes came, and {undisturbed} suffice");
    assert_equal(&source, &keyed);
    drop(keyed);
    assert_eq!(open(directory).sealed().unwrap().extent, Extent::Whole);
}

//! Owns the words of stories.
//!
//! ```text
//! transfer leaves=2 chunks=64x64KiB peers=a,b   begins; also lanes=2, writers=b, trees=2, alike (all trees have the
//!                                               same content), changed=0,1 (leaves that differ from a base)
//! peer-joined c | peer-lost a | lacks b L1 L0.3
//! deliver a [3] [in 500ms]     a answers its next wants, all if no number is given
//! corrupt a [3] | missing a [3] | baseless a [3] | end a
//! bytes a 16KiB                 so much of an item came from a
//! time +2s
//! busy | idle                  from now on the driver carries out one command after each step, or all
//! inspect-slowly                from now on the driver looks at one leaf at each `inspected`
//! progress
//! ```
//! What stands between `----` and the next empty line is what the transfer did.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::*;
use super::World;
use super::world::{Alike, Answer, Shape};

/// Tells the story again: its comments and steps as they are, and what the transfer does now.
pub(super) fn tell(text: &str) -> String {
    let mut told = String::new();
    let mut world = None;
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        if !told.is_empty() {
            told.push('\n');
        }
        let steps = paragraph.lines().take_while(|line| *line != "----");
        for line in steps {
            told.push_str(line);
            told.push('\n');
            if !line.starts_with('#') {
                step(&mut world, line);
            }
        }
        if let Some(world) = &mut world {
            told.push_str("----\n");
            told.push_str(&std::mem::take(&mut world.told));
        }
    }
    told
}

fn step(world: &mut Option<World>, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let world = match (words[0], world) {
        ("transfer", world) => return *world = Some(begin(&words[1..])),
        (_, Some(world)) => world,
        _ => panic!("a story begins with 'transfer', not with '{line}'"),
    };
    match (words[0], &words[1..]) {
        ("peer-joined", [peer]) => world.join(peer, 1, PeerCost::NEAR),
        ("peer-lost", [peer]) => world.lose(peer),
        ("lacks", [peer, what @ ..]) => what.iter().for_each(|what| world.lack(peer, what)),
        ("deliver", [peer, rest @ ..]) => answer(world, peer, rest, Answer::Truth),
        ("corrupt", [peer, rest @ ..]) => answer(world, peer, rest, Answer::Lie),
        ("missing", [peer, rest @ ..]) => answer(world, peer, rest, Answer::Deny),
        ("baseless", [peer, rest @ ..]) => answer(world, peer, rest, Answer::Patch),
        ("bytes", [peer, bytes]) => world.receive(peer, kibibytes(bytes)),
        ("end", [peer]) => world.end(peer),
        // Time alone wakes no driver: it looks when the transfer said it should.
        ("time", [span]) => return world.pass(world.now + duration(span.trim_start_matches('+'))),
        ("busy", []) => world.commands_max = 1,
        ("idle", []) => world.commands_max = usize::MAX,
        ("inspect-slowly", []) => world.inspecting = Some(Vec::new()),
        ("inspected", []) => world.inspected(),
        ("progress", []) => world.tell(&progress(world.transfer.progress())),
        _ => panic!("no such step: {line}"),
    }
    world.carry_out();
}

fn begin(words: &[&str]) -> World {
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str, default| value(name).map_or(default, |text| text.parse().unwrap());
    let (chunks, chunk_bytes) = value("chunks").unwrap_or("64x64KiB").split_once('x').unwrap();
    let mut world = World::new(&Shape {
        trees: number("trees", 1),
        leaves: number("leaves", 1),
        chunks: chunks.parse().unwrap(),
        chunk_bytes: kibibytes(chunk_bytes),
        changed: value("changed").map(|leaves| leaves.split(',').map(|leaf| leaf.parse().unwrap()).collect()),
        alike: if words.contains(&"alike") { Alike::Yes } else { Alike::No },
    });
    let writers: BTreeSet<&str> = value("writers").unwrap_or_default().split(',').collect();
    for peer in value("peers").unwrap_or_default().split(',').filter(|peer| !peer.is_empty()) {
        let cost = if writers.contains(peer) { PeerCost::WRITER } else { PeerCost::NEAR };
        world.join(peer, number("lanes", 1) as u32, cost);
    }
    world.carry_out();
    world
}

fn answer(world: &mut World, peer: &str, rest: &[&str], answer: Answer) {
    let (count, rest) = match rest {
        [count, rest @ ..] if *count != "in" => (count.parse().unwrap(), rest),
        rest => (if answer == Answer::Truth { world.open(peer) } else { 1 }, rest),
    };
    let span = match rest {
        ["in", span] => duration(span),
        _ => Duration::ZERO,
    };
    world.answer(peer, count, answer, span);
}

fn progress(progress: Progress) -> String {
    let Progress { bytes_wanted, bytes_done, bytes_again, all_known, entries_held, .. } = progress;
    let known = if all_known { "" } else { " so far" };
    let held = if entries_held == 0 { String::new() } else { format!(", {entries_held} entries held") };
    format!("{bytes_done} of {bytes_wanted} B{known}, {bytes_again} B again{held}")
}

fn kibibytes(text: &str) -> u32 {
    text.strip_suffix("KiB").unwrap().parse::<u32>().unwrap() * 1024
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().unwrap()),
        None => Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap()),
    }
}

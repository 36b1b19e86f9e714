//! Runs of the simulation of live keyed states: whatever goes wrong, no promise is broken, and in the end everybody is a member.

use landfall_sim::{LiveFaults, LiveFigures, LiveScenario, LiveWorld, Trace};

/// Runs one scenario; a failure says how to see it again.
#[track_caller]
fn run(scenario: LiveScenario) -> (String, LiveFigures) {
    let mut world = LiveWorld::new(scenario.clone(), Trace::Silent);
    if let Err(failure) = world.run() {
        panic!(
            "seed {} at {}: {}\n{}\n{scenario:#?}\nreplay: cargo run -p landfall-sim -- --states live --seed {} --trace",
            scenario.seed, failure.at, failure.violation.0, failure.tail, scenario.seed
        );
    }
    (world.hash().to_string(), world.figures())
}

fn run_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (_, figures) = run(LiveScenario::new(seed));
        assert!(figures.applied > 0 && figures.reads > 0 && figures.seals > 0);
    }
}

// In parts, so that they run side by side.

#[test]
fn seeds_from_0() {
    run_all(0..75);
}

#[test]
fn seeds_from_75() {
    run_all(75..150);
}

#[test]
fn seeds_from_150() {
    run_all(150..225);
}

#[test]
fn seeds_from_225() {
    run_all(225..300);
}

#[test]
fn a_joiner_becomes_a_member_while_others_write_and_nothing_goes_wrong() {
    let scenario = LiveScenario { faults: LiveFaults::default(), founders: 1, joiners: 1, ..LiveScenario::new(1) };
    let (_, figures) = run(scenario);
    assert_eq!((figures.promoted, figures.rolled_back, figures.differences), (1, 0, 0));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1010 {
        assert_eq!(run(LiveScenario::new(seed)), run(LiveScenario::new(seed)), "seed {seed}");
    }
}

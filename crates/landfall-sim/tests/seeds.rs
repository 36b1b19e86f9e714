//! Runs of the simulation: whatever goes wrong, no promise is broken, and in the end everybody has everything.

use landfall_sim::{Figures, Scenario, Trace, World};

/// Runs one seed; a failure says how to see it again.
#[track_caller]
fn run(seed: u64) -> (String, Figures) {
    let mut world = World::new(Scenario::new(seed), Trace::Silent);
    if let Err(failure) = world.run() {
        panic!(
            "seed {seed} at {}: {}\n{}\n{:#?}\nreplay: cargo run -p landfall-sim -- --seed {seed} --trace",
            failure.at,
            failure.violation.0,
            failure.tail,
            Scenario::new(seed)
        );
    }
    (world.hash().to_string(), world.figures())
}

fn run_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (_, figures) = run(seed);
        assert!(figures.events > 0);
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
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1020 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(run(1).0, run(2).0);
}

//! Runs of the simulation of live keyed states: whatever goes wrong, no promise is broken, and in the end everybody is a member.

use std::time::Duration;

use landfall_sim::{
    DiskFaults, LateSource, LiveContent, LiveFaults, LiveFigures, LiveScenario, LiveWorld, Others, Trace,
};

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
    run_all(0..50);
}

#[test]
fn seeds_from_50() {
    run_all(50..100);
}

#[test]
fn seeds_from_100() {
    run_all(100..150);
}

#[test]
fn seeds_from_150() {
    run_all(150..200);
}

/// One member, one that joins, and nothing that goes wrong.
fn quiet(seed: u64) -> LiveScenario {
    LiveScenario {
        faults: LiveFaults::default(),
        founders: 1,
        joiners: 1,
        section_joiners: 0,
        late_source: None,
        ..LiveScenario::new(seed)
    }
}

#[test]
fn a_joiner_becomes_a_member_while_others_write_and_nothing_goes_wrong() {
    let (_, figures) = run(quiet(1));
    assert_eq!((figures.promoted, figures.rolled_back, figures.differences), (1, 0, 0));
}

/// Runs some seeds with these faults alone, and sums up what they saw.
fn run_with(faults: LiveFaults, shape: impl Fn(LiveScenario) -> LiveScenario) -> LiveFigures {
    let mut sum = LiveFigures::default();
    for seed in 2000..2008 {
        let scenario = LiveScenario { faults, heal_after: Duration::from_secs(8), ..LiveScenario::new(seed) };
        let (_, figures) = run(shape(scenario));
        sum.rebases += figures.rebases;
        sum.differences += figures.differences;
        sum.demoted += figures.demoted;
        sum.logs_lost += figures.logs_lost;
        sum.crashes += figures.crashes;
        sum.corrupt += figures.corrupt;
        sum.rolled_back += figures.rolled_back;
        sum.bytes_lost += figures.bytes_lost;
        sum.faults_in += figures.faults_in;
        sum.sections_completed += figures.sections_completed;
    }
    sum
}

#[test]
fn a_joiner_whose_records_are_gone_gets_a_newer_snapshot() {
    let faults = LiveFaults { cut_log: 600, pause: 60, ..LiveFaults::default() };
    let slow = |scenario| LiveScenario { bytes_per_second: 60_000, writes_per_second: 60, ..scenario };
    let saw = run_with(faults, slow);
    assert!(saw.logs_lost > 0 && saw.rebases > 0, "{saw:?}");
}

#[test]
fn a_joiner_whose_snapshot_is_let_go_gets_a_newer_one() {
    let faults = LiveFaults { unpin: 900, ..LiveFaults::default() };
    let shape = |scenario| LiveScenario {
        bytes_per_second: 60_000,
        mark_every: Duration::from_millis(600),
        seal_pause_max: Duration::from_millis(5),
        snapshots_kept: 1,
        ..scenario
    };
    let saw = run_with(faults, shape);
    assert!(saw.rebases > 0 && saw.faults_in > 0, "{saw:?}");
}

#[test]
fn a_joiner_that_applied_something_wrong_does_not_vote_before_it_is_right() {
    let faults = LiveFaults { diverge: 400, ..LiveFaults::default() };
    let shape = |scenario| LiveScenario { founders: 2, seal_pause_max: Duration::from_millis(1500), ..scenario };
    let saw = run_with(faults, shape);
    assert!(saw.differences > 0 && saw.rebases > 0, "{saw:?}");
}

#[test]
fn a_member_that_sealed_something_wrong_votes_no_longer_and_joins_anew() {
    let faults = LiveFaults { diverge_voter: 300, ..LiveFaults::default() };
    let saw = run_with(faults, |scenario| LiveScenario { founders: 3, ..scenario });
    assert!(saw.differences > 0 && saw.demoted > 0, "{saw:?}");
}

#[test]
fn a_joiner_goes_on_after_power_cuts_full_disks_and_when_all_sources_but_one_leave() {
    let disks = DiskFaults { crash_at_write: 100, full: 60, ..DiskFaults::default() };
    let faults = LiveFaults { crash: 60, disks, leave: 30, ..LiveFaults::default() };
    let saw = run_with(faults, |scenario| LiveScenario { bytes_per_second: 100_000, ..scenario });
    assert!(saw.crashes > 0 && saw.rolled_back > 0 && saw.bytes_lost > 0, "{saw:?}");
}

#[test]
fn nothing_that_a_liar_says_is_kept() {
    let faults = LiveFaults { lie: 400, ..LiveFaults::default() };
    let saw = run_with(faults, |scenario| LiveScenario { founders: 3, ..scenario });
    assert!(saw.corrupt > 0, "{saw:?}");
}

#[test]
fn a_joiner_of_some_sections_follows_the_marks_and_never_votes() {
    for seed in 3000..3004 {
        let scenario = LiveScenario {
            founders: 2,
            joiners: 0,
            section_joiners: 1,
            heal_after: Duration::from_secs(15),
            ..quiet(seed)
        };
        let (_, saw) = run(scenario);
        assert!(saw.rebases > 0 && saw.sections_completed > 1, "seed {seed}: {saw:?}");
        assert_eq!((saw.promoted, saw.differences), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_joiner_of_some_sections_goes_on_after_power_cuts_lies_and_lost_logs() {
    let disks = DiskFaults { crash_at_write: 100, full: 60, ..DiskFaults::default() };
    let faults = LiveFaults { crash: 60, disks, lie: 300, cut_log: 300, diverge: 100, ..LiveFaults::default() };
    let saw = run_with(faults, |scenario| LiveScenario { founders: 2, section_joiners: 1, ..scenario });
    assert!(saw.crashes > 0 && saw.rebases > 0 && saw.corrupt > 0 && saw.sections_completed > 0, "{saw:?}");
}

#[test]
fn a_source_that_is_named_while_a_transfer_runs_takes_over_when_the_others_leave() {
    let mut named = 0;
    for seed in 4000..4010 {
        let drawn = quiet(seed);
        let scenario = LiveScenario {
            founders: 2,
            late_source: Some(LateSource { after: Duration::from_millis(3500), others: Others::Leave }),
            mark_every: Duration::from_secs(4),
            content: LiveContent { entries: 1500, keys: 1600, short_bytes_max: 200, ..drawn.content },
            bytes_per_second: 40_000,
            heal_after: Duration::from_secs(40),
            ..drawn
        };
        let (_, saw) = run(scenario);
        assert!(saw.named_late == 0 || saw.came_late > 0, "seed {seed}: {saw:?}");
        named += saw.named_late;
    }
    assert!(named > 3, "{named} sources were named while a transfer ran");
}

#[test]
fn a_join_ends_where_the_link_carries_two_and_a_half_times_the_log() {
    const VALUE_BYTES_MAX: u64 = 200;
    // A key and what stands around it in a record, beside a value of half the longest.
    const RECORD_BYTES: u64 = VALUE_BYTES_MAX / 2 + 40;
    let mut rebases = 0;
    for seed in 5000..5006 {
        let drawn = quiet(seed);
        let scenario = LiveScenario {
            content: LiveContent {
                entries: 1500,
                keys: 1600,
                short_bytes_max: VALUE_BYTES_MAX,
                long_per_mille: 0,
                ..drawn.content
            },
            writes_per_second: 50,
            // Records do not travel on these links: this is what a link of two and a half times their bytes leaves for the rest.
            bytes_per_second: 50 * RECORD_BYTES * 3 / 2,
            overlay_bytes_max: 60_000,
            heal_after: Duration::from_secs(60),
            ..drawn
        };
        let (_, saw) = run(scenario);
        assert_eq!(saw.promoted, 1, "seed {seed}: {saw:?}");
        rebases += saw.rebases;
    }
    assert!(rebases > 0, "no joiner had to move on to a newer snapshot");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1010 {
        assert_eq!(run(LiveScenario::new(seed)), run(LiveScenario::new(seed)), "seed {seed}");
    }
}

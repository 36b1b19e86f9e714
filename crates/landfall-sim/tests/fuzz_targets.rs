//! The fuzzer's targets with inputs from fixed seeds: valid ones, and the same damaged a little.

use landfall_sim::Random;
use landfall_sim::fuzz_targets::{TARGETS, mutate};

/// Runs one target; the input of a failure is in the panic's message.
fn check(name: &str, rounds: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let mut random = Random::new(2026);
    for round in 0..rounds {
        let mut input = (target.valid)(&mut random);
        for _ in 0..3 {
            let ran = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(ran.is_ok(), "round {round}: {}", hex(&input));
            mutate(&mut input, &mut random);
        }
        let length = random.below(200) as usize;
        (target.run)(&random.bytes(length));
    }
}

fn hex(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! targets {
    ($($name:ident $rounds:literal)*) => {
        $(#[test] fn $name() { check(stringify!($name), $rounds); })*

        #[test]
        fn every_target_is_run() {
            assert_eq!([$(stringify!($name)),*], TARGETS.map(|target| target.name));
        }
    };
}

targets! {
    wire_message 2000
    tree_node 300
    snapshot 2000
    file_entry 3000
    codec_decode 500
    codec_round_trip 300
    codec_compose 1000
    item_stream 500
    chunker 200
    store_pack 150
    transfer_events 200
    keyed_batch 2000
    keyed_record 3000
    join_events 1000
    log_segment 400
}

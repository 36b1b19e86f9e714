//! See `landfall_sim::fuzz_targets::join_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::join_events(bytes));

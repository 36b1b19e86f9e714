//! See `landfall_sim::fuzz_targets::transfer_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::transfer_events(bytes));

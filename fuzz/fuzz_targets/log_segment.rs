//! See `landfall_sim::fuzz_targets::log_segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::log_segment(bytes));

//! See `landfall_sim::fuzz_targets::item_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::item_stream(bytes));

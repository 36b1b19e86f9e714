//! See `landfall_sim::fuzz_targets::wire_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::wire_message(bytes));

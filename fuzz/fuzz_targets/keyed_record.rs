//! See `landfall_sim::fuzz_targets::keyed_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::keyed_record(bytes));

//! See `landfall_sim::fuzz_targets::codec_compose`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_sim::fuzz_targets::codec_compose(bytes));

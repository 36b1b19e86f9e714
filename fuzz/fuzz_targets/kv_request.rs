//! See `landfall_kv::fuzz_targets::kv_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_kv::fuzz_targets::kv_request(bytes));

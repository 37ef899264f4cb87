//! Fuzz the index of a model in shards.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mwa_fuzz::check("indexes", bytes));
